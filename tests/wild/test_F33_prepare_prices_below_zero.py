"""F33: adjusted prices below zero turned into returns or logs. Preparing refuses the symbol: row, date, column, value.

Long histories of shares that paid much are adjusted below zero by some vendors. A return over the sign change is
nonsense, and a logarithm is NaN; neither may reach a feature. The other symbols are prepared as if it were not there.
"""

from __future__ import annotations

import datetime
import json
import sqlite3

import numpy as np
import pytest

from hotloop.cli.main import main
from hotloop.data.prepare.cache import read_cache

FIRST = datetime.date(2024, 1, 1)
COLUMNS = ("symbol", "date", "open", "high", "low", "close", "adj_close", "volume")


@pytest.fixture
def prepared(tmp_path, capsys):
    """`prepared("adj_close", {(ROW, VALUE), ...})`: GOOD beside BAD with those values, prepared; what was said."""

    def run(column, values):
        connection = sqlite3.connect(tmp_path / "bars.db")
        connection.execute(f"CREATE TABLE bars ({', '.join(COLUMNS)})")
        for day in reversed(range(200)):  # stored newest first: rows are counted in time order all the same
            price, date = 10 + day % 7, (FIRST + datetime.timedelta(day)).isoformat()
            good = dict(zip(COLUMNS, ("GOOD", date, price, price + 1, price - 1, price, price * 0.5, 9), strict=True))
            bad = {**good, "symbol": "BAD", column: dict(values).get(day + 1, good[column])}
            for bar in (good, bad):
                connection.execute("INSERT INTO bars VALUES (?, ?, ?, ?, ?, ?, ?, ?)", tuple(bar.values()))
        connection.commit()
        connection.close()
        url = f"sqlite:///{tmp_path / 'bars.db'}"
        code = main(["prepare", "forecast", str(tmp_path / "cache"), "--database", url, "--workers", "1"])
        return code, capsys.readouterr().out, json.loads((tmp_path / "cache" / "manifest.json").read_text())

    return run


@pytest.mark.parametrize("value", [-0.25, 0.0])
@pytest.mark.parametrize("column", ["open", "low", "close", "adj_close"])
def test_a_price_below_or_at_zero_is_reported_by_symbol_row_and_column(prepared, column, value, tmp_path):
    code, said, manifest = prepared(column, {(3, value), (171, value)})
    assert code == 0
    failed = manifest["failed"]["BAD"]
    assert failed["rows"] == [3, 171]
    assert failed["dates"] == ["2024-01-03", "2024-06-19"]
    assert failed["column"] == column
    assert f"{value:g}" in failed["reason"]
    assert "BAD" in said
    assert column in said
    assert "2024-01-03" in said
    assert not list((tmp_path / "cache" / "bars").glob("BAD*"))


def test_the_other_symbols_are_prepared_without_any_value_that_is_not_finite(prepared, tmp_path):
    _, _, manifest = prepared("adj_close", {(100, -4.0)})
    assert set(manifest["symbols"]) == {"GOOD"}
    _, values = read_cache(tmp_path / "cache").read("GOOD")
    assert len(values)
    assert np.isfinite(values).all()


def test_many_such_rows_are_counted_and_five_are_named(prepared):
    _, said, manifest = prepared("adj_close", {(row, -1.0) for row in range(11, 61)})
    assert manifest["failed"]["BAD"]["rows"] == [11, 12, 13, 14, 15]
    assert "49 more" in said + manifest["failed"]["BAD"]["reason"]
