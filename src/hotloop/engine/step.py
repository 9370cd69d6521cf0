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
    state.pieces.begun, state.updating = 0, False
    totals = state.totals(batch)
    loss: Tensor | None = None
    for micro in micro_batches(batch, state.pieces.rows, state.pieces.lone_row):
        state.pieces.begun += 1
        part = state.micro_loss(micro, totals)
        (part if state.scaler is None else part * state.scaler.scale).backward()  # type: ignore[no-untyped-call]
        state.guard.check()
        loss = part.detach().clone() if loss is None else loss + part.detach()  # a captured graph reuses its output
    assert loss is not None, "a batch has at least one row"

    gradients = [parameter.grad for parameter in state.parameters if parameter.grad is not None]
    if state.scaler is not None:
        torch._foreach_mul_(gradients, 1.0 / state.scaler.scale)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if state.max_grad_norm is not None:
        torch._foreach_mul_(gradients, (state.max_grad_norm / (norm + 1e-6)).clamp_(max=1.0))

    state.updating = True  # from here on a step cannot be taken back
    overflow = (loss + norm).mul_(0.0).nan_to_num_(nan=1.0).float()  # 1.0 where loss or norm is not finite, else 0.0
    held = state.hold_on(loss, overflow)
    hold(state.optimizers, held)
    for update in state.updates:
        update()
    for parameter in state.parameters:
        parameter.grad = None
    state.settle(loss, norm, held)
    state.updating = False
    return loss, norm
