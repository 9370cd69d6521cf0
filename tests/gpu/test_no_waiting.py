"""Between log points the host never waits for the GPU: torch raises at any call that would."""

from __future__ import annotations

import pytest
import torch

from hotloop.data.loader import batches
from hotloop.engine import loop

pytestmark = pytest.mark.gpu


def step_without_waiting(built, warm: int = 3, steps: int = 50) -> None:
    """Steps over an epoch's end in which waiting is an error, after a few that may set things up."""
    stepping = loop.steps(built.state, built.feed())
    for _ in range(warm):
        next(stepping)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(steps):
            next(stepping)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert built.state.read().applied == warm + steps


def test_the_check_can_fail(session):
    value = torch.ones((), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    with pytest.raises(RuntimeError, match="synchronizing"):
        value.item()


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_resident_data(precision, optimizer, session):
    built = session(precision=precision, optimizer=optimizer, resident="on")
    assert built.plan.resident
    if built.state.scaler is not None:
        built.state.scaler.scale.fill_(256.0)  # no update is left out, so that they can be counted
    step_without_waiting(built)


def test_bf16(session):
    if torch.cuda.get_device_capability()[0] < 8:
        pytest.skip("this GPU has no bf16 in hardware")
    step_without_waiting(session(precision="bf16"))


def test_with_accumulation_and_without_clipping(session):
    step_without_waiting(session(gradient_accumulation_steps=4, batch_size=4))
    step_without_waiting(session(max_grad_norm=None))


def test_pinned_host_data(session):
    built = session(resident="off", pin_memory="on", num_workers=0)
    assert built.plan.pin_memory
    step_without_waiting(built)


def test_a_whole_run_between_its_log_points(gpt):
    """The callbacks, the recorder and the reporter take part; steps 12 to 19 lie between two looks."""

    def forbid(info) -> None:
        if info.step == 11:
            torch.cuda.set_sync_debug_mode("error")
        if info.step == 19:
            torch.cuda.set_sync_debug_mode("default")

    assert gpt(callbacks=[forbid]).summary["status"] == "completed"


def feed(built, **how):
    """Forty batches, each taken while the GPU is busy, so that a copy that nobody waited for would show."""
    source = built.splits.train.to(torch.device("cpu" if not how["resident"] else "cuda"))
    busy = torch.randn(1024, 1024, device="cuda")
    stream = batches(source, built.parts.sampler, torch.device("cuda"), first_step=3, seed=1, **how)
    found = []
    for _ in range(40):
        busy = torch.tanh(busy @ busy)
        batch = next(stream)
        found.append({name: value.clone() for name, value in batch.items()})
    return found


@pytest.mark.parametrize(
    "how",
    [
        {"resident": False, "pin_memory": False, "num_workers": 0},
        {"resident": False, "pin_memory": True, "num_workers": 0},
        {"resident": False, "pin_memory": True, "num_workers": 2, "prefetch": 3},
    ],
    ids=["plain", "pinned", "workers"],
)
def test_every_feed_gives_the_same_batches(how, session):
    built = session()
    resident = feed(built, resident=True)
    for number, (one, other) in enumerate(zip(resident, feed(built, **how), strict=True)):
        assert one.keys() == other.keys()
        for name in one:
            assert other[name].device.type == "cuda"
            assert torch.equal(one[name], other[name]), (number, name)


def test_small_data_is_kept_on_the_device(session):
    built = session(resident="auto")
    assert built.plan.resident
    assert built.splits.train.tokens.device.type == "cuda"
