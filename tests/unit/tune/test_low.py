"""The low-memory measures of a small card, by a total that is made up."""

from __future__ import annotations

import pytest

from hotloop.config.load import load
from hotloop.engine.plan import Choice
from hotloop.tasks import options_of
from hotloop.tune.low import low_memory

SMALL, LARGE = 4 * 2**30, 8 * 2**30


def loaded(**stated):
    return load(options_of("gpt"), templates=["default"], overrides={"batch_size": 32, **stated}, device_kind="cuda")


def measures(total: int = SMALL, device: str = "cuda", recomputes: bool = True, **stated) -> Choice:
    found = loaded(**stated)
    origins = dict(found.origins)
    if "batch_size" not in stated:
        origins["training.batch_size"] = "template default"
    return low_memory(device, total, found.config, origins, recomputes)


def test_a_small_card_is_given_short_micro_batches_and_says_so() -> None:
    choice = measures()
    assert (choice.micro_batch, choice.recompute, choice.pin_memory) == (8, True, False)
    [line] = choice.told
    assert "micro-batch 8 x 4 (effective batch unchanged)" in line and "4.0GB" in line


@pytest.mark.parametrize(("total", "device"), [(LARGE, "cuda"), (SMALL, "cpu")])
def test_any_other_device_is_left_alone(total: int, device: str) -> None:
    assert measures(total, device) == Choice()


def test_what_a_person_stated_is_kept() -> None:
    choice = measures(batch_size=64, precision="fp32", gradient_checkpointing=False, pin_memory="on")
    assert choice == Choice()


def test_a_model_that_cannot_recompute_does_not() -> None:
    assert measures(recomputes=False).recompute is None


def test_an_uneven_batch_is_cut_evenly() -> None:
    found = loaded(batch_size=20)
    origins = {**found.origins, "training.batch_size": "default"}
    assert low_memory("cuda", SMALL, found.config, origins).micro_batch == 7
