"""Every module says what it is for; no drawer named utils; nothing names a path of somebody's machine."""

from __future__ import annotations

import ast
import re
from pathlib import Path

SHORTEST_DOCSTRING = 30
FORBIDDEN_WORDS = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "handler", "stuff"}
# Names of the standard library or of the package's own functions: a module so named would shadow them.
SHADOWING = {"hotloop.profile", "hotloop.train", "hotloop.fit", "hotloop.steps", "hotloop.logging", "hotloop.types"}

TEXT_SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ".sh", ".html", ""}
TEXT_PLACES = ("src", "tests", "bench", "examples", "docs", ".ci")
ROOT_FILES = ("README.md", "CHANGELOG.md", "Makefile", "pyproject.toml", "constraints.txt", ".gitignore")
ABSOLUTE_PATH = re.compile(r"(?:(?<=[\s\"'`(=:,<>\[])|^)/([A-Za-z_][\w.-]*)/[\w.-]", re.MULTILINE)
# Places that mean the same on every machine, and names that plainly stand for "somewhere".
ORDINARY_ROOTS = {"bin", "dev", "etc", "path", "proc", "sys", "usr", "nonexistent", "no", "nowhere"}


def test_every_module_opens_with_what_it_is_for(code):
    silent = [f.name for f in code if len((ast.get_docstring(f.tree) or "").strip()) < SHORTEST_DOCSTRING]
    assert not silent, silent


def test_no_module_is_a_drawer(code):
    drawers = [f.name for f in code if FORBIDDEN_WORDS & set(re.split(r"[_/.]", f.name.lower()))]
    assert not drawers, drawers


def test_no_class_is_a_manager(package):
    vague = [
        f"{file.name}:{node.name}"
        for file in package
        for node in ast.walk(file.tree)
        if isinstance(node, ast.ClassDef) and re.search(r"(Manager|Handler|Helper|Utils?)$", node.name)
    ]
    assert not vague, vague


def test_no_module_shadows_what_people_call(package):
    assert not SHADOWING & {file.module for file in package}


def project_texts(repository: Path) -> list[Path]:
    """The text files that are part of the project, not what building or running left there."""
    found = [repository / name for name in ROOT_FILES if (repository / name).exists()]
    for place in TEXT_PLACES:
        for path in sorted((repository / place).rglob("*")):
            left_over = {"__pycache__"} & set(path.parts) or any(part.endswith(".egg-info") for part in path.parts)
            if path.is_file() and path.suffix in TEXT_SUFFIXES and not left_over:
                found.append(path)
    return found


def foreign_paths(text: str) -> list[str]:
    return [hit.group(0) for hit in ABSOLUTE_PATH.finditer(text) if hit.group(1) not in ORDINARY_ROOTS]


def test_no_file_names_a_path_of_one_machine(repository):
    texts = project_texts(repository)
    assert len(texts) > 10
    hits = {str(p.relative_to(repository)): foreign_paths(p.read_text(encoding="utf-8")) for p in texts}
    assert not {name: found for name, found in hits.items() if found}


def test_a_foreign_path_would_be_seen():
    home = "/".join(["", "home", "someone", "data.txt"])
    assert foreign_paths(f'open("{home}")')
    assert foreign_paths(f"see {home}")
    assert not foreign_paths("https://example.org/home/x and ../shared/data, tokens/second, a /dev/full disk")
