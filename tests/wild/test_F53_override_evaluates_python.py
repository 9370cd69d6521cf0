"""F53: an override that is evaluated as Python. Here values are plain YAML and never code."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotloop.config.load import load
from hotloop.errors import ConfigError
from hotloop.tasks.gpt.options import OPTIONS

EVIL = "__import__('pathlib').Path('{mark}').touch()"


@pytest.mark.parametrize("key", ["training.batch_size", "optimization.betas", "experiment.stop_at", "training.threads"])
def test_code_in_an_override_is_text_and_refused(key: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(ConfigError):
        load(OPTIONS, arguments=[f"{key}={EVIL.format(mark=mark)}"])
    assert not mark.exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:pathlib.Path.touch", "!!python/name:os.system", "!mine"])
def test_code_in_a_file_is_refused_with_its_line(tag: str, tmp_path: Path) -> None:
    file = tmp_path / "evil.yaml"
    file.write_text(f"training:\n  batch_size: {tag} [x]\n")
    with pytest.raises(ConfigError, match="never runs code") as caught:
        load(OPTIONS, file=file)
    assert caught.value.problems[0].origin == f"{file} line 2"
    file.write_text(f"training: {tag} {{batch_size: 8}}\n")
    with pytest.raises(ConfigError, match="never runs code"):
        load(OPTIONS, file=file)


def test_text_that_looks_like_code_stays_text() -> None:
    assert load(OPTIONS, arguments=["--notes", "1+1"]).config.experiment.notes == "1+1"
