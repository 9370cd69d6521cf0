"""F44: NaN in an input batch. Here the rows are told before training, where the data is in memory, and after the step
that met them in any case: which array, which rows.
"""

from __future__ import annotations

import pytest
import torch

from hotloop.errors import CheckStopped


def data():
    x = torch.arange(180.0).reshape(60, 3) / 100
    x[[7, 31], 1] = torch.tensor([float("nan"), float("inf")])
    return {"x": x, "y": torch.ones(60, 1)}


class Items(torch.utils.data.Dataset):
    """The same rows one by one, which nothing can look through beforehand."""

    def __len__(self):
        return 60

    def __getitem__(self, row):
        return {name: value[row] for name, value in data().items()}


def loss(net, batch):
    return (net(batch["x"]) - batch["y"]).square()


def test_rows_in_memory_are_told_before_training(tiny, monkeypatch):
    from hotloop import assemble

    seen = []
    build = assemble.build
    monkeypatch.setattr(assemble, "build", lambda *a, **k: seen.append(build(*a, **k)) or seen[-1])
    with pytest.raises(CheckStopped):
        tiny.fit(torch.nn.Linear(3, 1), data=data(), val=None, loss=loss, eval_every="off")
    line = "x of the training part holds NaN or infinities in 2 rows (7, 31; from 0)"
    assert any(line in remark for remark in seen[0].remarks)


@pytest.mark.parametrize("given", [data, Items], ids=["tensors", "dataset"])
def test_the_step_that_met_them_tells_which_rows(tiny, given):
    with pytest.raises(CheckStopped) as told:
        tiny.fit(torch.nn.Linear(3, 1), data=given(), val=None, loss=loss, eval_every="off", batch_size=60)
    assert "step 1; x of that batch holds NaN or infinities in 2 rows (7, 31; from 0) of the training part" in str(
        told.value
    )


def test_finite_rows_are_not_suspected(tiny):
    fine = {name: value.nan_to_num(posinf=0.0) for name, value in data().items()}
    with pytest.raises(CheckStopped) as told:
        tiny.fit(
            torch.nn.Linear(3, 1),
            data=fine,
            val=None,
            eval_every="off",
            loss=lambda net, b: loss(net, b) * float("nan"),
        )
    assert "that batch" not in str(told.value)
