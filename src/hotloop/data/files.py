"""Numeric columns of a file by name, for a task that does not say how it reads one: .npz, .parquet, .csv, .tsv."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from hotloop.data.records import read_records
from hotloop.errors import HotloopError

Array = np.ndarray[Any, Any]


def read_arrays(path: Path) -> Any:
    """What `as_source` reads: the arrays of an .npz, the path of a .parquet, the columns of a .csv or .tsv.

    Columns of a table are (N,): int64 where every value is whole, else float32.

    Raises:
        HotloopError: missing, another kind of file, damaged, Python objects, or a cell that is no number.
    """
    suffix = path.suffix.lower()
    if not path.exists():
        raise HotloopError("the file does not exist", where=str(path), fix="check the path")
    if suffix == ".npz":
        return _npz(path)
    if suffix in (".csv", ".tsv"):
        return _table(path)
    if suffix == ".parquet":
        return path
    what = f"'{suffix or path.name}' is no kind of file that is read here"
    raise HotloopError(what, where=str(path), fix="give .npz, .parquet, .csv or .tsv; or write pieces() and labelled()")


def _npz(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        fix = "write it anew with numpy.savez, as numbers"
        raise HotloopError(f"the file cannot be read: {error}", where=str(path), fix=fix) from error


def _table(path: Path) -> dict[str, Array]:
    columns: dict[str, list[float]] = {}
    for record in read_records(path):
        for name, cell in record.values.items():
            columns.setdefault(name, []).append(_number(cell, name, f"{path}, line {record.line}"))
    found = {}
    for name, values in columns.items():
        whole = all(value.is_integer() for value in values)
        found[name] = np.array(values, dtype=np.int64 if whole else np.float32)
    return found


def _number(cell: str, name: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        fix = "give numbers only, or write the task's own pieces() and labelled()"
        raise HotloopError(f"{name} is '{cell}', which is no finite number", where=where, fix=fix)
    return value
