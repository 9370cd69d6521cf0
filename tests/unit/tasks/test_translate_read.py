"""Pairs: every kind of file, HLBD as it is, faults told by line, and parts that share no target."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.tasks.pair_files import concepts, hlbd, sample, tsv

from hotloop.errors import HotloopError
from hotloop.tasks.translate.options import TranslateData
from hotloop.tasks.translate.pairs import Pairs, belonging, hold_out, shared
from hotloop.tasks.translate.phrases import chinese_number, english_number, number_phrases
from hotloop.tasks.translate.read import read_pairs

DATA = TranslateData()


def test_a_table_with_names(tmp_path: Path) -> None:
    pairs = read_pairs(tsv(tmp_path / "a.tsv", concepts()), DATA)
    assert (pairs.src[1], pairs.tgt[1], pairs.tags[1], pairs.groups[1]) == ("ONE", "一", "[UP]", "one")


@pytest.mark.parametrize("suffix", [".txt", ".tsv"])
def test_a_table_without_names_says_what_it_took(tmp_path: Path, suffix: str) -> None:
    path = tsv(tmp_path / f"a{suffix}", [('He said "hi.', "他说。", "CC-BY"), ("No.", "不。", "CC-BY")], None)
    pairs = read_pairs(path, DATA)
    assert pairs.src == ['He said "hi.', "No."]
    assert pairs.groups is None
    assert "no line of names, so column 1 is the source and column 2 the target" in pairs.notes[0]


def test_tags_and_groups_are_read_where_the_first_row_lacks_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"src": "a", "tgt": "b", "group": 1}, {"src": "c", "tgt": "d", "tag": "[EN]", "group": 2}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = read_pairs(path, DATA)
    assert (pairs.tags, pairs.groups) == (["", "[EN]"], ["1", "2"])
    path.write_text("".join(json.dumps(row) + "\n" for row in [{"src": "e", "tgt": "f"}, *rows]))
    with pytest.raises(HotloopError, match="the row has no group") as caught:
        read_pairs(path, DATA)
    assert caught.value.where == f"{path}, line 1"


def test_half_of_a_character_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"src": "a", "tgt": "b"}\n{"src": "\\ud83d!", "tgt": "c"}\n')
    with pytest.raises(HotloopError, match="half of a character") as caught:
        read_pairs(path, DATA)
    assert caught.value.where == f"{path}, line 2"


def test_json_lines_with_columns_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"en": "Hi.", "zh": "嗨。", "id": 3}) + "\n")
    data = TranslateData(path=str(path), source_column="en", target_column="zh", group_column="id")
    pairs = read_pairs(path, data)
    assert (pairs.src, pairs.tgt, pairs.groups) == (["Hi."], ["嗨。"], ["3"])


@pytest.mark.parametrize(
    ("rows", "names", "data", "told", "where"),
    [
        ([("a", "")], ("src", "tgt"), {}, "tgt is empty", "line 2"),
        (
            [("a", "b")],
            ("from", "to", "x"),
            {"source_column": "src"},
            "there is no column 'src'; there",
            "a.tsv",
        ),
        ([("a", "b", "c", "d")], ("w", "x", "y", "z"), {}, "no column of the source is found; there are w, x", "a.tsv"),
        ([("a", "b")], ("src", "tgt"), {"group_column": "topic"}, "there is no column 'topic'", "a.tsv"),
        ([("a", "b", "")], ("src", "tgt", "group"), {}, "the row has no group", "line 2"),
        ([("a", "b"), ("c",)], ("src", "tgt"), {}, "the row has 1 cells, and there are 2 columns", "line 3"),
    ],
)
def test_faults_are_told_by_place(tmp_path: Path, rows, names, data, told, where) -> None:
    rows = [row + ("x",) * (len(names) - len(row)) if len(names) == 3 and len(row) == 2 else row for row in rows]
    path = tsv(tmp_path / "a.tsv", rows, names)
    with pytest.raises(HotloopError) as caught:
        read_pairs(path, TranslateData(path=str(path), **data))
    assert told in caught.value.what
    assert where in str(caught.value.where)


def test_a_text_without_tabs_is_no_file_of_pairs(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("just prose\n")
    with pytest.raises(HotloopError, match="the first line holds no tab"):
        read_pairs(tmp_path / "a.txt", DATA)


def test_hlbd_counts_what_it_takes_and_what_it_leaves(tmp_path: Path) -> None:
    samples = [sample(1), sample(2, level_8={"韩문": "한국어2"}), sample(3, level_8={"韩文": {"韩文": "한국어3"}})]
    samples += [sample(4, level_7={"日文": ""}), sample(5, level_6={})]
    pairs = read_pairs(hlbd(tmp_path / "a.txt", samples), DATA)
    assert len(pairs) == 3 * 6 + 5
    assert [text for text, tag in zip(pairs.src, pairs.tags, strict=True) if tag == "[KR]"] == [
        f"한국어{number}" for number in (1, 2, 3, 4)
    ]
    told = "\n".join(pairs.notes)
    assert "5 samples, 23 pairs: [EMOJI] 4, [PHRASE] 4, [EN] 4, [PY] 4, [JP] 3, [KR] 4" in told
    assert "level_8 is spelled in more than one way, all are read: 韩文 4, 韩문 1" in told
    assert "one level deeper than elsewhere, read from there: sample 3 level_8" in told
    assert "level_7.日文 is missing in 1 samples, so no such pair is made: sample 4" in told
    assert "level_6.中文 is missing in 1 samples, so no such pair is made: sample 5" in told
    assert "not used: level_1.字卡 5, level_3.数学 5" in told


def test_broken_hlbd_is_told_by_line(tmp_path: Path) -> None:
    path = hlbd(tmp_path / "a.txt", [sample(1)])
    path.write_text(path.read_text(encoding="utf-8").replace('"level_5": {', '"level_5" {'), encoding="utf-8")
    line = next(n for n, text in enumerate(path.read_text(encoding="utf-8").split("\n"), 1) if '"level_5" {' in text)
    with pytest.raises(HotloopError, match="cannot be read as JSON") as caught:
        read_pairs(path, DATA)
    assert f"line {line}" in caught.value.where


@pytest.mark.parametrize(("raw", "made"), [("100", "600"), ("167", "1002")])
def test_the_raw_files_give_the_published_pairs(shared_data: Callable[[str], Path], raw: str, made: str) -> None:
    found = read_pairs(shared_data(f"hlbd/hlbd_{raw}_concepts.txt"), DATA)
    wanted = read_pairs(shared_data(f"hlbd/pairs_{made}.tsv"), DATA)
    assert (found.src, found.tgt, found.tags, found.groups) == (wanted.src, wanted.tgt, wanted.tags, wanted.groups)
    assert len(found) == int(made)


def test_the_large_file_gives_all_its_pairs(shared_data: Callable[[str], Path]) -> None:
    assert len(read_pairs(shared_data("hlbd/HLBD_Full_V2.json"), DATA)) == 30_000


def test_tatoeba_is_read_whole(shared_data: Callable[[str], Path]) -> None:
    pairs = read_pairs(shared_data("tatoeba-cmn-eng/cmn.txt"), DATA)
    assert len(pairs) == 26_388
    train, val = hold_out(pairs, "group", 0.1, seed=3)
    assert not set(train.tgt) & set(val.tgt)
    assert not set(train.src) & set(val.src)
    assert abs(len(val) - 2639) < 5


def test_held_out_groups_share_no_target(tmp_path: Path) -> None:
    pairs = read_pairs(tsv(tmp_path / "a.tsv", concepts()), DATA)
    train, val = hold_out(pairs, "group", 0.25, seed=1)
    assert not set(train.groups) & set(val.groups)
    assert shared(train, val, "validation") == []


def test_one_target_under_two_groups_stays_on_one_side() -> None:
    pairs = Pairs("x", ["a", "b", "c"], ["一", "一", "二"], groups=["g", "h", "i"])
    first, second, third = belonging(pairs).tolist()
    assert first == second != third


def test_random_parts_say_what_leaks(tmp_path: Path) -> None:
    pairs = read_pairs(tsv(tmp_path / "a.tsv", concepts()), DATA)
    train, val = hold_out(pairs, "random", 0.25, seed=1)
    assert any("targets are trained on too" in line for line in shared(train, val, "validation"))


def test_pairs_that_all_belong_together_cannot_be_parted() -> None:
    pairs = Pairs("x", ["a", "b"], ["一", "一"])
    with pytest.raises(HotloopError, match="no pairs can be held out"):
        hold_out(pairs, "group", 0.5, seed=1)


def test_numbers_are_written_right() -> None:
    assert english_number(312) == "three hundred and twelve"
    assert english_number(9006) == "nine thousand and six"
    assert english_number(40) == "forty"
    written = {0: "零", 10: "十", 12: "十二", 20: "二十", 101: "一百零一", 110: "一百一十"}
    written |= {1010: "一千零一十", 9999: "九千九百九十九"}
    assert {value: chinese_number(value) for value in written} == written


def test_generated_phrases_have_one_translation_each_and_a_seed() -> None:
    pairs = number_phrases(500, 0)
    assert len(set(pairs.src)) == len(pairs)
    assert pairs.src == number_phrases(500, 0).src != number_phrases(500, 1).src
    assert "2028年2月19日星期六" in pairs.tgt


def test_tags_that_are_not_trained_on_are_counted() -> None:
    train = Pairs("a", ["x", "y"], ["1", "2"], tags=["[EN]", ""])
    other = Pairs("a", ["v", "w"], ["3", "4"], tags=["[DE]", ""])
    assert shared(train, other, "validation") == [
        "1 of 2 validation tags are unknown, as the training part has none of them"
    ]
    assert not shared(train, Pairs("a", ["z"], ["9"], tags=["[EN]"]), "validation")


def test_samples_may_begin_on_the_next_line_and_json_lines_are_no_hlbd(tmp_path: Path) -> None:
    path = hlbd(tmp_path / "a.txt", [sample(1)])
    path.write_text(path.read_text(encoding="utf-8").replace("samples = [", "samples =\n["), encoding="utf-8")
    assert len(read_pairs(path, DATA)) == 6
    lines = tmp_path / "a.json"
    lines.write_text(
        json.dumps({"metadata": "x", "src": "a", "tgt": "b"}) + "\n" + json.dumps({"src": "c", "tgt": "d"})
    )
    assert read_pairs(lines, DATA).src == ["a", "c"]
