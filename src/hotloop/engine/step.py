"""One optimizer step, whole, in causal order: forward, backward, clip, update.

The effective batch is fetched before its first micro-batch runs, so the total weight is known and every loss is
sum(values x weight) / total weight, whatever the split. Nothing here asks the host for a device value: non-finite
values set a flag on the device, and the flag holds the update and puts buffers back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hotloop.engine.optim import hold
from hotloop.engine.reduce import micro_batches
from hotloop.engine.state import TrainState
from hotloop.task import Batch


def train_step(state: TrainState, batch: Batch) -> tuple[Tensor, Tensor]:
    """Train on one effective batch.

    Args:
        state: changed in place, except for `state.step`, which the loop counts.
        batch: dict of device tensors, first axis B = rows of the effective batch.

    Returns:
        (loss, gradient norm before clipping), 0-d device tensors.
    """
    state.set_rates()
    state.remember_buffers()
    totals = state.totals(batch)
    loss: Tensor | float = 0.0
    for micro in micro_batches(batch, state.plan.micro_batch):
        part = state.micro_loss(micro, totals)
        (part if state.scaler is None else part * state.scaler.scale).backward()  # type: ignore[no-untyped-call]
        loss = part.detach() + loss
    assert isinstance(loss, Tensor)

    gradients = [parameter.grad for parameter in state.parameters if parameter.grad is not None]
    unscale = 1.0 if state.scaler is None else 1.0 / state.scaler.scale
    norm = torch.nn.utils.get_total_norm(gradients) * unscale
    overflow = ((loss + norm) * 0.0).ne(0.0).float()  # 1.0 where loss or norm is not finite
    if state.max_grad_norm is not None:
        torch._foreach_mul_(gradients, (state.max_grad_norm / (norm + 1e-6)).clamp(max=1.0) * unscale)
    elif state.scaler is not None:
        torch._foreach_mul_(gradients, unscale)

    held = state.hold_on(loss, overflow)
    hold(state.optimizers, held)
    for optimizer in state.optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    state.settle(loss, norm, held)
    return loss, norm
