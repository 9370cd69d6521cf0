"""The reference classifier's two configurations, unchanged but for paths, on a pair of tiny files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.tasks.classify_files import rows, tiny_encoder, write

import hotloop

FIRST = """
model:
  name: {encoder}
  num_labels: 3
  dropout_rate: 0.1
  max_sequence_length: 48
data:
  train_path: {folder}/train.json
  val_path: {folder}/val.json
  batch_size: 8
  num_workers: 0
training:
  num_epochs: 2
  learning_rate: 2e-5
  fp16: true
  gradient_accumulation_steps: 4
optimization:
  gradient_checkpointing: true
  max_grad_norm: 1.0
  optimizer: AdamW
callbacks:
  early_stopping_patience: 3
  early_stopping_metric: eval_f1_macro
  save_top_k: 2
experiment:
  name: reference
  seed: 42
  log_level: INFO
"""
SECOND = """
model:
  name: {encoder}
  max_sequence_length: 48
  gradient_checkpointing: true
  use_multitask: true
  task_weights:
    toxicity: 1.0
    bullying: 1.0
    role: 0.5
    emotion: 0.5
data:
  train_path: {folder}/train.json
  val_path: {folder}/val.json
  batch_size: 4
  gradient_accumulation_steps: 2
  pin_memory: true
training:
  num_epochs: 2
  learning_rate: 2e-5
  lr_scheduler: cosine
  warmup_ratio: 0.1
  auto_batch_size: true
optimization:
  memory_efficient_attention: true
callbacks:
  early_stopping_metric: eval_f1_macro
experiment:
  name: reference
  seed: 42
"""
SINGLE = {"labels": [0, 1, 2]}
FOUR = {"toxicity_labels": [0, 1, 2], "bullying_labels": [0, 1], "role_labels": [0, 3, 1], "emotion_labels": [2, 0, 1]}


@pytest.mark.parametrize(
    ("text", "labels", "metric"),
    [(FIRST, SINGLE, "eval_f1_macro"), (FIRST, FOUR, "eval_f1_macro"), (SECOND, FOUR, "eval_f1_macro_emotion")],
)
def test_it_trains(tmp_path: Path, text: str, labels: dict[str, list[int]], metric: str) -> None:
    encoder = tiny_encoder(tmp_path / "encoder")
    write(tmp_path / "train.json", rows(48, **labels))
    write(tmp_path / "val.json", rows(24, **labels))
    config = tmp_path / "config.yaml"
    config.write_text(text.format(encoder=encoder, folder=tmp_path), encoding="utf-8")
    keys = {"dir": str(tmp_path / "runs"), "device": "cpu"}
    run = hotloop.train("classify", config=str(config), progress=False, keys=keys)
    assert metric in run.summary
    saved = json.loads((run.dir / "config.json").read_text(encoding="utf-8"))
    assert saved["training"]["gradient_accumulation_steps"] == (4 if text is FIRST else 2)
    assert saved["optimization"]["learning_rate"] == 2e-5
    assert saved["optimization"]["gradient_checkpointing"] is True
