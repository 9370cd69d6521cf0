"""Reading bars from a database: names found by themselves, faults told with what there is, passwords never shown."""

from __future__ import annotations

import datetime
from decimal import Decimal

import duckdb
import pytest
from tests.unit.data.prepare.invented import NAMES, bars

from hotloop.data.prepare.bars import BarFault, PrepareOptions
from hotloop.data.prepare.database import Database, match_columns, shown_url
from hotloop.data.prepare.reading import moment, to_bars
from hotloop.errors import HotloopError


def test_columns_are_found_by_their_usual_names_whatever_their_case():
    present = ["Ticker", "Trade_Date", "OPEN", "High", "low", "Close", "Vol", "Adj Close", "name"]
    found = match_columns(present, {}, "bars")
    assert found["symbol"] == "Ticker"
    assert found["time"] == "Trade_Date"
    assert found["volume"] == "Vol"
    assert found["adj_close"] == "Adj Close"
    assert "name" not in found.values()


def test_a_missing_column_is_told_with_what_the_table_has():
    with pytest.raises(HotloopError) as told:
        match_columns(["symbol", "date", "open", "close"], {}, "table 'bars'")
    assert "high, low, volume" in told.value.what
    assert "symbol, date, open, close" in told.value.fix


def test_two_columns_that_could_be_the_time_are_not_guessed():
    present = [*NAMES, "time"]
    with pytest.raises(HotloopError, match="date, time") as told:
        match_columns(present, {}, "bars")
    assert "--column time=" in told.value.fix
    assert match_columns(present, {"time": "date"}, "bars")["time"] == "date"


def test_a_named_column_must_exist():
    with pytest.raises(HotloopError, match="no column 'day'"):
        match_columns(NAMES, {"time": "day"}, "bars")


def test_only_columns_of_bars_can_be_named():
    with pytest.raises(HotloopError, match="no column 'colour'"):
        PrepareOptions(columns={"colour": "red"})


def test_a_missing_table_is_told_with_the_tables_there_are(sqlite):
    url = sqlite(bars("A", 3), table="prices")
    with pytest.raises(HotloopError, match="no table 'bars'") as told:
        Database(url, "bars", {})
    assert "prices" in told.value.fix


def test_a_table_is_found_whatever_its_case(sqlite):
    database = Database(sqlite(bars("A", 3), table="Bars"), "bars", {})
    assert list(database.symbols()) == ["A"]
    database.close()


def test_symbols_are_sorted_text_and_their_rows_are_found(sqlite):
    rows = [[2330 if row[0] == "X" else 50, *row[1:]] for row in bars("X", 4) + bars("Y", 3)]
    database = Database(sqlite(rows), "bars", {})
    symbols = database.symbols()
    assert list(symbols) == ["2330", "50"]
    assert len(database.rows(symbols["2330"])) == 4
    database.close()


def test_duckdb_gives_the_same_bars_as_sqlite(sqlite, tmp_path):
    rows = bars("A", 20)
    with duckdb.connect(str(tmp_path / "bars.duckdb")) as connection:
        kinds = "symbol varchar, date date, open double, high double, low double, close decimal(18, 6), volume bigint"
        connection.execute(f"create table bars ({kinds})")
        connection.executemany("insert into bars values (?, ?, ?, ?, ?, ?, ?)", rows)
    read = []
    for url in (sqlite(rows), f"duckdb:///{tmp_path / 'bars.duckdb'}"):
        database = Database(url, "bars", {})
        assert not database.adjusted
        read.append(to_bars(database.rows("A"), database.columns, PrepareOptions()))
        database.close()
    assert (read[0].times == read[1].times).all()
    for name, values in read[0].columns.items():
        assert read[1].columns[name] == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_file_that_is_not_there_is_told_and_not_made(kind, tmp_path):
    with pytest.raises(HotloopError, match="no file"):
        Database(f"{kind}:///{tmp_path / 'gone.db'}", "bars", {})
    assert not list(tmp_path.iterdir())


def test_a_database_in_memory_holds_nothing_to_read():
    with pytest.raises(HotloopError, match="names no file"):
        Database("sqlite://", "bars", {})


def test_a_file_that_is_no_database_is_told(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("these are notes, and no database at all\n" * 100, encoding="utf-8")
    with pytest.raises(HotloopError, match="database") as told:
        Database(f"sqlite:///{path}", "bars", {})
    assert "notes.db" in told.value.where


def test_a_url_that_cannot_be_read_is_not_repeated():
    with pytest.raises(HotloopError, match="cannot be read") as told:
        Database("user:secret@host", "bars", {})
    assert "secret" not in str(told.value)


def test_a_driver_that_is_missing_is_told_with_the_package():
    with pytest.raises(HotloopError, match="MySQLdb") as told:
        Database("mysql://user:secret@localhost/market", "bars", {})
    assert told.value.fix == "pip install 'mysqlclient'"
    assert "secret" not in str(told.value)


def test_an_old_name_of_postgresql_is_mended():
    with pytest.raises(HotloopError, match="'postgres'") as told:
        Database("postgres://localhost/market", "bars", {})
    assert "postgresql://" in told.value.fix


def test_a_server_that_does_not_answer_is_told_without_the_password():
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    with pytest.raises(HotloopError, match="cannot connect to") as told:
        Database("postgresql+psycopg://user:secret@127.0.0.1:1/market?connect_timeout=2", "bars", {})
    assert "127.0.0.1:1/market" in told.value.where
    assert "secret" not in str(told.value)


def test_a_url_is_shown_without_what_is_secret():
    shown = shown_url("postgresql://user:secret@host/name?sslpassword=hidden&sslmode=require")
    assert shown == "postgresql://user@host/name?sslmode=require"


def day_of(value):
    names = ("time", "close")
    return moment(int(to_bars([(value, 1.0)], names, PrepareOptions()).times[0]))


@pytest.mark.parametrize(
    "value",
    [
        "2024-03-05",
        "2024-03-05 00:00:00.000000",
        "20240305",
        20240305,
        datetime.date(2024, 3, 5),
        datetime.datetime(2024, 3, 5),
        datetime.datetime(2024, 3, 5, 8, tzinfo=datetime.timezone(datetime.timedelta(hours=8))),
    ],
)
def test_dates_are_read_in_the_ways_that_drivers_give_them(value):
    assert day_of(value) == "2024-03-05"


@pytest.mark.parametrize("value", [None, "tomorrow", 12, True, 3.5, "0001-01-01"])
def test_what_is_no_date_is_told(value):
    with pytest.raises(BarFault, match="column time"):
        day_of(value)


def test_the_period_takes_both_its_days_and_rows_come_in_time_order():
    rows = [(f"2024-03-0{day} 23:30:00", Decimal(day)) for day in (5, 1, 4, 2, 3)]
    read = to_bars(rows, ("time", "close"), PrepareOptions(start="2024-03-02", end="2024-03-04"))
    assert read.columns["close"].tolist() == [2, 3, 4]
    assert moment(int(read.times[0])) == "2024-03-02T23:30:00"
