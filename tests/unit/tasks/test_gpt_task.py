"""The gpt task: what it reads, how windows count, what evaluation says, and that a run can be rebuilt without data."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from hotloop.data.sampler import RandomStarts, ShiftedBlocks
from hotloop.errors import HotloopError
from hotloop.tasks.gpt.binary import write_token_folder
from hotloop.tasks.gpt.options import GptData, GptModel
from hotloop.tasks.gpt.task import Gpt

TEXT = "".join(chr(97 + (number * 7) % 23) for number in range(2000)) + "\n"
SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "dropout": 0.0}


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def gpt(path, *, seed: int = 1, block_size: int = 16, **data) -> Gpt:
    return Gpt(GptModel(**{**SIZES, "block_size": block_size}), GptData(path=str(path), **data), seed=seed)


def test_the_split_keeps_the_order_of_the_text(text):
    task = gpt(text)
    splits = task.sources()
    cut = int(len(TEXT) * 0.9)
    first = splits.train.batch(torch.tensor([0, cut - 17]))
    assert task.vocabulary.decode(first["x"][0].tolist()) == TEXT[:16]
    assert task.vocabulary.decode(first["y"][1].tolist()) == TEXT[cut - 16 : cut]
    assert task.vocabulary.decode(splits.val.batch(torch.tensor([0]))["x"][0].tolist()) == TEXT[cut : cut + 16]


@pytest.mark.parametrize("block_size", [1, 7, 16, 50, 199, 200])
def test_validation_counts_every_target_once(text, block_size):
    val_text = TEXT[int(len(TEXT) * 0.9) :]
    task = gpt(text, block_size=block_size)
    source = task.sources().val
    batch = source.batch(torch.arange(len(source)))
    counted = task.vocabulary.decode(batch["y"][batch["weight"] == 1].tolist())
    assert counted == val_text[1:]
    assert set(batch["weight"].flatten().tolist()) <= {0.0, 1.0}


def test_the_notes_say_what_was_read(text):
    task = gpt(text)
    task.sources()
    assert task.notes() == [
        f"text: {text}: 2,001 characters",
        "vocabulary: 24 characters",
        "split: 1,800 characters for training, 201 for validation",
    ]


def test_a_limit_is_counted_in_windows_and_said(text):
    task = gpt(text, limit=3)
    splits = task.sources()
    assert len(splits.train) == 2 * 16 + 1
    assert len(splits.val) == 3
    assert "first 3 windows of each part" in task.notes()[2]


def test_without_a_validation_share_all_is_trained_on(text):
    task = gpt(text, val_fraction=0.0)
    splits = task.sources()
    assert splits.val is None
    assert len(splits.train) == len(TEXT) - 16


def test_a_text_shorter_than_a_window_is_refused(text):
    with pytest.raises(HotloopError, match="validation part holds 201 of 2,001 characters") as caught:
        gpt(text, block_size=256).sources()
    assert "model.block_size=200 or less" in caught.value.fix
    assert len(gpt(text, block_size=200).sources().val) == 1


def test_token_files_give_the_same_windows_as_the_text(text, tmp_path):
    write_token_folder(text, tmp_path / "bins")
    one, two = gpt(text), gpt(tmp_path / "bins")
    from_text, from_files = one.sources(), two.sources()
    places = torch.tensor([0, 100, len(from_text.train) - 1])
    assert len(from_text.train) == len(from_files.train)
    for name, value in from_text.train.batch(places).items():
        assert torch.equal(value, from_files.train.batch(places)[name])
    assert one.vocabulary == two.vocabulary
    assert "token files" in two.notes()[0]


def test_token_files_of_characters_are_not_taken_for_byte_pairs(text, tmp_path):
    write_token_folder(text, tmp_path / "bins")
    with pytest.raises(HotloopError, match="not of a bpe vocabulary"):
        gpt(tmp_path / "bins", vocabulary="bpe").sources()


def test_the_sampled_estimate_is_fixed_by_the_seed(text):
    batches = []
    for seed in (1, 1, 2):
        source = gpt(text, seed=seed, sampled_eval_windows=40).sources().extra["sampled"]
        assert len(source) == 40
        batches.append(source.batch(torch.arange(40))["x"])
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])
    assert not gpt(text).sources().extra


def test_loss_and_metrics_are_unreduced_and_agree_in_one_pass(text):
    task = gpt(text)
    splits = task.sources()
    model = task.model().eval()
    batch = splits.val.batch(torch.arange(len(splits.val)))
    loss, tallies = task.loss_and_metrics(model, batch)
    assert loss.shape == batch["y"].shape == batch["weight"].shape
    assert loss.dtype == torch.float32
    assert torch.equal(loss, task.loss(model, batch, False))
    log_shares = model(batch["x"]).log_softmax(-1)
    torch.testing.assert_close(loss, -log_shares.gather(-1, batch["y"].unsqueeze(-1)).squeeze(-1))
    right = (log_shares.argmax(-1) == batch["y"]) & (batch["weight"] == 1)
    assert tallies["accuracy"].sum.item() == task.metrics(model, batch)["accuracy"].sum.item() == right.sum().item()
    assert tallies["accuracy"].weight.item() == 200


def test_the_loss_is_float32_in_half_precision(text):
    task = gpt(text)
    batch = task.sources().train.batch(torch.tensor([0]))
    assert task.loss(task.model().bfloat16(), batch, True).dtype == torch.float32


def test_sampling_random_is_uniform_and_an_epoch_is_the_text_once(text):
    task = gpt(text)
    source = task.sources().train
    sampler = task.sampler(source, 10, seed=3)
    assert isinstance(sampler, RandomStarts)
    assert sampler.steps_per_epoch == 1799 // 160
    drawn = np.concatenate([sampler.indices(0, step) for step in range(500)])
    assert drawn.min() < 20
    assert len(source) - 20 < drawn.max() < len(source)
    assert drawn.mean() == pytest.approx(len(source) / 2, rel=0.03)


def test_sampling_shifted_gives_every_token_at_most_once_an_epoch(text):
    task = gpt(text, sampling="shifted")
    source = task.sources().train
    sampler = task.sampler(source, 10, seed=3)
    assert isinstance(sampler, ShiftedBlocks)
    starts = [np.concatenate([sampler.indices(e, s) for s in range(sampler.steps_per_epoch)]) for e in (0, 1)]
    for epoch in starts:
        targets = (epoch[:, None] + np.arange(1, 17)).ravel()
        assert len(set(targets.tolist())) == len(targets) >= 1800 - 2 * 16
        assert targets.max() < 1800
        assert epoch.max() < len(source)
    assert not np.array_equal(starts[0], starts[1])


def test_a_run_is_rebuilt_from_its_assets_alone(text):
    task = gpt(text)
    task.sources()
    again = gpt("absent.txt")
    again.use_assets(json.loads(json.dumps(task.assets())))
    assert again.vocabulary == task.vocabulary
    again.model().load_state_dict(task.model().state_dict())


def test_byte_pairs_are_learned_on_the_training_part_only(tmp_path):
    pytest.importorskip("tokenizers")
    path = tmp_path / "text.txt"
    path.write_text("abab " * 900 + "xyxy " * 100)
    task = gpt(path, vocabulary="bpe", vocabulary_size=265)
    task.sources()
    assert len(task.vocabulary.encode("abab")) == 1
    assert len(task.vocabulary.encode("xyxy")) == 4
    assert "tokens for training" in task.notes()[2]


def test_the_reference_text_is_read_as_nanogpt_reads_it(shared_data):
    task = Gpt(GptModel(), GptData(path=str(shared_data("tinyshakespeare/input.txt"))), seed=1)
    splits = task.sources()
    assert task.vocabulary.size == 65
    assert len(splits.train) + 256 == 1_003_854
    batch = splits.val.batch(torch.arange(len(splits.val)))
    assert batch["weight"].sum().item() == 111_540 - 1
    loss = task.loss(small_model(task), {name: part[:2] for name, part in batch.items()}, False)
    assert loss.mean().item() == pytest.approx(math.log(65), abs=0.2)


def small_model(task: Gpt) -> torch.nn.Module:
    """A model for the task's vocabulary that is quick to build."""
    task.model_options = GptModel(**{**SIZES, "block_size": 256})
    return task.model()


def test_baselines_are_frequencies_of_the_training_part(text):
    from hotloop.tasks.gpt.baselines import measured

    tokens = np.array([0, 1, 0, 1, 0, 2], dtype=np.uint16)
    found = measured(tokens, np.array([0, 1, 0], dtype=np.uint16), 3)
    share = np.array([4, 3, 2]) / 9
    assert found["unigram"]["loss"] == pytest.approx(-(math.log(share[1]) + math.log(share[0])) / 2)
    after = math.log((2 + share[1]) / 4), math.log((2 + share[0]) / 3)
    assert found["bigram"]["loss"] == pytest.approx(-sum(after) / 2)
    task = gpt(text)
    splits = task.sources()
    known = task.baselines(splits)
    assert known["bigram"]["loss"] < 0.1 < known["unigram"]["loss"], "each letter follows one other"
    assert measured(tokens, tokens, 4096).keys() == {"unigram"}
