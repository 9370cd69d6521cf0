"""Token windows: y is x one token later, uint16 keeps its upper half, validation counts each target exactly once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotloop.data.windows import TokenWindows, WholeSplit
from hotloop.errors import HotloopError

few = settings(max_examples=60, deadline=None)


def test_a_window_is_x_and_the_token_after_each() -> None:
    windows = TokenWindows(torch.arange(100, 120), 4)
    batch = windows.batch(torch.tensor([0, 15]))
    assert batch["x"].tolist() == [[100, 101, 102, 103], [115, 116, 117, 118]]
    assert batch["y"].tolist() == [[101, 102, 103, 104], [116, 117, 118, 119]]
    assert batch["x"].dtype == torch.int64
    assert len(windows) == 16  # the last start, 15, still has its target


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, np.uint8])
def test_every_width_gives_the_same_tokens(dtype: type) -> None:
    top = np.iinfo(dtype).max
    tokens = np.array([0, 1, 127, 128, 255, 32767, 32768, 40000, 50256, 65535]).clip(max=top)
    batch = TokenWindows(torch.from_numpy(tokens.astype(dtype)), 9).batch(torch.tensor([0]))
    assert batch["x"][0].tolist() == tokens[:-1].tolist()
    assert batch["y"][0].tolist() == tokens[1:].tolist()


def test_tokens_stay_in_the_width_they_came_in() -> None:
    assert TokenWindows(torch.zeros(1000, dtype=torch.uint16), 8).nbytes == 2000
    assert WholeSplit(torch.zeros(1000, dtype=torch.uint16), 8).nbytes == 2000


def test_moving_keeps_the_tokens() -> None:
    tokens = torch.tensor([65535, 3, 40000, 7, 1], dtype=torch.uint16)
    for source in (TokenWindows(tokens, 2), WholeSplit(tokens, 2)):
        moved = source.to(torch.device("cpu"))
        assert len(moved) == len(source)
        rows = torch.arange(len(source))
        for name, value in source.batch(rows).items():
            assert torch.equal(moved.batch(rows)[name], value)


@few
@given(st.integers(2, 400), st.integers(1, 64))
def test_the_whole_split_counts_each_target_once(n_tokens: int, block: int) -> None:
    if n_tokens < block + 1:
        n_tokens += block
    split = WholeSplit(torch.arange(n_tokens), block)  # a token says its own position
    batch = split.batch(torch.arange(len(split)))
    assert batch["x"].shape == batch["y"].shape == batch["weight"].shape == (len(split), block)
    counted = batch["y"][batch["weight"] > 0]
    assert sorted(counted.tolist()) == list(range(1, n_tokens))
    assert set(batch["weight"].unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(batch["y"], batch["x"] + 1)


def test_the_tail_is_counted_with_its_full_context() -> None:
    batch = WholeSplit(torch.arange(12), 4).batch(torch.tensor([2]))
    assert batch["x"].tolist() == [[7, 8, 9, 10]]
    assert batch["weight"].tolist() == [[0.0, 1.0, 1.0, 1.0]]


@pytest.mark.parametrize("kind", [TokenWindows, WholeSplit])
def test_a_text_shorter_than_a_window_is_an_error_that_says_what_would_fit(kind: type) -> None:
    with pytest.raises(HotloopError, match=r"5 tokens; one window needs 9\n.*\n.*block_size=4 or less"):
        kind(torch.arange(5), 8)
    with pytest.raises(HotloopError, match="use a longer text"):
        kind(torch.arange(1), 8)
    assert len(kind(torch.arange(9), 8)) == 1
