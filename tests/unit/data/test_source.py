"""Sources: what people have in hand becomes named rows fetched by index, or an error that says what to change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset
from torch.utils.data import Subset as TorchSubset

from hotloop.data.source import (
    ArraySource,
    DatasetSource,
    Source,
    TensorSource,
    as_source,
    first_rows,
    hold_out,
)
from hotloop.errors import HotloopError

ROWS = torch.tensor([4, 0, 2])
X = torch.arange(12.0).reshape(6, 2)
Y = torch.arange(6)


class Pairs(Dataset):
    """Items as tuples of any width."""

    def __init__(self, width: int = 2, rows: int = 6) -> None:
        self.width, self.rows = width, rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> tuple:
        return tuple(torch.tensor([float(index), float(part)]) for part in range(self.width))


def test_a_dict_of_tensors_gives_rows_by_index() -> None:
    source = as_source({"x": X, "y": Y})
    assert isinstance(source, TensorSource) and isinstance(source, Source)
    assert len(source) == 6
    assert source.nbytes == 12 * 4 + 6 * 8
    batch = source.batch(ROWS)
    assert batch["x"].tolist() == [[8.0, 9.0], [0.0, 1.0], [4.0, 5.0]]
    assert batch["y"].tolist() == [4, 0, 2]


def test_numpy_arrays_keep_their_width() -> None:
    source = as_source({"x": X.numpy().astype(np.float64), "y": Y.numpy().astype(np.int32)})
    assert isinstance(source, ArraySource)
    batch = source.batch(ROWS)
    assert (batch["x"].dtype, batch["y"].dtype) == (torch.float64, torch.int32)
    assert batch["y"].tolist() == [4, 0, 2]
    resident = source.to(torch.device("cpu"))
    assert torch.equal(resident.batch(ROWS)["x"], batch["x"])


def test_a_batch_of_an_array_is_no_window_on_it() -> None:
    """Training that writes into its batch must not change the data."""
    array = np.zeros((4, 2), dtype=np.float32)
    as_source({"x": array}).batch(torch.arange(4))["x"].fill_(9.0)
    assert not array.any()


def test_a_memory_map_is_read_by_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.bin"
    np.arange(20, dtype=np.float32).tofile(path)
    mapped = np.memmap(path, dtype=np.float32, mode="r", shape=(10, 2))
    source = as_source({"x": mapped})
    assert len(source) == 10
    batch = source.batch(torch.tensor([9, 1]))
    assert batch["x"].tolist() == [[18.0, 19.0], [2.0, 3.0]]
    batch["x"].add_(1.0)  # a copy: the file is read-only


def test_arrays_and_tensors_may_be_mixed() -> None:
    batch = as_source({"x": X, "y": Y.numpy()}).batch(ROWS)
    assert batch["y"].tolist() == [4, 0, 2]


@pytest.mark.parametrize(("count", "names"), [(1, ["x"]), (2, ["x", "y"]), (3, ["x", "x2", "y"])])
def test_the_members_of_a_tuple_get_names(count: int, names: list[str]) -> None:
    for data in ((X,) * count, (X.numpy(),) * count, Pairs(count)):
        assert list(as_source(data).batch(ROWS)) == names


def test_a_single_tensor_is_x() -> None:
    assert as_source(X).batch(ROWS)["x"].tolist() == X[ROWS].tolist()


def test_a_torch_dataset_is_collated_and_stays_on_the_host() -> None:
    source = as_source(Pairs())
    assert isinstance(source, DatasetSource)
    assert source.nbytes is None
    assert source.batch(ROWS)["x"].tolist() == [[4.0, 0.0], [0.0, 0.0], [2.0, 0.0]]


def test_a_dataset_of_dicts_keeps_its_names() -> None:
    items = [{"text": torch.tensor([i]), "label": i} for i in range(6)]
    batch = as_source(items).batch(ROWS)
    assert batch["text"].flatten().tolist() == batch["label"].tolist() == [4, 0, 2]


def test_a_source_of_ones_own_is_taken_as_it_is() -> None:
    source = TensorSource({"x": X})
    assert as_source(source) is source


class NoLength:
    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"x": X, "y": Y[:5]}, r"differ in their number of rows: \{'x': 6, 'y': 5\}"),
        ({"x": X.numpy(), "y": Y[:5].numpy()}, r"differ in their number of rows: \{'x': 6, 'y': 5\}"),
        ({"x": np.array(["a", None], dtype=object)}, "'x' holds Python objects"),
        ({"x": np.array([[1], [2]]), "y": np.array([1, None], dtype=object)}, "'y' holds Python objects"),
        ({"x": X, "y": np.array([1, None] * 3, dtype=object)}, "'y' holds Python objects"),
        ({"x": np.array(["cat", "dog"])}, "'x' holds text"),
        ({"x": X, "y": [1, 2, 3, 4, 5, 6]}, "something other than tensors and arrays: {'y': 'list'}"),
        ({}, "holds no tensors"),
        ({"x": X[:0]}, "holds no rows"),
        ({"x": X[:0].numpy()}, "holds no rows"),
        ({"x": np.array(3.0)}, "holds no rows"),
        ({"x": np.zeros(3, dtype=">f4")}, "'x' has dtype >f4, which torch cannot read"),
        ({"x": np.zeros(3, dtype="datetime64[s]"), "y": Y[:3]}, "'x' has dtype datetime64"),
        (X[:0], "holds no rows"),
        (Pairs(rows=0), "Pairs is empty"),
        (NoLength(), "NoLength has no length"),
        (3.5, "data of type float cannot be read"),
        (None, "data of type NoneType cannot be read"),
        (iter([X]), "cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_said(data: object, says: str) -> None:
    with pytest.raises(HotloopError, match=says):
        as_source(data)


def test_items_that_have_no_names_are_refused_when_fetched() -> None:
    with pytest.raises(HotloopError, match="items of type str cannot be turned into named tensors"):
        as_source(["a", "b", "c"]).batch(torch.tensor([0, 1]))


def test_first_rows_are_the_first() -> None:
    limited = first_rows(TensorSource({"y": Y}), 4)
    assert len(limited) == 4
    assert limited.batch(torch.arange(4))["y"].tolist() == [0, 1, 2, 3]
    whole = TensorSource({"y": Y})
    assert first_rows(whole, 6) is whole
    assert len(first_rows(whole, 100)) == 6


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 300), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
def test_holding_out_cuts_in_two_without_loss(rows: int, fraction: float, seed: int) -> None:
    source = TensorSource({"y": torch.arange(rows)})
    held = round(rows * fraction)
    if held in (0, rows):
        with pytest.raises(HotloopError, match="leaves nothing to (validate|train) on"):
            hold_out(source, fraction, seed)
        return
    train, val = hold_out(source, fraction, seed)
    assert len(val) == held
    seen = [part.batch(torch.arange(len(part)))["y"] for part in (train, val)]
    assert sorted(torch.cat(seen).tolist()) == list(range(rows))


def test_holding_out_is_a_function_of_the_seed_and_does_not_take_the_end() -> None:
    """Sorted data (all positives first) must not put one class alone into validation."""
    source = TensorSource({"y": torch.arange(200)})
    parts = [hold_out(source, 0.25, seed)[1].batch(torch.arange(50))["y"].tolist() for seed in (1, 1, 2)]
    assert parts[0] == parts[1] != parts[2]
    assert 8 < sum(row < 100 for row in parts[0]) < 42


def test_a_subset_moves_with_its_rows() -> None:
    limited = first_rows(ArraySource({"y": Y.numpy()}), 3).to(torch.device("cpu"))
    assert limited.batch(torch.tensor([2, 0]))["y"].tolist() == [2, 0]


class Pictures(Pairs):
    targets = (0, 1, 0, 1, 1, 1)  # torchvision's habit


class Columns:
    """What a Hugging Face dataset looks like."""

    column_names = ("x", "y")

    def __len__(self) -> int:
        return 6

    def __getitem__(self, key: int | str) -> object:
        rows = {"x": X.tolist(), "y": Y.tolist()}
        return rows[key] if isinstance(key, str) else {"x": X[key], "y": int(Y[key])}


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"x": X, "y": Y}, [0, 1, 2, 3, 4, 5]),
        ({"x": X.numpy(), "y": Y.numpy()}, [0, 1, 2, 3, 4, 5]),
        (Pictures(), [0, 1, 0, 1, 1, 1]),
        (Columns(), [0, 1, 2, 3, 4, 5]),
        (TensorDataset(X, Y), [0, 1, 2, 3, 4, 5]),
        (TorchSubset(Pictures(), [4, 0]), [1, 0]),
        (Pairs(), None),
        (X, None),
    ],
)
def test_a_column_is_had_without_the_rest(data: object, found: list[int] | None) -> None:
    source = as_source(data)
    column = source.column("y")
    assert (None if column is None else column.tolist()) == found
    if found:
        half = first_rows(source, 1).column("y")
        assert half.tolist() == found[:1]


def test_a_target_transform_makes_the_targets_something_else() -> None:
    pictures = Pictures()
    pictures.target_transform = lambda target: 1 - target
    assert as_source(pictures).column("y") is None


def test_a_dataset_with_columns_is_fetched_by_item() -> None:
    source = as_source(Columns())
    assert isinstance(source, DatasetSource)
    assert source.batch(ROWS)["y"].tolist() == [4, 0, 2]
