"""The knobs that decide over speed, in the order in which they are tried, each on top of what was kept before it.

None of them may change what is learned: that is measured. The effective batch does change it, so it is among them only
where the person allows it; the rate is then scaled by a stated rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from hotloop import device as machine
from hotloop import memory
from hotloop.config.load import Loaded
from hotloop.config.schema import Config
from hotloop.tune.lane import LaneFacts
from hotloop.tune.low import is_open
from hotloop.tune.settings import value_of

_HALVED_FROM = 32  # rows of a micro-batch that is worth halving: a CPU's caches may like it
_CUT = ("training.batch_size", "training.gradient_accumulation_steps")


@dataclass(frozen=True)
class Rung:
    """One candidate.

    Args:
        name: for the table.
        knobs: dotted key -> value, on top of what was kept.
        changes_batch: the effective batch is another one.
    """

    name: str
    knobs: dict[str, Any]
    changes_batch: bool = False


def rungs(loaded: Loaded, facts: LaneFacts, allow_batch_change: bool = False) -> list[list[Rung]]:
    """Groups of alternatives; of each group the best that holds is kept. Knobs stated by hand are not among them.

    Args:
        loaded: the configuration to climb from.
        facts: of it, as put together.
        allow_batch_change: also try larger effective batches.
    """
    device = torch.device(facts.plan["device"])
    groups = [
        _precision(device),
        _resident(facts),
        _kept(device),
        _masks(device) if facts.drops else [],
        [] if facts.couples else list(_micro_batches(loaded.config, device)),
        [Rung("+ channels_last", {"training.channels_last": "on"})] if facts.convolves else [],
        _compile(facts, device),
        _threads(facts),
        _attention(device) if facts.attends else [],
        [] if facts.bytes is not None else _workers(device),
        [Rung("+ capture", {"training.capture": "on", "training.compile": "off"})] if device.type == "cuda" else [],
        list(_batches(loaded.config)) if allow_batch_change else [],
    ]
    known = [[rung for rung in group if _is_free(loaded, rung)] for group in groups]
    return [group for group in known if group]


def _is_free(loaded: Loaded, rung: Rung) -> bool:
    """Whether every knob of a rung exists, is nobody's word, and would change something.

    How the effective batch is cut is nobody's word: what a person states is the batch that the optimizer sees.
    """
    values = {key: value_of(loaded.config, key) for key in rung.knobs}
    differs = any(values[key] != value for key, value in rung.knobs.items())
    free = rung.changes_batch or all(key in _CUT or is_open(loaded.origins, key) for key in rung.knobs)
    return differs and free and None not in values.values()


def _precision(device: torch.device) -> list[Rung]:
    if device.type == "cpu":
        names = ["bf16"] if machine.cpu_has_bf16() else []
    else:
        major, _ = torch.cuda.get_device_capability(device)
        names = ["tf32", "bf16", "fp16"] if major >= 8 else ["fp16"] if major >= 7 else []
    return [Rung(f"+ {name}", {"training.precision": name}) for name in names]


def _resident(facts: LaneFacts) -> list[Rung]:
    if facts.bytes is None:
        return []
    return [Rung("+ resident", {"data.resident": "on", "data.num_workers": "auto", "data.pin_memory": "auto"})]


def _kept(device: torch.device) -> list[Rung]:
    keeps = device.type == "cpu" and memory.can_keep_freed()
    return [Rung("+ freed memory kept", {"memory.keep_freed": "on"})] if keeps else []


def _masks(device: torch.device) -> list[Rung]:
    return [Rung("+ fast dropout", {"training.fast_dropout": "on"})] if device.type == "cpu" else []


def _workers(device: torch.device) -> list[Rung]:
    """Processes that read data which is fetched item by item."""
    pin = {"data.pin_memory": "on"} if device.type == "cuda" else {}
    counts = sorted({1, min(8, machine.usable_cores())})
    return [Rung(f"+ {count} workers", {"data.num_workers": count, **pin}) for count in counts]


def _threads(facts: LaneFacts) -> list[Rung]:
    now, allowed = facts.plan["threads"], machine.usable_cores()
    cores = min(allowed, psutil.cpu_count(logical=False) or 1)
    counts = {1, cores, allowed, max(1, cores // 2)} - {now}
    names = {count: f"+ {count} thread{'s' if count > 1 else ''}" for count in sorted(counts)}
    return [Rung(names[count], {"training.threads": count}) for count in sorted(counts)]


def _attention(device: torch.device) -> list[Rung]:
    names = ["flash", "math"] if device.type == "cpu" else ["flash", "efficient", "cudnn"]
    return [Rung(f"+ attention {name}", {"training.attention": name}) for name in names]


def _micro_batches(config: Config, device: torch.device) -> Iterator[Rung]:
    """The same effective batch in fewer and larger micro-batches; on a CPU in smaller ones too."""
    rows, pieces = config.training.batch_size, config.training.gradient_accumulation_steps
    sizes = [(rows * part, pieces // part) for part in range(2, pieces + 1) if pieces % part == 0]
    if device.type == "cpu" and rows >= _HALVED_FROM and rows % 2 == 0:
        sizes.append((rows // 2, 2 * pieces))
    for size, count in sizes:
        knobs = {"training.batch_size": size, "training.gradient_accumulation_steps": count}
        yield Rung(f"+ micro-batch {size} x {count}", knobs)


def _compile(facts: LaneFacts, device: torch.device) -> list[Rung]:
    off = {"training.capture": "off"}
    found = [Rung("+ compile blocks", {"training.compile": "default", "training.compile_region": "blocks"})]
    found = found if facts.repeats else []
    found.append(Rung("+ compile", {"training.compile": "default", "training.compile_region": "model"}))
    if device.type == "cuda":
        for mode in ("reduce-overhead", "max-autotune"):
            found.append(Rung(f"+ compile {mode}", {"training.compile": mode, **off}))
    return found


def _batches(config: Config) -> Iterator[Rung]:
    """Twice and four times the effective batch. The rate grows by the root of that under Adam-like rules (Malladi et
    al., arXiv 2205.10287) and linearly under SGD (Goyal et al., arXiv 1706.02677).
    """
    options, size = config.optimization, config.training.batch_size
    pieces = config.training.gradient_accumulation_steps
    for times in (2, 4):
        scale = float(times) if options.optimizer == "sgd" else math.sqrt(times)
        rates = {f"optimization.{name}": getattr(options, name) * scale for name in ("learning_rate", "min_lr")}
        if options.optimizer == "muon":
            rates["optimization.muon_learning_rate"] = options.muon_learning_rate * scale
        name = f"+ effective batch {size * times * pieces}, rate x {scale:.3g}"
        cut = {"training.batch_size": size * times, "training.gradient_accumulation_steps": pieces}
        yield Rung(name, {**cut, **rates}, changes_batch=True)
