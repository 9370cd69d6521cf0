"""F03: left-over micro-batches of an epoch are neither stepped nor cleared and leak into the next epoch's first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import hotloop

ROWS, WINDOW = 150, 8  # 150 mod 8 = 6 micro-batches are left over


class OneWeightARow(nn.Module):
    """The gradient says which rows were in the step, and with which share."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(ROWS))

    def forward(self, rows: Tensor) -> Tensor:
        return self.w[rows]


def test_each_epoch_steps_all_its_rows_and_the_next_begins_clean() -> None:
    model = OneWeightARow()
    before, shares = model.w.detach().clone(), []
    for _ in hotloop.steps(
        model, {"x": torch.arange(ROWS)}, loss=lambda net, batch: net(batch["x"]), batch_size=1,
        gradient_accumulation_steps=WINDOW, num_epochs=2, optimizer="sgd", momentum=0.0, learning_rate=1.0,
        weight_decay=0.0, lr_scheduler="constant", warmup_steps=0, max_grad_norm=None, precision="fp32", compile="off",
    ):  # fmt: skip
        after = model.w.detach().clone()
        shares.append(before - after)
        before = after
    assert len(shares) == 2 * 19
    for epoch in (shares[:19], shares[19:]):
        counts = [int((share > 0).sum()) for share in epoch]
        assert counts == [WINDOW] * 18 + [6]  # the six are stepped in their own epoch, and the next has eight again
        for share, count in zip(epoch, counts, strict=True):
            torch.testing.assert_close(share[share > 0], torch.full((count,), 1.0 / count), rtol=1e-4, atol=0)
        assert torch.equal(torch.stack([share > 0 for share in epoch]).sum(0), torch.ones(ROWS, dtype=torch.long))
