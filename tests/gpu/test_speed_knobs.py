"""Memory layout, attention kernels and compiled blocks on a GPU: other ways to the same training."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotloop
from hotloop.usage import Meter

pytestmark = pytest.mark.gpu

X = torch.randn(64, 8, 12, 12, generator=torch.Generator().manual_seed(0))
DATA = {"x": X, "y": (X.mean((1, 2, 3)) > 0).long()}


class Images(nn.Module):
    """Two convolutions; `seen` tells whether the second one's input lay with the channels innermost."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 16, 3, bias=False), nn.Conv2d(16, 16, 3)
        self.head, self.seen = nn.Linear(16, 2), list[bool]()

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.first(x))
        self.seen.append(hidden.is_contiguous(memory_format=torch.channels_last))
        result: Tensor = self.head(self.second(hidden).mean((2, 3)))
        return result


def train(folder: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    given = {"max_steps": 20, "batch_size": 16, "precision": "fp32", "compile": "off", **settings}

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(net(batch["x"]), batch["y"], reduction="none")

    return hotloop.fit(Images(), DATA, loss=loss, device="cuda", dir=str(folder), progress=False, trackers=(), **given)


@pytest.mark.parametrize("capture", ["off", "on"])
def test_channels_last(tmp_path, capture):
    plain = train(tmp_path)
    run = train(tmp_path, channels_last="on", capture=capture)
    assert run.model.seen and all(run.model.seen) and not any(plain.model.seen)
    assert run.model.first.weight.is_contiguous()
    for one, other in zip(plain.model.parameters(), run.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("kind", ["flash", "efficient", "cudnn", "math"])
def test_each_attention_kernel_trains(kind, gpt):
    if torch.cuda.get_device_capability()[0] < 9 and kind in ("flash", "cudnn"):
        pytest.skip("this GPU may lack the kernel")
    plain = gpt(precision="bf16", max_steps=20)
    run = gpt(precision="bf16", max_steps=20, attention=kind)
    assert run.summary["eval_loss"] == pytest.approx(plain.summary["eval_loss"], rel=0.02)


@pytest.mark.slow
def test_compiled_block_by_block(gpt):
    pytest.importorskip("triton", reason="torch.compile on a GPU needs triton")
    torch._dynamo.reset()
    plain = gpt()
    run = gpt(compile="default", compile_region="blocks")
    assert run.summary["eval_loss"] == pytest.approx(plain.summary["eval_loss"], rel=0.02)
    assert run.summary["recompiles"] == 0
    torch._dynamo.reset()


def test_the_driver_tells_how_busy_the_gpu_is() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    meter, matrix = Meter(device), torch.randn(4096, 4096, device=device)
    end = time.perf_counter() + 1.5
    while time.perf_counter() < end:
        matrix @ matrix
        torch.cuda.synchronize()
    share = meter.share()
    if share is None:
        pytest.skip("neither NVML's package nor nvidia-smi tells (a card in MIG mode does not)")
    assert 0.3 < share <= 1
