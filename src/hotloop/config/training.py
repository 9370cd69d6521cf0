"""The knobs of training: how long, in which portions, on what and in which arithmetic."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from hotloop.config.section import Auto, Positive, Section, Switch, knob

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def _seconds(value: Any) -> Any:
    """Read "90s", "10m", "1h30m" as seconds; leave everything else as it is."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if match is None:
        return value
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


class TrainingSection(Section):
    """How long, in which portions, on what and in which arithmetic."""

    num_epochs: Positive | None = knob(None, "Passes over the training data.", unit="epochs")
    max_steps: Positive | None = knob(None, "Optimizer steps; with num_epochs whichever ends first.", unit="steps")
    max_time: Annotated[float, BeforeValidator(_seconds, json_schema_input_type=float | str), Field(gt=0)] | None = (
        knob(
            None,
            'Training stops after this time if it has not ended before; seconds, or text such as "90s" or "1h30m". '
            "A resumed run counts anew.",
            unit="s",
        )
    )
    batch_size: int = knob(32, "Samples in one forward pass (the micro-batch).", unit="samples", ge=1)
    gradient_accumulation_steps: int = knob(
        1, "Micro-batches per optimizer step; the effective batch is batch_size times this.", unit="micro-batches", ge=1
    )
    auto_batch_size: bool = knob(
        False,
        "Measure before the run which micro-batch is the fastest one; the effective batch stays as it is stated.",
    )
    eval_batch_size: Positive | Auto = knob("auto", "Samples per forward pass in validation.", unit="samples")
    device: str = knob(
        "auto",
        "Where to train: auto, cpu, cuda, or cuda:N for one of several GPUs.",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
    )
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = knob(
        "auto", "Arithmetic of the forward and backward pass; auto takes the fastest safe one of the device."
    )
    compile: Literal["auto", "off", "default", "reduce-overhead", "max-autotune"] = knob(
        "auto", "torch.compile and its mode; auto compiles where the run is long enough to earn it back."
    )
    compile_region: Literal["auto", "model", "blocks"] = knob(
        "auto",
        "With compile: what is compiled as one piece, the whole loss (auto, model) or each repeated block of the "
        "model, which takes one program for all of them and is ready much sooner.",
    )
    capture: Switch = knob(
        "auto",
        "Record a whole step as a CUDA graph and replay it, which saves the host's time in small models; auto is off.",
    )
    channels_last: Switch = knob(
        "auto", "Keep images and the weights of 2-D convolutions with the channels innermost; auto is off."
    )
    fast_dropout: Switch = knob(
        "auto",
        "On a CPU, draw dropout's masks four elements at a time; auto does where torch draws them one by one.",
    )
    attention: Literal["auto", "flash", "efficient", "cudnn", "math"] = knob(
        "auto", "Kernel of torch's scaled dot-product attention; auto leaves the choice to torch."
    )
    tune: Literal["auto", "off"] = knob(
        "auto",
        "Use settings of speed that `hotloop tune` found for this model, data shape and machine, and tune a long run "
        "before its first step, in at most a twentieth of its time.",
    )
    threads: Positive | Auto = knob("auto", "CPU threads for the arithmetic.", unit="threads")
    deterministic: bool = knob(False, "Only kernels that give the same result each time; slower.")
    eval_every: Positive | Literal["epoch", "off"] = knob(
        "epoch", "Validate after every so many steps, after each epoch, or only at the end (off).", unit="steps"
    )
    log_every: int = knob(10, "Record training metrics every so many steps.", unit="steps", ge=1)
    ema: Annotated[float, Field(gt=0, lt=1)] | None = knob(
        None, "Average the weights over the updates with this decay, as 0.999; evaluated and kept is the average."
    )
