"""Data that is missing, unreadable, empty or too short: what, where and how to mend it, before a run folder is made."""

from __future__ import annotations

import os

import pytest


def refused(warm, tiny, folder, path: str) -> str:
    """What the command says about `path`; nothing may be left behind."""
    arguments = [argument for argument in tiny if not argument.startswith("data.path")]
    ended = warm(folder, *arguments, f"data.path={path}")
    assert ended.code == 2, ended.out + ended.err
    assert "Traceback" not in ended.err
    assert not (folder / "experiments").exists()
    return ended.err


def test_a_missing_file(warm, tiny, tmp_path):
    said = refused(warm, tiny, tmp_path, "absent.txt")
    assert "the text 'absent.txt' does not exist" in said
    assert "data.path" in said
    assert "fix: " in said


def test_an_empty_file(warm, tiny, tmp_path):
    (tmp_path / "empty.txt").touch()
    assert "the text 'empty.txt' is empty" in refused(warm, tiny, tmp_path, "empty.txt")


@pytest.mark.parametrize("length", [1, 16, 17, 100])
def test_a_text_shorter_than_a_block(length, warm, tiny, tmp_path):
    (tmp_path / "short.txt").write_text("ab" * (length // 2) + "a" * (length % 2))
    said = refused(warm, tiny, tmp_path, "short.txt")
    assert "too short" in said
    assert "block_size 16 needs 17" in said
    assert "fix: " in said


def test_an_unreadable_file(warm, tiny, tmp_path):
    if os.geteuid():
        path = tmp_path / "locked.txt"
        path.write_text("text")
        path.chmod(0)
        reason = "Permission denied"
    else:  # nothing is locked for root, but this file cannot be read by anybody from its beginning
        path, reason = "/proc/self/mem", "Input/output error"
        if not os.path.exists(path):
            pytest.skip("no file that root cannot read")
    said = refused(warm, tiny, tmp_path, str(path))
    assert "cannot be read" in said
    assert reason in said
    assert "data.path" in said


def test_a_folder_without_token_files(warm, tiny, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "novel.txt").write_text("once")
    said = refused(warm, tiny, tmp_path, "texts")
    assert "holds no train.bin and val.bin" in said
    assert "novel.txt" in said


def test_a_file_that_is_not_utf8(warm, tiny, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"first line\nna\xefve\n")
    said = refused(warm, tiny, tmp_path, "latin.txt")
    assert "not UTF-8" in said
    assert "line 2" in said


def test_a_place_for_runs_that_cannot_be_written(warm, tiny, place, tmp_path):
    place(tmp_path)
    (tmp_path / "file").touch()
    ended = warm(tmp_path, *tiny, "experiment.dir=file/runs")
    assert ended.code == 2
    assert "Traceback" not in ended.err
    assert "cannot create" in ended.err
    assert "experiment.dir" in ended.err
