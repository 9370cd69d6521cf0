"""Every file in examples/ runs as its first lines say, and prints a result within its bound."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class Printed(NamedTuple):
    """What an example needs, and what of its output must lie in a range."""

    needs: tuple[str, ...]
    pattern: str
    least: float
    most: float


EXPECTED = {
    "digits.py": Printed(("sklearn",), r"held-out accuracy ([0-9.]+)", 0.97, 1.0),
    "image_cnn.py": Printed((), r"on freshly drawn images ([0-9.]+)", 0.93, 1.0),
    "tabular.py": Printed(("pandas",), r"balanced accuracy ([0-9.]+) with class weights", 0.80, 1.0),
    "hugging_face.py": Printed(("datasets", "transformers"), r"held-out accuracy ([0-9.]+)", 0.95, 1.0),
    "stream.py": Printed((), r"root mean squared error ([0-9.]+)", 0.09, 0.12),
    "custom_callback.py": Printed((), r"stopped after (\d+) of 4000 steps: accuracy was", 100, 3000),
}


def run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == set(EXPECTED)
    assert len(EXPECTED) == 6


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_prints_what_it_promises(name: str, tmp_path: Path) -> None:
    printed = EXPECTED[name]
    for package in printed.needs:
        pytest.importorskip(package, reason=f"{package} is not installed")
    out = run("-W", "error::FutureWarning", str(EXAMPLES / name), cwd=tmp_path)
    found = re.search(printed.pattern, out)
    assert found, out
    assert printed.least <= float(found.group(1)) <= printed.most, out
    if name == "tabular.py":
        assert float(found.group(1)) > float(re.search(r"([0-9.]+) without", out).group(1)), out
    assert [path.name for path in tmp_path.iterdir()] == ["experiments"]


def test_the_images_are_trained_from_the_command_line_too(tmp_path: Path) -> None:
    spec = f"{EXAMPLES / 'image_cnn.py'}:Shapes"
    words = ("--width", "8", "--noise", "0.1", "data.images=400", "--max-steps", "20", "--json")
    summary = json.loads(run("-m", "hotloop", "train", spec, *words, cwd=tmp_path))
    assert summary["steps"] == 20
    assert "eval_accuracy" in summary
