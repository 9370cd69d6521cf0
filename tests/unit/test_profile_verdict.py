"""The rules by which a profile says what a step is bound by, and what it names to change."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from hotloop.profiler.marks import BACKWARD, COPY, DATA, FORWARD, GAP, OPTIMIZER
from hotloop.profiler.operators import _summed
from hotloop.profiler.verdict import Facts, judge

FACTS = Facts(
    phases={DATA: 1.0, COPY: 0.0, FORWARD: 40.0, BACKWARD: 50.0, OPTIMIZER: 8.0, GAP: 1.0},
    matrix=0.3,
    products=0.3,
    calling=0.1,
    busy=None,
    on_gpu=False,
    precision="fp32",
    faster=("bf16", 2.5),
    compiled=False,
    recomputes=False,
    resident=False,
    can_be_resident=True,
    workers=0,
    pinned=False,
)
GPU = {"on_gpu": True, "calling": None, "busy": 0.9}


def phases(**changes: float) -> dict[str, float]:
    return {**FACTS.phases, **changes}


@pytest.mark.parametrize(
    ("changes", "name", "option"),
    [
        ({"phases": phases(data=60.0)}, "input-bound", "data.resident=on"),
        ({"phases": phases(data=60.0), "can_be_resident": False}, "input-bound", "data.num_workers=2"),
        ({"phases": phases(data=60.0), "can_be_resident": False, "workers": 4}, "input-bound", "data.num_workers=8"),
        ({"phases": phases(copy=60.0), "can_be_resident": False, **GPU}, "input-bound", "data.pin_memory=on"),
        ({"calling": 0.5}, "launch-bound", "training.compile=default"),
        ({**GPU, "busy": 0.5}, "launch-bound", "training.compile=reduce-overhead"),
        ({**GPU, "busy": 0.5}, "launch-bound", "training.batch_size"),
        ({"matrix": 0.45}, "compute-bound", "training.precision=bf16"),
        ({"matrix": None, "products": 0.7}, "compute-bound", "training.precision=bf16"),
        ({"products": 0.7}, "compute-bound", "training.batch_size: products so far below"),
        ({"products": 0.7, "recomputes": True}, "compute-bound", "optimization.gradient_checkpointing=false"),
        ({"phases": phases(optimizer=50.0)}, "memory-bound", "training.batch_size: the optimizer takes 35%"),
        ({}, "memory-bound", "training.compile=default"),
    ],
)
def test_the_rules_of_the_verdict(changes: dict[str, Any], name: str, option: str) -> None:
    found = judge(replace(FACTS, **changes))
    assert found.name == name
    assert any(option in line for line in found.options), found.options


@pytest.mark.parametrize(
    ("changes", "absent"),
    [
        ({"matrix": 0.9, "faster": ("fp32", 1.0)}, "training.precision"),
        ({"matrix": 0.9, "compiled": True}, "training.compile"),
        ({"phases": phases(data=60.0), "resident": True}, "data."),
        ({"matrix": 0.9}, "gradient_checkpointing"),
    ],
)
def test_what_would_not_help_is_not_named(changes: dict[str, Any], absent: str) -> None:
    assert not any(absent in line for line in judge(replace(FACTS, **changes)).options)


def row(key: str, kind: str, cpu: float = 0.0, gpu: float = 0.0, annotation: bool = False) -> Any:
    """A row as torch's profiler gives it; times in microseconds over two steps."""
    times = {"self_cpu_time_total": cpu, "self_device_time_total": gpu}
    return SimpleNamespace(
        key=key, device_type=SimpleNamespace(name=kind), count=4, is_user_annotation=annotation, **times
    )


GPU_ROWS = [
    row("aten::mm", "CPU", 5, 60),
    row("aten::mul", "CPU", 50, 40),
    row("ampere_sgemm_128x64", "CUDA", gpu=60),
    row("vectorized_elementwise", "CUDA", gpu=40),
    row("Memcpy HtoD (Pinned -> Device)", "CUDA", gpu=30),
    row("Optimizer.step", "CUDA", gpu=500, annotation=True),
]


def test_on_a_gpu_operators_have_the_time_of_their_kernels() -> None:
    seen = _summed(GPU_ROWS, 2, True)
    assert [(each.name, each.share, each.calls) for each in seen.operators] == [
        ("aten::mm", 0.6, 2.0),
        ("aten::mul", 0.4, 2.0),
    ]
    assert seen.products == pytest.approx(0.6)
    assert seen.kernels == pytest.approx(50e-6), "copies run beside, annotations are no kernels"


def test_a_captured_graph_is_told_by_its_kernels() -> None:
    seen = _summed([row("cudaGraphLaunch", "CPU", 9), *GPU_ROWS[2:4]], 2, True)
    assert [each.name for each in seen.operators] == ["ampere_sgemm_128x64", "vectorized_elementwise"]
    assert seen.products == pytest.approx(0.6)


def test_on_a_cpu_operators_have_their_own_time() -> None:
    seen = _summed(GPU_ROWS[:2], 2, False)
    assert [each.name for each in seen.operators] == ["aten::mul", "aten::mm"]
    assert seen.kernels is None
