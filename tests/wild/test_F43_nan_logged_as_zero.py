"""F43: after a NaN the log shows 0.0, buffers are ruined, and the run "succeeds" with NaN weights.

Here it stops before the update, the log holds no made-up number, and weights and buffers are those of the step before.
"""

from __future__ import annotations

import json

import pytest
import torch

from hotloop.errors import CheckStopped


def poisoned(tiny):
    """The tiny data with one row of NaN, and the step that meets it."""
    from hotloop.data.sampler import Shuffle

    step = 6
    row = int(Shuffle(60, 8, 42).indices(0, step - 1)[0])
    data = {name: value.clone() for name, value in tiny.data.items()}
    data["x"][row] = float("nan")
    return data, step


def normalised():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))


def test_the_fault_is_real(tiny):
    net, (data, _) = normalised(), poisoned(tiny)
    optimizer = torch.optim.AdamW(net.parameters())
    tiny.loss(net, data).mean().backward()
    optimizer.step()
    assert all(value.isnan().any() for value in (net[0].weight, net[1].running_mean, net[2].weight))


def test_the_run_stops_with_good_weights_and_honest_records(tiny):
    data, step = poisoned(tiny)
    net = normalised()
    with pytest.raises(CheckStopped) as caught:
        tiny.fit(net, data=data, log_every=3, eval_every=3, max_steps=8)
    assert caught.value.exit_code == 3
    assert f"step {step}" in caught.value.what
    assert all(value.isfinite().all() for value in net.state_dict().values())
    [run] = tiny.folder.iterdir()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [record["train_loss"] for record in records if "train_loss" in record]
    assert len(losses) == 1  # of steps 1 to 3; the interval of the fault has none
    assert losses[0] > 0.1
    assert json.loads((run / "training_summary.json").read_text())["status"] == "failed"
    saved = torch.load(run / "final_model.pt", weights_only=True)
    assert all(value.isfinite().all() for value in saved.values())
