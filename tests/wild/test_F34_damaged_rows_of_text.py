"""F34: a row of a wrong type, a broken line, a wrong encoding: told by file and line at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.tasks.classify_files import rows

from hotloop.cli.main import main

GOOD = [json.dumps(row, ensure_ascii=False).encode() for row in rows(20, label=[0, 1])]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"text": "a", "label"', "cannot be read as JSON"),
        (b'{"text": ["a"], "label": 0}', "text is a list, not a text"),
        (b'["a", 0]', "the row is a list, not an object"),
        ('{"text": "你好", "label": 0}'.encode("gb18030"), "is not UTF-8"),
        (b'{"text": "a", "label": {"x": 1}}', "is no label"),
        (b'{"text": "a", "label": 2}', "is no class"),
    ],
)
def test_the_line_is_named_and_nothing_is_half_read(
    tmp_path: Path, experiments: Path, capsys: pytest.CaptureFixture[str], line: bytes, what: str
) -> None:
    path = tmp_path / "damaged.jsonl"
    path.write_bytes(b"\n".join([*GOOD[:12], line, *GOOD[12:]]) + b"\n")
    arguments = ["train", "classify", f"data.path={path}", "model.num_labels=2", f"experiment.dir={experiments}"]
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main(arguments))
    assert ended.value.code == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert what in shown
    assert f"{path}, line 13" in shown
    assert "Traceback" not in shown
    assert not list(experiments.rglob("*.pt"))


def test_a_missing_file_is_named(tmp_path: Path, experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main(["train", "classify", f"data.path={tmp_path}/absent.jsonl"]))
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert "there is no file" in shown
    assert "absent.jsonl" in shown
    assert not list(experiments.iterdir())
