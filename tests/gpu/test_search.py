"""Searches on a GPU: what is chosen was run, fits the budget by the allocator's own count, and is trained with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.gpu


@pytest.fixture
def searched(gpt: Callable[..., Any]) -> Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The plan and the rows of search.json of a run."""

    def train(**settings: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        folder: Path = gpt(max_steps=4, **settings).dir
        return json.loads((folder / "plan.json").read_text()), json.loads((folder / "search.json").read_text())

    return train


def test_the_micro_batch_that_pays(searched: Callable[..., Any]) -> None:
    plan, rows = searched(auto_batch_size=True, batch_size=64)
    [chosen] = [row for row in rows if row["chosen"]]
    assert chosen["micro_batch"] == plan["micro_batch"]
    assert plan["effective_batch"] == 64
    assert chosen["peak_memory"] > 0


def test_a_budget_is_kept(searched: Callable[..., Any]) -> None:
    plan, rows = searched(keys={"memory.budget": "200MB"}, batch_size=256)
    [chosen] = [row for row in rows if row["chosen"]]
    assert chosen["peak_memory"] <= 200 * 2**20
    assert chosen["micro_batch"] == plan["micro_batch"]
    assert plan["effective_batch"] == 256
