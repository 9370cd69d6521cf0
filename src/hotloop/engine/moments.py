"""What our optimizers share: state that is made once and stays where it is, and parameters taken a part at a time.

torch's own `load_state_dict` gives every state tensor the parameter's dtype and device, which would turn codes into
floats and bring to the GPU what is kept off it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def load_in_place(optimizer: Optimizer, stored: dict[str, Any]) -> None:
    """Put a stored state dict into an optimizer whose state is all there; what is not stored begins at zero.

    Raises:
        ValueError: the groups are others, as torch raises it.
    """
    made = dict(optimizer.state)
    Optimizer.load_state_dict(optimizer, {**stored, "state": {}})
    optimizer.state.update(made)
    numbers = [number for group in stored["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        found = stored["state"].get(number, {})
        for name, tensor in made[parameter].items():
            if name in found:
                tensor.copy_(found[name])
            else:
                tensor.zero_()


def pieces(parameters: Iterable[Tensor], limit: int) -> list[list[Tensor]]:
    """Parameters in runs of at most `limit` bytes together; one that is larger is alone."""
    found: list[list[Tensor]] = []
    size = limit
    for parameter in parameters:
        more = parameter.numel() * parameter.element_size()
        if size + more > limit:
            found.append([])
            size = 0
        found[-1].append(parameter)
        size += more
    return found
