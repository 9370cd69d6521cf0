"""Samplers: which items a step sees, as a pure function of (seed, epoch, step). No state, so seeking is O(1).

The order of an epoch is a permutation computed index by index (a keyed Feistel network with cycle walking, after
Black and Rogaway, "Ciphers with arbitrary finite domains", 2002): no shuffled list is ever held, a billion items cost
as little as ten, and resuming in the middle of an epoch is arithmetic. Indices are int64 arrays (B,).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Indices = np.ndarray[Any, np.dtype[np.int64]]
_ROUNDS = 6


class Sampler(Protocol):
    """The order of one training stream."""

    @property
    def batch_size(self) -> int:
        """The effective batch: what one optimizer step sees."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass."""
        ...

    def indices(self, epoch: int, step: int, count: int = 1) -> Indices:
        """Items of `count` steps from `step` on (0-based, within `epoch`), end to end; the epoch's end cuts them."""
        ...


def _mix(values: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The finaliser of splitmix64 (Steele, Lea, Flood, 2014): a bijection on 64 bits that looks random."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def key_of(*parts: int) -> int:
    """One 64-bit key out of several integers (seed, purpose, epoch, step): equal parts, equal key."""
    key = np.array([0x9E3779B97F4A7C15], dtype=np.uint64)
    for part in parts:
        key = _mix(key + np.uint64(part % (1 << 64)) + np.uint64(0x9E3779B97F4A7C15))
    return int(key[0])


def permute(positions: Indices, length: int, key: int) -> Indices:
    """Where a keyed permutation of range(length) sends `positions`.

    Args:
        positions: (B,) int64 in [0, length).
        length: number of items, at least 1.
        key: any 64-bit integer; another key gives another permutation.
    """
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    keys = [np.uint64(key_of(key, number)) for number in range(_ROUNDS)]

    def encrypt(values: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
        left, right = values >> shift, values & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right + round_key) & mask)
        return (left << shift) | right

    result = encrypt(positions.astype(np.uint64))
    outside = result >= length
    while outside.any():  # cycle walking: the domain is below 4 x length, so a few rounds end it
        result[outside] = encrypt(result[outside])
        outside = result >= length
    return result.astype(np.int64)


def _positions(length: int, batch_size: int, step: int, count: int) -> Indices:
    """Positions within the epoch of `count` steps from `step` on."""
    return np.arange(step * batch_size, min((step + count) * batch_size, length), dtype=np.int64)


def _check(length: int, batch_size: int) -> None:
    assert length >= 1, "a sampler needs at least one item"
    assert batch_size >= 1, "a batch holds at least one item"


