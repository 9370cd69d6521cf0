"""The prepared cache on disk: files for any symbol, read back as written, damage and half-finished work told."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.unit.data.prepare.invented import FIRST, bars

from hotloop.data.prepare import PrepareOptions, prepare, prepare_embedded
from hotloop.data.prepare.cache import file_name, read_cache
from hotloop.data.prepare.indicators import WARMUP
from hotloop.errors import HotloopError

AWKWARD = ["A", "a", "BRK.B", "BRK/B", "BRK_B", "../../x", "0700.HK", "CON", "con.x", ".", "..", "", " A", "^GSPC", "-",
           "\u817e\u8baf", "\u963f\u91cc", "A" * 300, "A" * 301, "A\0B", "nul", "A."]  # fmt: skip


def test_every_symbol_has_its_own_plain_file():
    names = [file_name(symbol) for symbol in AWKWARD]
    folded = {name.lower() for name in names}
    assert len(folded) == len(AWKWARD)
    for name in names:
        assert name.startswith("bars/")
        assert name.count("/") == 1
        assert name.isascii()
        assert len(name) < 120
    assert file_name("BRK.B") == "bars/BRK.B.parquet"


@pytest.fixture
def cache(sqlite, tmp_path):
    prepare(tmp_path / "cache", sqlite(bars("A", 150) + bars("\u817e\u8baf/x", 150)), PrepareOptions())
    return tmp_path / "cache"


def test_what_is_read_is_what_was_in_the_table(cache):
    opened = read_cache(cache)
    assert opened.symbols == ("A", "\u817e\u8baf/x")
    for symbol in opened.symbols:
        times, values = opened.read(symbol)
        rows = bars(symbol, 150)[WARMUP:]
        assert values.dtype == np.float32
        assert values.shape == (150 - WARMUP, len(opened.manifest["columns"]) - 1)
        assert times[0] == (np.datetime64(FIRST) + WARMUP).astype("datetime64[ns]").astype(np.int64)
        assert (np.diff(times) > 0).all()
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values[:, :5], [row[2:] for row in rows], rtol=1e-6)


def test_the_manifest_says_what_is_in_the_files(cache):
    manifest = read_cache(cache).manifest
    entry = manifest["symbols"]["A"]
    assert entry["rows"] == 150 - WARMUP
    assert entry["warmup"] == WARMUP
    assert entry["first"] == "2020-02-29"
    assert entry["last"] == "2020-05-29"
    assert manifest["columns"] == ["time", "open", "high", "low", "close", "volume", *manifest["features"]]
    assert manifest["synthetic"] is False
    assert (manifest["failed"], manifest["short"], manifest["absent"]) == ({}, {}, [])


def test_other_libraries_read_the_files(cache):
    frame = pytest.importorskip("pandas", reason="pandas is not installed").read_parquet(cache / "bars" / "A.parquet")
    assert list(frame.columns) == read_cache(cache).manifest["columns"]
    assert str(frame["time"].iloc[0]) == "2020-02-29 00:00:00"


def test_a_damaged_file_is_told(cache):
    path = cache / "bars" / "A.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(HotloopError, match="not as it was written") as told:
        read_cache(cache).read("A")
    assert "--resume" in told.value.fix


def test_a_missing_file_is_told(cache):
    (cache / "bars" / "A.parquet").unlink()
    with pytest.raises(HotloopError, match="A.parquet"):
        read_cache(cache).read("A")


def test_an_unknown_symbol_is_told(cache):
    with pytest.raises(HotloopError, match="no symbol 'B'"):
        read_cache(cache).read("B")


def test_a_folder_without_a_cache_is_told(tmp_path):
    with pytest.raises(HotloopError, match="no prepared bars"):
        read_cache(tmp_path)


def test_an_unfinished_cache_is_told(tmp_path):
    (tmp_path / "done.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(HotloopError, match="not finished") as told:
        read_cache(tmp_path)
    assert "--resume" in told.value.fix


def test_a_manifest_of_another_version_or_none_at_all_is_told(cache):
    path = cache / "manifest.json"
    path.write_text(json.dumps({"version": 99}), encoding="utf-8")
    with pytest.raises(HotloopError, match="version 99"):
        read_cache(cache)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(HotloopError, match="cannot be read"):
        read_cache(cache)


def test_the_embedded_bars_are_synthetic_and_the_same_every_time(tmp_path):
    first = read_cache(prepare_embedded(tmp_path / "a", seed=3, symbols=3, days=200))
    second = read_cache(prepare_embedded(tmp_path / "b", seed=3, symbols=3, days=200))
    assert first.manifest == second.manifest
    assert first.manifest["synthetic"] is True
    assert first.symbols == ("SIM01", "SIM02", "SIM03")
    other = read_cache(prepare_embedded(tmp_path / "c", seed=4, symbols=3, days=200))
    assert other.manifest != first.manifest
