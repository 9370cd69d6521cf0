"""Preparing as a whole: faults of a symbol do not stop the others, and the order of work leaves no trace."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.unit.data.prepare.invented import NAMES, bars

import hotloop.data.prepare.run as run
from hotloop.data.prepare import PrepareOptions, prepare, prepare_embedded
from hotloop.data.prepare.cache import read_cache
from hotloop.data.prepare.symbol import Preparer
from hotloop.errors import HotloopError, Interrupted

# what is changed in row 100 of a symbol -> column and words of the fault
WRONG = {
    "open": (0.0, "open", "not above zero (0)"),
    "high": (1.0, "high", "a high below the low (1)"),
    "low": (-2.5, "low", "not above zero (-2.5)"),
    "close": (None, "close", "no finite number (nan)"),
    "volume": (-1, "volume", "a negative volume (-1)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_impossible_value_is_told_with_row_date_and_column_and_stops_nothing(name, sqlite, tmp_path):
    value, column, words = WRONG[name]
    bad = bars("BAD", 150)
    bad[99][NAMES.index(name)] = value
    manifest = prepare(tmp_path / "c", sqlite(list(reversed(bad)) + bars("GOOD", 150)), PrepareOptions())
    assert list(manifest["symbols"]) == ["GOOD"]
    fault = manifest["failed"]["BAD"]
    assert (fault["rows"], fault["dates"], fault["column"]) == ([100], ["2020-04-09"], column)
    assert words in fault["reason"]
    assert "row 100 (2020-04-09)" in fault["reason"]


@pytest.mark.parametrize(
    ("value", "words"), [("much", "'much' is no number"), (float("inf"), "no finite number (inf)")]
)
def test_a_value_that_is_no_number_is_told(value, words, sqlite, tmp_path):
    bad = bars("BAD", 150)
    bad[9][NAMES.index("close")] = value
    manifest = prepare(tmp_path / "c", sqlite(bad), PrepareOptions())
    assert words in manifest["failed"]["BAD"]["reason"]
    assert manifest["failed"]["BAD"]["rows"] == [10]


def test_two_bars_of_one_time_are_told(sqlite, tmp_path):
    bad = bars("BAD", 150)
    bad[20][1] = bad[19][1]
    fault = prepare(tmp_path / "c", sqlite(bad), PrepareOptions())["failed"]["BAD"]
    assert (fault["rows"], fault["column"], fault["dates"]) == ([21], "time", ["2020-01-20"])


def test_a_time_that_is_missing_is_told(sqlite, tmp_path):
    bad = bars("BAD", 150)
    bad[20][1] = None
    fault = prepare(tmp_path / "c", sqlite(bad), PrepareOptions())["failed"]["BAD"]
    assert "there is no time in row 21" in fault["reason"]


def test_a_price_whose_features_overflow_is_told(sqlite, tmp_path):
    bad = bars("BAD", 150)
    bad[99][2:6] = [1e-300, 1e300, 1e-300, 1e-300]
    fault = prepare(tmp_path / "c", sqlite(bad), PrepareOptions())["failed"]["BAD"]
    assert "out of the range of float32" in fault["reason"]
    assert 100 in fault["rows"]


def test_rows_without_a_symbol_are_told(sqlite, tmp_path):
    lost = [[None, *row[1:]] for row in bars("X", 3)]
    manifest = prepare(tmp_path / "c", sqlite(bars("A", 150) + lost), PrepareOptions())
    assert list(manifest["symbols"]) == ["A"]
    assert "rows without a symbol" in manifest["failed"]["(no symbol)"]["reason"]


def test_short_and_absent_symbols_are_listed(sqlite, tmp_path):
    url = sqlite(bars("A", 150) + bars("B", 10) + bars("C", 119) + bars("D", 120))
    manifest = prepare(tmp_path / "c", url, PrepareOptions(symbols=("D", "B", "C", "Z")))
    assert list(manifest["symbols"]) == ["D"]
    assert manifest["short"] == {"B": {"rows": 10, "needed": 120}, "C": {"rows": 119, "needed": 120}}
    assert manifest["absent"] == ["Z"]


def test_fewer_rows_than_the_indicators_need_are_short_whatever_is_asked(sqlite, tmp_path):
    manifest = prepare(tmp_path / "c", sqlite(bars("A", 59) + bars("B", 60)), PrepareOptions(min_rows=5))
    assert manifest["short"] == {"A": {"rows": 59, "needed": 60}}
    assert manifest["symbols"]["B"]["rows"] == 1


def test_the_limit_and_the_period_are_kept(sqlite, tmp_path):
    options = PrepareOptions(limit=2, start="2020-01-11", end="2020-06-30")
    manifest = prepare(tmp_path / "c", sqlite(bars("C", 300) + bars("A", 300) + bars("B", 300)), options)
    assert list(manifest["symbols"]) == ["A", "B"]
    assert manifest["symbols"]["A"]["first"] == "2020-03-10"
    assert manifest["symbols"]["A"]["last"] == "2020-06-30"


def test_workers_leave_the_same_bytes_as_this_process_alone(sqlite, contents, tmp_path):
    url = sqlite([row for symbol in "ABCDEFG" for row in bars(symbol, 150)] + bars("SHORT", 9))
    said = []
    prepare(tmp_path / "one", url, PrepareOptions())
    prepare(tmp_path / "two", url, PrepareOptions(workers=2), report=said.append)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(contents(tmp_path / "one"))[-1] == "manifest.json"
    assert [at.done for at in said] == list(range(9))
    assert said[-1].seconds_left == 0


@pytest.fixture
def interrupted(sqlite, tmp_path, monkeypatch):
    """A cache whose preparing was interrupted after two of four symbols, and its URL."""
    url = sqlite([row for symbol in "ABCD" for row in bars(symbol, 150)])

    class Interrupting(Preparer):
        def __call__(self, symbol, value):
            if symbol == "C":
                raise KeyboardInterrupt
            return super().__call__(symbol, value)

    with monkeypatch.context() as patch:
        patch.setattr(run, "Preparer", Interrupting)
        with pytest.raises(Interrupted, match="2 of 4") as told:
            prepare(tmp_path / "c", url, PrepareOptions())
    assert "--resume" in told.value.fix
    return tmp_path / "c", url


def test_interrupted_it_goes_on_and_does_no_finished_symbol_again(interrupted, contents, tmp_path):
    folder, url = interrupted
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "bars").iterdir()}
    assert len(before) == 2
    (folder / "bars" / ".C.parquet.tmp").write_bytes(b"half")  # as a kill may leave it
    with open(folder / "done.jsonl", "ab") as file:
        file.write(b'{"symbol": "C", "fi')
    prepare(folder, url, PrepareOptions(resume=True))
    assert {name: (folder / "bars" / name).stat().st_mtime_ns for name in before} == before
    prepare(tmp_path / "whole", url, PrepareOptions())
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_finished_symbol_whose_file_is_damaged_is_done_again(interrupted, contents, tmp_path):
    folder, url = interrupted
    (folder / "bars" / "A.parquet").write_bytes(b"damaged")
    (folder / "bars" / "B.parquet").unlink()
    prepare(folder, url, PrepareOptions(resume=True))
    prepare(tmp_path / "whole", url, PrepareOptions())
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_folder_that_holds_bars_is_refused_without_resume(interrupted, sqlite):
    folder, url = interrupted
    with pytest.raises(HotloopError, match="already holds") as told:
        prepare(folder, url, PrepareOptions())
    assert "--resume" in told.value.fix
    prepare(folder, url, PrepareOptions(resume=True))
    with pytest.raises(HotloopError, match="already holds"):
        prepare(folder, url, PrepareOptions())


@pytest.mark.parametrize("finished", [False, True])
def test_resume_with_other_options_names_them_and_changes_nothing(interrupted, contents, finished):
    folder, url = interrupted
    if finished:
        prepare(folder, url, PrepareOptions(resume=True))
    before = contents(folder)
    with pytest.raises(HotloopError, match="min_rows: 120 before, 100 now") as told:
        prepare(folder, url, PrepareOptions(resume=True, min_rows=100, end="2020-05-01"))
    assert "end: none before" in told.value.what
    assert contents(folder) == before


def test_a_symbol_that_failed_is_tried_again_by_resume(sqlite, tmp_path):
    rows = bars("A", 150) + bars("B", 150)
    rows[10][5] = -1.0
    assert list(prepare(tmp_path / "c", sqlite(rows), PrepareOptions())["failed"]) == ["A"]
    url = sqlite(bars("A", 150) + bars("B", 150))
    manifest = prepare(tmp_path / "c", url, PrepareOptions(resume=True))
    assert list(manifest["symbols"]) == ["A", "B"]
    assert not manifest["failed"]


def test_a_finished_symbol_that_the_table_lost_is_told(sqlite, tmp_path):
    prepare(tmp_path / "c", sqlite(bars("A", 150) + bars("B", 150)), PrepareOptions())
    with pytest.raises(HotloopError, match="no longer lists: B"):
        prepare(tmp_path / "c", sqlite(bars("A", 150)), PrepareOptions(resume=True))


def test_an_attempt_that_prepared_nothing_binds_nobody(sqlite, tmp_path):
    url = sqlite(bars("A", 100))
    assert not prepare(tmp_path / "c", url, PrepareOptions())["symbols"]
    assert list(prepare(tmp_path / "c", url, PrepareOptions(min_rows=80))["symbols"]) == ["A"]


def test_adjusted_prices_are_used_and_said(sqlite, tmp_path):
    names = (*NAMES, "Adj Close")
    url = sqlite([[*row, row[5] / 4] for row in bars("A", 150)], names)
    manifest = prepare(tmp_path / "c", url, PrepareOptions())
    assert manifest["source"]["adjusted"] is True
    plain = sqlite(bars("A", 150), table="plain")
    prepare(tmp_path / "plain", plain, PrepareOptions(table="plain"))
    adjusted, unadjusted = (read_cache(tmp_path / name).read("A")[1] for name in ("c", "plain"))
    assert adjusted[:, :4] == pytest.approx(unadjusted[:, :4] / 4, rel=1e-6)
    assert adjusted[:, 4:] == pytest.approx(unadjusted[:, 4:], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": "yesterday"}, "no date"),
        ({"start": "2021-01-01", "end": "2020-01-01"}, "comes after"),
        ({"limit": 0}, "--limit is 0"),
        ({"workers": -1}, "--workers is -1"),
        ({"min_rows": 0}, "--min-rows is 0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, words):
    with pytest.raises(HotloopError, match=words):
        PrepareOptions(**options)


def test_the_embedded_database_is_not_written_into_the_cache_of_another(sqlite, contents, tmp_path):
    prepare(tmp_path / "c", sqlite(bars("A", 150)), PrepareOptions())
    before = contents(tmp_path / "c")
    with pytest.raises(HotloopError, match="not the simulated ones"):
        prepare_embedded(tmp_path / "c", seed=0)
    assert contents(tmp_path / "c") == before


def test_the_manifest_holds_no_password_and_no_time(sqlite, tmp_path):
    prepare(tmp_path / "c", sqlite(bars("A", 150)), PrepareOptions())
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest) == {
        "version", "source", "synthetic", "options", "features", "columns", "symbols", "failed", "short", "absent",
    }  # fmt: skip


def test_a_script_without_a_guard_is_told_so_at_once(sqlite, tmp_path):
    url = sqlite([row for symbol in "ABC" for row in bars(symbol, 150)])
    script = tmp_path / "mine.py"
    script.write_text(
        "from pathlib import Path\nfrom hotloop.data.prepare import PrepareOptions, prepare\n"
        f"prepare(Path({str(tmp_path / 'c')!r}), {url!r}, PrepareOptions(workers=2))\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "__main__" in done.stderr.splitlines()[-1]
