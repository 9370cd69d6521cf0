"""F38: a batch finder that returns a size it never tried, or forgets the optimizer's state and the long samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.tasks.classify_files import rows, write
from tests.unit.tune.fake import FACTS, FakeBench, Told

from hotloop.config.load import load
from hotloop.data.ragged import Ragged, RaggedSource
from hotloop.engine.plan import Choice
from hotloop.errors import HotloopError
from hotloop.tasks import options_of
from hotloop.tune.batch import find_batch
from hotloop.tune.bench import Here
from hotloop.tune.gauge import Cost
from hotloop.tune.longest import widest_rows


@given(st.randoms(use_true_random=False))
def test_the_answer_was_run_alone_and_in_whole_steps(draw) -> None:
    def law(choice: Choice, size: int) -> Cost:
        return Cost(size, draw.random() < 0.8, draw.random() + 1e-3, 1e-3, 1, "out of memory")

    bench = FakeBench(law, FACTS)
    try:
        found = find_batch(bench, Choice(), Told())
    except HotloopError:
        return
    assert found.micro_batch in {size for _, size in bench.ran}
    assert found.micro_batch == bench.confirmed[-1].micro_batch


def test_the_longest_rows_are_what_is_run() -> None:
    lengths = [3] * 50 + [90] + [5] * 50 + [40] * 3
    ragged = Ragged.of([[1] * length for length in lengths])
    short = Ragged.of([[1] * (60 if place == 7 else 2) for place in range(len(lengths))])
    source = RaggedSource({"ids": ragged, "target": short})
    found = widest_rows(source, 6)
    assert found is not None and found[0] == 50
    assert 7 in found[:3].tolist(), "the longest target widens a batch as well"
    batch = source.batch(found)
    assert batch["ids"].shape[1] >= 90 and batch["target"].shape[1] >= 60
    assert len(found) == len(np.unique(found)) == 6


def test_a_trial_has_the_longest_texts_and_the_state_of_the_optimizer(tmp_path: Path) -> None:
    given_rows = rows(60, toxicity_labels=["none", "toxic"])
    given_rows[17]["text"] = "字" * 100
    path = write(tmp_path / "a.jsonl", given_rows)
    keys = {"data.path": str(path), "batch_size": 8, "device": "cpu", "precision": "fp32", "val_fraction": 0}
    loaded = load(options_of("classify"), overrides={**keys, "hidden_size": 16, "n_head": 2}, device_kind="cpu")
    from hotloop.saved import make_task

    with Here(loaded, make_task(loaded.config)).open(Choice()) as trial:
        gauge = trial._gauge  # type: ignore[attr-defined]
        widths = {name: part.shape[1] for name, part in gauge._batch.items() if getattr(part, "dim", lambda: 0)() == 2}
        assert max(widths.values()) >= 100
        state = gauge._session.state
        assert trial.measure(4).ran
        moments = [state_of["exp_avg"] for one in state.optimizers for state_of in one.state.values()]
        assert len(moments) == len(state.parameters)
        assert all(isinstance(part, torch.Tensor) for part in moments)
