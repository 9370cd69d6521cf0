"""A simulated order book, called synthetic wherever it appears: a default that needs no file, not a market.

A latent order flow pushes the mid price and shows in the quantities: the side that is about to win is deeper, in noise
that only several rows together see through. Calm and storm take turns: in a storm prices move three times as far, and
quantities flicker, which no weighted sum of rows can tell, as flickering goes both ways. Shapes: S symbols, R rows, L
levels.
Labels: triple barrier, M. Lopez de Prado, "Advances in Financial Machine Learning" (2018), chapter 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hotloop.tasks.lob.windows import Books

Array = np.ndarray[Any, Any]
LEVELS, AHEAD = 5, 50
_PURPOSE = 21  # number that keeps these draws apart from all others of the same seed
_FLOW_MEMORY, _SWITCH = 0.96, 1 / 400
_PUSH, _DEPTH = 0.35, 0.25
_CALM, _STORM = 0.4, 1.4  # of the ordinary spread of moves
_NOISE, _FLICKER = 0.15, 0.45  # of quantities, as shares: in calm and in storm
_BARRIER = 8.0  # in ordinary standard deviations of one row's move
_STRIDE = 4  # rows between windows: neighbours say nearly the same


def simulate(symbols: int, rows: int, window: int, seed: int) -> Books:
    """Books of several symbols; every window is labelled by what comes after it.

    Args:
        symbols: S, runs that have nothing in common but the rules. rows: R of each, all usable.
        window: T. seed: another seed is another market.
    """
    draw = np.random.default_rng([seed, _PURPOSE])
    flow = _persistent(draw, symbols, rows + AHEAD)
    storm = _storms(draw, symbols, rows + AHEAD)
    volatility = draw.uniform(0.0005, 0.0015, (symbols, 1))
    restless = np.where(storm, _STORM, _CALM)
    move = volatility * restless * (_PUSH * flow + draw.standard_normal(flow.shape))
    log_mid = np.log(draw.uniform(20, 500, (symbols, 1))) + np.cumsum(move, axis=1)
    y = barriers(log_mid, _BARRIER * volatility)[:, window - 1 : rows : _STRIDE]
    books = _book(draw, np.exp(log_mid[:, :rows]), flow[:, :rows], storm[:, :rows], volatility)
    starts = np.arange(symbols)[:, None] * rows + np.arange(0, rows - window + 1, _STRIDE)
    numbers = np.repeat(np.arange(symbols), y.shape[1])
    return Books(
        torch.from_numpy(books.reshape(symbols * rows, 4 * LEVELS).astype(np.float32)),
        torch.from_numpy(starts.reshape(-1)),
        torch.from_numpy(y.reshape(-1)),
        torch.from_numpy(numbers),
        tuple(f"synthetic{number:02d}" for number in range(symbols)),
        None,
        "synthetic order book (simulated, no data.path given)",
    )


def barriers(log_mid_sr: Array, width: Array) -> Array:
    """Which barrier the price meets first within the next rows: 0 the lower, 2 the upper, 1 neither; (S, R - AHEAD)."""
    ahead = np.lib.stride_tricks.sliding_window_view(log_mid_sr, AHEAD + 1, axis=1)
    change = ahead[:, :, 1:] - ahead[:, :, :1]
    up, down = change >= width[:, :, None], change <= -width[:, :, None]
    first_up = np.where(up.any(2), up.argmax(2), AHEAD)
    first_down = np.where(down.any(2), down.argmax(2), AHEAD)
    first: Array = np.where(first_up < first_down, 2, np.where(first_down < first_up, 0, 1)).astype(np.int64)
    return first


def _persistent(draw: np.random.Generator, symbols: int, rows: int) -> Array:
    """A latent flow of variance 1 that forgets slowly, (S, R)."""
    shocks = draw.standard_normal((symbols, rows)) * np.sqrt(1 - _FLOW_MEMORY**2)
    flow: Array = np.empty_like(shocks)
    state = draw.standard_normal(symbols)
    for row in range(rows):
        state = _FLOW_MEMORY * state + shocks[:, row]
        flow[:, row] = state
    return flow


def _storms(draw: np.random.Generator, symbols: int, rows: int) -> Array:
    """Whether there is a storm; changes rarely, (S, R)."""
    switches = draw.random((symbols, rows)) < _SWITCH
    stormy: Array = (np.cumsum(switches, axis=1) + draw.integers(2, size=(symbols, 1))) % 2 == 0
    return stormy


def _book(draw: np.random.Generator, mid: Array, flow: Array, storm: Array, volatility: Array) -> Array:
    """Columns in the published order, (S, R, 20): ask price, ask quantity, bid price, bid quantity, by level."""
    symbols, rows = mid.shape
    tick = (mid[:, :1] * volatility)[:, :, None]
    level = np.arange(LEVELS)
    away = tick * (0.5 + level + draw.random((symbols, rows, 1)))
    lean = _DEPTH * flow[:, :, None] * (1 - 0.15 * level)
    noise = np.where(storm, _FLICKER, _NOISE)[:, :, None]
    size = 200 * np.exp(draw.normal(0.0, 0.1, (symbols, 1, 1))) * (1 + 0.1 * level)
    books = np.empty((symbols, rows, LEVELS, 4))
    books[..., 0], books[..., 2] = mid[:, :, None] + away, mid[:, :, None] - away
    for column, sign in ((1, -1.0), (3, 1.0)):
        flicker = draw.standard_normal((symbols, rows, 1)) + 0.3 * draw.standard_normal((symbols, rows, LEVELS))
        books[..., column] = np.ceil(size * (1 + sign * lean + noise * flicker)).clip(min=1)
    return books
