"""Rows of files: what is read from each kind, and that every damage is told by file and line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hotloop.data.records import Record, read_records
from hotloop.errors import HotloopError

ROWS = [{"text": "你好", "label": 1}, {"text": "a\nb", "label": None}]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def fault(path: Path) -> HotloopError:
    with pytest.raises(HotloopError) as caught:
        list(read_records(path))
    return caught.value


def test_a_json_list_tells_the_line_of_each_row(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.json", json.dumps(ROWS, indent=1, ensure_ascii=False))
    assert list(read_records(path)) == [Record(ROWS[0], 2), Record(ROWS[1], 6)]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson", "rows.json"])
def test_json_lines_skip_blank_lines(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, "\n\n".join(json.dumps(row) for row in ROWS) + "\n")
    assert [(found.values, found.line) for found in read_records(path)] == [(ROWS[0], 1), (ROWS[1], 3)]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_signs_that_end_a_line_elsewhere_stay_in_a_text(tmp_path: Path, name: str) -> None:
    rows = [{"text": "a\u2028b\u0085c"}, {"text": "d"}]
    path = write(tmp_path, name, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert [(found.values, found.line) for found in read_records(path)] == [(rows[0], 1), (rows[1], 2)]


def test_a_table_with_quotes_line_ends_inside_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.csv", b'\xef\xbb\xbf,text,label\r\n0,"a, ""b""\nc",1\r\n\r\n1,d,\r\n')
    found = list(read_records(path))
    assert found[0] == Record({"": "0", "text": 'a, "b"\nc', "label": "1"}, 2)
    assert found[1] == Record({"": "1", "text": "d", "label": ""}, 5)


def test_tab_separated_text_keeps_its_quotes_and_may_have_no_header(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.tsv", 'say "hi\t說\n"a"\tb\n')
    assert [found.values for found in read_records(path, columns=("src", "tgt"))] == [
        {"src": 'say "hi', "tgt": "說"},
        {"src": '"a"', "tgt": "b"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "line", "what"),
    [
        ("a.jsonl", '{"text": 1}\n{"text": \n', 2, "expecting value"),
        ("a.jsonl", '{"text": 1}\n\n["text"]\n', 3, "a list, not an object"),
        ("a.jsonl", '{"text": 1, "text": 2}\n', 1, "stands twice"),
        ("a.json", '[{"text": 1},\n {"text": oh}]', 2, "expecting value"),
        ("a.json", '[{"text": 1}\n {"text": 2}]', 2, "a comma or ] is missing"),
        ("a.json", '[{"text": 1},\n {"text": 2}\n', 2, "not closed"),
        ("a.json", '[{"text": 1},\n 7]', 2, "a number, not an object"),
        ("a.json", '{"rows": []}', 1, "no list of rows"),
        ("a.json", "[\n]", 2, "no rows"),
        ("a.csv", "text,label\na,1\nb\n", 3, "1 cells, and there are 2 columns"),
        ("a.csv", "text,label\na,1,2\n", 2, "3 cells"),
        ("a.csv", 'text,label\n"a\nb,1\nc,2\n', 2, "cannot be read"),
        ("a.csv", "text,text\na,1\n", 1, "stands twice"),
        ("a.csv", "text,label\na,1\n\u4f60,2\n".encode("gb18030"), 3, "as gb18030"),
        ("a.jsonl", '{"text": "\u4f60\u597d"}\n'.encode("big5"), 1, "big5"),
        ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), 1, "as utf-16"),
    ],
)
def test_damage_is_told_by_file_and_line(tmp_path: Path, name: str, content: str | bytes, line: int, what: str) -> None:
    path = write(tmp_path, name, content)
    error = fault(path)
    assert what in error.what
    assert error.where == f"{path}, line {line}"


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.tsv"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_told(tmp_path: Path, name: str, content: str) -> None:
    assert "empty" in fault(write(tmp_path, name, content)).what


def test_a_missing_file_a_folder_and_an_unknown_kind_are_told_before_a_row_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "b.json").mkdir()
    for name, what in (("a.json", "there is no file"), ("b.json", "is a folder"), ("c.xlsx", "no kind of file")):
        with pytest.raises(HotloopError, match=what):
            read_records(tmp_path / name)


def test_rows_stream_without_the_rest_being_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "a"}\n{broken\n')
    assert next(read_records(path)).values == {"text": "a"}


def test_the_real_sets_are_read_whole(shared_data: Callable[[str], Path]) -> None:
    counts = {"cold/train.csv": 25726, "cold/dev.csv": 6431, "cold/test.csv": 5323, "swsr/swsr_comments.csv": 8969}
    for name, count in counts.items():
        assert sum(1 for _ in read_records(shared_data(name))) == count
