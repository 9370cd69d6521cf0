"""The translate task as a person meets it: runs, models rebuilt without data, what is measured, `generate`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tests.unit.tasks.pair_files import concepts, tsv

import hotloop
from hotloop.cli.generate import command as generate
from hotloop.engine.measure import evaluate
from hotloop.engine.plan import Plan
from hotloop.errors import HotloopError
from hotloop.runs.store import RunFolder
from hotloop.saved import PLAN, saved_model
from hotloop.task import LossOptions
from hotloop.tasks.characters import EOS, PAD, UNK
from hotloop.tasks.translate.options import TranslateData, TranslateModel
from hotloop.tasks.translate.pairs import Pairs
from hotloop.tasks.translate.task import Translate

SMALL = {"hidden_size": 32, "num_layers": 1, "n_head": 2, "ff_size": 64, "max_sequence_length": 24, "dropout": 0.0}
QUICK = {"device": "cpu", "precision": "fp32", "compile": "off", "threads": 1}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return tsv(tmp_path / "pairs.tsv", concepts())


def made(path: Path, **data: Any) -> Translate:
    return Translate(TranslateModel(**SMALL), TranslateData(path=str(path), **data), seed=1)


def train(path: Path, folder: Path, **keys: Any) -> Any:
    model = {f"model.{name}": value for name, value in SMALL.items()}
    keys = {"num_epochs": 60, "batch_size": 8, "data.val_fraction": 0.25, "optimization.learning_rate": 5e-3, **keys}
    keys |= {"eval_every": 60, "log_every": 60}
    everything = {**QUICK, "data.path": str(path), "dir": str(folder), **model, **keys}
    return hotloop.train("translate", progress=False, keys=everything)


def test_a_batch_holds_what_the_decoder_reads_and_what_it_should_write(pairs: Path) -> None:
    task = made(pairs, val_fraction=0.0)
    batch: Any = task.sources().train.batch(torch.tensor([1, 20]))
    tokens: Any = task.tokens
    assert batch["src"][0].tolist()[0] == tokens.special("[UP]")
    assert tokens.decode(batch["src"][0].tolist()) == "ONE"
    assert tokens.decode(batch["y"][1].tolist()) == "十一"
    assert batch["x"][:, 1:].tolist() == batch["y"][:, :-1].tolist()
    assert batch["weight"].sum(dim=1).tolist() == [2, 3]
    assert (batch["y"] == EOS).sum().item() == 2


def test_padding_counts_nowhere(pairs: Path) -> None:
    task = made(pairs, val_fraction=0.0)
    source: Any = task.sources().train
    model = task.model().eval()
    batch = source.batch(torch.tensor([0, 23]))
    alone = source.batch(torch.tensor([0]))
    loss, _ = task.loss_and_metrics(model, batch)
    first = (loss * batch["weight"])[0].sum()
    torch.testing.assert_close(first, (task.loss(model, alone, False) * alone["weight"]).sum())


def test_an_unknown_character_is_never_right_and_is_told_of_training_too(tmp_path: Path) -> None:
    signs = [chr(0x4E00 + number) for number in range(300)]
    task = made(tsv(tmp_path / "many.tsv", [("", sign, sign, sign) for sign in signs]), vocabulary_size=270)
    batch: Any = task.sources().val.batch(torch.arange(10))
    assert any(line.startswith("training: ") and "unknown: Han" in line for line in task.notes())
    certain = torch.nn.functional.one_hot(batch["y"], task.tokens.size).float()
    tallies = task._tallies(task.model().eval(), certain, batch)
    unknown = int((batch["y"] == UNK).sum())
    assert unknown > 0
    assert int(tallies["accuracy"].sum) == int(batch["weight"].sum()) - unknown


def test_smoothing_is_for_training_only(pairs: Path) -> None:
    task = made(pairs, val_fraction=0.0)
    batch: Any = task.sources().train.batch(torch.tensor([0, 1]))
    model = task.model().eval()
    plain = task.loss(model, batch, True)
    task.loss_options = LossOptions(label_smoothing=0.2)
    assert not torch.allclose(task.loss(model, batch, True), plain)
    torch.testing.assert_close(task.loss(model, batch, False), plain)


def test_a_run_memorises_says_so_and_is_rebuilt_from_its_folder(pairs: Path, tmp_path: Path) -> None:
    run = train(pairs, tmp_path / "runs", **{"data.train_eval": 12, "stop_at": {"eval_exact_match_train": 1.0}})
    assert run.summary["eval_exact_match_train"] == 1.0
    assert run.summary["eval_exact_match"] < 0.5, "no held-out sign was ever seen, so none can be written"
    examples = run.summary["val"]["examples"]
    assert {"source", "translation", "reference"} == set(examples[0])
    moved = Path(shutil.move(run.dir, tmp_path / "moved"))
    pairs.unlink()
    task, model = saved_model(RunFolder.open(moved), "last")
    known = [row for row in concepts() if task.write(model, f"{row[0]} {row[1]}") == row[2]]
    assert len(known) >= 18
    [piece] = task.pieces(tsv(tmp_path / "in.tsv", concepts(), ("tag", "src", "other", "concept")), 100)
    answers = task.answers(task.predict(model, piece.source.batch(torch.arange(24))), piece.rows)
    assert [row["translation"] for row in answers] == [task.write(model, f"{row[0]} {row[1]}") for row in concepts()]
    assert answers[0]["concept"] == "one"


def test_labelled_pairs_are_measured_as_in_training(pairs: Path, tmp_path: Path) -> None:
    run = train(pairs, tmp_path / "runs", num_epochs=20, **{"data.val_fraction": 0.0})
    task, model = saved_model(RunFolder.open(run.dir), "last")
    source = task.labelled(pairs)
    batch: Any = source.batch(torch.arange(24))
    tallies = task.metrics(model, batch)
    right = [task.write(model, f"{row[0]} {row[1]}") == row[2] for row in concepts()]
    assert (tallies["exact_match"].sum / tallies["exact_match"].weight).item() == pytest.approx(sum(right) / 24)


def test_right_after_a_right_beginning_is_right_when_written(pairs: Path) -> None:
    task = made(pairs, val_fraction=0.0)
    splits: Any = task.sources()
    torch.manual_seed(0)
    model = task.model().eval()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    batch = splits.train.batch(torch.arange(24))
    for _ in range(25):  # half learned
        (task.loss(model, batch, True) * batch["weight"]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    written = task._built(task._parts["train"], True).batch(torch.arange(24))
    forced, full = task.metrics(model, batch)["exact_match"], task.metrics(model, written)["exact_match"]
    assert 0 < forced.sum.item() < 24
    assert forced.sum.item() == full.sum.item()


def test_a_tag_may_stand_before_a_line(pairs: Path, tmp_path: Path) -> None:
    task = made(pairs)
    task.sources()
    (tmp_path / "in.txt").write_text("[EN] one\none\n[XX] one\n", encoding="utf-8")
    [piece] = task.pieces(tmp_path / "in.txt", 10)
    tokens: Any = task.tokens
    first = piece.source.batch(torch.arange(3))["src"][:, 0].tolist()
    assert first == [tokens.special("[EN]"), *tokens.encode("o"), *tokens.encode("[")]
    assert piece.rows[0] == {"src": "[EN] one"}


def test_a_run_without_tags_reads_no_column_of_tags(tmp_path: Path) -> None:
    rows = [(src, tgt) for _, src, tgt, _ in concepts()]
    task = made(tsv(tmp_path / "plain.tsv", rows, ("src", "tgt")))
    task.sources()
    path = tsv(tmp_path / "new.tsv", [("news", "one", "一", "one")])
    [piece] = task.pieces(path, 10)
    assert piece.source.batch(torch.arange(1))["src"][0, :3].tolist() == task.tokens.encode("one")
    assert task.labelled(path).batch(torch.arange(1))["src"][0, :3].tolist() == task.tokens.encode("one")


def test_byte_pairs_translate_too(pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    run = train(pairs, tmp_path / "runs", num_epochs=2, **{"data.vocabulary": "bpe", "data.vocabulary_size": 300})
    task, model = saved_model(RunFolder.open(run.dir), "last")
    assert isinstance(task.write(model, "[EN] one", beam=3), str)
    assert task.tokens.decode(task.tokens.encode("七 one")) == "七 one"


def test_long_pairs_are_counted_or_refused(tmp_path: Path) -> None:
    path = tsv(tmp_path / "a.tsv", [*concepts(), ("[EN]", "x" * 40, "长", "long")])
    task = made(path, val_fraction=0.0)
    task.sources()
    assert any("left out 1 pairs longer than 24 tokens; raise model.max_sequence_length (the longest needs 41)" in line
               for line in task.notes())  # fmt: skip
    measured = task.labelled(path)
    assert len(measured) == 24
    assert any("left out 1 pairs longer than 24 tokens" in line for line in measured.notes)
    with pytest.raises(HotloopError, match="1 of 25 training pairs are longer than 24"):
        made(path, val_fraction=0.0, on_long="refuse").sources()


def test_a_run_starts_from_the_words_of_another(pairs: Path, tmp_path: Path) -> None:
    first = train(pairs, tmp_path / "runs", num_epochs=2)
    more = tsv(tmp_path / "more.tsv", [("[EN]", "zwölf", "十二", "a"), ("[EN]", "elf", "十一", "b")] * 3)
    second = train(
        more, tmp_path / "runs", num_epochs=1, **{"model.init_from": str(first.dir), "data.val_fraction": 0.0}
    )
    tokens = [(path / "assets.json").read_text(encoding="utf-8") for path in (first.dir, second.dir)]
    assert tokens[0].split('"widths"')[0] == tokens[1].split('"widths"')[0]


def test_generate_translates_prompts_and_lines(pairs: Path, tmp_path: Path) -> None:
    run = train(pairs, tmp_path / "runs", num_epochs=40)
    runner = CliRunner()
    one = runner.invoke(generate, [str(run.dir), "--prompt", "[EN] three", "--checkpoint", "last"])
    lines = runner.invoke(generate, [str(run.dir), "--checkpoint", "last"], input="[EN] three\n\n[UP] FIVE\n")
    assert one.exit_code == lines.exit_code == 0
    assert len(lines.output.splitlines()) == 2
    assert lines.output.splitlines()[0] == one.output.strip()
    refused = runner.invoke(generate, [str(run.dir), "--prompt", "x", "--temperature", "0.5"])
    assert isinstance(refused.exception, HotloopError)
    assert "know no --temperature" in refused.exception.what
    assert isinstance(runner.invoke(generate, [str(run.dir), "--prompt", " "]).exception, HotloopError)
    assert "no line came in" in str(runner.invoke(generate, [str(run.dir)], input="").exception)
    beam = runner.invoke(generate, [str(run.dir), "--prompt", "x", "--beam", "999"]).exception
    assert "it must be 1 to " in str(beam)
    broken = runner.invoke(generate, [str(run.dir)], input=b"[EN] three\n\xff\n").exception
    assert "byte 0xff, which is not utf-8" in str(broken)


def test_measuring_says_the_same_in_any_batch_size(pairs: Path, tmp_path: Path) -> None:
    run = train(pairs, tmp_path / "runs", num_epochs=20, **{"data.val_fraction": 0.5})
    task, model = saved_model(RunFolder.open(run.dir), "last")
    source = task.labelled(pairs)
    saved = json.loads((run.dir / PLAN).read_text())
    plans = [Plan.from_dict({**saved, "eval_batch": size}) for size in (5, 24)]
    found = [evaluate(task, model, source, plan) for plan in plans]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_four_times_eight_is_thirty_two(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("hlbd/pairs_600.tsv")
    options = TranslateModel(dropout=0.0, hidden_size=64, num_layers=2, n_head=4, ff_size=128)
    task = Translate(options, TranslateData(path=str(path), val_fraction=0.0), seed=1)
    source: Any = task.sources().train
    torch.manual_seed(0)
    model = task.model()
    rows = torch.arange(32) * 17
    gradients = []
    for size in (32, 4):
        model.zero_grad()
        pieces = [source.batch(part) for part in rows.split(size)]
        total = sum(piece["weight"].sum() for piece in pieces)
        for piece in pieces:
            ((task.loss(model, piece, True) * piece["weight"]).sum() / total).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() / gradients[0].norm() < 1e-6


def test_baselines_are_the_most_frequent_and_the_nearest(tmp_path: Path) -> None:
    from hotloop.tasks.translate.baselines import measured

    train_pairs = Pairs("t", ["one cat", "one dog", "two"], ["猫", "狗", "狗"])
    found = measured(train_pairs, {"": Pairs("v", ["a cat", "a dog", "x"], ["猫", "狗", "狗"])})
    assert found["most_frequent"]["exact_match"] == pytest.approx(2 / 3)
    assert found["nearest_source"]["exact_match"] >= 2 / 3


def test_ids_that_are_no_text_are_never_written(pairs: Path) -> None:
    task = made(pairs, val_fraction=0.0)
    batch: Any = task.sources().train.batch(torch.arange(24))
    for seed in range(3):
        torch.manual_seed(seed)
        written = task.predict(task.model().eval(), batch)["tokens"]
        assert set(written.flatten().tolist()) & {1, 2, 4, 5} == set()
        after_end = (written == EOS).cumsum(dim=1) - (written == EOS).long() > 0
        assert written[after_end].eq(PAD).all()


@pytest.mark.parametrize(
    ("row", "told"),
    [(("EN", "two", "x", "y"), "'EN' is no tag of this run"), (("[EN]", "w" * 40, "", ""), "longer than")],
)
def test_a_row_that_cannot_be_translated_is_told_by_line(pairs: Path, tmp_path: Path, row, told: str) -> None:
    task = made(pairs, val_fraction=0.0)
    task.sources()
    path = tsv(tmp_path / "in.tsv", [*concepts(), row])
    with pytest.raises(HotloopError, match=told) as caught:
        list(task.pieces(path, 100))
    assert "in.tsv, line 26" in str(caught.value.where)
