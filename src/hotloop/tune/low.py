"""The low-memory measures: what a card of 4.5 GB or less needs to train at all, unless the person said otherwise."""

from __future__ import annotations

from collections.abc import Mapping

from hotloop.config.schema import Config
from hotloop.engine.plan import Choice
from hotloop.tune.knee import pieces_of
from hotloop.tune.settings import is_open as is_open

CARD = int(4.5 * 2**30)
_ROWS = 8


def low_memory(device: str, total: int, config: Config, origins: Mapping[str, str], recomputes: bool = True) -> Choice:
    """What a small card is given; an empty choice on any other device.

    Args:
        device: its type, "cuda" or "cpu".
        total: bytes that it has.
        config: the configuration.
        origins: dotted key -> who set it; what a person stated is kept.
        recomputes: the model knows gradient checkpointing.
    """
    if device != "cuda" or total > CARD:
        return Choice()
    training, said = config.training, []
    rows = training.batch_size * training.gradient_accumulation_steps
    size: int | None = None
    if training.batch_size > _ROWS and is_open(origins, "training.batch_size"):
        size = pieces_of(rows, pieces_of(rows, _ROWS))
        said.append(f"micro-batch {size} x {pieces_of(rows, size)} (effective batch unchanged)")
    recompute: bool | None = None
    if (
        recomputes
        and not config.optimization.gradient_checkpointing
        and is_open(origins, "optimization.gradient_checkpointing")
    ):
        recompute = True
        said.append("activations recomputed")
    precision: str | None = None
    if training.precision in ("fp32", "tf32") and is_open(origins, "training.precision"):
        precision = "auto"
        said.append("mixed precision")
    pin: bool | None = None
    if config.data.pin_memory != "off" and is_open(origins, "data.pin_memory"):
        pin = False
        said.append("no pinned memory")
    told = (f"low-memory measures for a card of {total / 2**30:.1f}GB: {', '.join(said)}",) if said else ()
    return Choice(micro_batch=size, precision=precision, recompute=recompute, pin_memory=pin, told=told)
