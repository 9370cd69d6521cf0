"""torch.compile on a GPU: the same loss, and no graph beyond the first ones."""

from __future__ import annotations

import pytest
import torch

from hotloop.engine import loop

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def a_compiler():
    pytest.importorskip("triton", reason="torch.compile on a GPU needs triton")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
def test_compiled_training_follows_eager_training(gpt):
    eager, compiled = gpt(), gpt(compile="default")
    assert compiled.summary["eval_loss"] == pytest.approx(eager.summary["eval_loss"], rel=0.02)
    assert compiled.summary["seconds"]["compile"] > 0


@pytest.mark.slow
def test_it_compiles_once(session):
    """Ragged last batches included: blocks in shuffled order leave one at each epoch's end."""
    built = session(compile="default", **{"data.sampling": "shifted", "batch_size": 24, "max_steps": 60})
    assert built.plan.pad_ragged
    assert built.parts.sampler.blocks % 24  # so there is a ragged batch
    torch._dynamo.utils.counters.clear()
    stepping = loop.steps(built.state, built.feed())
    next(stepping)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs >= 1
    for _ in stepping:
        pass
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


@pytest.mark.slow
def test_reduce_overhead(session):
    """Replayed graphs write into the same memory; what a step gave out must not change with the next one."""
    built = session(compile="reduce-overhead", max_steps=20)
    kept = [info.loss for info in loop.steps(built.state, built.feed())]
    losses = torch.stack(kept).tolist()
    assert len(set(losses)) > 15
    assert losses[-1] < losses[0]
