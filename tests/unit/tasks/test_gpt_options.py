"""The options of gpt: defaults are nanoGPT's, and combinations that cannot work are named with a way out."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hotloop.errors import HotloopError
from hotloop.tasks import BUILTIN, options_of, task_class
from hotloop.tasks.gpt.options import GptData, GptModel


def test_every_builtin_task_has_options_and_a_class():
    assert BUILTIN
    for name in BUILTIN:
        options, task = options_of(name), task_class(name)
        assert options.name == name
        assert (task.Model, task.Data) == (options.model, options.data)


def test_an_unknown_task_is_named_with_the_nearest():
    with pytest.raises(HotloopError, match="no task named 'gtp'; did you mean 'gpt'"):
        options_of("gtp")
    with pytest.raises(HotloopError, match="no task named 'x'"):
        task_class("x")


def test_the_options_load_no_torch():
    line = "import sys; from hotloop.tasks import options_of; options_of('gpt'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", line], check=False).returncode == 0


def test_the_defaults_are_the_reference_sizes():
    model = GptModel()
    assert (model.n_layer, model.n_head, model.n_embd, model.block_size, model.dropout) == (6, 6, 384, 256, 0.2)
    assert model.problems() == []


def test_heads_that_do_not_divide_the_width_are_told_what_would():
    [(key, why, fix)] = GptModel(n_head=5, n_embd=128).problems()
    assert key == "n_head"
    assert "5 heads do not divide n_embd=128" in why
    assert fix == "use model.n_head=4, or model.n_embd=130"
    assert GptModel(n_head=4, n_embd=128).problems() == GptModel(n_head=5, n_embd=130).problems() == []


def test_rotary_needs_heads_of_even_width():
    [(key, why, fix)] = GptModel(n_head=6, n_embd=30, positions="rotary").problems()
    assert key == "positions"
    assert "heads of 5" in why
    assert GptModel(n_head=6, n_embd=36, positions="rotary").problems() == []
    assert "n_embd=36" in fix
    assert GptModel(n_head=6, n_embd=30, positions="learned").problems() == []


def test_knobs_without_effect_are_said():
    [(key, why, _)] = GptModel(rotary_base=500.0).problems()
    assert (key, why) == ("rotary_base", "learned positions do not rotate")
    assert GptModel(rotary_base=500.0, positions="rotary").problems() == []
    assert [key for key, _, _ in GptData(vocabulary_size=512).problems()] == ["vocabulary_size"]
    assert GptData(vocabulary_size=512, vocabulary="bpe").problems() == GptData().problems() == []
    assert [key for key, _, _ in GptData(sampled_eval_windows=9, val_fraction=0.0).problems()] == [
        "sampled_eval_windows"
    ]


@pytest.mark.parametrize("wrong", [{"dropout": 1.0}, {"n_layer": 0}, {"norm": "batchnorm"}, {"block_size": "64"}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GptModel(**wrong)


def test_a_vocabulary_beyond_16_bits_is_refused():
    with pytest.raises(ValueError, match="vocabulary_size"):
        GptData(vocabulary_size=65537)