@dataclass(frozen=True)
class Shuffle:
    """Every item once an epoch, in an order that differs by epoch; the last batch of an epoch may be shorter."""

    length: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        _check(self.length, self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.length // self.batch_size)

    def indices(self, epoch: int, step: int, count: int = 1) -> Indices:
        positions = _positions(self.length, self.batch_size, step, count)
        return permute(positions, self.length, key_of(self.seed, 1, epoch))


@dataclass(frozen=True)
class RandomStarts:
    """Uniform draws with replacement, as in nanoGPT; an epoch is the number of draws that would cover the data once."""

    length: int
    batch_size: int
    seed: int
    steps_per_epoch: int

    def __post_init__(self) -> None:
        _check(self.length, self.batch_size)

    def indices(self, epoch: int, step: int, count: int = 1) -> Indices:
        positions = _positions(self.steps_per_epoch * self.batch_size, self.batch_size, step, count)
        base = np.uint64(key_of(self.seed, 2, epoch))
        draws = _mix(base + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
        return (draws % np.uint64(self.length)).astype(np.int64)  # bias below length / 2^64


@dataclass(frozen=True)
class ShiftedBlocks:
    """Disjoint blocks in shuffled order, at another offset each epoch: every token once an epoch, no two windows equal.

    Args:
        n_tokens: length of the token stream; a window needs block + 1 tokens.
        block: window length in tokens.
    """

    n_tokens: int
    block: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        _check(self.n_tokens - self.block, self.batch_size)

    @property
    def blocks(self) -> int:
        """Windows an epoch: the same for each offset, so that an epoch's length does not change."""
        return max(1, (self.n_tokens - self.block) // self.block)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.blocks // self.batch_size)

    def indices(self, epoch: int, step: int, count: int = 1) -> Indices:
        room = self.n_tokens - 1 - self.blocks * self.block  # offsets that leave all windows inside
        offset = key_of(self.seed, 3, epoch) % (min(room, self.block - 1) + 1)
        positions = _positions(self.blocks, self.batch_size, step, count)
        return offset + self.block * permute(positions, self.blocks, key_of(self.seed, 1, epoch))


@dataclass(frozen=True)
class Balanced:
    """Every class equally often: each run of C draws holds each class once, each class in its own shuffled order.

    A class begins its rows anew, in another order, once all were drawn, over the epochs' ends too; so a frequent
    class is seen whole over a few epochs and a rare one several times in one. An epoch is as many draws as rows.

    Args:
        labels: (N,) the class of each row; classes without rows are never drawn.
    """

    labels: Indices
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        _check(len(self.labels), self.batch_size)
        classes = np.unique(self.labels)
        object.__setattr__(self, "_rows", [np.flatnonzero(self.labels == label) for label in classes])

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def indices(self, epoch: int, step: int, count: int = 1) -> Indices:
        rows: list[Indices] = self._rows  # type: ignore[attr-defined]
        classes = len(rows)
        per_epoch = -(-len(self.labels) // classes) * classes  # an epoch begins with a whole run of classes
        draws = epoch * per_epoch + _positions(len(self.labels), self.batch_size, step, count)
        turns = draws // classes
        chosen = self._class_order(turns, classes)[np.arange(len(draws)), draws % classes]
        found = np.empty(len(draws), dtype=np.int64)
        for number, members in enumerate(rows):
            mine = chosen == number
            found[mine] = self._members(members, turns[mine], number)
        return found

    def _class_order(self, turns: Indices, classes: int) -> Indices:
        """The order of the classes in each turn, (B, C): shuffled, so that no rank or micro-batch gets one class."""
        slots = (turns[:, None] * classes + np.arange(classes)).astype(np.uint64)
        order: Indices = np.argsort(_mix(slots + np.uint64(key_of(self.seed, 8))), axis=1)
        return order

    def _members(self, members: Indices, turns: Indices, number: int) -> Indices:
        """The rows of one class at its draws number `turns`."""
        passes, places = np.divmod(turns, len(members))
        found = np.empty(len(turns), dtype=np.int64)
        for one in np.unique(passes):
            now = passes == one
            found[now] = members[permute(places[now], len(members), key_of(self.seed, 9, number, int(one)))]
        return found


@dataclass(frozen=True)
class Bucketed:
    """Every row once an epoch, in batches whose rows are of one bucket; only what is left over is mixed.

    Each bucket's rows are shuffled anew each epoch and cut into whole batches; the batches come in shuffled order, and
    after them those of the left-over rows, narrow buckets first, so that there are as few steps as without buckets.

    Args:
        buckets: (N,) the bucket of each row.
    """

    buckets: Indices
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        _check(len(self.buckets), self.batch_size)
        rows = [np.flatnonzero(self.buckets == bucket) for bucket in np.unique(self.buckets)]
        whole = np.array([len(members) // self.batch_size for members in rows], dtype=np.int64)
        object.__setattr__(self, "_rows", rows)
        object.__setattr__(self, "_whole", whole)
        object.__setattr__(self, "_ends", np.cumsum(whole))

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.buckets) // self.batch_size)

    def indices(self, epoch: int, step: int, count: int = 1) -> Indices:
        steps = range(step, min(step + count, self.steps_per_epoch))
        return np.concatenate([self._batch(epoch, one) for one in steps])

    def _batch(self, epoch: int, step: int) -> Indices:
        ends: Indices = self._ends  # type: ignore[attr-defined]
        whole = int(ends[-1])
        if step >= whole:
            return self._left_over(epoch)[(step - whole) * self.batch_size : (step - whole + 1) * self.batch_size]
        place = int(permute(np.array([step], dtype=np.int64), whole, key_of(self.seed, 10, epoch))[0])
        bucket = int(np.searchsorted(ends, place, side="right"))
        first = place - (int(ends[bucket - 1]) if bucket else 0)
        return self._members(epoch, bucket, first * self.batch_size, (first + 1) * self.batch_size)

    def _members(self, epoch: int, bucket: int, first: int, last: int) -> Indices:
        """Rows of a bucket in this epoch's order, from place `first` to `last`."""
        members: Indices = self._rows[bucket]  # type: ignore[attr-defined]
        places = np.arange(first, last, dtype=np.int64)
        return members[permute(places, len(members), key_of(self.seed, 11, epoch, bucket))]

    def _left_over(self, epoch: int) -> Indices:
        rows: list[Indices] = self._rows  # type: ignore[attr-defined]
        whole: Indices = self._whole  # type: ignore[attr-defined]
        parts = [
            self._members(epoch, bucket, int(whole[bucket]) * self.batch_size, len(members))
            for bucket, members in enumerate(rows)
        ]
        return np.concatenate(parts)
