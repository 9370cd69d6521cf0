"""F04: an option that is parsed and never used. Here every key is used, moved with a note, or refused."""

from __future__ import annotations

import pytest

from hotloop.config.load import load
from hotloop.config.names import PLANNED, names_of
from hotloop.errors import ConfigError
from hotloop.tasks.gpt.options import OPTIONS


def test_accumulation_written_in_another_section_reaches_the_training() -> None:
    loaded = load(OPTIONS, overrides={"data": {"gradient_accumulation_steps": 8}})
    assert loaded.config.training.gradient_accumulation_steps == 8
    assert loaded.notes == (
        "data.gradient_accumulation_steps (Python call) is read as training.gradient_accumulation_steps",
    )


BUILT = {*names_of(OPTIONS).kinds}
LATER = [
    dotted for section, keys in PLANNED.items() for key in keys.split() if (dotted := f"{section}.{key}") not in BUILT
]


@pytest.mark.parametrize("key", LATER)
def test_a_feature_of_a_later_version_is_refused_not_ignored(key: str) -> None:
    with pytest.raises(ConfigError, match="not available in this version"):
        load(OPTIONS, overrides={key: 1})


def test_a_knob_that_cannot_have_an_effect_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no effect"):
        load(OPTIONS, arguments=["--lr-scheduler", "cosine", "--plateau-patience", "9"])
