"""F18: a default `warmup_steps` beats the user's `warmup_ratio`. Here what a person states removes its rivals."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotloop.config.load import load
from hotloop.errors import ConfigError
from hotloop.tasks.gpt.options import OPTIONS


def test_the_users_ratio_removes_steps_from_below(tmp_path: Path) -> None:
    file = tmp_path / "base.yaml"
    file.write_text("training:\n  max_steps: 5000\noptimization:\n  warmup_steps: 1000\n")
    loaded = load(OPTIONS, file=file, arguments=["--warmup-ratio", "0.1"])
    options = loaded.config.optimization
    assert (options.warmup_ratio, options.warmup_steps) == (0.1, None)
    [note] = [note for note in loaded.notes if note.startswith("optimization.warmup_ratio")]
    assert note == (
        f"optimization.warmup_ratio = 0.1 (command line) replaces optimization.warmup_steps = 1000 ({file} line 4)"
    )


def test_the_users_steps_remove_the_recipes_ratio() -> None:
    options = load(OPTIONS, templates=["nanogpt"], arguments=["--warmup-steps", "7"]).config.optimization
    assert (options.warmup_ratio, options.warmup_steps) == (None, 7)


def test_two_ways_in_one_place_are_an_error() -> None:
    with pytest.raises(ConfigError, match="the warmup is stated in more than one way") as caught:
        load(OPTIONS, arguments=["--warmup-ratio", "0.1", "--warmup-steps", "10"])
    assert len(caught.value.problems) == 1
