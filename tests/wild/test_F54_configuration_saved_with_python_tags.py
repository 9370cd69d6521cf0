"""F54: a configuration saved with python/object tags. Here it is plain and any YAML or JSON reader reads it."""

from __future__ import annotations

import json

import yaml

from hotloop.config import to_plain, to_yaml
from hotloop.config.load import load
from hotloop.tasks.gpt.options import OPTIONS

ARGUMENTS = ["--betas", "0.8,0.9", "--stop-at", "eval_loss=1.5", "--notes", "a: b # c", "--compile", "off"]


def test_another_reader_reads_what_was_saved() -> None:
    config = load(OPTIONS, arguments=ARGUMENTS).config
    text = to_yaml(config)
    assert "!!" not in text
    assert yaml.safe_load(text) == {key: value for key, value in to_plain(config).items() if value != {}}


def test_plain_values_survive_json_unchanged() -> None:
    plain = to_plain(load(OPTIONS, arguments=ARGUMENTS).config)
    assert json.loads(json.dumps(plain)) == plain
    assert plain["optimization"]["betas"] == [0.8, 0.9]
