"""A refactor leaves the numbers alone: 20 steps give the stored curve, to the bit on the same kind of machine."""

from __future__ import annotations

import pytest

RECIPES = [
    "gpt as nanoGPT",
    "gpt with dropout and accumulation",
    "gpt of the modern style with muon",
    "forecast with an lstm",
    "forecast with a transformer over patches",
]
TOLERANCE = 1e-4


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_curve_is_the_stored_one(golden, recipe: str) -> None:
    now, same_machine, others = golden(recipe)
    assert {name: len(series) for name, series in now.items()} == {
        "train_loss": 20, "grad_norm": 20, "learning_rate": 20, "eval_loss": 2,
        "eval_accuracy": 2 if recipe.startswith("gpt") else 0,
    }  # fmt: skip
    assert now["eval_loss"][-1] < now["train_loss"][0] - 0.2  # it learns
    assert same_machine or others, "no curve is stored: python tests/golden/update.py"
    if same_machine is not None:
        assert now == same_machine, "the numbers changed; if they should: python tests/golden/update.py"
    for stored in others:
        for name in ("train_loss", "eval_loss"):
            assert now[name] == pytest.approx(stored[name], abs=TOLERANCE)
