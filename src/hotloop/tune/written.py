"""What a climb found, as text: the YAML to train with, and how its verdicts are to be read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from hotloop import device as machine
from hotloop.config import to_yaml
from hotloop.tune.judge import SEEDS
from hotloop.tune.verdict import LOSS_LEVEL, MARGIN, SPEED_LEVEL

if TYPE_CHECKING:
    from hotloop.tune.search import Climbed


def in_words(knobs: Mapping[str, Any]) -> str:
    """`training.precision=bf16, data.resident=on`: what was chosen, without what is as usual."""
    usual = ("off", "auto", "model", 0, "fp32")
    chosen = [f"{key}={value}" for key, value in knobs.items() if value not in usual]
    return ", ".join(chosen) or "nothing but the plain way holds"


def tuned_yaml(found: Climbed, command: str) -> str:
    """The whole configuration with what was found, under a heading that says where it comes from.

    Args:
        found: the climb.
        command: the words after `hotloop tune`.
    """
    here = machine.describe()
    place = here["gpus"][0]["name"] if here["gpus"] else f"{here['cpu']}, {here['cores']} cores"
    heading = [
        f"# hotloop tune {command}",
        f"# measured on {time.strftime('%Y-%m-%d')}: {place}, torch {torch.__version__}",
        f"# {found.factor:.2f} times the samples per second of the plain way to train; set were",
        *(f"#   {key} = {value}" for key, value in found.knobs.items()),
        *(f"# {one}" for one in levels()),
    ]
    return "\n".join(heading) + "\n" + to_yaml(found.best.config)


def levels() -> list[str]:
    """The tests behind `kept`, with their levels."""
    return [
        f"faster: by over {MARGIN - 1:.0%} in the median of paired rounds, and beyond noise (Student, level "
        f"{SPEED_LEVEL:g})",
        "same: gradients against float32 within 3 times the precision's own error; the loss of "
        f"{SEEDS} paired seeds within the spread of reseeded baselines (Student, level {LOSS_LEVEL:g})",
    ]
