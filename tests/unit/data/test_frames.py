"""Frames and Parquet: columns become tensors; text, gaps and infinities are told with their place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hotloop
from hotloop.data.source import as_source
from hotloop.errors import HotloopError

pandas = pytest.importorskip("pandas", reason="pandas is not installed")
polars = pytest.importorskip("polars", reason="polars is not installed")
pytest.importorskip("pyarrow", reason="pyarrow is not installed")

PLAIN = {"a": [1.5, 2.5, 3.5], "n": [1, 2, 3], "ok": [True, False, True]}
NAMED = {**PLAIN, "label": ["dog", "cat", "dog"], "owner": ["x", "y", "x"]}
ALL = torch.arange(3)


@pytest.fixture(params=["pandas", "polars", "file", "folder"])
def table(request, tmp_path):
    """Makes a table of columns in one of the forms."""

    def make(columns):
        if request.param == "pandas":
            return pandas.DataFrame(columns, index=[7, 8, 9])
        frame = polars.DataFrame(columns)
        if request.param == "polars":
            return frame
        if request.param == "file":
            frame.write_parquet(tmp_path / "t.parquet")
            return tmp_path / "t.parquet"
        frame[:1].write_parquet(tmp_path / "0.parquet")
        frame[1:].write_parquet(tmp_path / "1.parquet")
        return str(tmp_path)

    return make


def test_every_column_is_a_tensor(table) -> None:
    batch = as_source(table(PLAIN)).batch(ALL)
    assert {name: value.dtype for name, value in batch.items()} == {
        "a": torch.float32,
        "n": torch.int64,
        "ok": torch.bool,
    }
    assert {name: value.tolist() for name, value in batch.items()} == PLAIN


def test_from_table_makes_features_label_weight_and_group(table) -> None:
    source = hotloop.from_table(table(NAMED), weight="a", group="owner")
    batch = source.batch(ALL)
    assert batch["x"].tolist() == [[1, 1], [2, 0], [3, 1]] and batch["x"].dtype == torch.float32
    assert batch["y"].tolist() == [1, 0, 1] and source.classes == ["cat", "dog"]
    assert batch["weight"].tolist() == PLAIN["a"] and batch["group"].tolist() == [0, 1, 0]
    assert (source.features, source.left_out) == (["n", "ok"], [])
    assert hotloop.from_table(table(NAMED), x=["n"], y="a").batch(ALL)["y"].tolist() == PLAIN["a"]
    assert hotloop.from_table(table(NAMED)).left_out == ["owner"]


def test_validation_numbers_its_classes_like_training(table) -> None:
    only = {**NAMED, "label": ["dog", "dog", "dog"]}
    assert hotloop.from_table(table(only), classes=["cat", "dog"]).batch(ALL)["y"].tolist() == [1, 1, 1]
    with pytest.raises(HotloopError, match="holds 'cat', which is not among the classes"):
        hotloop.from_table(table(NAMED), classes=["dog"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": ["a", "b", "c"]}, "'label' holds text"),
        ({"a": [1.0, None, 2.0]}, r"'a' has no value in 1 of 3 rows\n.*row 1 \(the first row is 0\)"),
        ({"a": [1.0, float("nan"), float("nan")]}, "no value in 2 of 3 rows\n.*rows 1, 2"),
        ({"a": [1.0, 2.0, float("inf")]}, "infinite value .* in 1 of 3 rows\n.*row 2"),
        ({"n": [1, None, 3]}, "'n' has no value in 1 of 3"),
        ({"ok": [True, None, True]}, "'ok'"),
        (
            {"day": np.array(["2026-01-01"] * 3, dtype="datetime64[ms]")},
            "column 'day' holds datetime|holds Datetime|timestamp",
        ),
    ],
)
def test_what_is_no_number_is_told_with_its_place(table, change, says) -> None:
    with pytest.raises(HotloopError, match=says):
        as_source(table({**PLAIN, **change}))


def test_an_unknown_column_names_the_nearest(table) -> None:
    with pytest.raises(HotloopError, match="did you mean 'label'"):
        hotloop.from_table(table(NAMED), y="lable")


def test_categories_keep_their_order() -> None:
    kind = pandas.CategoricalDtype(["small", "big"], ordered=True)
    frame = pandas.DataFrame({"a": [1.0, 2.0], "label": pandas.Series(["big", "small"], dtype=kind)})
    source = hotloop.from_table(frame)
    assert source.classes == ["small", "big"] and source.batch(torch.arange(2))["y"].tolist() == [1, 0]


def test_paths_that_lead_nowhere_are_told(tmp_path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "t.csv").write_text("a\n1\n")
    (tmp_path / "empty").mkdir()
    for name, says in [
        ("none.parquet", "does not exist"),
        ("bad.parquet", "cannot be read"),
        ("t.csv", "this is a .csv"),
        ("empty", "holds no .parquet"),
    ]:
        with pytest.raises(HotloopError, match=says):
            as_source(str(tmp_path / name))


def test_lazy_frames_and_doubled_names_are_refused() -> None:
    with pytest.raises(HotloopError, match="LazyFrame holds no rows"):
        as_source(polars.LazyFrame(PLAIN))
    with pytest.raises(HotloopError, match="several columns called 'a'"):
        as_source(pandas.DataFrame([[1, 2]], columns=["a", "a"]))
