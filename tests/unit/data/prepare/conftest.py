"""Databases of bars for the tests of preparing: rows as a person may have them, in SQLite or DuckDB."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.prepare.invented import NAMES


@pytest.fixture
def sqlite(tmp_path: Path) -> Callable[..., str]:
    """`sqlite(rows, names=NAMES, table="bars")` writes (or replaces) a table and gives the URL."""

    def write(rows: Sequence[Sequence[Any]], names: Sequence[str] = NAMES, table: str = "bars") -> str:
        path = tmp_path / "bars.db"
        connection = sqlite3.connect(path)
        quoted = ", ".join(f'"{name}"' for name in names)
        connection.execute(f"DROP TABLE IF EXISTS {table}")
        connection.execute(f"CREATE TABLE {table} ({quoted})")
        connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(names))})", rows)
        connection.commit()
        connection.close()
        return f"sqlite:///{path}"

    return write


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file of a folder, by its path, with its bytes."""
    return lambda folder: {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
