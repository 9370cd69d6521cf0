"""The state of callbacks: plain values only, told by name where not, and each gets its own back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hotloop.engine.hooks import Callback, Hooks
from hotloop.errors import HotloopError


class Holder(Callback):
    """Has any state."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def on_save(self, step: int) -> None:
        """Listens to something."""

    def state_dict(self) -> Any:
        return self.held

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.held = state["value"]


class Other(Holder):
    """The same under another name."""


def test_plain_values_and_tensors_are_kept(tmp_path) -> None:
    state = {
        "a": None,
        "b": [1, (2.5, "x")],
        "c": {3: True},
        "d": torch.ones(2),
        "e": np.float64(0.5),
        "f": np.int64(7),
    }
    stored = Hooks([Holder(state)]).state_dict()
    torch.save(stored, tmp_path / "stored.pt")
    [back] = torch.load(tmp_path / "stored.pt", weights_only=True)
    assert back["name"] == "Holder"
    assert torch.equal(back["state"].pop("d"), torch.ones(2))
    assert back["state"] == {"a": None, "b": [1, (2.5, "x")], "c": {3: True}, "e": 0.5, "f": 7}


@pytest.mark.parametrize("value", [{1}, np.ones(2), np.longdouble(1), object(), lambda: 1, {(1, 2): 3}, 1j])
def test_anything_else_names_the_callback(value: Any) -> None:
    with pytest.raises(HotloopError, match=r"callback Holder holds a \w+ at \['inner'\]\[0\]"):
        Hooks([Holder({"inner": [value]})]).state_dict()


def test_a_state_that_is_no_dict_names_the_callback() -> None:
    with pytest.raises(HotloopError, match="callback Holder is a list"):
        Hooks([Holder([1])]).state_dict()


def test_each_gets_its_own_back_whatever_came_and_went() -> None:
    stored = Hooks([Holder({"value": 1}), Other({"value": 2}), Holder({"value": 3})]).state_dict()
    first, second, third = Holder({}), Holder({}), Holder({})
    remarks = Hooks([lambda info: None, first, second, third]).load_state_dict(stored)
    assert (first.held, second.held, third.held) == (1, 3, {})
    assert remarks == ["the state of the callback Other is left out: the run has no such callback now"]
