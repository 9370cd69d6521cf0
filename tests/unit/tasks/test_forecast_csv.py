"""A CSV file becomes a series whole, or is refused with file, line, column and what to do."""

from __future__ import annotations

import datetime
import time

import numpy as np
import pytest

from hotloop.errors import HotloopError
from hotloop.tasks.forecast.csv_file import read_csv

GOOD = "date,a,b\n2020-01-01,1,2\n2020-01-02,3,4.5\n2020-01-03,5,-6e1\n"


@pytest.fixture
def file(tmp_path):
    def write(content: str | bytes):
        path = tmp_path / "series.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_dates_and_numbers_are_read(file):
    series, columns, dated = read_csv(file(GOOD))
    assert columns == ("a", "b")
    assert dated
    assert series.values.tolist() == [[1, 2], [3, 4.5], [5, -60]]
    assert series.values.dtype == np.float32
    day = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
    assert series.times[1] == day.timestamp() * 1e9


@pytest.mark.parametrize(
    "content",
    [
        GOOD.replace(",", ";"),
        GOOD.replace(",", "\t"),
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        GOOD + "\n\n",
        GOOD.replace("-0", "/0"),
        GOOD.replace("date", "when"),
    ],
)
def test_other_notations_give_the_same(file, content):
    plain, columns, dated = read_csv(file(GOOD))
    other, others, also = read_csv(file(content))
    assert (columns, dated) == (others, also)
    assert np.array_equal(plain.values, other.values)
    assert np.array_equal(plain.times, other.times)


def test_without_dates_times_are_row_numbers(file):
    series, columns, dated = read_csv(file("a,b\n1,2\n3,4\n"))
    assert (columns, dated, series.times.tolist()) == (("a", "b"), False, [0, 1])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (GOOD.replace("4.5", "four"), r"'four' is not a finite number\n.*line 3, column b"),
        (GOOD.replace("4.5", ""), r"value is missing\n.*line 3, column b\n.*nothing is invented"),
        (GOOD.replace("4.5", "NaN"), r"value is missing\n.*line 3, column b"),
        (GOOD.replace("4.5", "inf"), r"'inf' is not a finite number\n.*line 3, column b"),
        (GOOD.replace("4.5", "1e300"), r"beyond what float32 can hold\n.*line 3, column b"),
        (GOOD.replace("3,4.5", "3"), r"2 cells, and the header names 3 columns\n.*line 3"),
        (GOOD.replace("01-02", "01-03"), r"stands there twice\n.*line 4, column date"),
        (GOOD.replace("01-02", "01-09"), r"before the date of the line above\n.*line 4, column date"),
        (GOOD.replace("2020-01-02", "someday"), r"'someday' is not a date\n.*line 3, column date"),
        (GOOD.replace("date,a,b", "date,a,a"), "names the column 'a' more than once"),
        (GOOD.replace("date,a,b", "date,,b"), "column 2 has no name"),
        (GOOD.replace("date,a,b\n2020-01-01,1,2\n", "1,2,3\n"), r"holds numbers only; it must name the columns"),
        ("date\n2020-01-01\n", "no column of numbers"),
        ("date,a\n", "no rows below its header"),
        ("", "the file is empty"),
        (b"a,b\n1,2\n\xff\xfe,3\n", r"byte 0xff is not UTF-8.*\n.*line 3"),
    ],
)
def test_a_fault_is_told_by_its_place(file, content, said):
    with pytest.raises(HotloopError, match=said):
        read_csv(file(content))


def test_a_column_of_text_may_stand_beside_those_that_are_read(file):
    path = file("date,symbol,a,b\n2020-01-01,ONE,1,2\n2020-01-02,ONE,3,4\n")
    with pytest.raises(HotloopError, match=r"'ONE' is not a finite number\n.*column symbol\n.*data.columns"):
        read_csv(path)
    series, columns, _ = read_csv(path, {"b", "a"})
    assert columns == ("a", "b")
    assert series.values.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(HotloopError, match=r"none of the columns asked for\n.*\n.*date, symbol, a, b"):
        read_csv(path, {"c"})


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(HotloopError, match="does not exist"):
        read_csv(tmp_path / "absent.csv")


def test_the_real_file_is_read_in_a_moment(shared_data):
    path = shared_data("ett/ETTh1.csv")
    before = time.process_time()
    series, columns, _ = read_csv(path)
    assert time.process_time() - before < 2.0
    assert series.values.shape == (17420, 7)
    assert columns == ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
