"""On a GPU with deterministic kernels: a run repeats itself, and a resumed one ends like an undisturbed one."""

from __future__ import annotations

import pytest
import torch

from hotloop import launch

pytestmark = pytest.mark.gpu

VOLATILE = {
    *("seconds", "eval_seconds", "samples_per_second"),
    *("gpu_memory", "memory_peak", "memory_reserved"),
}


class PowerCut(Exception):
    """The process is gone; what is on the disk is all there is."""


def steady(run):
    return [{key: value for key, value in record.items() if key not in VOLATILE} for record in run.history]


def assert_same(one, other):
    states = [torch.load(run.dir / "final_model.pt", weights_only=True) for run in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert steady(one) == steady(other)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_repeats_itself(precision, gpt):
    settings = {"precision": precision, "deterministic": True, "dropout": 0.1}
    assert_same(gpt(**settings), gpt(**settings))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_resumed_in_the_middle_of_an_epoch(precision, optimizer, gpt, tmp_path):
    """Dropout draws from the GPU's own generator, whose state must come back too."""
    settings = {"precision": precision, "optimizer": optimizer, "deterministic": True, "dropout": 0.1}
    settings["checkpoint_every"] = 7
    whole = gpt(**settings)

    def power(info) -> None:
        if info.step == 45:
            raise PowerCut

    with pytest.raises(PowerCut):
        gpt(callbacks=[power], **settings)
    [cut] = [run for run in (tmp_path / "runs").iterdir() if run != whole.dir]
    torch.manual_seed(999)
    torch.cuda.manual_seed(999)
    assert_same(launch.resume(cut), whole)
