"""The laws of cutting a batch: halving ends, no piece is a single row where that must not be, sizes stay in bounds."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotloop.engine.pieces import Pieces
from hotloop.engine.recover import half
from hotloop.engine.reduce import micro_batches


@given(now=st.integers(1, 4096), coupled=st.booleans())
def test_halving_ends(now: int, coupled: bool) -> None:
    sizes = [now]
    while smaller := half(sizes[-1], coupled):
        assert smaller < sizes[-1]
        sizes.append(smaller)
    assert sizes[-1] == (1 if not coupled else min(now, 2))
    assert len(sizes) <= 14


@given(rows=st.integers(2, 300), size=st.integers(2, 64))
def test_no_piece_is_a_single_row(rows: int, size: int) -> None:
    batch = {"x": torch.arange(rows)}
    pieces = [piece["x"] for piece in micro_batches(batch, size, lone_row=False)]
    assert torch.equal(torch.cat(pieces), batch["x"])
    assert min(map(len, pieces)) > 1
    assert max(map(len, pieces)) <= max(size, 3)


@settings(max_examples=50)
@given(events=st.lists(st.sampled_from(["ok", "oom"]), max_size=300), asked=st.integers(1, 64))
def test_pieces_stay_between_one_row_and_what_was_asked(events: list[str], asked: int) -> None:
    pieces = Pieces(asked)
    for event in events:
        if pieces.wants_to_grow:
            pieces.grow()
        if event == "ok":
            pieces.done()
        elif not pieces.take_growth_back():
            pieces.shrink(half(pieces.rows, False) or 1)
        assert 1 <= pieces.rows <= asked
