"""Reading texts: what is read, how it is split, and what is said when it cannot be."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from hotloop.errors import HotloopError
from hotloop.tasks.gpt.text import check_long_enough, embedded_text, read_text, split_at


def test_the_embedded_text_is_the_manual_and_says_so():
    text = embedded_text()
    assert len(text.content) > 300_000
    assert 'The "assert" statement' in text.content
    assert "manual of Python" in text.name
    assert "no data.path given" in text.name


def test_line_ends_and_byte_order_mark_are_read_as_text(tmp_path):
    file = tmp_path / "dos.txt"
    file.write_bytes("\ufeffa\r\nb\rc\n\u00e9".encode())
    assert read_text(file).content == "a\nb\nc\n\u00e9"


def test_an_empty_text_is_refused(tmp_path):
    file = tmp_path / "empty.txt"
    file.touch()
    with pytest.raises(HotloopError, match=r"is empty \(0 characters\)"):
        read_text(file)


def test_a_text_in_another_encoding_is_refused_with_the_place(tmp_path):
    file = tmp_path / "latin.txt"
    file.write_bytes(b"first\ncaf\xe9 noir")
    with pytest.raises(HotloopError, match=r"not UTF-8: byte 0xe9 at offset 9 \(line 2\)"):
        read_text(file)


def test_a_token_file_named_as_text_is_told_to_name_its_folder(tmp_path):
    file = tmp_path / "train.bin"
    file.write_bytes(b"\xff\xff\x00")
    with pytest.raises(HotloopError, match=r"fix: name the folder that holds train.bin and val.bin"):
        read_text(file)


def test_a_folder_without_token_files_points_at_the_text_in_it(tmp_path):
    (tmp_path / "input.txt").write_text("hello")
    with pytest.raises(HotloopError, match=r"holds no train.bin and val.bin") as caught:
        read_text(tmp_path)
    assert f"data.path={tmp_path / 'input.txt'}" in caught.value.fix


def test_an_unreadable_text_is_told_why(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # a superuser may read everything, so the refusal is staged
    with pytest.raises(HotloopError, match="cannot be read: Permission denied"):
        read_text(tmp_path / "secret.txt")


def test_the_split_is_that_of_nanogpt():
    assert split_at(1_115_394, 0.1) == 1_003_854
    assert split_at(7, 0.0) == 7


def test_a_text_shorter_than_a_window_says_what_would_fit():
    with pytest.raises(HotloopError) as caught:
        check_long_enough(900, 100, 256, "characters", "some.txt")
    assert "its validation part holds 100 of 1,000 characters" in caught.value.what
    assert "needs 257" in caught.value.what
    assert "model.block_size=99 or less" in caught.value.fix
    check_long_enough(900, 100, 99, "characters", "some.txt")
    with pytest.raises(HotloopError, match="its training part holds 5 of 15 tokens"):
        check_long_enough(5, 10, 5, "tokens", "some.txt")


def test_a_text_of_one_character_offers_no_block_size():
    with pytest.raises(HotloopError) as caught:
        check_long_enough(0, 1, 1, "characters", "one.txt")
    assert "block_size=" not in caught.value.fix
