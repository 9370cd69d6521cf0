"""The encoder-decoder: written token by token it says what it says whole, and what is padded changes nothing."""

from __future__ import annotations

import pytest
import torch

from hotloop.tasks.characters import BOS, PAD
from hotloop.tasks.translate.model import Translator
from hotloop.tasks.translate.options import TranslateModel

SMALL = {"hidden_size": 16, "num_layers": 2, "n_head": 2, "ff_size": 32, "max_sequence_length": 12}
SRC = torch.tensor([[5, 6, 7, 8, PAD, PAD], [9, 5, PAD, PAD, PAD, PAD], [4, 5, 6, 7, 8, 9]])
TARGET = torch.tensor([[BOS, 5, 6, 7], [BOS, 8, 9, PAD], [BOS, 4, 4, 5]])


def model(**changes) -> Translator:
    torch.manual_seed(0)
    return Translator(TranslateModel(**{**SMALL, **changes}), 10)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_token_by_token_equals_whole(positions: str) -> None:
    net = model(positions=positions).eval()
    whole = net(SRC, TARGET)
    memory, visible = net.encode(SRC)
    caches = net.new_caches()
    steps = [net.step(TARGET[:, place], place, memory, visible, caches) for place in range(TARGET.shape[1])]
    assert torch.allclose(torch.stack(steps, dim=1), whole, atol=1e-5)


def test_a_cache_of_chosen_rows_goes_on_as_these_rows() -> None:
    net = model().eval()
    memory, visible = net.encode(SRC)
    caches, rows = net.new_caches(), torch.tensor([2, 0])
    net.step(TARGET[:, 0], 0, memory, visible, caches)
    chosen = [cache.chosen(rows) for cache in caches]
    found = net.step(TARGET[rows, 1], 1, memory[rows], visible[rows], chosen)
    assert torch.allclose(found, net(SRC, TARGET)[rows, 1], atol=1e-5)


def test_padding_changes_nothing() -> None:
    net = model().eval()
    narrow = net(SRC[1:2, :2], TARGET[1:2, :3])
    assert torch.allclose(net(SRC, TARGET)[1:2, :3], narrow, atol=1e-5)


def test_bf16_written_out_is_near_float32() -> None:
    net = model().eval()
    exact = net(SRC, TARGET)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(net(SRC, TARGET).float(), exact, atol=0.1)


def test_heads_that_do_not_divide_the_width_are_told() -> None:
    assert TranslateModel(hidden_size=20, n_head=3).problems()[0][0] == "n_head"
