"""`hotloop profile` on a GPU: events in the stream, kernels, copies, and ceilings of the card."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and smaller things to measure."""
    monkeypatch.setenv("HOTLOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("hotloop.ceilings._SIZES", {"cuda": (1024, 2048)})


def limits():
    from hotloop.ceilings import ceilings

    return ceilings(torch.device("cuda"))


def test_the_ceilings_of_the_card(device):
    from hotloop.ceilings import known

    found = limits()
    assert known(torch.device(device)) == found
    assert found.threads == 0
    assert found.matrix["fp32"] > 1e10
    major, _ = torch.cuda.get_device_capability()
    assert ("tf32" in found.matrix) == ("bf16" in found.matrix) == (major >= 8)
    if major >= 8:
        assert found.matrix["bf16"] > found.matrix["fp32"]
    assert found.bandwidth > 1e9
    assert found.copies["pageable"] > 1e8
    assert 1e-7 < found.operation < 1e-3


def test_phases_add_up_to_the_wall_time(session):
    from hotloop.profiler.measure import profile

    found = profile(session(), limits(), steps=40)
    phases = found.timing.phases
    assert sum(phases.values()) == pytest.approx(found.timing.seconds, rel=0.05)
    assert min(phases["forward"], phases["backward"], phases["optimizer"]) > 0
    assert 0 < found.busy <= 1
    assert found.work.flops > 0
    assert not found.work.uncounted
    assert found.seen.operators
    assert any("mm" in operator.name for operator in found.seen.operators)


def test_data_from_the_host_is_copied(session):
    from hotloop.profiler.measure import profile

    for pin in ("on", "off"):
        found = profile(session(resident="off", pin_memory=pin, num_workers=0), limits(), steps=10)
        assert found.timing.phases["data"] >= 0
        assert found.timing.phases["copy"] > 0


def test_marks_do_not_wait_for_the_gpu(session):
    from hotloop.profiler.marks import Marks, marked

    built = session()
    marks = Marks(built.plan.torch_device)
    feed = built.feed(marks.watch)
    from hotloop.engine.recover import transact

    transact(built.state, next(feed))
    torch.cuda.synchronize()
    marks.on = True
    torch.cuda.set_sync_debug_mode("error")
    try:
        with marked(built.state, marks):
            for _ in range(5):
                transact(built.state, next(feed))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert marks.seconds()["backward"] > 0


def test_a_slow_host_shows_as_data(session, monkeypatch):
    import time

    from hotloop.profiler.measure import profile

    built = session(resident="off", num_workers=0)
    source, fetch = built.splits.train, type(built.splits.train).batch

    def slowly(self, indices):
        time.sleep(0.05)
        return fetch(self, indices)

    monkeypatch.setattr(type(source), "batch", slowly)
    found = profile(built, limits(), steps=6)
    assert found.timing.phases["data"] > 0.02
    assert found.verdict.name == "input-bound"
