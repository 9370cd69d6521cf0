"""Generation: the seed decides, the cache changes nothing, long texts slide, and bad arguments are named."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from hotloop.cli import generate as page
from hotloop.errors import HotloopError
from hotloop.tasks.gpt.generate import choose, generate
from hotloop.tasks.gpt.model import Transformer
from hotloop.tasks.gpt.options import GptModel
from hotloop.tasks.gpt.vocabulary import BareIds, Characters

VOCABULARY = Characters("\n abcdefghi")
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "dropout": 0.3}


def build(**options) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(GptModel(**{**SIZES, **options}), VOCABULARY.size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_the_seed_decides_whatever_was_drawn_before():
    model = build()
    one = generate(model, VOCABULARY, "abc", length=40, seed=7)
    torch.manual_seed(99)
    assert generate(model, VOCABULARY, "abc", length=40, seed=7) == one
    assert generate(model, VOCABULARY, "abc", length=40, seed=8) != one
    assert one.startswith("abc")
    assert len(one) == 43


def test_the_global_random_state_and_the_mode_stay_as_they_were():
    model, before = build().train(), torch.get_rng_state()
    generate(model, VOCABULARY, "abc", length=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(parameter.requires_grad and not parameter.is_inference() for parameter in model.parameters())


def test_greedy_text_equals_the_uncached_crop_of_nanogpt():
    model = build()
    written = generate(model, VOCABULARY, "abc", length=30, temperature=0)
    model.eval()
    ids = VOCABULARY.encode("abc").tolist()
    for _ in range(30):
        ids.append(int(model(torch.tensor([ids[-8:]]))[0, -1].argmax()))
    assert written == VOCABULARY.decode(ids)


def test_rotary_text_goes_on_beyond_the_block():
    written = generate(build(positions="rotary", token_shift=True), VOCABULARY, "abc", length=50, temperature=0)
    assert len(written) == 53


def test_a_prompt_longer_than_the_block_is_read_from_its_end():
    model = build()
    long, short = "abcdefghi abc", "fghi abc"[-8:]
    one = generate(model, VOCABULARY, long, length=10, seed=3)
    assert one.removeprefix(long) == generate(model, VOCABULARY, short, length=10, seed=3).removeprefix(short)


def test_an_empty_prompt_starts_on_a_new_line_that_is_not_shown():
    model = build()
    assert "\n" + generate(model, VOCABULARY, "", length=20, seed=2) == generate(
        model, VOCABULARY, "\n", length=20, seed=2
    )
    torch.manual_seed(0)
    bare = Transformer(GptModel(**SIZES), 5)
    assert len(generate(bare, BareIds(5), "", length=4).split()) == 4


def test_unknown_characters_in_the_prompt_are_named():
    with pytest.raises(
        HotloopError, match=r"prompt cannot be encoded: 2 characters are not in the vocabulary: 'X', '!'"
    ):
        generate(build(), VOCABULARY, "aXb!")


@pytest.mark.parametrize(
    ("argument", "value"), [("length", -1), ("temperature", -0.1), ("temperature", float("nan")), ("top_k", 0)]
)
def test_arguments_out_of_range_are_named(argument, value):
    with pytest.raises(HotloopError, match=f"{argument} is {value}"):
        generate(build(), VOCABULARY, "a", **{argument: value})


def test_top_k_keeps_the_likeliest_and_temperature_sharpens():
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0])
    draws = torch.Generator().manual_seed(0)
    assert {choose(logits, 1.0, 2, draws) for _ in range(200)} == {2, 3}
    assert {choose(logits, 1.0, None, draws) for _ in range(400)} == {0, 1, 2, 3}
    assert {choose(logits, 1e-30, None, draws) for _ in range(20)} == {3}
    assert {choose(logits, 0.0, None, draws) for _ in range(20)} == {3}
    share = sum(choose(logits, 1.0, None, draws) == 3 for _ in range(2000)) / 2000
    assert share == pytest.approx(logits.softmax(0)[3].item(), abs=0.05)


def test_damaged_weights_are_said():
    model = build()
    torch.nn.init.constant_(model.final_norm.weight, float("nan"))
    with pytest.raises(HotloopError, match="not finite"):
        generate(model, VOCABULARY, "a", length=1)


@pytest.fixture
def run(tmp_path):
    """A run folder as training leaves it, with other weights in its best checkpoint than at its end."""
    options = {**SIZES, "dropout": 0.0}
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"task": "gpt", "model": options}))
    (tmp_path / "assets.json").write_text(json.dumps({"vocabulary": VOCABULARY.to_json()}))
    torch.save(build().state_dict(), tmp_path / "final_model.pt")
    best = build()
    torch.nn.init.normal_(best.token_embedding.weight)
    torch.save({"model": best.state_dict(), "step": 3}, tmp_path / "checkpoints" / "best_model.pt")
    return tmp_path


def test_the_command_writes_with_the_weights_asked_for(run):
    arguments = [str(run), "--prompt", "ab", "--length", "30", "--seed", "5"]
    best, last = (CliRunner().invoke(page.command, [*arguments, "--checkpoint", name]) for name in ("best", "last"))
    assert best.exit_code == last.exit_code == 0, best.output + last.output
    assert best.output.startswith("ab")
    assert last.output == generate(build(), VOCABULARY, "ab", length=30, seed=5) + "\n"
    assert best.output != last.output


def test_a_run_without_a_best_checkpoint_uses_its_end_and_says_so(run):
    (run / "checkpoints" / "best_model.pt").unlink()
    done = CliRunner().invoke(page.command, [str(run), "--length", "3"])
    assert done.exit_code == 0
    assert "kept no best checkpoint; final_model.pt is used" in done.stderr
    assert "note:" not in done.stdout


def said(run, *arguments: str) -> str:
    done = CliRunner().invoke(page.command, [str(run), *arguments])
    assert isinstance(done.exception, HotloopError), done.exception
    return str(done.exception)


def test_what_is_wrong_with_a_run_is_said(run, tmp_path_factory):
    assert "no run at" in said(run / "absent")
    assert "'mars' is not a device" in said(run, "--device", "mars")
    (run / "final_model.pt").write_bytes(b"torn")
    assert "final_model.pt is damaged" in said(run, "--checkpoint", "last")
    torch.save({"other": torch.zeros(1)}, run / "final_model.pt")
    assert "not of this run's model" in said(run, "--checkpoint", "last")
    (run / "final_model.pt").unlink()
    assert "has saved no weights yet" in said(run, "--checkpoint", "last")
    (run / "assets.json").unlink()
    assert "the run has no assets.json" in said(run)
    (run / "config.json").write_text('{"task": "Mine"}')
    assert "started from Python" in said(run)
