"""Golden curves: what 20 steps of each recipe give, on the CPU in float32, on the text of the project's own licence or
on waves.

Stored in curves.json under a key of torch version, CPU capability and thread count: bit-equal where the key matches,
within 1e-4 elsewhere. After an intended change of the numbers: `python tests/golden/update.py`, and say why in the
commit. Imports torch only when a curve is made.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
STORE = HERE / "curves.json"
TEXT = HERE.parent.parent / "LICENSE"  # real text that never changes
TOLERANCE = 1e-4
Curve = dict[str, list[float]]

_ALL = {
    "data.path": str(TEXT), "max_steps": 20, "batch_size": 8, "eval_every": 10, "log_every": 1, "precision": "fp32",
    "compile": "off", "device": "cpu", "seed": 7, "n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 32,
}  # fmt: skip
_LATEST = {
    "positions": "rotary", "norm": "rmsnorm", "activation": "swiglu", "qk_norm": True, "tie_embeddings": False,
    "sampling": "shifted", "optimizer": "muon", "lr_scheduler": "wsd", "decay_ratio": 0.5, "warmup_steps": 2,
}  # fmt: skip
RECIPES = {
    "gpt as nanoGPT": {},
    "gpt with dropout and accumulation": {"dropout": 0.2, "batch_size": 3, "gradient_accumulation_steps": 3},
    "gpt of the modern style with muon": _LATEST,
}


_FORECAST = {
    **{name: _ALL[name] for name in ("max_steps", "eval_every", "log_every", "precision", "compile", "device", "seed")},
    "batch_size": 16, "hidden_size": 16, "sequence": 24, "horizon": 4, "learning_rate": 0.01, "weight_decay": 0.1,
}  # fmt: skip
FORECASTS = {
    "forecast with an lstm": {},
    "forecast with a transformer over patches": {
        "model.name": "transformer", "channels": "independent", "patch": 4, "num_layers": 2,
    },
}  # fmt: skip


def machine_key() -> str:
    """What a curve's last bits depend on."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {capability}, {torch.get_num_threads()} threads"


def compute(recipe: str, folder: Path) -> Curve:
    """Train one recipe; returns the series of its records."""
    import hotloop

    if recipe in RECIPES:
        task, template, settings = "gpt", "nanogpt", {**_ALL, **RECIPES[recipe]}
    else:
        settings = {**_FORECAST, **FORECASTS[recipe], "data.path": str(waves(folder))}
        task, template = "forecast", "default"
    run = hotloop.train(task, template=template, progress=False, keys={**settings, "dir": str(folder), "trackers": ()})
    series = ("train_loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy")
    return {name: [record[name] for record in run.history if name in record] for name in series}


def waves(folder: Path) -> Path:
    """A CSV of two columns that never change, written to four digits so that no library's last bit matters."""
    lines = [f"{math.sin(n / 3):.4f},{math.cos(n / 7) * n / 300:.4f}" for n in range(400)]
    path = folder / "waves.csv"
    path.write_text("\n".join(["a,b", *lines]), encoding="utf-8")
    return path


def apart(some: Curve, other: Curve) -> float:
    """Largest difference of two curves' losses; infinite where they are not of one shape."""
    losses = [(some[name], other[name]) for name in ("train_loss", "eval_loss")]
    if any(len(a) != len(b) for a, b in losses):
        return float("inf")
    return max(abs(x - y) for a, b in losses for x, y in zip(a, b, strict=True))


def read() -> dict[str, dict[str, Curve]]:
    """Machine key -> recipe -> curve."""
    return json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}


def update() -> list[str]:
    """Store this machine's curves, and drop those of others that no longer agree; returns what was done."""
    with tempfile.TemporaryDirectory() as folder:
        mine = {recipe: compute(recipe, Path(folder)) for recipe in (*RECIPES, *FORECASTS)}
    stored, key = read(), machine_key()
    agreeing = {
        name: curves
        for name, curves in stored.items()
        if name != key and all(r in curves and apart(curves[r], mine[r]) <= TOLERANCE for r in mine)
    }
    kept = dict(sorted({**agreeing, key: mine}.items()))
    STORE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    dropped = [f"dropped {name}: it differs by more than {TOLERANCE}" for name in stored if name not in kept]
    return [f"stored {len(mine)} curves for {key}", *dropped]


@pytest.fixture
def golden(tmp_path: Path) -> Callable[[str], tuple[Curve, Curve | None, list[Curve]]]:
    """`golden(recipe)`: the curve as it is now, the stored one of such a machine, and those of all others."""

    def find(recipe: str) -> tuple[Curve, Curve | None, list[Curve]]:
        stored, key = read(), machine_key()
        others = [curves[recipe] for name, curves in stored.items() if name != key]
        return compute(recipe, tmp_path), stored.get(key, {}).get(recipe), others

    return find
