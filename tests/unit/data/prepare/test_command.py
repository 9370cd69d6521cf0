"""`hotloop prepare forecast` as a person types it: tables, JSON, exit codes, and what is said of faults."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.unit.data.prepare.invented import NAMES, bars

from hotloop.cli.main import main


@pytest.fixture
def url(sqlite):
    bad = bars("BAD", 150)
    bad[99][NAMES.index("close")] = -3.0
    return sqlite(bars("GOOD", 150) + bad + bars("FEW", 10))


def test_what_was_prepared_and_what_was_not_is_listed(url, tmp_path, capsys):
    words = ["prepare", "forecast", str(tmp_path / "c"), "--database", url, "--symbols", "GOOD,BAD,FEW,GONE"]
    assert main([*words, "--workers", "1"]) == 0
    said = capsys.readouterr()
    for line in (
        "GOOD      91  2020-02-29  2020-05-29",
        "BAD     failed  column close: a price that is not above zero (-3) in row 100 (2020-04-09)",
        "FEW     short   10 rows, and 120 are needed",
        "GONE    absent  not in the table",
        "1 prepared, 1 failed, 1 short, 1 absent",
        "hotloop train forecast data.path=",
    ):
        assert line in said.out
    assert "preparing 3/3, 1 failed" in said.err


def test_json_is_the_manifest_and_nothing_else(url, tmp_path, capsys):
    folder = tmp_path / "c"
    assert main(["prepare", "forecast", str(folder), "--database", url, "--workers", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.pop("folder") == str(folder)
    assert told == json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def test_nothing_prepared_is_a_fault_with_the_reasons(url, tmp_path, capsys):
    words = ["prepare", "forecast", str(tmp_path / "c"), "--database", url, "--symbols", "FEW,GONE", "--json"]
    assert main(words) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["absent"] == ["GONE"]
    assert "no symbol could be prepared" in said.err
    assert "FEW: short, 10 rows" in said.err
    assert "GONE: absent" in said.err


def test_without_a_database_the_bars_are_called_synthetic(tmp_path, capsys):
    assert main(["prepare", "forecast", str(tmp_path / "c"), "--limit", "2", "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "synthetic" in said
    assert "SIM02" in said
    assert "SIM03" not in said
    assert (tmp_path / "c" / "simulated.duckdb").is_file()


def test_adjusted_prices_are_said(sqlite, tmp_path, capsys):
    url = sqlite([[*row, row[5] / 4] for row in bars("A", 150)], (*NAMES, "adj_close"))
    assert main(["prepare", "forecast", str(tmp_path / "c"), "--database", url]) == 0
    assert "prices are adjusted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--column", "time"], "--column time=day"),
        (["--symbols", ","], "no symbol is named"),
        (["--workers", "-2"], "--workers is -2"),
        (["--table", "prices"], "--table is one of bars"),
        (["--start-date", "1.5.2020"], "is no date"),
    ],
)
def test_what_cannot_be_meant_is_told(words, told, url, tmp_path, capsys):
    assert main(["prepare", "forecast", str(tmp_path / "c"), "--database", url, *words]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said
    assert not (tmp_path / "c").exists()


def test_preparing_loads_no_torch(tmp_path):
    line = (
        "import sys; from hotloop.cli.main import main; "
        "assert main(['prepare', 'forecast', sys.argv[1], '--limit', '1']) == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", line, str(tmp_path / "c")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_without_a_folder_the_bars_go_to_bars(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "forecast", "--limit", "1", "--workers", "1"]) == 0
    assert (tmp_path / "bars" / "manifest.json").is_file()
    assert "hotloop train forecast data.path=bars" in capsys.readouterr().out
