"""Adam and AdamW whose moments live in the host's memory and whose update runs there, with torch's fused CPU kernel.

A step copies gradients and weights to the host, updates them, and copies the weights back. All copies to the host are
queued first; while the host updates one piece, the next ones are on their way. Waiting for the first piece is the one
wait for the device in a step. Weights are read anew each step, so whatever else changes them counts. The host holds 16
bytes for each float32 weight: two moments and the two buffers that the copies go through, pinned where there is CUDA.
On a CPU it does what torch's own fused optimizer does, bit for bit, and state dicts have the same layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from hotloop.engine.moments import load_in_place, pieces

_PIECE = 32 << 20  # bytes of weights that are updated while the next ones are copied
_HOST = torch.device("cpu")


class OffloadedAdam(torch.optim.Optimizer):
    """Adam or AdamW on the host, for parameters on a device.

    Args:
        params: parameters, or groups of them; their state and buffers are made here.
        lr: learning rate; a 0-d device tensor.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: times the rate (decoupled), or an L2 penalty.
        decoupled: AdamW; False is Adam.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        decoupled: bool = True,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._rule: Callable[..., None] = adamw if decoupled else adam
        self._buffers: dict[Tensor, tuple[Tensor, Tensor]] = {}  # parameter -> its weights and gradient on the host
        for group in self.param_groups:
            for parameter in group["params"]:
                moments = {name: torch.zeros_like(parameter, device=_HOST) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter] = {"step": torch.zeros(()), **moments}
                self._buffers[parameter] = (_buffer(parameter), _buffer(parameter))
        self._flag = _buffer(torch.zeros((), device=self.param_groups[0]["params"][0].device))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "the gradient is computed once, by the step"
        if self.found_inf is not None:
            self._flag.copy_(self.found_inf, non_blocking=True)
        queued = [
            (group, rate, piece, self._bring(piece))
            for group in self.param_groups
            for rate in [_to_host(group["lr"])]
            for piece in pieces((p for p in group["params"] if p.grad is not None), _PIECE)
        ]
        for group, rate, piece, arrived in queued:
            if arrived is not None:
                arrived.synchronize()
            self._update(group, rate, piece)

    def _bring(self, piece: list[Tensor]) -> torch.cuda.Event | None:
        """Queue the copies of a piece to the host; the event comes after them."""
        for parameter in piece:
            weights, gradient = self._buffers[parameter]
            weights.copy_(parameter, non_blocking=True)
            gradient.copy_(parameter.grad, non_blocking=True)  # type: ignore[arg-type]
        if not piece[0].is_cuda:
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _update(self, group: dict[str, Any], rate: float | Tensor, piece: list[Tensor]) -> None:
        """Update a piece that has arrived, and queue the way back."""
        weights, gradients = (list(kind) for kind in zip(*(self._buffers[p] for p in piece), strict=True))
        states = [self.state[p] for p in piece]
        steps, first, second = ([state[name] for state in states] for name in ("step", "exp_avg", "exp_avg_sq"))
        self._rule(
            weights, gradients, first, second, [], steps, fused=True, amsgrad=False, maximize=False,
            beta1=group["betas"][0], beta2=group["betas"][1], lr=rate, weight_decay=group["weight_decay"],
            eps=group["eps"], found_inf=None if self.found_inf is None else self._flag,
        )  # fmt: skip
        for parameter, changed in zip(piece, weights, strict=True):
            parameter.copy_(changed, non_blocking=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        load_in_place(self, state_dict)


def _buffer(like: Tensor) -> Tensor:
    """Room on the host for a tensor of the device, pinned where that speeds up copies."""
    return torch.empty_like(like, device=_HOST, requires_grad=False, pin_memory=like.is_cuda)


def _to_host(rate: float | Tensor) -> float | Tensor:
    """A rate that the host can read once the pieces behind it have arrived."""
    return _buffer(rate).copy_(rate, non_blocking=True) if isinstance(rate, Tensor) else rate
