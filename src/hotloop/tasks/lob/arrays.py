"""Opening npz files of order books: plain arrays only, nothing that is loaded may run code.

Every fault says which file and which array. Shapes: M windows; rows (R, F); X (M, T, F).
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hotloop.errors import HotloopError

Array = np.ndarray[Any, Any]
_SHOWN = 5


def open_npz(path: Path, without: str = "") -> dict[str, Array]:
    """Every array of an npz file, but for the one to leave out.

    Raises:
        HotloopError: the file is missing, no npz, damaged, or holds Python objects.
    """
    if not path.exists():
        raise HotloopError(
            "the file does not exist", where=str(path), fix="check data.path; nothing is made up instead"
        )
    if not zipfile.is_zipfile(path):
        raise HotloopError(
            "this is no npz file, or only a part of one", where=str(path), fix="write it anew with numpy.savez"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: _one(archive, key, path) for key in archive.files if key != without}
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise HotloopError(f"the file is damaged: {error}", where=str(path), fix="write or copy it anew") from error


def in_chunks(path: Path, key: str, rows: int) -> Iterator[tuple[int, Array]]:
    """One array of an npz file, `rows` of its rows at a time, each with the number of the first; never whole in memory.

    Raises:
        HotloopError: damaged, empty, or stored in a way that cannot be read so.
    """
    with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
        try:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, columns_first, dtype = header(file)
        except ValueError as error:
            raise HotloopError(f"array '{key}' is damaged: {error}", where=str(path), fix="write it anew") from error
        if columns_first or dtype.hasobject or not shape or not shape[0]:
            what = f"array '{key}' is empty, holds Python objects, or is stored column by column"
            raise HotloopError(what, where=str(path), fix=f"write it as numbers: {key}=numpy.ascontiguousarray({key})")
        width = math.prod(shape[1:]) * dtype.itemsize
        for first in range(0, shape[0], rows):
            count = min(rows, shape[0] - first)
            yield first, np.frombuffer(_bytes(file, count * width, path), dtype).reshape(count, *shape[1:])


def _bytes(file: Any, count: int, path: Path) -> bytearray:
    try:
        found = bytearray(file.read(count))  # writable, as torch wants it
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise HotloopError(f"the file is damaged: {error}", where=str(path), fix="write or copy it anew") from error
    if len(found) != count:
        raise HotloopError("the file ends too early", where=str(path), fix="write or copy it anew")
    return found


def _one(archive: Any, key: str, path: Path) -> Array:
    try:
        found: Array = archive[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise HotloopError(f"array '{key}' is damaged: {error}", where=str(path), fix="write it anew") from error
        raise HotloopError(
            f"array '{key}' holds Python objects, and loading those would run code from the file",
            where=str(path),
            fix=f"write it as numbers, or as text of fixed width: {key}={key}.astype(str)",
        ) from error
    return found


def take(arrays: dict[str, Array], key: str, path: Path) -> Array:
    """The array of this name.

    Raises:
        HotloopError: there is none; says which there are.
    """
    if key not in arrays:
        listed = ", ".join(arrays) or "none"
        fix = "name them rows, start, y (windows of shared rows) or X, y (whole windows)"
        raise HotloopError(f"there is no array '{key}'; there are: {listed}", where=str(path), fix=fix)
    return arrays[key]


def check_finite(values: Array, key: str, path: Path, unit: str = "row", first_row: int = 0) -> None:
    """Refuse NaN and infinities: which rows (the first being number `first_row`), which column, how many."""
    if values.dtype.kind not in "fiub":
        raise HotloopError(f"array '{key}' has dtype {values.dtype}", where=str(path), fix="store it as float32")
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    rows = np.unique(np.nonzero(bad)[0])
    first = tuple(int(place[0]) for place in np.nonzero(bad))
    shown = ", ".join(str(row) for row in rows[:_SHOWN] + first_row) + (", ..." if len(rows) > _SHOWN else "")
    column = f"; the first is {values[first]} in column {first[-1]}" if values.ndim > 1 else ""
    raise HotloopError(
        f"array '{key}' holds {int(bad.sum()):,} values that are NaN or infinite, in {len(rows):,} {unit}s: {shown}"
        f"{column} (both from 0)",
        where=str(path),
        fix="mend these rows, or leave the windows out that use them",
    )


def whole_numbers(values: Array, key: str, path: Path) -> Array:
    """The array as int64; fractions are refused."""
    check_finite(values, key, path, "entry") if values.dtype.kind == "f" else None
    if values.ndim != 1 or values.dtype.kind not in "iuf" or (values != np.floor(values)).any():
        raise HotloopError(
            f"array '{key}' must be one whole number a window, and is {values.dtype} of shape {values.shape}",
            where=str(path),
            fix="store class numbers, not shares or one-hot rows" if key == "y" else "store row numbers",
        )
    return values.astype(np.int64)


def labels(values: Array, path: Path) -> Array:
    """Classes 0 down, 1 flat, 2 up."""
    found = whole_numbers(values, "y", path)
    wrong = np.flatnonzero((found < 0) | (found > 2))
    if len(wrong):
        shown = ", ".join(f"{found[row]} at {row}" for row in wrong[:_SHOWN])
        raise HotloopError(
            f"{len(wrong):,} labels are none of 0 (down), 1 (flat), 2 (up): {shown}",
            where=f"{path}, array y",
            fix="number the classes 0, 1, 2",
        )
    return found


def same_length(arrays: dict[str, Array], windows: int, path: Path) -> None:
    """What belongs to windows must have one entry for each."""
    for key in ("y", "weights", "stock_ids"):
        if key in arrays and arrays[key].shape != (windows,):
            raise HotloopError(
                f"array '{key}' has shape {arrays[key].shape}, and there are {windows:,} windows",
                where=str(path),
                fix="give one entry for each window",
            )
