"""Order books after training: windows of a file to predict or to be measured on, and what is written of each.

Whole windows (X) are read a piece at a time; of shared rows and of FI-2010's text the rows are held once. Shapes: M
windows, T rows a window, F columns; logits (M, 3).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hotloop.errors import HotloopError
from hotloop.task import Piece
from hotloop.tasks.lob import arrays as npz
from hotloop.tasks.lob.fi2010 import is_fi2010
from hotloop.tasks.lob.options import LobData
from hotloop.tasks.lob.read import found_layout, ordered, read_books, refuse_unknown, symbols_of, whole_windows
from hotloop.tasks.lob.windows import Books, Windows

NAMES = ("down", "flat", "up")


class Unlabelled(Windows):
    """Windows without their classes."""

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {"x": super().batch(indices)["x"]}


def labelled(path: Path, data: LobData, columns: int) -> Windows:
    """The windows of a file with their classes.

    Args:
        path: npz or FI-2010's text.
        data: window, horizon and layout of the run.
        columns: F of the books that the run was trained on.

    Raises:
        HotloopError: something does not fit.
    """
    books = read_books([path], data)
    _require(books, path, columns)
    return Windows(books, data.window)


def pieces(path: Path, data: LobData, columns: int, rows: int) -> Iterator[Piece]:
    """The windows of a file, `rows` at a time, with number, symbol and label where the file has them.

    Raises:
        HotloopError: something does not fit.
    """
    if not is_fi2010(path) and zipfile.is_zipfile(path) and "X.npy" in zipfile.ZipFile(path).namelist():
        yield from _streamed(path, data, columns, rows)
        return
    books = read_books([path], data, labelled=False)
    _require(books, path, columns)
    known = is_fi2010(path) or "y" in npz.open_npz(path, without="rows")
    for first in range(0, len(books.y), rows):
        part = books.at(torch.arange(first, min(first + rows, len(books.y))))
        yield Piece(Unlabelled(part, data.window), _told(part, first, known))


def _streamed(path: Path, data: LobData, columns: int, rows: int) -> Iterator[Piece]:
    """Whole windows, a piece of the file at a time; the order of the columns is found in the first piece."""
    beside = npz.open_npz(path, without="X")
    refuse_unknown(beside, path)
    if "rows" in beside:
        raise HotloopError("the file holds both X and rows", where=str(path), fix="keep one of the two")
    y = torch.from_numpy(npz.labels(beside["y"], path)) if "y" in beside else None
    symbols, names = symbols_of(beside, path)
    layout, count = data.layout, 0
    for first, windows in npz.in_chunks(path, "X", rows):
        found, starts = whole_windows(windows, path, data, first)
        if layout == "auto":
            layout = found_layout(found, path)  # type: ignore[assignment]
        here, count = slice(first, first + len(starts)), first + len(starts)
        labels = torch.ones(len(starts), dtype=torch.int64) if y is None else y[here]
        held = None if symbols is None else symbols[here]
        if len(labels) < len(starts) or (held is not None and len(held) < len(starts)):
            break
        books = Books(ordered(found, layout, path), starts, labels, held, names, None, str(path))
        _require(books, path, columns)
        yield Piece(Unlabelled(books, data.window), _told(books, first, y is not None))
    npz.same_length(beside, count, path)


def _require(books: Books, path: Path, columns: int) -> None:
    found = books.rows.shape[1]
    if found != columns:
        raise HotloopError(
            f"the books have {found} columns, and the run was trained on {columns}",
            where=str(path),
            fix=f"give books of {columns // 4} levels",
        )


def _told(books: Books, first: int, known: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"window": first + number} for number in range(len(books.y))]
    if books.symbols is not None:
        for row, symbol in zip(rows, books.symbols.tolist(), strict=True):
            row["symbol"] = books.names[symbol]
    if known:
        for row, label in zip(rows, books.y.tolist(), strict=True):
            row["label"] = NAMES[label]
    return rows


def answers(outputs: dict[str, Tensor], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each window's direction and the probabilities as the model gives them: no calibration temperature is applied."""
    best, shares = outputs["logits"].argmax(dim=1).tolist(), outputs["logits"].double().softmax(dim=1).tolist()
    return [
        {
            **row,
            "direction": NAMES[place],
            "probabilities": {name: round(p, 6) for name, p in zip(NAMES, share, strict=True)},
        }
        for row, place, share in zip(rows, best, shares, strict=True)
    ]
