"""F02: the mean of micro-batch means. Micro-batches of 4, 4, 2 give 4.33 where the truth is 3.0; here it is 3.0."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hotloop
from hotloop.errors import HotloopError

VALUES = torch.tensor([1.0] * 8 + [11.0] * 2)  # mean 3.0; in this order the mean of the micro-batches' means is 4.33
PLAIN = {
    "optimizer": "sgd", "momentum": 0.0, "learning_rate": 1.0, "weight_decay": 0.0, "lr_scheduler": "constant",
    "warmup_steps": 0, "max_grad_norm": None, "precision": "fp32", "compile": "off", "max_steps": 1,
}  # fmt: skip


class OneWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


def gradient(loss, data: dict[str, Tensor], **overrides) -> float:
    model = OneWeight()
    [info] = hotloop.steps(model, data, loss=loss, **{**PLAIN, **overrides})
    assert info.rows == 10
    return -float(model.w.detach())


def test_the_fault_would_be_seen() -> None:
    assert sum(float(part.mean()) for part in VALUES.split(4)) / 3 == pytest.approx(4.33, abs=0.01)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gradient_is_the_mean_over_all_rows(seed: int) -> None:
    """Whichever rows the shuffle puts into the micro-batch of two."""
    found = gradient(
        lambda net, batch: net(batch["x"]), {"x": VALUES}, batch_size=4, gradient_accumulation_steps=3, seed=seed
    )
    assert found == pytest.approx(3.0, abs=1e-5)


def test_tokens_count_not_rows() -> None:
    """A row with ten tokens counts ten times a row with one: the mask is the weight."""
    tokens, mask = torch.ones(10, 5), torch.zeros(10, 5)
    tokens[:9, 1:], tokens[9] = 99.0, 4.0  # 99 is padding: counted once, it would show
    mask[:, 0] = 1.0
    mask[9] = 1.0
    data = {"x": tokens, "weight": mask}
    found = gradient(lambda net, batch: net(batch["x"]), data, batch_size=4, gradient_accumulation_steps=3)
    assert found == pytest.approx((9 * 1.0 + 5 * 4.0) / 14, abs=1e-5)


def test_a_loss_that_is_already_a_mean_is_refused_when_it_is_split() -> None:
    with pytest.raises(HotloopError, match=r"a single number, which cannot be weighed right for gradient accumulation"):
        gradient(lambda net, batch: net(batch["x"]).mean(), {"x": VALUES}, batch_size=4, gradient_accumulation_steps=3)
    whole = gradient(lambda net, batch: net(batch["x"]).mean(), {"x": VALUES}, batch_size=10)
    assert whole == pytest.approx(3.0, abs=1e-5)  # unsplit, the mean is right
