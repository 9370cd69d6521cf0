"""FI-2010's text files: a matrix of 149 lines and one column an event; the book is in the first 40 lines.

Lines 0 to 39 are 10 levels of ask price, ask quantity, bid price, bid quantity; the last five are labels for 10, 20,
30, 50 and 100 events ahead, with 1 up, 2 stationary, 3 down. No window reaches from one file into the next.
Source: Ntakaris et al., "Benchmark dataset for mid-price forecasting of limit order book data", arXiv 1705.03233.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hotloop.errors import HotloopError
from hotloop.tasks.lob import arrays as npz
from hotloop.tasks.lob.arrays import Array
from hotloop.tasks.lob.windows import Books

HORIZONS = (10, 20, 30, 50, 100)
_LINES, _COLUMNS = 149, 40


def is_fi2010(path: Path) -> bool:
    """Whether a file is to be read as FI-2010's text."""
    return path.suffix.lower() == ".txt"


def read_fi2010(paths: list[Path], window: int, horizon: int, *, levels_first: bool = True) -> Books:
    """The books of one part, every file a run of its own; a window's label is its last event's.

    Raises:
        HotloopError: a file is missing, no matrix of 149 lines, too short, or holds other labels.
    """
    if not levels_first:
        raise HotloopError("FI-2010 has its columns level by level", where="data.layout", fix="leave data.layout out")
    rows, starts, labels = [], [], []
    offset = 0
    for path in paths:
        matrix = _matrix(path, window)
        rows.append(matrix[:_COLUMNS].T.astype(np.float32))
        starts.append(np.arange(matrix.shape[1] - window + 1) + offset)
        labels.append(_labels(matrix[-5 + HORIZONS.index(horizon)], path, horizon)[window - 1 :])
        offset += matrix.shape[1]
    y, first = np.concatenate(labels), np.concatenate(starts)
    return Books(
        torch.from_numpy(np.concatenate(rows)), torch.from_numpy(first), torch.from_numpy(y), None, (), None,
        ", ".join(str(path) for path in paths),
    )  # fmt: skip


def _matrix(path: Path, window: int) -> Array:
    if not path.exists():
        raise HotloopError("the file does not exist", where=str(path), fix="check the path; nothing is made up instead")
    try:
        matrix = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        raise HotloopError(f"no matrix of numbers: {error}", where=str(path), fix="give FI-2010's text file") from error
    if matrix.shape[0] != _LINES:
        fix = "give the file as published: features down, events across"
        raise HotloopError(f"{matrix.shape[0]} lines; FI-2010 has {_LINES}", where=str(path), fix=fix)
    if matrix.shape[1] < window:
        what = f"{matrix.shape[1]} events; one window needs {window}"
        raise HotloopError(what, where=str(path), fix="use a longer file, or a smaller data.window")
    npz.check_finite(matrix[:_COLUMNS].T, "book", path, "event")
    return matrix


def _labels(line: Array, path: Path, horizon: int) -> Array:
    """Our classes, 0 down, 1 flat, 2 up, from the published 3, 2, 1."""
    wrong = np.flatnonzero(~np.isin(line, (1, 2, 3)))
    if len(wrong):
        shown = ", ".join(f"{line[place]:g} at event {place}" for place in wrong[:5])
        number = _LINES - 5 + HORIZONS.index(horizon) + 1
        raise HotloopError(
            f"{len(wrong):,} labels are none of 1 (up), 2 (stationary), 3 (down): {shown}",
            where=f"{path}, line {number}",
            fix="give the file as published",
        )
    return (3 - line).astype(np.int64)
