"""Real out-of-memory errors on a GPU, made by a limit of the allocator: taken back, split, and kept under the limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotloop

pytestmark = pytest.mark.gpu

GB = 2**30
WIDTH, ROWS = 4096, 32768  # one hidden layer of a whole batch: 512 MB


@pytest.fixture
def limited() -> Iterator[Callable[[int], None]]:
    """`limited(bytes)` sets the allocator's limit; lifted afterwards."""

    def limit(size: int) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.set_per_process_memory_fraction(size / torch.cuda.get_device_properties(0).total_memory)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


class Wide(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle, self.last = nn.Linear(64, WIDTH), nn.Linear(WIDTH, 64), nn.Linear(64, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(torch.tanh(self.first(x)))  # several of 512 MB are held for a whole batch
        return self.last(torch.tanh(self.middle(hidden)))


def data() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(ROWS, 64, generator=draw)
    return {"x": x, "y": x.sum(1, keepdim=True)}


class Notes(hotloop.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.lines: list[str] = []

    def on_step(self, info: Any) -> None:
        self.losses.append(float(info.loss))

    def on_note(self, text: str, level: str) -> None:
        self.lines.append(text)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return (model(batch["x"]) - batch["y"]).square()


def train(folder: Path, **settings: Any) -> tuple[hotloop.Run, Notes]:
    notes = Notes()
    run = hotloop.fit(
        Wide(), data(), loss=loss, callbacks=[notes], batch_size=ROWS, max_steps=8, precision="fp32", compile="off",
        device="cuda", progress=False, trackers=(), dir=str(folder), **settings,
    )  # fmt: skip
    return run, notes


def test_a_step_too_large_is_split_and_the_sum_is_the_same(tmp_path: Path, limited: Callable[[int], None]) -> None:
    _, calm = train(tmp_path / "calm")
    limited(GB)
    run, notes = train(tmp_path / "limited")
    assert any("micro-batch 32768 -> 16384" in line and "effective batch unchanged" in line for line in notes.lines)
    assert torch.cuda.max_memory_reserved() <= GB
    assert notes.losses == pytest.approx(calm.losses, rel=1e-4)
    assert run.summary["effective_batch"] == ROWS


def test_evaluation_shrinks_alone(tmp_path: Path, limited: Callable[[int], None]) -> None:
    limited(GB)
    notes = Notes()
    run = hotloop.fit(
        Wide(), data(), loss=loss, val=data(), callbacks=[notes], batch_size=2048, eval_batch_size=ROWS, max_steps=4,
        precision="fp32", compile="off", device="cuda", progress=False, trackers=(), dir=str(tmp_path),
    )  # fmt: skip
    lines = [line for line in notes.lines if "OOM" in line]
    assert lines and all(line.startswith("OOM in evaluation") for line in lines)
    assert run.summary["eval_loss"] > 0


def test_a_retry_at_the_same_size_is_equal_to_the_bit(tmp_path: Path) -> None:
    """The generator of the GPU is put back too: dropout hides the same places."""

    def losses(strikes: int) -> list[float]:
        notes, left, seen = Notes(), [strikes], [0]

        def failing(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            found = loss(model, batch)
            seen[0] += 1
            if len(notes.losses) == 2 and left[0]:
                left[0] -= 1
                torch.empty(1 << 50, dtype=torch.uint8, device="cuda")  # a petabyte: fails for real
            return found

        hotloop.fit(
            Wide(0.3), data(), loss=failing, callbacks=[notes], batch_size=256, max_steps=6, precision="fp32",
            deterministic=True, compile="off", device="cuda", progress=False, trackers=(), dir=str(tmp_path),
        )  # fmt: skip
        return notes.losses

    assert losses(1) == losses(0)


def test_a_card_of_four_gigabytes(tmp_path: Path, limited: Callable[[int], None]) -> None:
    """A BERT of 110 million weights, effective batch 32, 384 tokens: trains under 4 GB, the effective batch kept."""
    transformers = pytest.importorskip("transformers")
    limited(4 * GB)
    torch.manual_seed(0)
    config = transformers.BertConfig(num_labels=2, max_position_embeddings=512)
    model = transformers.BertForSequenceClassification(config)
    assert 105e6 < sum(p.numel() for p in model.parameters()) < 115e6
    draw = torch.Generator().manual_seed(1)
    rows = {
        "input_ids": torch.randint(5, config.vocab_size, (128, 384), generator=draw),
        "attention_mask": torch.ones(128, 384, dtype=torch.int64),
        "labels": torch.randint(0, 2, (128,), generator=draw),
    }
    notes = Notes()
    run = hotloop.fit(
        model, rows, callbacks=[notes], batch_size=8, gradient_accumulation_steps=4, max_steps=6, precision="auto",
        gradient_checkpointing=True, compile="off", device="cuda", resident="off", progress=False, trackers=(),
        learning_rate=2e-5, dir=str(tmp_path),
    )  # fmt: skip
    assert run.summary["effective_batch"] == 32 and run.summary["steps"] == 6
    assert torch.cuda.max_memory_reserved() <= 4 * GB
    assert all(value == value for value in notes.losses)
