"""Windows of an order book: rows are held once on the device, a batch is a gather; nothing is materialised.

Windows given as such (X) are held as rows of T each, so both kinds are one source. Shapes: R rows, F columns, M
windows, T rows a window; a batch holds x (B, T, F) float32 and y (B,) int64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Books:
    """What was read: rows, the windows in them, and what is known of each window.

    Attributes:
        rows: (R, F) float32, columns by level: ask price, ask quantity, bid price, bid quantity.
        starts: (M,) int64, window i being rows[starts[i] : starts[i] + T].
        y: (M,) int64, 0 down, 1 flat, 2 up.
        symbols: (M,) int64, number of each window's symbol in `names`; None where the data does not say.
        names: of the symbols.
        weights: (M,) float32 or None.
        origin: what people call it: a file, or the simulator.
    """

    rows: Tensor
    starts: Tensor
    y: Tensor
    symbols: Tensor | None
    names: tuple[str, ...]
    weights: Tensor | None
    origin: str

    def at(self, windows: Tensor) -> Books:
        """The same rows with these windows only."""
        symbols = None if self.symbols is None else self.symbols[windows]
        weights = None if self.weights is None else self.weights[windows]
        return replace(self, starts=self.starts[windows], y=self.y[windows], symbols=symbols, weights=weights)


class Windows:
    """The windows of a book as a source.

    Args:
        books: rows and windows. window: T.
    """

    def __init__(self, books: Books, window: int) -> None:
        self.books, self.window = books, window
        self._offsets = torch.arange(window, device=books.rows.device)
        self._moved: dict[torch.device, Windows] = {}
        self._rows_there: dict[torch.device, Tensor] = {}
        held = [books.rows, *self._columns().values()]
        self.nbytes: int | None = sum(t.numel() * t.element_size() for t in held)

    def __len__(self) -> int:
        return len(self.books.starts)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        starts = self.books.starts.index_select(0, indices)
        places = (starts.unsqueeze(1) + self._offsets).flatten()
        rows = self.books.rows.index_select(0, places)  # (B * T, F): one copy of whole rows
        return {"x": rows.view(len(indices), self.window, -1), "y": self.books.y.index_select(0, indices)}

    def column(self, name: str) -> Tensor | None:
        found = self._columns().get(name)
        return None if found is None else found.cpu()

    def stored(self) -> dict[str, Tensor]:
        """The rows, whole."""
        return {"rows": self.books.rows}

    def to(self, device: torch.device) -> Windows:
        if device == self.books.rows.device:
            return self
        if device not in self._moved:
            rows = self._rows_there.setdefault(device, self.books.rows.to(device))
            moved = {name: tensor.to(device) for name, tensor in self._columns().items()}
            books = replace(
                self.books, rows=rows, starts=self.books.starts.to(device), y=moved["y"], symbols=moved.get("group"),
                weights=moved.get("sample_weight"),
            )  # fmt: skip
            self._moved[device] = Windows(books, self.window)
        return self._moved[device]

    def share_rows_with(self, other: Windows) -> None:
        """Let two parts of one file use one copy of its rows on a device."""
        assert self.books.rows is other.books.rows
        self._rows_there = other._rows_there

    def _columns(self) -> dict[str, Tensor]:
        found = {"y": self.books.y, "sample_weight": self.books.weights, "group": self.books.symbols}
        return {name: tensor for name, tensor in found.items() if tensor is not None}
