"""Pairs of a source and a target text, with their tags and groups, and how they are parted. Torch-free. N pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hotloop.data.split import grouped_rows, random_rows
from hotloop.errors import HotloopError

Rows = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Pairs:
    """N pairs.

    Args:
        name: of the file, as messages show it.
        src, tgt: N texts each, none of them empty.
        tags: N names, or None where the data has none.
        groups: N names of what belongs together, or None.
        notes: lines that say what was read and what was left out.
    """

    name: str
    src: list[str]
    tgt: list[str]
    tags: list[str] | None = None
    groups: list[str] | None = None
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.src)

    def chosen(self, rows: Iterable[int]) -> Pairs:
        """The pairs at `rows`, in that order."""
        order = [int(row) for row in rows]
        return Pairs(
            self.name,
            [self.src[row] for row in order],
            [self.tgt[row] for row in order],
            None if self.tags is None else [self.tags[row] for row in order],
            None if self.groups is None else [self.groups[row] for row in order],
        )

    def texts(self) -> list[str]:
        """All sources and targets."""
        return [*self.src, *self.tgt]


def hold_out(pairs: Pairs, how: str, fraction: float, seed: int) -> tuple[Pairs, Pairs]:
    """Training and validation pairs.

    Args:
        pairs: all of them.
        how: "group" keeps together what belongs together; "random" does not.
        fraction: share to validate on, in (0, 1).
        seed: another one holds out others.

    Raises:
        HotloopError: all pairs belong together, so that none can be held out.
    """
    if how == "random":
        train, val = random_rows(len(pairs), fraction, seed)
        return pairs.chosen(train), pairs.chosen(val)
    try:
        train, val = grouped_rows(belonging(pairs), fraction, seed)
    except HotloopError as error:
        fix = "give validation pairs of their own (data.train_path, data.val_path), or use data.split=random"
        raise HotloopError(
            f"no pairs can be held out for validation: {error.what}", where=pairs.name, fix=fix
        ) from None
    return pairs.chosen(train), pairs.chosen(val)


def belonging(pairs: Pairs) -> Rows:
    """A number for each pair, (N,), equal for pairs that must not be on two sides.

    These share a target, and a group; where the data names no groups, pairs that share a source belong together too.
    """
    parent = list(range(len(pairs)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for names in (pairs.tgt, pairs.src if pairs.groups is None else pairs.groups):
        first: dict[str, int] = {}
        for row, name in enumerate(names):
            parent[root(row)] = root(first.setdefault(name, row))
    return np.array([root(row) for row in range(len(pairs))], dtype=np.int64)


def shared(train: Pairs, other: Pairs, part: str) -> list[str]:
    """A line where targets or sources of another part are trained on too, and where its tags are not."""
    targets, sources = set(train.tgt), set(train.src)
    known = sum(text in targets for text in other.tgt)
    seen = sum(text in sources for text in other.src)
    lines = []
    if known:
        lines.append(f"{known:,} of {len(other):,} {part} targets are trained on too: what they show is memory")
    if seen:
        lines.append(f"{seen:,} of {len(other):,} {part} sources stand in the training part too")
    new = set(other.tags or ()) - {*(train.tags or ()), ""}
    if new and train.tags is not None:
        count = sum(tag in new for tag in other.tags or ())
        lines.append(f"{count:,} of {len(other):,} {part} tags are unknown, as the training part has none of them")
    return lines


def described(part: str, pairs: Pairs, groups: bool) -> str:
    """How many pairs and distinct targets a part has, and of which tags."""
    line = f"{part}: {len(pairs):,} pairs, {len(set(pairs.tgt)):,} different targets"
    if groups and pairs.groups is not None:
        line += f", {len(set(pairs.groups)):,} groups"
    if pairs.tags is not None:
        line += f" ({_counted(pairs.tags)})"
    return line


def _counted(tags: Sequence[str]) -> str:
    names = list(dict.fromkeys(tags))
    shown = [f"{name} {tags.count(name):,}" for name in names[:8]]
    return ", ".join(shown + ["..."] * (len(names) > 8))
