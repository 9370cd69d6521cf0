"""Muon: momentum whose matrix updates are orthogonalised, for the 2-D weights of hidden layers.

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with the quintic
Newton-Schulz iteration. Weights of one shape are stacked and iterated as one batched product, which is what makes it
cheap for small models. A device flag (`found_inf`, as torch's fused optimizers have it) turns a step into a no-op
without asking the host. Shapes: K matrices of R rows and C columns, stacked (K, R, C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(stack_krc: Tensor, iterations: int) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: singular values end between 0.7 and 1.2.

    Args:
        stack_krc: (K, R, C), any floating dtype; the work is done in it.
        iterations: Newton-Schulz steps, usually 5.
    """
    a, b, c = _COEFFICIENTS
    wide = stack_krc.mT if stack_krc.size(-2) > stack_krc.size(-1) else stack_krc
    x = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    result: Tensor = x.mT if stack_krc.size(-2) > stack_krc.size(-1) else x
    return result


class Muon(torch.optim.Optimizer):
    """Muon over 2-D parameters.

    Args:
        params: 2-D parameters, or groups of them; parameters of one shape should share a group.
        lr: rate of an update whose spectral norm is about 1 (times sqrt(max(1, R / C))).
        momentum: decay of the running mean of gradients.
        nesterov: look one momentum step ahead.
        weight_decay: decoupled, times the rate.
        iterations: Newton-Schulz steps.
        compute_dtype: dtype of the iteration; bfloat16 is enough where the hardware has it.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        iterations: int = 5,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self._iterations, self._dtype = iterations, compute_dtype
        for group in self.param_groups:
            for parameter in group["params"]:
                assert parameter.dim() == 2, "Muon is for matrices"
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "the gradient is computed once, by the step"
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._update(group, parameters)

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        rate, momentum = group["lr"], group["momentum"]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        gradient, before = torch.stack(gradients), torch.stack(buffers)
        after = before.lerp(gradient, 1.0 - momentum)
        direction = gradient.lerp(after, momentum) if group["nesterov"] else after
        update = orthogonalise(direction.to(self._dtype), self._iterations).to(gradient.dtype)
        scale = max(1.0, update.size(-2) / update.size(-1)) ** 0.5
        stacked = torch.stack(parameters)
        changed = stacked * (1.0 - rate * group["weight_decay"]) - update * (rate * scale)
        if self.found_inf is not None:  # a held step leaves both as they were, bit for bit, NaN or not
            keep = self.found_inf > 0
            changed, after = torch.where(keep, stacked, changed), torch.where(keep, before, after)
        torch._foreach_copy_(parameters, list(changed.unbind()))
        torch._foreach_copy_(buffers, list(after.unbind()))
