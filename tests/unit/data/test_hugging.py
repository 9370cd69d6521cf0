"""Data sets of Hugging Face: columns read in bulk as they stand in the set, streams, and what each refusal says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hotloop
from hotloop.data.source import as_source
from hotloop.data.stream import StreamSource
from hotloop.errors import HotloopError

datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
STILL = {"precision": "fp32", "compile": "off", "trackers": ()}
ROWS = {
    "input_ids": [[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 1, 1]],
    "label": [0, 1, 0, 1],
    "x": [0.5, 1.5, 2.5, 3.5],
    "text": ["a", "b", "c", "d"],
    "picture": [[[1.0, 2.0], [3.0, 4.0]]] * 4,
    "words": [["a"], ["b", "c"], [], ["d"]],
}


@pytest.fixture(autouse=True)
def _no_files(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def table(**columns: list[Any]) -> Any:
    return datasets.Dataset.from_dict(columns)


def test_numbers_and_lists_become_tensors_and_text_is_left_out() -> None:
    source = as_source(table(**ROWS))
    batch = source.batch(torch.tensor([2, 0]))
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
        "input_ids": ((2, 3), torch.int64),
        "label": ((2,), torch.int64),
        "x": ((2,), torch.float32),
        "picture": ((2, 2, 2), torch.float32),
    }
    assert batch["input_ids"].tolist() == [[7, 8, 9], [1, 2, 3]]
    assert source.left_out == ["text", "words"]
    assert source.nbytes  # so it can live on the device


def test_chosen_joined_and_shuffled_rows_are_read_as_the_set_gives_them() -> None:
    whole = table(**ROWS)
    changed = datasets.concatenate_datasets([whole, whole]).shuffle(seed=3).select([6, 1, 4])
    expected = changed["input_ids"][:]
    assert as_source(changed).batch(torch.arange(3))["input_ids"].tolist() == expected
    shown = as_source(whole.with_format("torch", columns=["x"])).batch(torch.arange(1))
    assert list(shown) == ["x"]


def test_features_of_fixed_shape_keep_it_and_classes_keep_their_names() -> None:
    features = datasets.Features(
        {"pixels": datasets.Array2D((2, 3), "uint8"), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"pixels": [[[1, 2, 3], [4, 5, 6]]] * 2, "label": [1, 0]}
    source = as_source(datasets.Dataset.from_dict(rows, features=features))
    pixels = source.batch(torch.arange(2))["pixels"]
    assert pixels.dtype == torch.uint8
    assert pixels.tolist() == rows["pixels"]
    assert source.classes == ["cat", "dog"]


def test_a_transform_of_the_persons_own_makes_the_items() -> None:
    data = table(x=[1.0, 2.0, 3.0])
    data.set_transform(lambda batch: {"x": [2 * value for value in batch["x"]]})
    assert as_source(data).batch(torch.tensor([2, 0]))["x"].tolist() == [6.0, 2.0]


REFUSED = [
    (
        lambda: datasets.DatasetDict(train=table(x=[1]), test=table(x=[2])),
        r"2 parts: train, test(.|\n)*data\['train'\]",
    ),
    (lambda: table(ids=[[1, 2], [3], [4, 5, 6]]), r"from 1 to 3 values(.|\n)*rows 1 and 2(.|\n)*padding='max_length'"),
    (lambda: table(ids=[[[1, 2], [3, 4]], [[3], [4, 4]]]), r"from 1 to 2 values(.|\n)*rows 1 and 0"),
    (lambda: table(ids=[[1, 2], [3, None]]), r"'ids' has a missing value in 1 of 2 rows(.|\n)*rows 1 "),
    (lambda: table(ids=[[1, 2], None]), r"'ids' has a missing value in 1 of 2 rows(.|\n)*rows 1 "),
    (lambda: table(x=[1.0, None, 3.0]), r"'x' has no value in 1 of 3 rows(.|\n)*row 1 "),
    (lambda: table(x=[[1.0], [float("inf")]]), r"'x' has a value that is missing or not finite(.|\n)*rows 1 "),
    (lambda: table(text=["a", "b"]), r"no column of the data holds numbers: text(.|\n)*tokenizer"),
    (lambda: table(x=[]), r"no rows"),
]


@pytest.mark.parametrize(("make", "says"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_what_cannot_be_trained_on_is_told(make: Any, says: str) -> None:
    with pytest.raises(HotloopError, match=says):
        as_source(make())


def test_an_iterable_dataset_is_a_stream() -> None:
    def rows() -> Any:
        for number in range(5):
            yield {"ids": [number, number], "x": number / 2, "text": "t"}

    source = as_source(datasets.IterableDataset.from_generator(rows))
    assert isinstance(source, StreamSource)
    assert source.left_out == ["text"]
    come = source.batches(3, seed=0, first_step=0)
    first, second, third = next(come), next(come), next(come)
    assert first["ids"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert first["x"].dtype == torch.float32
    assert len(second["x"]) == 2  # the rest of the pass
    assert third["x"].tolist() == first["x"].tolist()
    with pytest.raises(HotloopError, match="validation part must count each item once"):
        as_source(datasets.IterableDataset.from_generator(rows), part="validation")


def test_a_stream_with_uneven_or_missing_values_names_the_column() -> None:
    uneven = as_source(table(ids=[[1], [2, 3]]).to_iterable_dataset())
    with pytest.raises(HotloopError, match=r"shape of 'ids'(.|\n)*padding"):
        next(uneven.batches(2, seed=0, first_step=0))
    holes = as_source(table(x=[1.0, None]).to_iterable_dataset())
    with pytest.raises(HotloopError, match="column 'x' holds something that is no number"):
        next(holes.batches(2, seed=0, first_step=0))


def loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return (model(batch["x"][:, None])[:, 0] - 2 * batch["x"]) ** 2


def test_fit_takes_it_for_training_and_validation_and_says_what_it_leaves(capsys) -> None:
    data = table(x=[float(n % 7) for n in range(64)], text=["t"] * 64)
    halves = data.train_test_split(0.25, seed=1)
    torch.manual_seed(0)  # from some weights 60 steps are too few
    run = hotloop.fit(
        torch.nn.Linear(1, 1), halves["train"], val=halves["test"], loss=loss, max_steps=60, learning_rate=0.1, **STILL
    )
    assert run.summary["eval_loss"] < 0.5
    assert "not used, as they hold no numbers: text" in capsys.readouterr().out
    stream = data.to_iterable_dataset()
    assert hotloop.fit(torch.nn.Linear(1, 1), stream, loss=loss, max_steps=5, **STILL).summary["steps"] == 5
    assert "not used, as they hold no numbers: text" in capsys.readouterr().out
