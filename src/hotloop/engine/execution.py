"""The knobs of speed that change how a step runs and not what it computes: resolved for the plan, then put into effect.

`auto` is the ordinary way throughout; what is asked for by name is done, refused, or told to have no effect here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hotloop.config.schema import OptimizationSection, TrainingSection
from hotloop.engine import dropout, layout, regions
from hotloop.engine.capture import Capture, CudaGraphs
from hotloop.engine.plan import Plan
from hotloop.engine.state import MicroLoss, TrainState


def resolve_speed(
    training: TrainingSection, optimization: OptimizationSection, device: torch.device, model: nn.Module, mode: str
) -> tuple[dict[str, Any], list[str]]:
    """Fields of the plan, and remarks for the person.

    Args:
        training, optimization: the sections.
        device: of the run.
        model: on it.
        mode: of compilation, resolved.

    Raises:
        HotloopError: compilation by blocks of a model that has none.
    """
    if training.compile_region == "blocks":
        regions.require_blocks(model)
    region = "blocks" if training.compile_region == "blocks" and mode != "off" else "model"
    images = training.channels_last == "on" and bool(layout.weights_of(model))
    recomputes = optimization.gradient_checkpointing is not False
    graphs, why = _capture(training, device, mode, recomputes)
    remarks = [f"training.capture=on is left out: {why}"] if why else []
    if training.channels_last == "on" and not images:
        remarks.append("training.channels_last=on is left out: the model has no 2-D convolutions")
    masks, why = _masks(training, device, model)
    remarks += [f"training.fast_dropout=on is left out: {why}"] if why else []
    fields = {"compile_region": region, "capture": graphs, "channels_last": images, "attention": training.attention}
    fields |= {"fast_dropout": masks}
    return {**fields, "deterministic": training.deterministic}, remarks


def _capture(training: TrainingSection, device: torch.device, mode: str, recomputes: bool) -> tuple[bool, str]:
    """Whether steps are captured, and why not where it was asked for."""
    if training.capture != "on":
        return False, ""
    if device.type != "cuda":
        return False, f"CUDA graphs exist on NVIDIA GPUs only, and this run is on {device}"
    if recomputes and mode == "off":
        return False, "recomputing activations without the compiler puts random state back from the host"
    return True, ""


def _masks(training: TrainingSection, device: torch.device, model: nn.Module) -> tuple[bool, str]:
    """Whether dropout draws its masks by hotloop's way, and why not where it was asked for."""
    reasons = {
        f"it is for training on a CPU, and this run is on {device}": device.type != "cpu",
        "the model has no dropout layers that drop anything": not dropout.layers_of(model),
    }
    why = next((reason for reason, holds in reasons.items() if holds), "")
    if training.fast_dropout == "on":
        return not why, why
    return training.fast_dropout == "auto" and not why and dropout.is_slow_in_torch(), ""


def prepare_model(model: nn.Module, plan: Plan) -> list[str]:
    """Layout, dropout and compiled blocks, before the optimizers are built; lines for the person."""
    if plan.channels_last:
        layout.apply(model)
    if plan.fast_dropout:
        dropout.apply(model)
    return regions.apply(model) if plan.compile_region == "blocks" and plan.compile != "off" else []


def compiled(share: MicroLoss, plan: Plan) -> MicroLoss:
    """The loss as the step calls it: compiled whole, or as it is."""
    if plan.compile == "off" or plan.compile_region != "model":
        return share
    whole: MicroLoss = torch.compile(share, mode=None if plan.compile == "default" else plan.compile, dynamic=False)
    return whole


def capture_steps(state: TrainState) -> None:
    """Let the state's steps be captured, where the plan says so."""
    if state.plan.capture:
        state.captured = Capture(CudaGraphs(state.plan.torch_device))
