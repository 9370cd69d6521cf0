"""F61: YAML drops the first of two equal keys silently, and reads `2e-5` as text.

Here the one is refused with both lines, and the other is a number.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hotloop.config.load import load
from hotloop.errors import ConfigError
from hotloop.tasks.gpt.options import OPTIONS


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("training:\n  batch_size: 8\n  log_every: 5\n  batch_size: 16\n", "training.batch_size", (2, 4)),
        ("training:\n  batch_size: 8\ndata:\n  limit: 3\ntraining:\n  log_every: 5\n", "training", (1, 5)),
        ("training:\n  batch_size: 8\n  batch_size: 8\n", "training.batch_size", (2, 3)),
    ],
)
def test_both_lines_are_named(text: str, key: str, lines: tuple[int, int], tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(OPTIONS, file=file)
    [problem] = caught.value.problems
    assert problem.key == key
    assert problem.why == f"stands twice: on line {lines[0]} and on line {lines[1]}"


@pytest.mark.parametrize("text", ["2e-5", "2E-5", "2.0e-05", "'2e-5'", "0.00002"])
def test_an_exponent_is_a_number(text: str, tmp_path: Path) -> None:
    file = tmp_path / "rate.yaml"
    file.write_text(f"optimization:\n  learning_rate: {text}\n  min_lr: 0.0\n")
    assert load(OPTIONS, file=file).config.optimization.learning_rate == 2e-5
    assert (
        load(OPTIONS, arguments=[f"optimization.learning_rate={text.strip(chr(39))}"]).config.optimization.learning_rate
        == 2e-5
    )
