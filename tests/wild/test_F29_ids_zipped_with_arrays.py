"""F29: ids of samples zipped with arrays of stocks: all get the first one. Here each window has its own."""

from __future__ import annotations

import numpy as np
import pytest

from hotloop.errors import HotloopError
from hotloop.tasks.lob.options import LobData, LobModel
from hotloop.tasks.lob.task import Lob


def book(path, ids):
    draw = np.random.default_rng(0)
    rows = np.repeat(np.arange(3.0), 150)[:, None] * np.ones(20) + draw.random((450, 1)) * 0.1
    start = np.concatenate([np.arange(51) + 150 * symbol for symbol in range(3)])
    y = np.arange(153) % 3
    np.savez(path, rows=rows.astype(np.float32), start=start, y=y, stock_ids=ids)
    return Lob(LobModel(), LobData(path=str(path), layout="level"), seed=1)


def test_each_window_has_its_own_symbol(tmp_path):
    splits = book(tmp_path / "rows.npz", np.repeat(np.array(["c", "a", "b"]), 51)).sources()
    for part in (splits.train, splits.val):
        names = [part.books.names[number] for number in part.column("group").tolist()]
        prices = part.batch(part.column("group") * 0 + np.arange(len(part)))["x"][:, 0, 0].int().tolist()
        assert names == [("c", "a", "b")[price] for price in prices]


def test_one_id_for_each_stock_is_refused(tmp_path):
    with pytest.raises(HotloopError, match=r"'stock_ids' has shape \(3,\), and there are 153 windows"):
        book(tmp_path / "rows.npz", np.array(["c", "a", "b"])).sources()
