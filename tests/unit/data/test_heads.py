"""Class weights of several heads: each by its own counts, missing labels nowhere."""

from __future__ import annotations

import pytest
import torch

from hotloop.data.heads import weigh_heads
from hotloop.data.ragged import Ragged, RaggedSource
from hotloop.data.weights import Weighing
from hotloop.errors import HotloopError

HEADS = {"mood": ("low", "high"), "role": ("a", "b", "c")}
MOOD, ROLE = [0, 0, 0, 1, -100, -100], [-100, 0, 1, 2, 0, 0]


def rows() -> RaggedSource:
    columns = {"mood": torch.tensor(MOOD), "role": torch.tensor(ROLE)}

    def finish(batch):
        return {**batch, "weight": {head: (batch[head] >= 0).float() for head in HEADS}}

    return RaggedSource({"ids": Ragged.of([[1]] * 6)}, columns, finish=finish)


def test_each_head_counts_its_own_rows_and_keeps_their_mean_at_one() -> None:
    source, lines = weigh_heads(rows(), Weighing(class_weights="auto"), HEADS)
    weight = source.batch(torch.arange(6))["weight"]
    assert weight["mood"].tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0, 0.0, 0.0])
    assert weight["role"].sum().item() == pytest.approx(5.0) and weight["role"][0] == 0
    assert len(lines) == 2 and "mood: low 0.667, high 2" in lines[0]
    assert source.buckets is not None


def test_nothing_asked_changes_nothing() -> None:
    own = rows()
    assert weigh_heads(own, Weighing(), HEADS) == (own, [])


@pytest.mark.parametrize(
    ("weighing", "said"),
    [
        (Weighing(sampler=True), "cannot balance the classes of 2 tasks"),
        (Weighing(class_weights=(1.0, 2.0)), "one set of classes"),
        (Weighing(class_weights="auto", sample_weights=True), "would multiply"),
    ],
)
def test_what_only_one_set_of_classes_can_follow_is_refused(weighing: Weighing, said: str) -> None:
    with pytest.raises(HotloopError, match=said):
        weigh_heads(rows(), weighing, HEADS)
