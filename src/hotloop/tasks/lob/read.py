"""From files to books: npz of rows and starts, npz of whole windows, a folder of either, FI-2010's text.

Nothing is guessed and nothing half-read: a file that does not fit is refused with the array and the row. What belongs
to a window (label, weight, symbol) comes from arrays of one length, never from one entry for each symbol.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hotloop.errors import HotloopError
from hotloop.tasks.lob import arrays as npz
from hotloop.tasks.lob.arrays import Array
from hotloop.tasks.lob.fi2010 import is_fi2010, read_fi2010
from hotloop.tasks.lob.options import LobData
from hotloop.tasks.lob.windows import Books

PARTS = ("train", "val", "test")
_KNOWN = ("rows", "start", "X", "y", "weights", "stock_ids")


def find_files(data: LobData) -> dict[str, list[Path]]:
    """The files of each part; a single file without parts comes under "all"."""
    given = {part: getattr(data, f"{part}_path") for part in PARTS}
    if any(given.values()):
        return {part: [Path(path).expanduser()] for part, path in given.items() if path}
    assert data.path is not None
    path = Path(data.path).expanduser()
    if not path.exists():
        raise HotloopError("it does not exist", where=f"data.path={path}", fix="check the path; no data is made up")
    return _in_folder(path) if path.is_dir() else {"all": [path]}


def _in_folder(folder: Path) -> dict[str, list[Path]]:
    for ending in ("npz", "txt"):
        files = sorted(folder.glob(f"*.{ending}"))
        found = {part: [file for file in files if part in file.stem.lower()] for part in PARTS}
        found = {part: named for part, named in found.items() if named}
        if not files:
            continue
        twice = [part for part, named in found.items() if len(named) > 1]
        if "train" not in found or (twice and ending == "npz"):
            why = f"holds several files named {twice[0]}" if twice else "holds no file with train in its name"
            listed = ", ".join(file.name for file in files)
            fix = "name one file for each part: train, val, test; or set data.train_path and data.val_path"
            raise HotloopError(f"the folder {why}: {listed}", where=str(folder), fix=fix)
        return found
    raise HotloopError(
        "the folder holds no npz and no txt file", where=str(folder), fix="give a file, or a folder with train and val"
    )


def read_books(paths: list[Path], data: LobData, *, labelled: bool = True) -> Books:
    """The books of one part; where labels are not needed, and not there, every window counts as flat.

    Raises:
        HotloopError: something in a file does not fit; says which array and row.
    """
    if is_fi2010(paths[0]):
        return read_fi2010(paths, data.window, data.horizon, levels_first=data.layout != "block")
    [path] = paths
    arrays = npz.open_npz(path)
    refuse_unknown(arrays, path)
    if "X" in arrays and "rows" in arrays:
        raise HotloopError("the file holds both X and rows", where=str(path), fix="keep one of the two")
    rows, starts = whole_windows(arrays["X"], path, data) if "X" in arrays else _shared_rows(arrays, path, data)
    npz.same_length(arrays, len(starts), path)
    unnamed = "y" not in arrays and not labelled
    y = np.ones(len(starts), np.int64) if unnamed else npz.labels(npz.take(arrays, "y", path), path)
    symbols, names = symbols_of(arrays, path)
    if symbols is not None and "rows" in arrays:
        _check_runs(starts.numpy(), symbols.numpy(), names, data.window, path)
    return Books(
        ordered(rows, data.layout, path),
        starts,
        torch.from_numpy(y),
        symbols,
        names,
        _weights(arrays, path),
        str(path),
    )


def refuse_unknown(arrays: Iterable[str], path: Path) -> None:
    """Refuse arrays of other names than those that mean something.

    Raises:
        HotloopError: says which.
    """
    unknown = [key for key in arrays if key not in _KNOWN]
    if unknown:
        raise HotloopError(
            f"arrays that nothing is known of: {', '.join(unknown)}",
            where=str(path),
            fix=f"leave them out, or name them as one of {', '.join(_KNOWN)}",
        )


def whole_windows(windows: Array, path: Path, data: LobData, first: int = 0) -> tuple[Tensor, Tensor]:
    """Rows and starts of windows that are given as such, (M, T, F), the first being number `first` of the file's."""
    if windows.ndim == 4 and windows.shape[1] == 1:
        windows = windows[:, 0]  # (M, 1, T, F): with a channel
    if windows.ndim != 3 or windows.shape[1] != data.window or not len(windows):
        raise HotloopError(
            f"array 'X' has shape {windows.shape}, and (windows, {data.window}, columns) is needed",
            where=str(path),
            fix=f"set data.window={windows.shape[1]}" if windows.ndim == 3 and len(windows) else "store X as (N, T, F)",
        )
    npz.check_finite(windows, "X", path, "window", first)
    count, length, columns = windows.shape
    _check_columns(columns, "X", path)
    rows = torch.from_numpy(np.ascontiguousarray(windows.reshape(count * length, columns), dtype=np.float32))
    return rows, torch.arange(count) * length


