"""YAML is read as data, with lines, and every fault of a file is said with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hotloop.config.yaml_reader import read_file, read_scalar, read_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5), ("1.5E3", 1500.0), (".5", 0.5), ("10", 10), ("-3", -3), ("010", 10), ("1_000", 1000),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("no", "no"), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"), ("'8'", "8"), ("[1, 2.5, a]", [1, 2.5, "a"]), ("{a: 1}", {"a": 1}), ("a b", "a b"),
        ("[1", "[1"), ("!!python/object/apply:os.system [x]", "!!python/object/apply:os.system [x]"),
    ],
)  # fmt: skip
def test_scalars(text: str, value: Any) -> None:
    read = read_scalar(text)
    assert read == value
    assert type(read) is type(value)


def test_lines_are_those_of_the_file() -> None:
    top, problems = read_text("# comment\ntraining:\n\n  batch_size: 8\n", "f")
    assert problems == []
    assert top["training"].value["batch_size"].line == 4


@pytest.mark.parametrize(
    ("text", "origin", "why"),
    [
        ("", "configuration file", "is empty"),
        ("# only a comment\n", "configuration file", "is empty"),
        ("- 1\n", "f line 1", "expected sections"),
        ("training:\n\tbatch_size: 8\n", "f line 2", "is no valid YAML"),
        ("a: [1\nb: 2\n", "f line 2", "is no valid YAML"),
        ("a: 1\n---\nb: 2\n", "f line 2", "is no valid YAML"),
        ("a: *nothing\n", "f line 1", "is no valid YAML"),
        ("? [a]\n: 1\n", "f line 1", "a key must be a plain name"),
        ("a:\n  b: !!int x\n", "f line 2", "not a value of the type int"),
        ("a:\n  b: {c: {d: {e: {f: 1}}}}\n", "f line 2", "nested more deeply"),
        ("a: " + "[" * 3000, "f line 1", ""),
        ("a: \x00\n", "f line 1", "is no valid YAML"),
    ],
)
def test_faults_of_a_file(text: str, origin: str, why: str) -> None:
    _, problems = read_text(text, "f")
    assert len(problems) == 1
    assert problems[0].origin == origin
    assert why in problems[0].why


def test_a_bomb_of_aliases_is_refused_before_it_grows() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    _, problems = read_text("\n".join(lines), "f")
    assert any("nested more deeply" in problem.why for problem in problems)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"training:\n  # caf\xe9\n")
    _, [problem] = read_file(path)
    assert problem.origin == f"{path} line 2"
    assert problem.why == "is not UTF-8 text (byte 0xe9)"


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    assert read_file(tmp_path)[1][0].why == "is a folder, not a file"
    (tmp_path / "tuned.yaml").write_text("a: 1")
    [problem] = read_file(tmp_path / "tunde.yaml")[1]
    assert problem.why == "there is no such file"
    assert "tuned.yaml" in problem.fix
