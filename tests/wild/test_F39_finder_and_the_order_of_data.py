"""F39: a batch finder that changes the data order of the training that follows."""

from __future__ import annotations

from typing import Any

import torch


def test_the_rows_of_every_step_are_those_of_a_run_without_a_search(tiny: Any) -> None:
    def effective(settings: dict[str, Any]) -> tuple[list[list[int]], list[float]]:
        run = tiny.fit(tiny.net(), val=None, eval_every="epoch", max_steps=20, data=tiny.data, **settings)
        found = [record["train_loss"] for record in run.history if "train_loss" in record]
        rows = [row for part in tiny.trained for row in part]
        return rows, found

    plain_rows, _ = effective({"batch_size": 8})
    searched_rows, _ = effective({"batch_size": 8, "auto_batch_size": True})
    per_run = 2 * 60 + 4 * 8  # two epochs, and four more steps
    assert len(plain_rows) >= per_run
    assert searched_rows[-per_run:] == plain_rows[-per_run:]


def test_random_state_and_weights_are_left_alone(tiny: Any) -> None:
    from hotloop.api import _with_loader
    from hotloop.given import task_of
    from hotloop.tune.choose import choose

    net = tiny.net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    settings = {"batch_size": 8, "device": "cpu", "precision": "fp32", "auto_batch_size": True, "max_steps": 4}
    data, loaded = _with_loader(tiny.data, None, settings)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    choice = choose(loaded, task_of(loaded.config, net, data, None, tiny.loss, None))
    assert choice.micro_batch in (1, 2, 3, 4, 8)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in net.parameters())
    assert net.training
