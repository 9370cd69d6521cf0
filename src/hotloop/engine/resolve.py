"""From the configuration to the plan: every `auto` becomes a choice, with its reason where a person would ask."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hotloop import device as machine
from hotloop.config.schema import (
    CallbacksSection,
    Config,
    DataSection,
    MemorySection,
    OptimizationSection,
    TrainingSection,
)
from hotloop.data.ragged import shapes_of
from hotloop.data.sampler import Sampler
from hotloop.data.source import Source
from hotloop.data.stream import StreamSource
from hotloop.engine.budgeting import resolve_memory
from hotloop.engine.execution import resolve_speed
from hotloop.engine.plan import Choice, Plan
from hotloop.engine.precision import resolve as resolve_precision
from hotloop.engine.probe import Facts
from hotloop.engine.reduce import couples_the_batch, scalar_refused
from hotloop.engine.schedule import OPEN_ENDED
from hotloop.errors import HotloopError

# Below this much predicted training, compiling takes longer than it saves: it costs tens of seconds (a C++ or Triton
# build for each graph) and saves a quarter to a half of a step.
_WORTH_COMPILING = {"cpu": 300.0, "cuda": 120.0}
_RESIDENT_SHARE = 0.25  # of the free memory; the rest is for the model and its activations


@dataclass(frozen=True)
class Sections:
    """The parts of the configuration that decide how a run executes."""

    data: DataSection
    training: TrainingSection
    optimization: OptimizationSection
    callbacks: CallbacksSection
    memory: MemorySection
    on_nan: str

    @classmethod
    def of(cls, config: Config, choice: Choice, tunable: bool = True) -> Sections:
        """These parts of `config`, with what was chosen in its place; the micro-batch is not among them.

        A run that is not `tunable`, or that searches by itself, needs no time of a pass for `training.tune`.
        """
        precision = {} if choice.precision is None else {"precision": choice.precision}
        optimizer = {} if choice.optimizer is None else {"optimizer": choice.optimizer}
        recompute = {} if choice.recompute is None else {"gradient_checkpointing": choice.recompute}
        offload = {} if choice.offload is None else {"offload": "on" if choice.offload else "off"}
        pin = {} if choice.pin_memory is None else {"pin_memory": "auto" if choice.pin_memory else "off"}
        searches = config.training.auto_batch_size or config.memory.budget is not None
        tune = {"tune": "off"} if searches or not tunable else {}
        return cls(
            config.data.model_copy(update=pin),
            config.training.model_copy(update={**precision, **tune}),
            config.optimization.model_copy(update={**optimizer, **recompute}),
            config.callbacks,
            config.memory.model_copy(update=offload),
            config.doctor.on_nan,
        )


def resolve(
    sections: Sections,
    device: torch.device,
    model: nn.Module,
    train: Source,
    sampler: Sampler,
    probe: Callable[[list[str]], Facts],
    micro_batch: int | None = None,
) -> tuple[Plan, list[str], float]:
    """Work out the plan of a run, remarks for the user, and predicted seconds of training (0 where nothing was timed).

    `probe` runs the loss once, and times it in the precisions given to it; threads are set already. `micro_batch` was
    chosen in place of `training.batch_size`; the effective batch is the sampler's in any case.

    Raises:
        HotloopError: something asked for by name cannot be had here.
    """
    training, per_epoch = sections.training, sampler.steps_per_epoch
    total = total_steps(training, per_epoch)
    size = min(micro_batch or training.batch_size, sampler.batch_size)
    pieces = -(-sampler.batch_size // size)
    precision, mode, facts, remarks, seconds = _arithmetic(training, device, pieces, total, probe, shapes_of(train))
    speed, told = resolve_speed(training, sections.optimization, device, model, mode)
    held, kept = resolve_memory(sections.optimization, sections.memory, device)
    plan = Plan(
        device=str(device),
        precision=precision,
        tf32=precision == "tf32",
        threads=torch.get_num_threads(),
        compile=mode,
        pad_ragged=mode != "off" and facts.paddable and not couples_the_batch(model),
        total_steps=total,
        on_nan=sections.on_nan,
        **_sizes(training, size, sampler.batch_size),
        **_cadence(training, sections.callbacks, per_epoch),
        **held,
        **_feeding(sections.data, device, train),
        **speed,
    )
    return plan, remarks + told + kept + _unpinned(sections.data, device), seconds


def _sizes(training: TrainingSection, size: int, effective: int) -> dict[str, Any]:
    """Rows of a micro-batch, of the effective batch, and of an evaluation batch.

    Without gradients a batch takes a fraction of the memory: four micro-batches fit where one trains.
    """
    evaluated = 4 * size if training.eval_batch_size == "auto" else training.eval_batch_size
    return {
        "micro_batch": size,
        "accumulation": -(-effective // size),
        "effective_batch": effective,
        "eval_batch": evaluated,
    }


def _cadence(training: TrainingSection, callbacks: CallbacksSection, per_epoch: int) -> dict[str, Any]:
    """Steps of an epoch, and between two validations, records and checkpoints."""
    return {
        "steps_per_epoch": per_epoch,
        "eval_every": _every(training.eval_every, per_epoch),
        "log_every": training.log_every,
        "checkpoint_every": _every(callbacks.checkpoint_every, per_epoch),
    }


def _arithmetic(
    training: TrainingSection,
    device: torch.device,
    pieces: int,
    total: int,
    probe: Callable[[list[str]], Facts],
    shapes: int = 1,
) -> tuple[str, str, Facts, list[str], float]:
    """Precision, compile mode, what the probe saw, remarks, and predicted seconds of training.

    Timed, so that there is something to predict from, is where `auto` asks for a measurement; `training.tune` does too.
    """
    precision, remark = resolve_precision(training.precision, device)
    undecided = precision == "auto"
    candidates = ["fp32", "bf16"] if undecided and machine.cpu_has_bf16() else ["fp32" if undecided else precision]
    asked = len(candidates) > 1 or training.compile == "auto" or training.tune == "auto"
    facts = probe(candidates if asked else [])
    if undecided:
        precision, remark = _fastest(facts)
    if facts.scalar and pieces > 1:
        raise scalar_refused("gradient accumulation")
    seconds = facts.seconds.get(precision, 0.0) * pieces * total
    seconds = min(seconds, training.max_time or math.inf)
    mode, why = _compile(training, device, pieces, seconds, shapes)
    return precision, mode, facts, [line for line in (remark, why) if line], seconds


def _feeding(data: DataSection, device: torch.device, train: Source) -> dict[str, Any]:
    """How batches reach the device."""
    if _resident(data, device, train):
        return {"resident": True, "num_workers": 0, "pin_memory": False, "prefetch": 0}
    workers, pin = _workers(data, device, train), data.pin_memory != "off" and device.type == "cuda"
    return {"resident": False, "num_workers": workers, "pin_memory": pin, "prefetch": data.prefetch if workers else 0}


def total_steps(training: TrainingSection, steps_per_epoch: int) -> int:
    """Optimizer steps of the run: the shorter of max_steps and num_epochs."""
    limits = [training.max_steps] if training.max_steps is not None else []
    limits += [training.num_epochs * steps_per_epoch] if training.num_epochs is not None else []
    return min(limits, default=OPEN_ENDED)


def _fastest(facts: Facts) -> tuple[str, str]:
    if len(facts.seconds) < 2:
        return "fp32", ""
    fp32, bf16 = facts.seconds["fp32"], facts.seconds["bf16"]
    choice = "bf16" if bf16 < 0.9 * fp32 else "fp32"
    took = f"a pass took {fp32 * 1e3:.1f} ms in fp32, {bf16 * 1e3:.1f} ms in bf16"
    return choice, f"precision {choice}: {took} (measured)"


def _compile(
    training: TrainingSection, device: torch.device, pieces: int, predicted_seconds: float, shapes: int = 1
) -> tuple[str, str]:
    """The mode of compilation, and a line where `auto` chose one; a program is built for each shape of a batch."""
    if training.compile == "off":
        return "off", ""
    if training.compile in ("reduce-overhead", "max-autotune") and pieces > 1:
        raise HotloopError(
            f"compile={training.compile} replays captured graphs, whose gradients the next micro-batch would overwrite",
            where="training.compile",
            fix="use training.compile=default, or gradient_accumulation_steps=1",
        )
    cpu_without_compiler = device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "cl"))
    if training.compile != "auto":
        if cpu_without_compiler:
            raise HotloopError(
                "torch.compile on a CPU needs a C++ compiler, and there is none",
                where="training.compile",
                fix="install g++, or use training.compile=off",
            )
        return training.compile, ""
    worth = predicted_seconds > shapes * _WORTH_COMPILING.get(device.type, float("inf"))
    if cpu_without_compiler or not worth:
        return "off", ""
    return "default", f"compiling: about {predicted_seconds:.0f} s of training earn it back"


def _every(wanted: int | str, steps_per_epoch: int) -> int:
    """Steps between two, 0 for never (or for `eval`, which the cadence knows)."""
    if isinstance(wanted, int):
        return wanted
    return steps_per_epoch if wanted == "epoch" else 0


def _resident(data: DataSection, device: torch.device, train: Source) -> bool:
    wanted, from_host = data.resident, data.pin_memory == "on" or data.num_workers not in ("auto", 0)
    if wanted == "on" and from_host:
        raise HotloopError(
            "data on the device needs neither workers nor pinned memory",
            where="data.resident",
            fix="leave data.num_workers and data.pin_memory on auto, or use data.resident=off",
        )
    if wanted == "off" or from_host:
        return False
    if train.nbytes is None:
        if wanted == "on":
            raise HotloopError(
                "data that is fetched item by item cannot live on the device",
                where="data.resident",
                fix="pass tensors or arrays, or use data.resident=auto",
            )
        return False
    free = machine.memory_free(device)
    if wanted == "on" and train.nbytes > free:
        raise HotloopError(
            f"the data takes {train.nbytes / 2**30:.1f} GB and {device} has {free / 2**30:.1f} GB free",
            where="data.resident",
            fix="use data.resident=off",
        )
    return wanted == "on" or train.nbytes < _RESIDENT_SHARE * free


def _workers(data: DataSection, device: torch.device, train: Source) -> int:
    """A user's own Dataset feeding a GPU gets workers; anything else is fetched in this process."""
    if isinstance(train, StreamSource):
        return train.workers(data.num_workers)
    if data.num_workers != "auto":
        return data.num_workers
    slow = train.nbytes is None and getattr(train, "draws", True) and len(train) >= 2000
    return min(4, (os.cpu_count() or 2) - 1) if device.type == "cuda" and slow else 0


def _unpinned(data: DataSection, device: torch.device) -> list[str]:
    """A line where pinned memory is asked for and there is nothing to copy to: it changes no result."""
    if data.pin_memory != "on" or device.type == "cuda":
        return []
    return [f"data.pin_memory=on is left out: it speeds up copies to an NVIDIA GPU, and this run is on {device}"]
