"""F22: `cudnn.deterministic = True` followed by `benchmark = True`. Here the two are never on together."""

from __future__ import annotations

import pytest
import torch

import hotloop
from hotloop import device as machine
from hotloop.config.load import load
from hotloop.errors import ConfigError
from hotloop.tasks.gpt.options import OPTIONS


@pytest.fixture(autouse=True)
def as_before():
    cudnn = torch.backends.cudnn
    was = cudnn.deterministic, cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    yield
    cudnn.deterministic, cudnn.benchmark = was[:2]
    torch.use_deterministic_algorithms(was[2])


@pytest.mark.parametrize("sequence", [[True], [False], [False, True], [True, False, True]])
def test_the_last_word_settles_both(sequence):
    torch.backends.cudnn.benchmark = True
    for on in sequence:
        machine.set_deterministic(on)
        assert torch.backends.cudnn.deterministic is on
        assert torch.backends.cudnn.benchmark is not on
        assert torch.are_deterministic_algorithms_enabled() is on


@pytest.mark.parametrize("deterministic", [True, False])
def test_in_a_run(deterministic, tmp_path):
    seen = []

    def look(info) -> None:
        seen.append((torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark))

    torch.backends.cudnn.benchmark = True
    hotloop.fit(
        torch.nn.Linear(2, 1),
        {"x": torch.randn(8, 2)},
        loss=lambda net, b: net(b["x"]).square(),
        max_steps=2,
        deterministic=deterministic,
        dir=str(tmp_path),
        callbacks=[look],
        progress=False,
    )
    assert seen == [(deterministic, not deterministic)] * 2


def test_autotuned_kernels_with_determinism_are_refused():
    with pytest.raises(ConfigError, match="contradicts training.compile=max-autotune"):
        load(OPTIONS, overrides={"deterministic": True, "compile": "max-autotune"})
