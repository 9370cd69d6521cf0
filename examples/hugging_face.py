"""Hugging Face: a model of `transformers` and a data set of `datasets`, trained with the model's own loss.

    pip install transformers datasets && python examples/hugging_face.py

The model is a small BERT with fresh weights and the sentences are generated, so nothing is downloaded; with
`AutoModelForSequenceClassification.from_pretrained(...)` and your own data set the rest stays as it is. "not" turns a
sentence round, so single words do not tell. Expect an accuracy of 0.95 or more.
Shapes: N sentences, T = 12 tokens; input_ids and attention_mask (N, T), labels (N,) 0 or 1.
"""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

import hotloop

GOOD, BAD = ("good", "lovely", "clever", "warm"), ("bad", "dull", "clumsy", "cold")
THINGS, LONGEST = ("film", "book", "dinner", "talk"), 12


def sentences(count: int, seed: int) -> Dataset:
    """Texts such as "the dinner was warm but the talk was not clever": the part after "but" decides."""
    draws = np.random.default_rng([seed, 1])
    rows: dict[str, list[object]] = {"text": [], "labels": []}
    for _ in range(count):
        halves = []
        for _ in range(2):
            good, turned = draws.integers(0, 2, 2)
            word = draws.choice(GOOD if good else BAD)
            halves.append(f"the {draws.choice(THINGS)} was {'not ' if turned else ''}{word}")
            label = int(good != turned)
        rows["text"].append(" but ".join(halves))
        rows["labels"].append(label)
    return Dataset.from_dict(rows)


VOCABULARY = {word: number for number, word in enumerate(["[PAD]", "the", "was", "not", "but", *GOOD, *BAD, *THINGS])}


def tokenized(row: dict[str, str]) -> dict[str, list[int]]:
    """Token numbers, all of one length; a tokenizer does this with padding='max_length'."""
    ids = [VOCABULARY[word] for word in row["text"].split()]
    padding = LONGEST - len(ids)
    return {"input_ids": ids + [0] * padding, "attention_mask": [1] * len(ids) + [0] * padding}


def right(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Which sentences are classed right, (B,)."""
    return model(batch["input_ids"], batch["attention_mask"]).logits.argmax(-1) == batch["labels"]


def main() -> None:
    """Train and report; the column of texts is left out, and hotloop says so."""
    data = sentences(2400, seed=0).map(tokenized).train_test_split(400, seed=0)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=LONGEST,
    )
    run = hotloop.fit(
        BertForSequenceClassification(config),
        data["train"],
        val=data["test"],
        metrics={"accuracy": right},
        num_epochs=8,
        batch_size=32,
        learning_rate=2e-3,
        warmup_ratio=0.1,
    )
    run.model.save_pretrained(run.dir / "model")
    print(f"held-out accuracy {run.summary['eval_accuracy']:.3f}; for transformers: {run.dir / 'model'}")


if __name__ == "__main__":
    main()
