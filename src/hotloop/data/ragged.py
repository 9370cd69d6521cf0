"""Rows of tokens of different lengths: stored flat, padded batch by batch to one of a few widths.

Few widths mean few shapes, which compiled code likes; rows of one width are drawn together (sampler `Bucketed`), so
little is padded. Shapes: N rows; B rows of a batch, T its padded width; a token is int32 in memory, int64 in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotloop.data.sampler import Bucketed, Sampler, Shuffle
from hotloop.errors import HotloopError

Lengths = np.ndarray[Any, np.dtype[np.int64]]
Finish = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class Ragged:
    """N rows of tokens, end to end.

    Args:
        flat: all tokens.
        lengths: (N,) tokens of each row.
    """

    def __init__(self, flat: np.ndarray[Any, Any], lengths: Lengths) -> None:
        assert int(lengths.sum()) == len(flat), "the lengths add up to the tokens"
        self.flat, self.lengths = flat.astype(np.int32, copy=False), lengths
        self._starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Ragged:
        """From one list of tokens a row."""
        kept = [np.asarray(row, dtype=np.int32) for row in rows]
        lengths = np.array([len(row) for row in kept], dtype=np.int64)
        return cls(np.concatenate(kept) if kept else np.empty(0, np.int32), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def padded(self, rows: Lengths, width: int, pad: int) -> Tensor:
        """The rows at `rows` (B,), filled up with `pad` to (B, width)."""
        lengths = self.lengths[rows]
        columns = np.arange(width)
        real = columns < lengths[:, None]
        places = np.where(real, self._starts[rows][:, None] + columns, 0)
        filled = np.where(real, self.flat[places] if len(self.flat) else pad, pad)
        return torch.from_numpy(filled.astype(np.int64))


def bucket_widths(lengths: Lengths, count: int = 4, multiple: int = 8) -> tuple[int, ...]:
    """At most `count` widths, ascending multiples of `multiple`, that leave little to pad.

    Args:
        lengths: (N,) tokens of each row.
        count: widths at most.
        multiple: each width is one of its multiples; the last holds the longest row.
    """
    rounded = np.maximum(-(-lengths // multiple), 1) * multiple
    sizes, rows = np.unique(rounded, return_counts=True)
    if len(sizes) <= count:
        return tuple(int(size) for size in sizes)
    # best[k][j]: least padded area of the first j sizes in k widths; a few dozen sizes at most, so this is quick
    area = np.concatenate([[0], np.cumsum(rows)])
    best = [[0.0] + [np.inf] * len(sizes)]
    choice: list[list[int]] = []
    for _ in range(count):
        row, picked = [0.0], [0]
        for j in range(1, len(sizes) + 1):
            costs = [best[-1][i] + float(sizes[j - 1]) * float(area[j] - area[i]) for i in range(j)]
            picked.append(int(np.argmin(costs)))
            row.append(costs[picked[-1]])
        best.append(row)
        choice.append(picked)
    found, j = [], len(sizes)
    for picked in reversed(choice):
        if j:
            found.append(int(sizes[j - 1]))
            j = picked[j]
    return tuple(reversed(found))


def up_to(widths: Iterable[int], longest: int) -> tuple[int, ...]:
    """Widths none of which is above `longest`, the last one for rows of just that length."""
    return tuple(sorted({min(int(width), longest) for width in widths} | {longest}))


class RaggedSource:
    """A source of token rows, on the host: a batch is padded to the width that its longest row needs.

    Args:
        ragged: name -> token rows, each N long.
        columns: name -> (N, ...) tensors that go along.
        pad: fills up token rows.
        widths: name -> widths, ascending; by default `bucket_widths` of the rows.
        finish: makes the padded batch into what the task wants (masks, shifted targets).

    Raises:
        HotloopError: no rows, or parts that differ in their number of rows.
    """

    nbytes: int | None = None  # the width of a batch depends on its rows, so the host puts it together
    draws = False  # nothing random happens when a batch is fetched
    notes: Sequence[str] = ()
    """What a person should know of how the rows were read."""

    def __init__(
        self,
        ragged: Mapping[str, Ragged],
        columns: Mapping[str, Tensor] | None = None,
        *,
        pad: int = 0,
        widths: Mapping[str, Sequence[int]] | None = None,
        finish: Finish | None = None,
    ) -> None:
        self._ragged, self._columns, self._pad, self._finish = dict(ragged), dict(columns or {}), pad, finish
        lengths = {name: len(part) for name, part in self._ragged.items()}
        lengths |= {name: len(column) for name, column in self._columns.items()}
        if len(set(lengths.values())) != 1:
            raise HotloopError(f"the parts differ in their number of rows: {lengths}", fix="give all the same rows")
        self._rows = next(iter(lengths.values()))
        if not self._rows:
            raise HotloopError("the data holds no rows", where=", ".join(lengths))
        given = widths or {}
        self.widths = {
            name: np.array(given.get(name) or bucket_widths(part.lengths)) for name, part in self._ragged.items()
        }
        for name, part in self._ragged.items():
            longest = int(part.lengths.max())
            assert longest <= self.widths[name][-1], f"{name}: a row of {longest} tokens is longer than any width"
        self.buckets = self._numbered()

    def saying(self, notes: Sequence[str]) -> RaggedSource:
        """Itself, with notes."""
        self.notes = notes
        return self

    def _numbered(self) -> Lengths:
        """The bucket of each row, (N,): rows of one bucket are padded alike; narrow ones have low numbers."""
        number = np.zeros(self._rows, dtype=np.int64)
        for name, part in self._ragged.items():
            number = number * len(self.widths[name]) + np.searchsorted(self.widths[name], part.lengths)
        return number

    def __len__(self) -> int:
        return self._rows

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        rows = indices.numpy()
        batch = {}
        for name, part in self._ragged.items():
            widths = self.widths[name]
            width = int(widths[np.searchsorted(widths, part.lengths[rows].max())])
            batch[name] = part.padded(rows, width, self._pad)
        batch |= {name: column.index_select(0, indices) for name, column in self._columns.items()}
        return self._finish(batch) if self._finish else batch

    def column(self, name: str) -> Tensor | None:
        return self._columns.get(name)

    def stored(self) -> dict[str, Tensor]:
        """The columns beside the tokens."""
        return dict(self._columns)

    def to(self, device: torch.device) -> RaggedSource:
        raise AssertionError("token rows of different lengths stay on the host")


def by_length(source: Any, batch_size: int, seed: int) -> Sampler:
    """An order in which batches hold rows of about one length; of a source without lengths, any order."""
    buckets = source_buckets(source)
    return Shuffle(len(source), batch_size, seed) if buckets is None else Bucketed(buckets, batch_size, seed)


def source_buckets(source: Any) -> Lengths | None:
    """The bucket of each row of a source, through subsets and weights; None where its rows have no buckets."""
    found = getattr(source, "buckets", None)
    return None if found is None else np.asarray(found)


def shapes_of(source: Any) -> int:
    """How many shapes its batches have: one for each bucket, one where all rows are alike."""
    buckets = source_buckets(source)
    return 1 if buckets is None or not len(buckets) else len(np.unique(buckets))
