"""The knobs of speed as a person sets them: what is done, what is left out with a line, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotloop import device as machine
from hotloop.config.schema import OptimizationSection, TrainingSection
from hotloop.engine.execution import resolve_speed
from hotloop.engine.plan import Plan
from hotloop.errors import HotloopError
from hotloop.tasks import layers

X = torch.randn(24, 6, 16, generator=torch.Generator().manual_seed(0))
NAMES = ("flash_sdp_enabled", "mem_efficient_sdp_enabled", "cudnn_sdp_enabled", "math_sdp_enabled")


def kernels() -> list[bool]:
    return [getattr(torch.backends.cuda, name)() for name in NAMES]


class Attends(nn.Module):
    """Attention of each row to itself; `seen` tells which kernels were allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(16, 48), nn.Linear(16, 1)
        self.seen: list[list[bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(kernels())
        q, k, v = (part.unsqueeze(1) for part in self.inner(x).chunk(3, -1))
        result: Tensor = self.head(F.scaled_dot_product_attention(q, k, v).squeeze(1)).mean((1, 2))
        return result


def net() -> Attends:
    torch.manual_seed(0)
    return Attends()


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return (model(batch["x"]) - batch["x"].mean((1, 2))).square()


def speed(device: str = "cpu", mode: str = "off", recompute: bool = False, **settings: str):
    optimization = OptimizationSection(gradient_checkpointing=recompute)
    return resolve_speed(TrainingSection(**settings), optimization, torch.device(device), net(), mode)


def test_auto_is_the_ordinary_way():
    fields, remarks = speed()
    assert remarks == []
    assert fields["capture"] is fields["channels_last"] is False
    assert (fields["compile_region"], fields["attention"]) == ("model", "auto")


def test_capture_on_a_cpu_is_left_out_with_a_line(build):
    session = build(net, {"x": X}, lambda m, b, t: loss(m, b), capture="on")
    assert not session.plan.capture and session.state.captured is None
    [line] = [line for line in session.remarks if "capture" in line]
    assert line.startswith("training.capture=on is left out: CUDA graphs exist on NVIDIA GPUs only")


def test_capture_on_a_gpu_and_what_it_does_not_go_with():
    assert speed("cuda", capture="on")[0]["capture"] is True
    assert speed("cuda", capture="on", mode="default", recompute=True)[0]["capture"] is True
    fields, [line] = speed("cuda", capture="on", recompute=True)
    assert fields["capture"] is False and "recomputing activations without the compiler" in line
    assert speed("cuda")[0]["capture"] is False


def test_a_plan_of_before_has_the_ordinary_way(make_plan):
    stored = make_plan().to_dict()
    for name in ("capture", "channels_last", "attention", "compile_region"):
        del stored[name]
    assert Plan.from_dict(stored) == make_plan()
    plan = replace(make_plan(), capture=True, channels_last=True, attention="flash")
    assert Plan.from_dict(plan.to_dict()) == plan
    assert "compile off, captured steps, channels last, attention flash, 1 threads" in plan.lines()[0]


@pytest.mark.parametrize(("kind", "allowed"), [("flash", 0), ("math", 3)])
def test_one_attention_kernel_in_training_and_evaluation(quick, kind, allowed):
    before = kernels()
    plain = quick(net(), {"x": X}, loss=loss, val={"x": X}, max_steps=6, batch_size=8)
    model = net()
    run = quick(model, {"x": X}, loss=loss, val={"x": X}, max_steps=6, batch_size=8, attention=kind)
    assert model.seen and all(seen == [number == allowed for number in range(4)] for seen in model.seen)
    assert kernels() == before, "the process has its own choice again"
    assert run.summary["eval_loss"] == pytest.approx(plain.summary["eval_loss"], rel=1e-4)


@pytest.mark.parametrize("kind", ["efficient", "cudnn"])
def test_kernels_of_gpus_are_refused_on_a_cpu(quick, kind):
    before = kernels()
    with pytest.raises(HotloopError) as caught:
        quick(net(), {"x": X}, loss=loss, max_steps=2, attention=kind)
    assert caught.value.where == "training.attention" and "NVIDIA GPUs only" in caught.value.what
    assert kernels() == before


def test_what_the_kernel_cannot_do_is_told_before_training(quick):
    """The flash kernel of a CPU takes no mask that is trained: the loss is blamed, without a traceback."""

    def masked(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        q = batch["x"].unsqueeze(1).expand(-1, 2, -1, -1).requires_grad_()
        mask = torch.zeros(6, 6, requires_grad=True)
        return F.scaled_dot_product_attention(q, q, q, attn_mask=mask).mean((1, 2, 3)) + loss(model, batch)

    with pytest.raises(HotloopError) as caught, pytest.warns(UserWarning, match="Flash attention"):
        quick(net(), {"x": X}, loss=masked, max_steps=2, attention="flash")
    assert "No available kernel" in caught.value.what


def test_compiled_attention_is_one_graph():
    """The question which kernel is named must not break the graph up."""
    q = torch.randn(2, 2, 5, 8, dtype=torch.bfloat16)
    whole = torch.compile(
        lambda q: layers.attend(q, q, q, drop=nn.Dropout(0.0), causal=True),
        fullgraph=True,
        backend="eager",
        dynamic=False,
    )
    torch.testing.assert_close(whole(q), layers.attend(q, q, q, drop=nn.Dropout(0.0), causal=True))


def test_written_out_attention_yields_to_a_named_kernel(monkeypatch):
    """In bf16 on a CPU short contexts are written out, unless the run names the fused kernel."""
    q = torch.randn(2, 2, 5, 8, dtype=torch.bfloat16)
    calls: list[int] = []
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or real(*a, **k))
    try:
        for kind, called in (("auto", 0), ("math", 0), ("flash", 1)):
            machine.set_attention("auto")
            machine.set_attention(kind)
            calls.clear()
            layers.attend(q, q, q, drop=nn.Dropout(0.0), causal=True)
            assert len(calls) == called, kind
    finally:
        machine.set_attention("auto")
