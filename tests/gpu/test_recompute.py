"""Recomputed activations on a GPU: less memory at the peak, and the same numbers, dropout included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hotloop.engine import recompute
from hotloop.errors import HotloopError
from hotloop.tasks.forecast.model import Forecaster
from hotloop.tasks.forecast.options import ForecastModel
from hotloop.tasks.gpt.model import Transformer
from hotloop.tasks.gpt.options import GptModel

pytestmark = pytest.mark.gpu

DEVICE = "cuda"


def peak_and_gradients(how: recompute.How) -> tuple[int, list[torch.Tensor]]:
    """Bytes above what the model takes, and the gradients, of one pass."""
    torch.manual_seed(0)
    model = Transformer(GptModel(n_layer=8, n_head=4, n_embd=256, block_size=256, dropout=0.1), 64).to(DEVICE)
    ids = torch.randint(0, 64, (32, 256), device=DEVICE)
    recompute.apply(model, how, compiled=False)
    torch.manual_seed(5)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    model(ids).square().mean().backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before, [weight.grad for weight in model.parameters()]


def test_the_peak_drops_and_the_gradients_stay():
    everything, plain = peak_and_gradients(False)
    half, partly = peak_and_gradients(0.5)
    little, again = peak_and_gradients(True)
    assert little < 0.5 * everything
    assert little < half < everything
    for one, other, third in zip(plain, partly, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one, third, rtol=1e-4, atol=1e-6)


def test_a_run_that_recomputes_ends_where_the_other_does(gpt):
    runs = []
    for how in (False, True):
        keys = {"model.dropout": 0.1, "optimization.gradient_checkpointing": how}
        runs.append(gpt(max_steps=20, deterministic=True, keys=keys))
    plain, again = runs
    assert again.summary["eval_loss"] == pytest.approx(plain.summary["eval_loss"], rel=1e-5)


def test_dropout_inside_an_lstm_is_left_alone_and_told():
    options = ForecastModel(name="lstm", hidden_size=16, num_layers=2, dropout=0.3)
    model = Forecaster(options, 3, (0,), 1, 16, 4, norm="none").to(DEVICE)
    told = recompute.apply(model, True, compiled=False)
    assert told[0].startswith("not recomputed: encoder; ")
    with pytest.raises(HotloopError, match="cannot be recomputed"):
        recompute.apply(model, ("encoder",), compiled=False)


class Block(nn.Module):
    """Takes its input by name, where torch's checkpoint does not look for devices."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop = nn.Linear(64, 64), nn.Dropout(0.5)

    def forward(self, *, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.layer(x).relu())


def test_the_second_run_draws_the_same_where_inputs_come_by_name():
    gradients = []
    for how in (False, True):
        torch.manual_seed(0)
        blocks = nn.ModuleList(Block() for _ in range(3)).to(DEVICE)
        recompute.apply(blocks, how, compiled=False)
        x = torch.randn(16, 64, device=DEVICE)
        for block in blocks:
            x = block(x=x)
        x.square().sum().backward()
        gradients.append([weight.grad for weight in blocks.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
