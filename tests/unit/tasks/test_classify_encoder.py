"""Runs with a pretrained encoder afterwards: rebuilt in full precision, started from by others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tasks.classify_files import rows, tiny_encoder, write

import hotloop
from hotloop.engine import recompute
from hotloop.errors import HotloopError
from hotloop.initial import ASSETS
from hotloop.runs.store import RunFolder
from hotloop.saved import saved_model
from hotloop.tasks.classify.options import ClassifyData, ClassifyModel
from hotloop.tasks.classify.task import Classify

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


@pytest.mark.parametrize("kind", ["distilbert", "modernbert", "albert"])
def test_recomputing_inside_encoders_of_other_kinds_changes_nothing(tmp_path: Path, kind: str) -> None:
    name = other_encoder(tmp_path / kind, kind)
    plain, again = (train(tmp_path, name, **{"optimization.gradient_checkpointing": on}) for on in (False, True))
    assert again.model.state_dict().keys() == plain.model.state_dict().keys()
    assert all(torch.equal(value, again.model.state_dict()[key]) for key, value in plain.model.state_dict().items())


def test_a_decoder_is_told(tmp_path: Path) -> None:
    with pytest.raises(HotloopError, match=r"the model \(t5\) has a decoder too"):
        train(tmp_path, other_encoder(tmp_path / "t5", "t5"))


def test_dropout_and_checkpointing_inside_a_loaded_encoder_work(half: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(48, label=["no", "yes"]))
    options = ClassifyModel(name=str(half), max_sequence_length=48, dropout=0.0, encoder_dropout=0.5)
    task = Classify(options, ClassifyData(path=str(path)), seed=1)
    batch: Any = task.sources().train.batch(torch.arange(8))
    model = task.model()
    assert all(part.training for part in model.modules())
    assert not torch.equal(task.loss(model, batch, True), task.loss(model, batch, True))
    runs: Any = []
    for _ in range(2):
        torch.manual_seed(3)
        seen: list[int] = []
        handle = model.encoder.encoder.layer[0].attention.register_forward_pre_hook(
            lambda *_, seen=seen: seen.append(1)
        )
        task.loss(model, batch, True).sum().backward()  # type: ignore[union-attr]
        handle.remove()
        runs.append((len(seen), [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]))
        model.zero_grad()
        recompute.apply(model, True, compiled=False)
    assert [count for count, _ in runs] == [1, 2]  # run once more in the backward pass
    for one, other in zip(runs[0][1], runs[1][1], strict=True):
        torch.testing.assert_close(one, other)


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
