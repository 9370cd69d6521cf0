"""Reading order books: every kind of file, and every fault with its file, array and row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hotloop.errors import HotloopError
from hotloop.tasks.lob.options import LobData, LobModel
from hotloop.tasks.lob.simulate import simulate
from hotloop.tasks.lob.task import Lob


def arrays(symbols: int = 4, seed: int = 5) -> dict[str, np.ndarray]:
    """Rows, starts, labels, weights and ids of a small book in the layout block."""
    books = simulate(symbols, 300, 100, seed)
    block = [*range(2, 20, 4), *range(0, 20, 4), *range(3, 20, 4), *range(1, 20, 4)]
    ids = np.array(books.names)[books.symbols.numpy()]
    weights = np.ones(len(books.y), dtype=np.float32)
    rows, start, y = books.rows.numpy()[:, block], books.starts.numpy(), books.y.numpy()
    return {"rows": rows, "start": start, "y": y, "weights": weights, "stock_ids": ids}


def save(path, **changed):
    found = {**arrays(), **changed}
    np.savez(path, **{name: value for name, value in found.items() if value is not None})
    return path


def windows(found: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([found["rows"][start : start + 100] for start in found["start"]])


def lob(path, **data) -> Lob:
    return Lob(LobModel(), LobData(path=str(path), **data), seed=1)


def test_both_forms_of_npz_give_the_same_windows_in_the_published_order(tmp_path):
    found = arrays()
    rows = lob(save(tmp_path / "rows.npz")).sources()
    whole = {"X": windows(found), "y": found["y"], "stock_ids": found["stock_ids"]}
    np.savez(tmp_path / "whole.npz", **whole)
    other = lob(tmp_path / "whole.npz").sources()
    chosen = torch.arange(10)
    assert torch.equal(rows.val.batch(chosen)["x"], other.val.batch(chosen)["x"])
    assert torch.equal(rows.val.column("y"), other.val.column("y"))
    x = rows.train.batch(chosen)["x"]
    assert (x[..., 0] > x[..., 2]).all()  # ask above bid


def test_the_order_of_columns_is_seen_and_can_be_said(tmp_path):
    found = arrays()
    level = simulate(4, 300, 100, 5).rows.numpy()
    path = save(tmp_path / "level.npz", rows=level)
    chosen = torch.arange(4)
    seen = lob(path).sources().train.batch(chosen)["x"]
    assert torch.equal(seen, lob(path, layout="level").sources().train.batch(chosen)["x"])
    assert torch.equal(seen, lob(save(tmp_path / "block.npz")).sources().train.batch(chosen)["x"])
    noise = np.random.default_rng(0).random(found["rows"].shape).astype(np.float32)
    with pytest.raises(HotloopError, match="order of the columns cannot be told") as caught:
        lob(save(tmp_path / "noise.npz", rows=noise)).sources()
    assert "data.layout=block" in caught.value.fix


def test_a_folder_of_parts_is_read_as_they_are_named(tmp_path):
    for number, part in enumerate(("train", "val", "test")):
        np.savez(tmp_path / f"stock_{part}.npz", **arrays(symbols=2, seed=number))
    task = lob(tmp_path)
    splits = task.sources()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [102, 102, 102]
    assert "test_balanced_accuracy" in task.baselines(splits)["linear"]
    assert [note.split(":")[0] for note in task.notes()] == ["train", "val", "test", "memory"]


def fi2010(path, events: int = 150, seed: int = 0, **lines: float):
    draw = np.random.default_rng(seed)
    matrix = np.vstack([draw.random((144, events)), draw.integers(1, 4, (5, events))])
    for line, value in lines.items():
        matrix[int(line.removeprefix("line")), 7] = value
    np.savetxt(path, matrix)
    return matrix


def test_fi2010_labels_and_windows(tmp_path):
    one, two = fi2010(tmp_path / "Train_a.txt"), fi2010(tmp_path / "Train_b.txt", 120, 1)
    fi2010(tmp_path / "Test_a.txt", 130, 2)
    task = lob(tmp_path, split="time", horizon=30, val_fraction=0.0)
    splits = task.sources()
    assert len(splits.train) == 51 + 21  # none reaches from one file into the next
    assert len(splits.test) == 31
    last = splits.train.batch(torch.tensor([50, 51]))
    np.testing.assert_allclose(last["x"][0], one[:40, 50:150].T, rtol=1e-6)
    np.testing.assert_allclose(last["x"][1], two[:40, :100].T, rtol=1e-6)
    assert last["y"].tolist() == [3 - one[146, 149], 3 - two[146, 99]]  # 1 up -> 2, 3 down -> 0


def test_faults_in_fi2010(tmp_path):
    fi2010(tmp_path / "labels.txt", line144=4)
    with pytest.raises(HotloopError, match=r"1 labels are none of 1 \(up\).*4 at event 7"):
        lob(tmp_path / "labels.txt", split="time").sources()
    np.savetxt(tmp_path / "short.txt", np.ones((40, 200)))
    with pytest.raises(HotloopError, match="40 lines; FI-2010 has 149"):
        lob(tmp_path / "short.txt").sources()
    (tmp_path / "words.txt").write_text("not a matrix")
    with pytest.raises(HotloopError, match="no matrix of numbers"):
        lob(tmp_path / "words.txt").sources()


Y = arrays()["y"]
FAULTS = {
    "no array 'y'": {"y": None},
    "no array 'start'": {"start": None},
    "unknown|nothing is known of: extra": {"extra": np.ones(3)},
    "reach outside the 1,200 rows: starts 1101 at 203": {"start": np.append(arrays()["start"][:-1], 1101)},
    "array 'y' has shape": {"y": Y[:-1]},
    r"1 labels are none of 0 \(down\), 1 \(flat\), 2 \(up\): 3 at 4": {"y": np.where(np.arange(len(Y)) == 4, 3, Y)},
    "must be one whole number a window": {"y": Y + 0.5},
    "array 'stock_ids' has shape": {"stock_ids": np.array(["a", "b", "c", "d"])},
    "holds Python objects": {"stock_ids": np.array(["a"] * len(Y), dtype=object)},
    "18 columns": {"rows": arrays()["rows"][:, :18]},
    "array 'rows' has shape": {"rows": arrays()["rows"][:, 0]},
    "holds one symbol only": {"stock_ids": np.array(["a"] * len(Y))},
    "does not say which symbol": {"stock_ids": None},
    "windows cross from one symbol to the next": {
        "start": arrays()["start"] - np.where(np.arange(len(Y)) == 51, 50, 0)
    },
}


@pytest.mark.parametrize(("told", "changed"), FAULTS.items(), ids=range(len(FAULTS)))
def test_a_fault_in_the_file_is_told_with_its_place(tmp_path, told, changed):
    path = save(tmp_path / "faulty.npz", **changed)
    with pytest.raises(HotloopError, match=told) as caught:
        lob(path).sources()
    assert "faulty.npz" in caught.value.where
    assert caught.value.fix


def test_windows_of_another_length_name_the_option(tmp_path):
    found = arrays()
    np.savez(tmp_path / "w.npz", X=windows(found), y=found["y"])
    with pytest.raises(HotloopError) as caught:
        lob(tmp_path / "w.npz", window=50).sources()
    assert caught.value.fix == "set data.window=100"


def test_files_that_are_no_npz_or_only_half_of_one(tmp_path):
    path = save(tmp_path / "whole.npz")
    (tmp_path / "half.npz").write_bytes(path.read_bytes()[:5000])
    (tmp_path / "text.npz").write_text("hello")
    damaged = bytearray(path.read_bytes())
    damaged[3000:3400] = bytes(400)
    (tmp_path / "damaged.npz").write_bytes(damaged)
    for name in ("half", "text"):
        with pytest.raises(HotloopError, match="no npz file, or only a part"):
            lob(tmp_path / f"{name}.npz").sources()
    with pytest.raises(HotloopError, match="damaged"):
        lob(tmp_path / "damaged.npz").sources()


def test_nothing_is_made_up_for_a_file_that_is_not_there(tmp_path):
    for path in (tmp_path / "absent.npz", tmp_path / "absent"):
        with pytest.raises(HotloopError, match="does not exist"):
            lob(path).sources()
    with pytest.raises(HotloopError, match="no npz and no txt"):
        lob(tmp_path).sources()
    np.savez(tmp_path / "only.npz", **arrays())
    with pytest.raises(HotloopError, match="no file with train in its name: only.npz"):
        lob(tmp_path).sources()


def test_parts_on_different_scales_are_refused_with_the_figures(tmp_path):
    found = arrays(seed=1)
    np.savez(tmp_path / "train.npz", **arrays(seed=2))
    np.savez(tmp_path / "val.npz", **{**found, "rows": found["rows"] * 100})
    with pytest.raises(HotloopError, match=r"different scales in \d+ columns.*mean .* in training") as caught:
        lob(tmp_path).sources()
    assert "data.scaling=standard cannot mend this" in caught.value.fix


def test_a_window_on_both_sides_is_refused_with_the_count(tmp_path):
    np.savez(tmp_path / "train.npz", **arrays(seed=1))
    found = arrays(seed=2)
    mixed = np.concatenate([found["rows"][:300], arrays(seed=1)["rows"][300:]])
    np.savez(tmp_path / "val.npz", **{**found, "rows": mixed})
    with pytest.raises(HotloopError, match="153 of 204 validation windows are in the training part too"):
        lob(tmp_path).sources()


def test_options_without_effect_are_named():
    idle = {
        "gap": LobData(gap=100), "folds": LobData(folds=3), "rows": LobData(path="x", rows=999),
        "val_path": LobData(val_path="x"), "scaling": LobData(features="relative", scaling="standard"),
        "split_seed": LobData(split="time", split_seed=3),
    }  # fmt: skip
    assert {name: [key for key, _, _ in data.problems()] for name, data in idle.items()} == {n: [n] for n in idle}
    assert "share rows" in LobData(split="time", gap=10).problems()[0][1]
    assert not LobData().problems()
