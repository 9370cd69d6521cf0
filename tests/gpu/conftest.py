"""What the tests on a GPU share: a small text, gpt runs on it, and the device's settings put back afterwards."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS starts; bit-equal runs need it

DEVICE = "cuda"
SMALL = {
    "template": "nanogpt",
    "device": DEVICE,
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 64,
    "block_size": 32,
    "batch_size": 16,
    "max_steps": 60,
    "eval_every": 20,
    "log_every": 10,
    "precision": "fp32",
    "compile": "off",
    "progress": False,
}


@pytest.fixture
def device() -> str:
    """The device under test."""
    return DEVICE


@pytest.fixture(autouse=True)
def settings_put_back() -> Iterator[None]:
    """Synchronisation checks, determinism and TF32 as they were: they are kept by the process."""
    import torch

    from hotloop.device import set_deterministic, set_tf32

    yield
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")
    set_deterministic(False)
    set_tf32(False)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """About 20,000 characters with something to learn."""
    words = ["the cat sat", "on a mat", "and saw", "two red hens", "go by"]
    draw = random.Random(1)
    path = tmp_path / "text.txt"
    path.write_text("\n".join(" ".join(draw.choices(words, k=4)) for _ in range(600)))
    return path


@pytest.fixture
def gpt(text: Path, tmp_path: Path) -> Callable[..., Any]:
    """`gpt(precision="bf16")` trains a small gpt and returns the run; `callbacks` watch it."""

    def train(**settings: Any) -> Any:
        import hotloop

        given = {**SMALL, **settings}
        given["keys"] = {"data.path": str(text), "experiment.dir": str(tmp_path / "runs"), **given.pop("keys", {})}
        return hotloop.train("gpt", **given)

    return train


@pytest.fixture
def session(text: Path, tmp_path: Path) -> Callable[..., Any]:
    """`session(precision="bf16")` is a small gpt put together, ready for its first step."""

    def build(**settings: Any) -> Any:
        from hotloop import assemble
        from hotloop.config.load import load
        from hotloop.tasks.gpt.options import OPTIONS
        from hotloop.tasks.gpt.task import Gpt

        given = {**SMALL, **settings}
        for name in ("template", "progress"):
            given.pop(name)
        keys = {"data.path": str(text), "experiment.dir": str(tmp_path / "runs")}
        loaded = load(OPTIONS, templates=["nanogpt"], overrides={**keys, **given}, device_kind="cuda")
        task = Gpt(loaded.config.model, loaded.config.data, seed=loaded.config.experiment.seed)
        return assemble.build(loaded, task)

    return build
