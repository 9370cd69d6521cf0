"""F44: NaN in an order-book file. Told before the run: which rows and which column of which file, and how many."""

from __future__ import annotations

import numpy as np
import pytest

from hotloop.errors import HotloopError
from hotloop.tasks.lob.options import LobData, LobModel
from hotloop.tasks.lob.simulate import simulate
from hotloop.tasks.lob.task import Lob


def sources(path):
    return Lob(LobModel(), LobData(path=str(path)), seed=1).sources()


def test_rows_of_a_book(tmp_path):
    books = simulate(3, 300, 100, 1)
    rows = books.rows.numpy().copy()
    rows[[7, 8, 40, 500, 501, 800], 3] = np.nan
    rows[7, 5] = np.inf
    ids = np.array(books.names)[books.symbols.numpy()]
    np.savez(tmp_path / "book.npz", rows=rows, start=books.starts.numpy(), y=books.y.numpy(), stock_ids=ids)
    with pytest.raises(HotloopError) as caught:
        sources(tmp_path / "book.npz")
    assert "'rows' holds 7 values that are NaN or infinite, in 6 rows: 7, 8, 40, 500, 501, ..." in caught.value.what
    assert "nan in column 3" in caught.value.what
    assert "book.npz" in caught.value.where


def test_whole_windows_and_weights(tmp_path):
    x = np.ones((30, 100, 20), dtype=np.float32)
    x[12, 50, 4] = -np.inf
    np.savez(tmp_path / "x.npz", X=x, y=np.zeros(30, dtype=int))
    with pytest.raises(HotloopError, match=r"'X' holds 1 values .* in 1 windows: 12; the first is -inf in column 4"):
        sources(tmp_path / "x.npz")
    weights = np.ones(30)
    weights[3] = np.nan
    draw = np.random.default_rng(0)
    level = draw.random((30, 100, 1)) + draw.random((30, 100, 20)) * np.tile([0, 1], 10)
    np.savez(tmp_path / "w.npz", X=level, y=np.zeros(30, dtype=int), weights=weights)
    with pytest.raises(HotloopError, match=r"'weights' holds 1 values .* windows: 3"):
        sources(tmp_path / "w.npz")
