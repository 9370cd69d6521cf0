"""The classify task as a person meets it: runs, models rebuilt without data, answers, weights, pretrained encoders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tasks.classify_files import rows, tiny_encoder, write

import hotloop
from hotloop.errors import HotloopError
from hotloop.initial import ASSETS
from hotloop.runs.store import RunFolder
from hotloop.saved import BASELINES, saved_model
from hotloop.task import LossOptions
from hotloop.tasks.classify.options import ClassifyData, ClassifyModel
from hotloop.tasks.classify.task import Classify

SMALL = {"hidden_size": 16, "n_head": 2, "num_layers": 1, "max_sequence_length": 32}
QUICK = {"device": "cpu", "precision": "fp32", "compile": "off", "threads": 1}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture
def several(tmp_path: Path) -> Path:
    given = rows(64, toxicity_labels=["none", "toxic", "severe", None], mood_labels=["sad", "glad"])
    return write(tmp_path / "several.jsonl", given)


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return write(tmp_path / "single.jsonl", rows(64, label=["no", "yes"]))


def made(path: Path, data: dict[str, Any] | None = None, **model: Any) -> Classify:
    return Classify(ClassifyModel(**{**SMALL, **model}), ClassifyData(path=str(path), **(data or {})), seed=1)


def train(path: Path, folder: Path, progress: bool = False, **keys: Any) -> Any:
    model = {} if "model.name" in keys else {f"model.{name}": value for name, value in SMALL.items()}
    keys = {"num_epochs": 6, "batch_size": 16, "data.val_fraction": 0.25, **model, **keys}
    return hotloop.train(
        "classify", progress=progress, keys={**QUICK, "data.path": str(path), "dir": str(folder), **keys}
    )


def test_masked_labels_count_nowhere(several: Path) -> None:
    task = made(several)
    source: Any = task.sources().train
    model = task.model().eval()
    batch = source.batch(torch.arange(24))
    changed = {**batch, "toxicity": torch.where(batch["toxicity"] < 0, -1, batch["toxicity"])}
    loss, tallies = task.loss_and_metrics(model, batch)
    assert set(loss) == {"toxicity", "mood"}
    real = int((batch["toxicity"] >= 0).sum())
    assert 0 < real < 24
    assert int(tallies["confusion_toxicity"].sum.sum()) == real
    logits = model(batch["ids"])["mood"]
    torch.testing.assert_close(loss["mood"], torch.nn.functional.cross_entropy(logits, batch["mood"], reduction="none"))
    task.loss_options = LossOptions(label_smoothing=0.2, focal_gamma=2.0)
    assert not torch.allclose(task.loss(model, changed, True)["mood"], loss["mood"])


def test_padding_changes_no_answer(several: Path, encoder: Path) -> None:
    for name in ("small", str(encoder)):
        model_options = SMALL if name == "small" else {"max_sequence_length": 48}
        task = Classify(ClassifyModel(name=name, **model_options), ClassifyData(path=str(several)), seed=1)
        source: Any = task.sources().train
        model = task.model().eval()
        ids = source.batch(torch.arange(4))["ids"]
        wider = torch.nn.functional.pad(ids, (0, 8), value=task.tokens.pad)
        for one, other in zip(model(ids).values(), model(wider).values(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert len(model.depth_groups()) == len(list(model.depth_groups()[1:])) + 1 >= 2


def test_a_run_learns_reports_each_task_and_is_rebuilt_from_its_folder(several: Path, tmp_path: Path) -> None:
    run = train(several, tmp_path / "runs", **{"model.task_weights": {"toxicity": 3.0, "mood": 1.0}})
    best = run.summary
    f1 = {task: best[f"eval_f1_macro_{task}"] for task in ("toxicity", "mood")}
    assert best["eval_f1_macro"] == pytest.approx((3 * f1["toxicity"] + f1["mood"]) / 4)
    assert "per_class" in run.summary["tasks"]["mood"]
    moved = Path(shutil.move(run.dir, tmp_path / "moved"))
    several.unlink()
    task, model = saved_model(RunFolder.open(moved), "best")
    [piece] = task.pieces(write(tmp_path / "in.jsonl", rows(7, topic=["a"])), 100)
    answers = task.answers(task.predict(model, piece.source.batch(torch.arange(7))), piece.rows)
    assert len(answers) == 7
    assert answers[0]["mood"] in ("sad", "glad")
    assert sum(answers[0]["toxicity_probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
    assert answers[0]["topic"] == "a"


def test_a_single_task_is_weighed_balanced_and_measured_as_rows_are(single: Path, tmp_path: Path) -> None:
    run = train(single, tmp_path / "runs", **{"optimization.class_weights": "auto", "optimization.learning_rate": 5e-3})
    assert run.summary["best"]["value"] > 0.9
    assert run.summary["classes"] == ["no", "yes"]
    balanced = train(single, tmp_path / "runs", **{"data.balance_sampler": True, "num_epochs": 1})
    assert balanced.summary["status"] == "completed"


def test_class_weights_work_task_by_task(several: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(several, tmp_path / "runs", progress=True, **{"optimization.class_weights": "auto", "num_epochs": 1})
    said = capsys.readouterr().out
    assert "class weights of mood: glad 1.09, sad 0.923" in said


def test_a_pretrained_folder_is_trained_and_no_longer_needed(single: Path, encoder: Path, tmp_path: Path) -> None:
    here = Path(shutil.copytree(encoder, tmp_path / "here"))
    keys = {"model.name": str(here), "model.num_layers": 1, "model.max_sequence_length": 48, "num_epochs": 2}
    run = train(single, tmp_path / "runs", **keys, **{"optimization.layerwise_decay": 0.8})
    shutil.rmtree(here)
    task, model = saved_model(RunFolder.open(run.dir))
    assert len(model.depth_groups()) == 2
    source = task.labelled(single)
    assert len(source) == 64
    assert task.predict(model, source.batch(torch.arange(4)))["logits"].shape == (4, 2)
    checkpointed = train(single, tmp_path / "runs", **{**keys, "model.name": str(encoder), "num_epochs": 1},
                         **{"optimization.gradient_checkpointing": True})  # fmt: skip
    assert checkpointed.summary["status"] == "completed"
    saved = tmp_path / "saved"
    task.save_huggingface(model, saved)
    again = made(single, name=str(saved), max_sequence_length=48, hidden_size=128, n_head=4)
    again.sources()
    assert set(again.model().encoder.state_dict()) == set(model.encoder.state_dict())


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("hfl/chinese-macbert-base", "there is no folder", "nothing is loaded from the network"),
        ("absent/some/folder", "there is no folder", "config.json"),
        ("EMPTY", "the encoder cannot be read", "config.json"),
        ("NO_WEIGHTS", "the weights cannot be read", "model.safetensors"),
    ],
)
def test_an_encoder_that_cannot_be_used_is_told(
    single: Path, encoder: Path, tmp_path: Path, name: str, what: str, fix: str
) -> None:
    (tmp_path / "EMPTY").mkdir()
    shutil.copytree(encoder, tmp_path / "NO_WEIGHTS")
    (tmp_path / "NO_WEIGHTS" / "model.safetensors").unlink()
    given = name if "/" in name else str(tmp_path / name)

    def use() -> None:
        task = Classify(ClassifyModel(name=given, max_sequence_length=48), ClassifyData(path=str(single)), seed=1)
        task.sources()
        task.model()

    with pytest.raises(HotloopError) as caught:
        use()
    assert what in caught.value.what
    assert fix in caught.value.fix


def test_too_many_layers_and_too_long_texts_are_told(single: Path, encoder: Path) -> None:
    for wrong, key in (({"num_layers": 3}, "num_layers"), ({"max_sequence_length": 100}, "max_sequence_length")):
        options = {"name": str(encoder), "max_sequence_length": 48, **wrong}
        with pytest.raises(HotloopError) as caught:
            Classify(ClassifyModel(**options), ClassifyData(path=str(single)), seed=1).sources()
        assert caught.value.where == f"model.{key}"


def test_several_runs_are_averaged_by_their_probabilities(single: Path) -> None:
    task = made(single)
    task.sources()
    outputs = [{"logits": torch.tensor([[2.0, 0.0]])}, {"logits": torch.tensor([[-1.0, 0.0]])}]
    mean = task.combine(outputs)["logits"].softmax(1)
    expected = torch.stack([one["logits"].double().softmax(1) for one in outputs]).mean(0)
    torch.testing.assert_close(mean, expected)


def test_a_prediction_beside_a_label_keeps_the_label(single: Path) -> None:
    task = made(single)
    task.sources()
    [answer] = task.answers({"logits": torch.tensor([[0.0, 1.0]])}, [{"text": "x", "label": "no"}])
    assert (answer["label"], answer["label_predicted"]) == ("no", "yes")


def test_pieces_read_plain_text_and_never_more_than_asked(single: Path, tmp_path: Path) -> None:
    task = made(single)
    task.sources()
    path = tmp_path / "in.txt"
    path.write_text("你好\n\n再見\n", encoding="utf-8")
    pieces = list(task.pieces(path, 2))
    assert [len(piece.rows) for piece in pieces] == [2, 1]
    assert pieces[0].rows[1] == {"text": ""}
    model = task.model().eval()
    assert torch.isfinite(task.predict(model, pieces[0].source.batch(torch.arange(2)))["logits"]).all()


@pytest.mark.parametrize("name", ["small", "pretrained"])
def test_the_exported_form_gives_the_same_logits(several: Path, encoder: Path, name: str) -> None:
    options = SMALL if name == "small" else {"name": str(encoder), "max_sequence_length": 48}
    task = Classify(ClassifyModel(**options), ClassifyData(path=str(several)), seed=1)
    source: Any = task.sources().train
    model = task.model().eval()
    form = task.exportable(model)
    assert form.outputs == ("toxicity_logits", "mood_logits")
    program = torch.export.export(
        form.module,
        tuple(form.inputs.values()),
        dynamic_shapes=({0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=2, max=32)},),
    )
    ids = source.batch(torch.arange(5))["ids"]
    for one, other in zip(program.module()(ids), model(ids).values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_run_starts_from_another_with_its_vocabulary(single: Path, several: Path, tmp_path: Path) -> None:
    first = train(several, tmp_path / "runs", num_epochs=1)
    second = train(single, tmp_path / "runs", **{"num_epochs": 1, "model.init_from": str(first.dir)})
    vocabularies = [json.loads((run.dir / ASSETS).read_text(encoding="utf-8"))["tokens"] for run in (first, second)]
    assert vocabularies[0] == vocabularies[1]


def test_the_default_beats_majority_and_the_linear_baseline(tmp_path: Path) -> None:
    run = hotloop.train("classify", progress=False, keys={"dir": str(tmp_path), "device": "cpu"})
    baselines = json.loads((run.dir / BASELINES).read_text(encoding="utf-8"))
    assert run.summary["best"]["value"] > baselines["linear"]["f1_macro"]
    assert run.summary["best"]["value"] > baselines["majority"]["f1_macro"] + 0.5


def test_the_real_sets_train_together(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    cold, swsr = shared_data("cold/dev.csv"), shared_data("swsr/swsr_comments.csv")
    data = ClassifyData(
        path=(str(cold), str(swsr)),
        label_columns={
            "offensive": "cold/*:label",
            "sexist": "swsr*:label",
            "category": "category",
            "target": "target",
        },
    )
    task = Classify(ClassifyModel(**SMALL), data, seed=1)
    source: Any = task.sources().train
    assert task.classes["category"] == ("MA", "SA", "SCB", "SO")
    notes = "\n".join(task.notes())
    assert "MA 1,994, SA 40, SCB 974, SO 85" in notes
    loss: Any = task.loss(task.model(), source.batch(torch.arange(32)), True)
    assert set(loss) == {"offensive", "sexist", "category", "target"}


def test_heads_are_taken_over_by_their_task_and_not_by_their_place(several: Path, tmp_path: Path) -> None:
    run = train(several, tmp_path / "runs", num_epochs=1)
    _, before = saved_model(RunFolder.open(run.dir))
    given = rows(64, mood_labels=["sad", "glad"], tone_labels=["calm", "loud"])  # tone stands where toxicity stood
    path = write(tmp_path / "other.jsonl", given)
    keys = {"model.init_from": str(run.dir), "optimization.learning_rate": 1e-9, "num_epochs": 1}
    _, after = saved_model(RunFolder.open(train(path, tmp_path / "runs", **keys).dir))
    torch.testing.assert_close(after.heads["task_mood"].weight, before.heads["task_mood"].weight)
    assert set(after.heads) == {"task_mood", "task_tone"}
