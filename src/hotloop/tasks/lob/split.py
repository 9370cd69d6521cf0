"""Which windows train and which validate, so that no row of the book is on both sides; and checks between two parts.

Windows overlap: neighbours share all rows but one, so a random split validates on what was trained on. Shapes: M
windows, R rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hotloop.errors import HotloopError
from hotloop.tasks.lob.options import LobData
from hotloop.tasks.lob.windows import Books

_APART, _WIDER = 10.0, 10.0  # F28: standard deviations between means; factor between spreads


def split_windows(books: Books, data: LobData) -> tuple[Tensor, Tensor]:
    """Training and validation windows, by symbol or by time.

    Raises:
        HotloopError: split=random (with the share that would leak), too few symbols, or an empty part.
    """
    if data.split == "random":
        raise _leaks(books, data)
    train, val = _by_symbol(books, data) if data.split == "symbol" else _by_time(books, data)
    if not len(train) or not len(val):
        empty = "train" if not len(train) else "validate"
        raise HotloopError(
            f"data.split={data.split} with val_fraction={data.val_fraction:g} leaves no window to {empty} on",
            where=books.origin,
            fix="use another data.val_fraction, a smaller data.gap, or more data",
        )
    return train, val


def _by_symbol(books: Books, data: LobData) -> tuple[Tensor, Tensor]:
    """Whole symbols, drawn by data.split_seed."""
    names = len(books.names)
    if books.symbols is None or names < 2:
        what = "does not say which symbol a window is of" if books.symbols is None else "holds one symbol only"
        fix = "use data.split=time, give a validation file, or add an array stock_ids with one name a window"
        raise HotloopError(f"the data {what}, so no symbol can be held out", where=books.origin, fix=fix)
    order = np.random.default_rng(data.split_seed).permutation(names)
    kept = min(names - 1, max(1, int((1 - data.val_fraction) * names + 1e-9)))
    held = torch.zeros(names, dtype=torch.bool)
    held[torch.from_numpy(order[kept:])] = True
    of_window = held[books.symbols]
    return (~of_window).nonzero().flatten(), of_window.nonzero().flatten()


def _by_time(books: Books, data: LobData) -> tuple[Tensor, Tensor]:
    """The end of each symbol's windows, with a gap in which a window would share rows."""
    gap = data.window if data.gap is None else data.gap
    numbers = torch.zeros_like(books.y) if books.symbols is None else books.symbols
    train, val = [], []
    for number in range(int(numbers.max()) + 1):
        windows = (numbers == number).nonzero().flatten()
        windows = windows[books.starts[windows].argsort(stable=True)]
        held = round(len(windows) * data.val_fraction)
        late = windows[len(windows) - held :]
        early = windows[: len(windows) - held]
        if held:
            early = early[books.starts[early] + gap <= books.starts[late[0]]]
        train.append(early)
        val.append(late)
    return torch.cat(train), torch.cat(val)


def leaking_share(starts: Tensor, window: int, fraction: float, seed: int) -> float:
    """Share of the validation windows of a random split that share a row with a training window."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(starts)))
    held = max(1, round(len(starts) * fraction))
    train = starts[order[held:]].sort().values
    val = starts[order[:held]]
    place = torch.searchsorted(train, val)
    after = train[place.clamp(max=len(train) - 1)] - val
    before = val - train[(place - 1).clamp(min=0)]
    return ((after.abs() < window) | (before.abs() < window)).double().mean().item()


def _leaks(books: Books, data: LobData) -> HotloopError:
    share = leaking_share(books.starts, data.window, data.val_fraction or 0.2, data.split_seed)
    return HotloopError(
        f"a random split leaks: {share:.1%} of the validation windows would share rows with a training window",
        where="data.split=random",
        fix="use data.split=symbol (whole symbols are held out) or data.split=time (the end of each, with a gap)",
    )


def check_parts(train: Books, other: Books, part: str, window: int) -> None:
    """Two files must be on one scale and hold no window twice.

    Raises:
        HotloopError: other numbers of columns, other scales (with the columns and figures), or windows in both.
    """
    if train.rows.shape[1] != other.rows.shape[1]:
        what = f"{other.rows.shape[1]} columns in the {part} part, {train.rows.shape[1]} in training"
        raise HotloopError(what, where=other.origin, fix="make both parts in the same way")
    _check_scale(train, other, part)
    twice = shared_windows(train, other, window)
    if twice:
        raise HotloopError(
            f"{twice:,} of {len(other.y):,} {part} windows are in the training part too, equal in every value",
            where=f"{other.origin} and {train.origin}",
            fix="make the parts of different symbols or days",
        )


def _check_scale(train: Books, other: Books, part: str) -> None:
    mean, spread = train.rows.double().mean(0), train.rows.double().std(0)
    there, wide = other.rows.double().mean(0), other.rows.double().std(0)
    moves = (spread > 0) & (wide > 0)
    off = moves & (((there - mean).abs() > _APART * spread) | (wide > _WIDER * spread) | (spread > _WIDER * wide))
    columns = off.nonzero().flatten().tolist()
    if columns:
        shown = "; ".join(
            f"column {c}: mean {mean[c]:.4g} and spread {spread[c]:.4g} in training, {there[c]:.4g} and {wide[c]:.4g}"
            for c in columns[:4]
        )
        raise HotloopError(
            f"{part} and training are on different scales in {len(columns)} columns (level by level, from 0): {shown}",
            where=other.origin,
            fix="scale both with the same numbers, those of the training part; data.scaling=standard cannot mend this",
        )


def shared_windows(one: Books, other: Books, window: int) -> int:
    """How many windows of `other` are equal to a window of `one` in every value."""
    ends: dict[bytes, list[int]] = {}
    rows, theirs = one.rows.numpy(), other.rows.numpy()
    for start in one.starts.tolist():
        ends.setdefault(rows[start].tobytes() + rows[start + window - 1].tobytes(), []).append(start)
    found = 0
    for start in other.starts.tolist():
        near = ends.get(theirs[start].tobytes() + theirs[start + window - 1].tobytes(), ())
        found += any(np.array_equal(rows[s : s + window], theirs[start : start + window]) for s in near)
    return found
