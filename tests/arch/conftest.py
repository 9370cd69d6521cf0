"""What the tests of the building's shape share: the Python files of the tree and their syntax trees."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

CODE_FOLDERS = ("src", "tests", "bench", "examples")


@dataclass(frozen=True)
class SourceFile:
    """One Python file: `name` is its path from the root with forward slashes."""

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=self.name)

    @property
    def module(self) -> str:
        """The dotted name of a file below src; empty for others."""
        parts = Path(self.name).with_suffix("").parts
        if parts[0] != "src":
            return ""
        return ".".join(parts[1:-1] if parts[-1] == "__init__" else parts[1:])


@pytest.fixture(scope="session")
def code(repository: Path) -> list[SourceFile]:
    """Every Python file of the project."""
    paths = [path for folder in CODE_FOLDERS for path in sorted((repository / folder).rglob("*.py"))]
    return [SourceFile(path.relative_to(repository).as_posix(), path) for path in paths]


@pytest.fixture(scope="session")
def package(code: list[SourceFile]) -> list[SourceFile]:
    """The Python files of the package itself."""
    found = [file for file in code if file.module]
    assert found, "no file under src was found"
    return found
