"""F51: a checkpoint half written when the power went, over the only copy. Here the old one goes last.

Killed processes are in tests/faults; this looks at the order of things on the disk.
"""

from __future__ import annotations

import errno
import os

import pytest
import torch

from hotloop.engine import checkpoint
from hotloop.engine.checkpoint import Keeper
from hotloop.errors import HotloopError


@pytest.fixture
def keeper(tmp_path):
    found = Keeper(tmp_path, top_k=1, keep_last=1)
    found.save(1, {"step": 1, "weights": torch.ones(1000)}, 0.5)
    return found


def test_half_a_write_leaves_the_old_one(keeper, monkeypatch):
    real = torch.save

    def half(payload, file):
        real(payload, file)
        file.truncate(file.tell() // 2)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    before = {path.name: path.read_bytes() for path in keeper.folder.iterdir()}
    with pytest.raises(HotloopError, match="the disk is full"):
        keeper.save(2, {"step": 2, "weights": torch.ones(1000)}, 0.1)
    assert {path.name: path.read_bytes() for path in keeper.folder.iterdir()} == before
    payload, remarks = checkpoint.newest_good(keeper.folder)
    assert (payload["step"], remarks) == (1, [])


def test_the_old_one_goes_only_after_the_new_one_is_whole(keeper, monkeypatch):
    removed = []
    real = os.unlink

    def watch(path, *rest, **named):
        if "step_1.pt" in str(path):
            checkpoint.verify(keeper.folder / "step_2.pt")
            checkpoint.verify(keeper.folder / "last.pt")
            removed.append(os.path.basename(path))
        return real(path, *rest, **named)

    monkeypatch.setattr(os, "unlink", watch)
    keeper.save(2, {"step": 2, "weights": torch.ones(1000)}, 0.1)
    assert "step_1.pt" in removed
    assert checkpoint.load(keeper.folder / "best_model.pt")["step"] == 2


def test_a_file_is_on_the_disk_before_it_takes_the_name(keeper, monkeypatch):
    synced, order = set(), []
    fsync, replace = os.fsync, os.replace

    def note_sync(descriptor):
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}") if os.path.isdir("/proc/self/fd") else descriptor)
        fsync(descriptor)

    def note_replace(source, target):
        order.append((os.path.basename(target), os.path.realpath(source) in synced))
        replace(source, target)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc to see which file was synced")
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    keeper.save(2, {"step": 2, "weights": torch.ones(1000)}, None)
    written = dict(order)
    assert written["step_2.pt"]
    assert written["step_2.pt.sha256"]
    assert [name for name, _ in order].index("step_2.pt.sha256") < [name for name, _ in order].index("step_2.pt")
