"""Precision: what is asked for and what is had, a loss scale on the device, fp16 that skips without using up a rate."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from hotloop import device as machine
from hotloop.engine.loop import steps
from hotloop.engine.precision import LossScale, autocast, resolve

CPU = torch.device("cpu")


def update(scale: LossScale, overflow: float, times: int = 1) -> None:
    for _ in range(times):
        scale.update(torch.tensor(overflow))


def test_the_scale_doubles_after_two_thousand_clean_steps() -> None:
    scale = LossScale(CPU)
    assert scale.scale == 65536.0
    update(scale, 0.0, 1999)
    assert (scale.scale, scale.clean) == (65536.0, 1999.0)
    update(scale, 0.0)
    assert (scale.scale, scale.clean) == (131072.0, 0.0)


def test_an_overflow_halves_the_scale_and_starts_the_count_again() -> None:
    scale = LossScale(CPU)
    update(scale, 0.0, 1999)
    update(scale, 1.0)
    assert (scale.scale, scale.clean) == (32768.0, 0.0)
    update(scale, 0.0, 1999)
    assert scale.scale == 32768.0
    update(scale, 0.0)
    assert scale.scale == 65536.0


def test_the_scale_has_a_floor() -> None:
    scale = LossScale(CPU)
    update(scale, 1.0, 100)
    assert scale.scale == LossScale.lowest > 0


def test_the_scale_goes_through_a_checkpoint() -> None:
    scale, other = LossScale(CPU), LossScale(CPU)
    update(scale, 1.0)
    update(scale, 0.0, 7)
    other.load_state_dict(scale.state_dict())
    assert (other.scale, other.clean) == (32768.0, 7.0)


@pytest.mark.parametrize(("in_hardware", "instead"), [(True, "bf16"), (False, "fp32")])
def test_fp16_on_a_cpu_becomes_what_the_cpu_has_and_says_so(
    monkeypatch: pytest.MonkeyPatch, in_hardware: bool, instead: str
) -> None:
    monkeypatch.setattr(machine, "cpu_has_bf16", lambda: in_hardware)
    precision, line = resolve("fp16", CPU)
    assert precision == instead
    assert line == f"fp16 has no fast path on a CPU: training in {instead}"


def test_what_needs_no_change_needs_no_line() -> None:
    assert resolve("fp32", CPU) == ("fp32", "")
    assert resolve("bf16", CPU) == ("bf16", "")
    assert resolve("tf32", CPU)[0] == "fp32"
    assert "NVIDIA GPUs only" in resolve("tf32", CPU)[1]


def test_autocast_is_on_for_half_precision_only() -> None:
    a = torch.randn(4, 4)
    wanted = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    for precision, dtype in wanted.items():
        with autocast(CPU, precision):
            assert (a @ a).dtype == dtype


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 1, bias=False)


def linear_loss(size: float):
    """A loss whose gradient is `size` x the inputs, in fp16 under autocast."""

    def loss(model: nn.Module, batch: dict[str, Tensor], training: bool) -> Tensor:
        return model(batch["x"]).squeeze(1) * size

    return loss


DATA = {"x": torch.ones(8, 4)}
STEADY = {"optimizer": "sgd", "momentum": 0.0, "lr_scheduler": "linear", "warmup_steps": 0, "max_grad_norm": None}
SHORT = {"batch_size": 4, "max_steps": 12, "learning_rate": 1e-3, "weight_decay": 0.0, **STEADY}


def test_fp16_finds_its_scale_by_skipping_and_then_trains_as_fp32_does(build) -> None:
    half = build(net, DATA, linear_loss(8.0), changes={"precision": "fp16"}, **SHORT)
    whole = build(net, DATA, linear_loss(8.0), **SHORT)
    taken = [float(half.state.applied) for _ in steps(half.state, half.feed())]
    skipped = 12 - int(taken[-1])
    assert 1 <= skipped <= 6  # the gradient, 8, times 65536 is beyond fp16
    assert taken == [0.0] * skipped + [float(n) for n in range(1, 13 - skipped)]
    assert half.state.scaler.scale == 65536.0 / 2**skipped
    for _ in islice(steps(whole.state, whole.feed()), 12 - skipped):
        pass
    for a, b in zip(half.state.model.parameters(), whole.state.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "tf32"])
def test_only_fp16_has_a_scale(build, precision: str) -> None:
    session = build(net, DATA, linear_loss(1.0), changes={"precision": precision}, **SHORT)
    assert session.state.scaler is None


def test_bf16_computes_in_bf16_and_keeps_float32_weights(build) -> None:
    seen = []

    def loss(model: nn.Module, batch: dict[str, Tensor], training: bool) -> Tensor:
        out = model(batch["x"])
        seen.append(out.dtype)
        return out.squeeze(1)

    session = build(net, DATA, loss, precision="bf16", max_steps=2, batch_size=4)
    seen.clear()
    for info in steps(session.state, session.feed()):
        assert info.loss.dtype == torch.float32
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in session.state.model.parameters())
    assert "precision bf16" in session.plan.lines()[0]


def test_fp16_asked_of_a_cpu_is_said_among_the_remarks(build) -> None:
    session = build(net, DATA, linear_loss(1.0), precision="fp16", max_steps=2, batch_size=4)
    assert session.plan.precision in ("bf16", "fp32")
    assert any("fp16 has no fast path on a CPU" in remark for remark in session.remarks)


def test_a_sum_of_fp16_values_does_not_overflow(build) -> None:
    """Losses of 300 over 512 rows: each fits into fp16, their sum, 153600, does not."""

    def loss(model: nn.Module, batch: dict[str, Tensor], training: bool) -> Tensor:
        return model(batch["x"]).squeeze(1) * 0.0 + 300.0

    session = build(net, {"x": torch.ones(512, 4)}, loss, changes={"precision": "fp16"}, batch_size=512, max_steps=2)
    losses = [float(info.loss) for info in steps(session.state, session.feed())]
    assert losses == [300.0, 300.0]
    assert session.state.applied == 2
