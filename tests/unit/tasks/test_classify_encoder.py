"""Runs with a pretrained encoder afterwards: rebuilt in full precision, started from by others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tasks.classify_files import rows, tiny_encoder, write

import hotloop
from hotloop.errors import HotloopError
from hotloop.initial import ASSETS
from hotloop.runs.store import RunFolder
from hotloop.saved import saved_model

QUICK = {"device": "cpu", "precision": "fp32", "compile": "off", "threads": 1, "num_epochs": 1, "batch_size": 16}


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """An encoder that was stored in half precision, as many are."""
    folder = tiny_encoder(tmp_path / "half")
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**said, "torch_dtype": "float16", "dtype": "float16"}))
    return folder


def train(folder: Path, name: Path, **keys: Any) -> Any:
    path = write(folder / "a.jsonl", rows(48, label=["no", "yes"]))
    named = {"model.name": str(name), "model.max_sequence_length": 48, "data.path": str(path), "dir": str(folder / "r")}
    return hotloop.train("classify", progress=False, keys={**QUICK, **named, **keys})


def other_encoder(folder: Path, kind: str) -> Path:
    """The tiny encoder's tokenizer with a model of another kind."""
    import transformers

    tiny_encoder(folder)
    size = len((folder / "vocab.txt").read_text(encoding="utf-8").split())
    deep = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    made: dict[str, Any] = {
        "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
        "albert": {"embedding_size": 16, **deep},
        "modernbert": {"pad_token_id": 0, **deep},
        "t5": {"d_model": 32, "num_layers": 1, "num_heads": 2, "d_ff": 64, "d_kv": 16},
    }
    config = transformers.AutoConfig.for_model(kind, vocab_size=size, **made[kind])
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["distilbert", "modernbert"])
def test_encoders_of_other_kinds_train_with_fewer_layers(tmp_path: Path, kind: str) -> None:
    name = other_encoder(tmp_path / kind, kind)
    run = train(tmp_path, name, **{"model.num_layers": 1, "model.encoder_dropout": 0.2})
    _, model = saved_model(RunFolder.open(run.dir), "best")
    assert len(model.depth_groups()) == 2


@pytest.mark.parametrize(
    ("kind", "keys", "told"),
    [
        ("albert", {"optimization.gradient_checkpointing": True}, "this encoder cannot do it"),
        ("t5", {}, r"the model \(t5\) has a decoder too"),
    ],
)
def test_what_another_kind_cannot_do_is_told(tmp_path: Path, kind: str, keys: dict[str, Any], told: str) -> None:
    with pytest.raises(HotloopError, match=told):
        train(tmp_path, other_encoder(tmp_path / kind, kind), **keys)


def test_weights_are_read_back_as_they_were_trained(half: Path, tmp_path: Path) -> None:
    run = train(tmp_path, half)
    _, model = saved_model(RunFolder.open(run.dir), "last")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    trained = torch.load(run.dir / "final_model.pt", weights_only=True)
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())


def test_a_run_starts_from_another_with_changes_of_its_own(half: Path, tmp_path: Path) -> None:
    first = train(tmp_path, half, **{"model.encoder_dropout": 0.3})
    keys = {"model.init_from": str(first.dir), "model.encoder_dropout": 0.0, "model.num_layers": 1}
    second = train(tmp_path, half, **keys)
    config = json.loads((second.dir / ASSETS).read_text(encoding="utf-8"))["encoder"]
    assert (config["hidden_dropout_prob"], config["num_hidden_layers"]) == (0.0, 1)
    with pytest.raises(HotloopError, match="has 2 layers, and 3 are asked for"):
        train(tmp_path, half, **{**keys, "model.num_layers": 3})
