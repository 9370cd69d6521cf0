"""F32: symbols without enough rows skipped silently. Preparing bars lists each: its name, its rows, the rows needed.

A symbol that was asked for and is not in the table is named as well, and so is one whose rows all lie outside the
period.
"""

from __future__ import annotations

import datetime
import json
import sqlite3

import pytest

from hotloop.cli.main import main

FIRST = datetime.date(2024, 1, 1)


@pytest.fixture
def database(tmp_path):
    """LONG has 300 bars, EDGE as many as are needed, SHORT one less, ONE a single one."""
    connection = sqlite3.connect(tmp_path / "bars.db")
    connection.execute("CREATE TABLE bars (symbol, date, open, high, low, close, volume)")
    for symbol, days in {"LONG": 300, "EDGE": 150, "SHORT": 149, "ONE": 1}.items():
        for day in range(days):
            price = 10 + day % 7
            row = (symbol, (FIRST + datetime.timedelta(day)).isoformat(), price, price + 1, price - 1, price, 100 + day)
            connection.execute("INSERT INTO bars VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    connection.commit()
    connection.close()
    return f"sqlite:///{tmp_path / 'bars.db'}"


def test_every_short_symbol_is_listed_with_its_rows(database, tmp_path, capsys):
    arguments = ["prepare", "forecast", str(tmp_path / "cache"), "--database", database, "--min-rows", "150"]
    assert main([*arguments, "--workers", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    for symbol, rows in {"SHORT": "149", "ONE": "1"}.items():
        assert any({symbol, rows, "150"} <= set(line.replace(",", " ").split()) for line in said), (symbol, said)
    manifest = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    assert manifest["short"] == {"ONE": {"rows": 1, "needed": 150}, "SHORT": {"rows": 149, "needed": 150}}
    assert set(manifest["symbols"]) == {"LONG", "EDGE"}


def test_an_absent_symbol_and_one_outside_the_period_are_named(database, tmp_path, capsys):
    arguments = ["prepare", "forecast", str(tmp_path / "cache"), "--database", database, "--workers", "1", "--json"]
    period = ["--start-date", "2024-06-01"]  # day 152: after the last bar of EDGE
    assert main([*arguments, *period, "--symbols", "LONG,EDGE,GONE"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["absent"] == ["GONE"]
    assert answer["short"]["EDGE"]["rows"] == 0
    assert set(answer["symbols"]) == {"LONG"}


def test_when_no_symbol_is_long_enough_the_command_fails_and_says_so(database, tmp_path, capsys):
    arguments = ["prepare", "forecast", str(tmp_path / "cache"), "--database", database, "--workers", "1"]
    assert main([*arguments, "--min-rows", "1000"]) == 2
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert all(name in said for name in ("LONG", "EDGE", "SHORT", "ONE", "1000"))
    assert "Traceback" not in said
