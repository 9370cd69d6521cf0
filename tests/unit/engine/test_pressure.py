"""Signs of too little memory, from samples as a GPU or a CPU would give them; each is told once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hotloop.engine import pressure
from hotloop.engine.pressure import Sample, Watch

GB = 2**30
CARD = Sample(
    used=GB, peak=2 * GB, reserved=2 * GB + GB // 4, limit=4 * GB, dedicated=4 * GB, seconds=0.1, available=GB
)
HOST = Sample(used=GB, peak=GB, limit=0, dedicated=16 * GB, seconds=0.1, available=8 * GB)


def told(*samples: Sample) -> list[list[str]]:
    watch = Watch()
    return [watch.look(sample) for sample in samples]


def test_nothing_is_said_of_a_run_with_room():
    assert told(CARD, CARD, CARD, HOST) == [[], [], [], []]


def test_seven_eighths_of_the_limit_are_told_once():
    near = replace(CARD, peak=int(3.5 * GB), reserved=int(3.6 * GB))
    first, second, third = told(replace(near, peak=near.peak - 1), near, near)
    assert first == [] and third == []
    assert second == [
        "memory at 88% of what the run may take (3.50GB of 4.00GB): a longer sample may not fit any more; a smaller "
        "training.batch_size with more gradient_accumulation_steps takes less"
    ]


def test_without_a_limit_nothing_is_near_it():
    assert told(replace(HOST, used=15 * GB)) == [[]]


@pytest.mark.parametrize(("version", "name"), [((2, 8), "PYTORCH_CUDA_ALLOC_CONF"), ((2, 9), "PYTORCH_ALLOC_CONF")])
def test_fragments_name_the_setting_of_this_torch(version, name, monkeypatch):
    monkeypatch.setattr(pressure.machine, "TORCH_VERSION", version)
    torn = replace(CARD, reserved=int(3.2 * GB), retries=2)
    first, second, third = told(CARD, torn, torn)
    assert first == [] and third == []
    assert second[0].startswith("memory is in fragments: the allocator holds 3.20GB where at most 2.00GB were in use")
    assert "2 times" in second[0]
    assert second[0].endswith(f"start again with {name}=expandable_segments:True in the environment")


def test_retries_of_before_the_run_and_a_full_allocator_are_no_fragments():
    assert told(replace(CARD, retries=5, reserved=int(3.2 * GB)), replace(CARD, retries=5, reserved=int(3.2 * GB))) == [
        [],
        [],
    ]
    assert told(CARD, replace(CARD, retries=1)) == [[], []]  # what is reserved is in use


def test_many_inactive_pieces_are_fragments():
    assert "fragments" in told(CARD, replace(CARD, retries=1, inactive=GB))[1][0]


def test_a_jump_of_the_step_time_with_the_card_full_is_a_spill():
    full = replace(CARD, reserved=int(3.95 * GB), limit=0)
    steady, slow = [full] * 3, replace(full, seconds=0.25)
    said = told(*steady, slow, slow)
    assert said[:3] == [[], [], []] and said[4] == []
    assert said[3][0].startswith("a step takes 2.5 times as long as before, with 3.95GB of the GPU's 4.00GB in use")
    assert "memory.budget" in said[3][0]


def test_a_slow_step_alone_or_a_full_card_alone_is_no_spill():
    assert told(CARD, CARD, CARD, replace(CARD, seconds=1.0))[3] == []
    full = replace(CARD, reserved=int(3.95 * GB), limit=0)
    assert told(full, full, full, replace(full, seconds=0.19))[3] == []
    assert told(full, replace(full, seconds=1.0))[1] == []  # nothing is usual yet


def test_a_run_that_the_system_moves_to_the_disk():
    short = replace(HOST, swapped=GB, available=GB // 2, seconds=0.5)
    said = told(HOST, HOST, HOST, short, short)
    assert said[4] == []
    assert said[3] == [
        "a step takes 5.0 times as long as before, and the system has moved 1.00GB of this run to the disk; use a "
        "smaller training.batch_size, set memory.budget, or close other programs"
    ]
    assert told(HOST, HOST, HOST, replace(short, swapped=0))[3] == []
    assert told(HOST, HOST, HOST, replace(short, available=8 * GB))[3] == []


def test_a_run_is_warned_and_its_records_have_the_figures(one_fit, monkeypatch):
    monkeypatch.setattr(pressure, "NEAR", 0.0)
    run, notes = one_fit(budget="20GB")
    records = [record for record in run.history if "train_loss" in record]
    assert all(record["gpu_memory"] == 0 for record in records)
    assert all(0 < record["memory"] <= record["memory_peak"] for record in records)
    assert "oom_retries" not in records[0] and "memory_reserved" not in records[0]
    assert [level for text, level in notes if "of what the run may take" in text] == ["warning"]
    assert "of what the run may take" in (run.dir / "training.log").read_text()


@pytest.fixture
def one_fit(tmp_path):
    """`one_fit(budget="1GB")` is a short run and the lines that it told."""
    import torch

    import hotloop

    notes: list[tuple[str, str]] = []

    class Listens(hotloop.Callback):
        def on_note(self, text: str, level: str) -> None:
            notes.append((text, level))

    def fit(budget: str | None = None):
        x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
        keys = {"experiment.dir": str(tmp_path), "memory.budget": budget, "training.compile": "off"}
        run = hotloop.fit(
            torch.nn.Linear(8, 1),
            {"x": x, "y": x.sum(1, keepdim=True)},
            loss=lambda net, batch: (net(batch["x"]) - batch["y"]).pow(2),
            config=keys,
            max_steps=4,
            log_every=2,
            callbacks=[Listens()],
            progress=False,
        )
        return run, notes

    return fit
