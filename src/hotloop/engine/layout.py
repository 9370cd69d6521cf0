"""Channels last: the memory layout in which 2-D convolutions are fastest on many machines. Values and shapes stay.

(B, C, H, W) tensors keep their shape and lie in memory as (B, H, W, C). Checkpoints do not notice: loading copies
values into whatever layout is there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hotloop.task import Batch

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def weights_of(model: nn.Module) -> list[Tensor]:
    """The weights (C_out, C_in, H, W) of a model's 2-D convolutions, each once."""
    found = {id(part.weight): part.weight for part in model.modules() if isinstance(part, _CONVOLUTIONS)}
    return [weight for weight in found.values() if not is_lazy(weight)]


def apply(model: nn.Module) -> None:
    """Lay the weights of 2-D convolutions out with the channels innermost; optimizers must be built after this."""
    for weight in weights_of(model):
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)


@contextlib.contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """The weights afterwards in the layout in which they came."""
    before = [(weight, weight.stride()) for weight in weights_of(model)]
    try:
        yield
    finally:
        for weight, stride in before:
            if weight.stride() != stride:
                weight.data = torch.empty_strided(weight.shape, stride, dtype=weight.dtype, device=weight.device).copy_(
                    weight.data
                )


def channels_last(batch: Batch) -> Batch:
    """The batch with its images, floating-point tensors (B, C, H, W), in channels-last layout; the rest as it is."""
    laid: Any = _each(batch)
    return laid  # type: ignore[no-any-return]


def _each(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _each(part) for name, part in value.items()}
    is_image = isinstance(value, Tensor) and value.dim() == 4 and value.is_floating_point()
    return value.contiguous(memory_format=torch.channels_last) if is_image else value
