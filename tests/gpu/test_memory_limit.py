"""The budget on a GPU is the allocator's own limit; the forecast is near what the allocator then saw."""

from __future__ import annotations

import pytest
import torch

from hotloop import memory
from hotloop.engine import footprint
from hotloop.engine.guard import Guard

pytestmark = pytest.mark.gpu
MB = 2**20


def test_what_goes_beyond_the_limit_is_refused_until_the_guard_is_closed():
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    guard = Guard(device, torch.cuda.memory_reserved(device) + 256 * MB)
    guard.start()
    try:
        with pytest.raises(torch.OutOfMemoryError) as caught:
            torch.empty(512 * MB, dtype=torch.uint8, device=device)
        assert memory.is_out_of_memory(caught.value)
        assert torch.empty(64 * MB, dtype=torch.uint8, device=device).numel() == 64 * MB
    finally:
        guard.close()
    assert torch.empty(512 * MB, dtype=torch.uint8, device=device).numel() == 512 * MB


def test_records_tell_what_the_allocator_holds(gpt):
    records = [record for record in gpt().history if "train_loss" in record]
    for record in records:
        assert 0 < record["gpu_memory"] <= record["memory_reserved"]
        assert record["memory_peak"] >= record["gpu_memory"]


def test_the_forecast_is_near_what_is_seen(gpt):
    found = gpt(batch_size=64, keys={"model.n_embd": 128, "model.block_size": 128}).summary["memory"]
    assert found["forecast"] == pytest.approx(found["peak"], rel=0.15)


def test_a_look_before_the_run_leaves_the_peak_statistics_to_the_run(session):
    built = session()
    assert footprint.forecast(built.task, built.state, built.splits) is not None
    built.state.guard.start()
    assert built.state.guard.peak() <= torch.cuda.memory_allocated() + MB