def _shared_rows(arrays: dict[str, Array], path: Path, data: LobData) -> tuple[Tensor, Tensor]:
    rows = npz.take(arrays, "rows", path)
    starts = npz.whole_numbers(npz.take(arrays, "start", path), "start", path)
    if rows.ndim != 2:
        raise HotloopError(f"array 'rows' has shape {rows.shape}", where=str(path), fix="store it as (rows, columns)")
    _check_columns(rows.shape[1], "rows", path)
    npz.check_finite(rows, "rows", path)
    wrong = np.flatnonzero((starts < 0) | (starts > len(rows) - data.window))
    if len(wrong) or not len(starts):
        shown = ", ".join(f"{starts[place]} at {place}" for place in wrong[:5])
        raise HotloopError(
            f"{len(wrong):,} windows of {data.window} rows reach outside the {len(rows):,} rows: starts {shown}"
            if len(starts)
            else "array 'start' is empty",
            where=f"{path}, array start",
            fix="mend the starts, or set data.window to the length that they were made for",
        )
    return torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32)), torch.from_numpy(starts)


def _check_columns(columns: int, key: str, path: Path) -> None:
    if columns < 8 or columns % 4:
        raise HotloopError(
            f"array '{key}' has {columns} columns; a book has 4 for each of its levels, at least 2 levels",
            where=str(path),
            fix="keep price and quantity of both sides for every level, and nothing else",
        )


def symbols_of(arrays: dict[str, Array], path: Path) -> tuple[Tensor | None, tuple[str, ...]]:
    """The number of each window's symbol, and the symbols; nothing where the file does not say."""
    if "stock_ids" not in arrays:
        return None, ()
    ids = arrays["stock_ids"]
    names, numbers = np.unique(ids, return_inverse=True)
    return torch.from_numpy(numbers.reshape(-1).astype(np.int64)), tuple(str(name) for name in names)


def _weights(arrays: dict[str, Array], path: Path) -> Tensor | None:
    if "weights" not in arrays:
        return None
    npz.check_finite(arrays["weights"], "weights", path, "window")
    return torch.from_numpy(arrays["weights"].astype(np.float32))


def _check_runs(starts: Array, symbols: Array, names: tuple[str, ...], window: int, path: Path) -> None:
    """A window may not use rows of another symbol: two symbols' windows never overlap."""
    order = np.argsort(starts, kind="stable")
    one, other = order[:-1], order[1:]
    crossing = np.flatnonzero((symbols[one] != symbols[other]) & (starts[other] - starts[one] < window))
    if len(crossing):
        a, b = int(one[crossing[0]]), int(other[crossing[0]])
        raise HotloopError(
            f"{len(crossing):,} windows cross from one symbol to the next: window {a} ({names[symbols[a]]}, from row "
            f"{starts[a]}) and window {b} ({names[symbols[b]]}, from row {starts[b]}) share rows",
            where=f"{path}, arrays start and stock_ids",
            fix="keep each symbol's rows apart, and start its windows among them",
        )


def ordered(rows: Tensor, layout: str, path: Path) -> Tensor:
    """Columns in the published order, level by level: ask price, ask quantity, bid price, bid quantity."""
    if (found_layout(rows, path) if layout == "auto" else layout) == "level":
        return rows
    levels = rows.shape[1] // 4
    order = [place for n in range(levels) for place in (levels + n, 3 * levels + n, n, 2 * levels + n)]
    return rows[:, order].contiguous()


def found_layout(rows: Tensor, path: Path) -> str:
    """block where the first two columns are prices, level where the first and the third are: prices move together."""
    first, second, third = rows[:, 0], rows[:, 1], rows[:, 2]
    beside, beyond = (torch.corrcoef(torch.stack([first, other]).double())[0, 1].item() for other in (second, third))
    if beside > 0.9:
        return "block"
    if beyond > 0.9:
        return "level"
    raise HotloopError(
        f"the order of the columns cannot be told: column 0 moves with neither column 1 ({beside:.2f}) nor column 2 "
        f"({beyond:.2f}), so they cannot all be prices",
        where=str(path),
        fix="set data.layout=block or data.layout=level",
    )
