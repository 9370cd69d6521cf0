"""The law of the knee: which micro-batches there are, which to try next, and which of those tried to take.

An effective batch of E rows is cut into k pieces of ceil(E / k) rows; any size between two of these needs as many
pieces as the larger one and is never better. `rates` maps a size that was tried to samples per second of the whole
step, 0 where it did not run. Pure arithmetic: what is returned as an answer is always a size that was tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

USEFUL = 0.97  # a size this near to the best one is as good, and the smallest of these takes the least memory
_CLOSE = 1.1  # neighbours nearer than this are not told apart
_FALLING = 0.9


def pieces_of(rows: int, size: int) -> int:
    """Micro-batches of at most `size` rows that make `rows`."""
    return -(-rows // size)


def allowed_sizes(rows: int) -> list[int]:
    """ceil(rows / k) for k = 1, 2, 3, ..., ascending."""
    found, size = [rows], rows
    while size > 1:
        pieces = (rows - 1) // (size - 1) + 1  # the fewest with which a piece is smaller
        size = pieces_of(rows, pieces)
        found.append(size)
    return found[::-1]


def doubling(sizes: Sequence[int], most: int = 12) -> list[int]:
    """At most `most` sizes up to the largest, each about twice the one before, ascending."""
    wanted, rows = [], sizes[-1]
    for power in range(most):
        size = pieces_of(rows, 1 << power)
        if size not in wanted:
            wanted.append(size)
    return wanted[::-1]


def useful(rates: Mapping[int, float]) -> int | None:
    """The smallest size whose rate is within 3 % of the best one; None where nothing ran."""
    best = max(rates.values(), default=0.0)
    return min((size for size, rate in rates.items() if rate >= USEFUL * best), default=None) if best > 0 else None


def is_falling(rates: Mapping[int, float]) -> bool:
    """Whether the two largest sizes that ran are clearly slower than the best one, so that larger ones are not tried.

    One alone may have been disturbed by something else on the machine.
    """
    ran = sorted(size for size, rate in rates.items() if rate > 0)
    best = max(rates.values(), default=0.0)
    return len(ran) > 2 and all(rates[size] < _FALLING * best for size in ran[-2:])


def is_flat(rates: Mapping[int, float]) -> bool:
    """Whether the two largest sizes that ran brought nothing over those before them."""
    ran = sorted(size for size, rate in rates.items() if rate > 0)
    return len(ran) > 2 and max(rates[size] for size in ran[-2:]) * USEFUL <= max(rates[size] for size in ran[:-2])


def is_rising(rates: Mapping[int, float]) -> bool:
    """Whether the largest size that ran is still clearly better than the one before it (or is the only one)."""
    ran = sorted(size for size, rate in rates.items() if rate > 0)
    return bool(ran) and (len(ran) == 1 or rates[ran[-1]] * USEFUL > rates[ran[-2]])


def next_size(rates: Mapping[int, float], sizes: Sequence[int]) -> int | None:
    """The size to try next, so that the knee is known to a tenth; None where it is.

    Args:
        rates: what was tried.
        sizes: the allowed ones, ascending.
    """
    knee = useful(rates)
    if knee is None:
        return max((size for size in sizes if rates and size < min(rates)), default=None)
    tried = sorted(rates)
    below = [size for size in tried if size < knee]
    if not below:
        smaller = [size for size in sizes if size < knee]
        return min(smaller, key=lambda size: abs(size - knee / 2)) if smaller else None
    if (size := _between(below[-1], knee, rates, sizes)) is not None:
        return size
    best = max(rates, key=lambda size: rates[size])
    above = [size for size in tried if size > best]
    if above and rates[above[0]] < USEFUL * rates[best]:
        return _between(best, above[0], rates, sizes)
    return None


def _between(low: int, high: int, rates: Mapping[int, float], sizes: Sequence[int]) -> int | None:
    """The allowed size in the middle of two neighbours that are not close; None where there is none."""
    inside = [size for size in sizes if low < size < high and size not in rates]
    if not inside or high <= _CLOSE * low:
        return None
    return min(inside, key=lambda size: abs(size - (low + high) / 2))
