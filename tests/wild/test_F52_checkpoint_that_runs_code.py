"""F52: a checkpoint that runs code when it is loaded. Here only tensors and plain values are, and code never runs."""

from __future__ import annotations

import hashlib
import os
import pickle

import pytest
import torch

from hotloop.engine import checkpoint
from hotloop.errors import HotloopError


class Payload:
    """Makes a folder when an ordinary unpickler reads it."""

    def __init__(self, trace) -> None:
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def plant(path, trace, form="torch", payload=None):
    """Put a file with code at `path`, with a checksum that fits."""
    if form == "torch":
        torch.save({**(payload or {"step": 1}), "extra": Payload(trace)}, path)
    elif form == "legacy":
        torch.save({"step": 1, "extra": Payload(trace)}, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps({"step": 1, "extra": Payload(trace)}, protocol=2))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(path.name + ".sha256").write_text(f"{digest}  {path.name}\n")


def test_the_fault_is_real(tmp_path):
    plant(tmp_path / "step_1.pt", tmp_path / "trace")
    torch.load(tmp_path / "step_1.pt", weights_only=False)
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("form", ["torch", "legacy", "pickle"])
def test_it_is_refused_and_nothing_of_it_runs(form, tmp_path):
    plant(tmp_path / "step_1.pt", tmp_path / "trace", form)
    with pytest.raises(HotloopError, match="could run code") as caught:
        checkpoint.load(tmp_path / "step_1.pt")
    assert str(tmp_path / "step_1.pt") in caught.value.where
    assert not (tmp_path / "trace").exists()


def test_resume_does_not_run_it(tiny, tmp_path):
    settings = {"checkpoint_every": 5, "keep_last": 2, "eval_every": "off"}
    run = tiny.cut(at=12, **settings)
    good = torch.load(run / "checkpoints" / "step_10.pt", weights_only=True)
    plant(run / "checkpoints" / "step_10.pt", tmp_path / "trace", payload=good)
    tiny.go_on(run, **settings)
    assert not (tmp_path / "trace").exists()
    assert len(tiny.trained) == 15  # from step 5 on


def test_final_weights_with_code_are_not_loaded(tmp_path):
    import hotloop

    words = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8, "limit": 40, "max_steps": 2, "device": "cpu"}
    run = hotloop.train("gpt", progress=False, dir=str(tmp_path / "runs"), **words)
    plant(run.dir / "final_model.pt", tmp_path / "trace")
    with pytest.raises(HotloopError, match="could run code"):
        hotloop.load_run(run.dir)
    assert not (tmp_path / "trace").exists()


def test_what_hotloop_writes_loads_without_code(tiny):
    run = tiny.fit(tiny.net())
    for path in (run.dir / "checkpoints" / "last.pt", run.dir / "final_model.pt"):
        assert torch.load(path, weights_only=True)
