"""AdamW whose two moments are kept in 8 bits: a quarter of the state, the same rule.

Each step decodes a piece of the moments, updates it and the weights in float32, and encodes the moments again; the
weights see the moments as they are before encoding. Pieces are bounded, so that the update itself needs little memory.
It obeys device tensors only: a group's `lr`, and `found_inf` (1.0 leaves weights and state as they were, bit for bit).
Sources: Loshchilov and Hutter (arXiv 1711.05101), and Dettmers et al. (arXiv 2110.02861) for moments in 8 bits.
Shapes: N numbers of a parameter in B blocks of S.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hotloop.engine import eight_bits as bits
from hotloop.engine.moments import load_in_place

SMALLEST = 4096  # numbers; smaller tensors gain nothing, and biases and norms are what 8 bits hurt most
# Numbers of one piece: in a CPU's cache, and on a GPU large enough that starting kernels does not count.
_PIECE = {"cpu": 1 << 18, "other": 1 << 22}
_FIRST, _SECOND = ("exp_avg", True), ("exp_avg_sq", False)  # name in the state, and whether it has a sign


@dataclass(frozen=True)
class _Rule:
    """What one update of one parameter goes by; 0-d device tensors but for the betas."""

    betas: tuple[float, float]
    keep: Tensor  # factor of a weight before the update: decoupled decay
    size: Tensor  # rate over the bias correction of the first moment
    root_bias: Tensor  # root of the bias correction of the second moment
    eps: float
    held: Tensor | None


class AdamW8bit(torch.optim.Optimizer):
    """AdamW with block-wise 8-bit moments.

    Args:
        params: floating-point parameters, or groups of them; their state is made here.
        lr: learning rate; a 0-d device tensor costs no waiting.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled, times the rate.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["step"] = torch.zeros((), device=parameter.device)
                for name, signed in (_FIRST, _SECOND):
                    codes, scale = bits.zeros(parameter.numel(), signed, parameter.device)
                    state |= {name: codes, f"{name}_scale": scale}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "the gradient is computed once, by the step"
        held = None if self.found_inf is None else self.found_inf > 0
        for group in self.param_groups:
            keep = 1.0 - group["lr"] * group["weight_decay"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    rule = _rule(group, self.state[parameter], keep, held)
                    _update(parameter, parameter.grad, self.state[parameter], rule)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        load_in_place(self, state_dict)


def _rule(group: dict[str, Any], state: dict[str, Tensor], keep: Tensor, held: Tensor | None) -> _Rule:
    """The rule of a parameter's next update, and its count of updates moved on."""
    step = state["step"]
    bias1, bias2 = (_bias_correction(beta, step + 1) for beta in group["betas"])
    step.add_(1.0 if held is None else ~held)
    return _Rule(group["betas"], keep, group["lr"] / bias1, bias2.sqrt(), group["eps"], held)


def _bias_correction(beta: float, count: Tensor) -> Tensor:
    """1 - beta ** count, accurate where beta is near 1."""
    return -torch.expm1(count * (math.log(beta) if beta else -math.inf))


def _update(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], rule: _Rule) -> None:
    """One parameter, piece by piece."""
    weights_n, gradient_n = parameter.detach().reshape(-1), gradient.reshape(-1)
    rows = _PIECE["cpu" if parameter.device.type == "cpu" else "other"] // bits.BLOCK
    for first in range(0, state["exp_avg"].size(0), rows):
        numbers, blocks = slice(first * bits.BLOCK, (first + rows) * bits.BLOCK), slice(first, first + rows)
        piece = {name: state[name][blocks] for name in state if name != "step"}
        _update_piece(weights_n[numbers], gradient_n[numbers], piece, rule)
    if weights_n.data_ptr() != parameter.data_ptr():  # not contiguous: the rows above were a copy
        parameter.copy_(weights_n.view_as(parameter))


def _update_piece(weights_n: Tensor, gradient_n: Tensor, piece: dict[str, Tensor], rule: _Rule) -> None:
    gradient_bs = bits.as_blocks(gradient_n.float())
    beta1, beta2 = rule.betas
    first_bs = bits.decode(piece["exp_avg"], piece["exp_avg_scale"]).lerp_(gradient_bs, 1.0 - beta1)
    second_bs = bits.decode(piece["exp_avg_sq"], piece["exp_avg_sq_scale"]).mul_(beta2)
    second_bs.addcmul_(gradient_bs, gradient_bs, value=1.0 - beta2)
    for (name, signed), moment_bs in ((_FIRST, first_bs), (_SECOND, second_bs)):
        codes, scale = bits.encode(moment_bs, signed)
        _put(piece[name], codes, rule.held)
        _put(piece[f"{name}_scale"], scale, rule.held)
    change_bs = first_bs.div_(second_bs.sqrt_().div_(rule.root_bias).add_(rule.eps)).mul_(rule.size)
    change_n = change_bs.view(-1)[: weights_n.numel()]
    _put(weights_n, (weights_n * rule.keep).sub_(change_n), rule.held)


def _put(place: Tensor, values: Tensor, held: Tensor | None) -> None:
    """Write `values`, unless the update is held."""
    place.copy_(values if held is None else torch.where(held, place, values))
