"""The `lob` task: will the price go down, stay or go up after a window of the order book?

Batches hold x (B, T, F) float32, columns level by level (ask price, ask quantity, bid price, bid quantity), and y (B,)
int64 in 0 down, 1 flat, 2 up. What rebuilds the model without its data: F, and the statistics of its features.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.errors import HotloopError
from hotloop.task import Batch, Exportable, Piece, Splits, Tally, Task
from hotloop.tasks import classification
from hotloop.tasks.lob import after
from hotloop.tasks.lob.after import NAMES
from hotloop.tasks.lob.features import Features, mirrored
from hotloop.tasks.lob.model import CLASSES, DeepLob
from hotloop.tasks.lob.options import LobData, LobModel
from hotloop.tasks.lob.read import find_files, read_books
from hotloop.tasks.lob.simulate import simulate
from hotloop.tasks.lob.split import check_parts, split_windows
from hotloop.tasks.lob.summary import Summary, SummaryNet
from hotloop.tasks.lob.windows import Books, Windows

_FITTED, _LAGS = 10_000, (1, 2, 5, 10, 20, 50)  # windows that the linear baseline is fitted on; rows it looks back


class Lob(Task):
    """Price moves from limit order books, with DeepLOB or a small network on a summary."""

    Model = LobModel
    Data = LobData
    obeys = classification.OBEYS

    def __init__(self, model_options: LobModel, data_options: LobData, *, seed: int) -> None:
        super().__init__(model_options, data_options, seed=seed)
        self.features: Features | Summary | None = None
        self.columns = 0
        self._notes: list[str] = []

    def sources(self) -> Splits:
        """Windows of the training, validation and test part; the features are fitted on the first."""
        books = self._read()
        window = self.data_options.window
        for part in ("val", "test"):
            if part in books:
                check_parts(books["train"], books[part], "validation" if part == "val" else part, window)
        whole = books["train"]
        if "val" not in books and self.data_options.val_fraction > 0:
            train, val = split_windows(whole, self.data_options)
            books = {**books, "train": whole.at(train), "val": whole.at(val)}
        parts = {part: Windows(_limited(found, self.data_options.limit), window) for part, found in books.items()}
        if "val" in parts and parts["val"].books.rows is parts["train"].books.rows:
            parts["val"].share_rows_with(parts["train"])
        self.columns = whole.rows.shape[1]
        self.features = self._fitted(parts["train"])
        self._notes = _told(books, parts)
        return Splits(parts["train"], parts.get("val"), {}, parts.get("test"))

    def cut(self, splits: Splits) -> Splits:
        """As they are: `sources` has split and limited them."""
        return splits

    def model(self) -> nn.Module:
        """DeepLOB behind its features, or the small network behind its summary."""
        assert self.features is not None, "sources() or use_assets() comes before model()"
        features = copy.deepcopy(self.features)
        if isinstance(features, Summary):
            return nn.Sequential(features, SummaryNet(self.model_options, features.size))
        return nn.Sequential(features, DeepLob(self.model_options, self.columns))

    def loss(self, model: nn.Module, batch: Batch, training: bool) -> Tensor:
        """Cross entropy of each window in nats, float32, (B,)."""
        x, y = batch["x"], batch["y"]
        if training and self.data_options.mirror:
            x, y = mirrored(x, y, torch.rand(len(y), device=y.device) < 0.5)
        return classification.class_loss(model(x), y, self.loss_options, training)

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tally]:
        """Accuracy and the confusion matrix."""
        return classification.class_tallies(model(batch["x"]), batch["y"], batch.get("weight"))

    def loss_and_metrics(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tally]]:
        """What `loss` and `metrics` give in evaluation, out of one forward pass."""
        logits, y = model(batch["x"]), batch["y"]
        loss = classification.class_loss(logits, y, self.loss_options, False)
        return loss, classification.class_tallies(logits, y, batch.get("weight"))

    def scores(self, tables: dict[str, Tensor]) -> dict[str, float]:
        """Macro-F1, balanced accuracy and Matthews' correlation."""
        return classification.class_scores(tables["confusion"])

    def class_names(self) -> tuple[str, ...]:
        return NAMES

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Logits (B, 3), and the classes where the batch has them."""
        found = {"logits": model(batch["x"]).float()}
        return {**found, "y": batch["y"]} if "y" in batch else found

    def conclude(self, parts: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
        """Each class, the confusions and the calibration."""
        return classification.conclusion(parts, NAMES)

    def baselines(self, splits: Splits) -> dict[str, dict[str, float]]:
        """The most frequent class; and a linear model of the last row and what changed before it, as relative features.

        Relative whatever data.features says: on real books the linear model is better by far with them.
        """
        if splits.val is None:
            return {}
        features = Features(True, self.columns).fit(splits.train, standard=False)
        x, y = _summary(features, splits.train, _FITTED)
        found: dict[str, dict[str, float]] = {"majority": {}, "linear": {}}
        for prefix, source in (("", splits.val), ("test_", splits.test)):
            if source is None:
                continue
            held_x, held_y = _summary(features, source, len(source))
            majority = classification.majority_scores(y, held_y, CLASSES)
            linear = classification.linear_scores(x, y, held_x, held_y, CLASSES)
            found["majority"] |= {prefix + name: value for name, value in majority.items()}
            found["linear"] |= {prefix + name: value for name, value in linear.items()}
        return found

    def assets(self) -> dict[str, Any]:
        """The number of columns, the statistics of the features, and the names of the classes."""
        assert self.features is not None, "sources() comes before assets()"
        return {
            "columns": self.columns,
            "window": self.data_options.window,
            "relative": isinstance(self.features, Summary) or self.features.relative,
            "statistics": self.features.to_json(),
            "classes": list(NAMES),
        }

    def use_assets(self, assets: dict[str, Any]) -> None:
        """Take what a run folder says of the features."""
        try:
            self.columns = int(assets["columns"])
            blank = self._blank(relative=bool(assets["relative"]))
            self.features = blank.use_json(assets["statistics"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            fix = "use a run folder that the task lob has written"
            raise HotloopError(f"the run's features cannot be rebuilt: {error}", where="assets", fix=fix) from error

    def notes(self) -> list[str]:
        """What was read, how it is split, and what it takes in memory."""
        return list(self._notes)

    # After training

    def pieces(self, path: Path, rows: int) -> Iterator[Piece]:
        """Windows of an npz file, with or without labels, or of FI-2010's text."""
        return after.pieces(path, self.data_options, self.columns, rows)

    def labelled(self, path: Path) -> Windows:
        """Windows of an npz file, or of FI-2010's text, with their classes."""
        return after.labelled(path, self.data_options, self.columns)

    def answers(self, outputs: dict[str, Tensor], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The direction and the probabilities of each window."""
        return after.answers(outputs, rows)

    def combine(self, outputs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The mean of the probabilities, as logits."""
        return classification.combined(outputs)

    def exportable(self, model: nn.Module) -> Exportable:
        """Windows (B, T, F), columns level by level, to logits of down, flat and up."""
        window = self.data_options.window
        books = Windows(simulate(2, max(200, window + 20), window, seed=0), window)
        x = books.batch(torch.tensor([0, 3, 5]))["x"]
        x = x.repeat(1, 1, -(-self.columns // x.shape[2]))[:, :, : self.columns].contiguous()
        return Exportable(model, {"x": x}, ("logits",), {"x": {0: "batch"}})

    def _blank(self, *, relative: bool) -> Features | Summary:
        if self.model_options.name == "summary":
            return Summary(self.columns)
        return Features(relative, self.columns)

    def _fitted(self, train: Windows) -> Features | Summary:
        """What the model sees, with the statistics of the training part."""
        data = self.data_options
        if self.model_options.name == "summary" and data.features != "raw":
            fix = "leave data.features out, or use model.name=deeplob"
            raise HotloopError("model.name=summary makes its own features", where="data.features", fix=fix)
        blank = self._blank(relative=data.features == "relative")
        if isinstance(blank, Summary):
            return blank.fit(train)
        return blank.fit(train, standard=data.scaling == "standard")

    def _read(self) -> dict[str, Books]:
        data = self.data_options
        if data.path is None and data.train_path is None:
            return {"train": simulate(data.symbols, data.rows, data.window, seed=0)}
        files = find_files(data)
        return {"train" if part == "all" else part: read_books(paths, data) for part, paths in files.items()}


def _summary(features: Features, source: Any, most: int) -> tuple[Tensor, Tensor]:
    """What the linear baseline sees of evenly spread windows, (N, F x (1 + lags)), and their classes."""
    chosen = torch.arange(0, len(source), max(1, -(-len(source) // most)))
    pieces = [_last_and_changes(features, source.batch(part)) for part in torch.split(chosen, 4096)]
    return torch.cat(pieces), source.column("y")[chosen]


def _last_and_changes(features: Features, batch: Batch) -> Tensor:
    with torch.no_grad():
        x_btf = features(batch["x"])
    last = x_btf[:, -1]
    lags = [lag for lag in _LAGS if lag < x_btf.shape[1]]
    return torch.cat([last, *(last - x_btf[:, -1 - lag] for lag in lags)], dim=1)


def _limited(books: Books, limit: int | None) -> Books:
    """Evenly spread windows: the first ones would all be of one symbol."""
    if limit is None or limit >= len(books.y):
        return books
    return books.at(torch.arange(limit) * len(books.y) // limit)


def _told(books: dict[str, Books], parts: dict[str, Windows]) -> list[str]:
    lines = []
    for part, source in parts.items():
        held = source.books
        symbols = "" if held.symbols is None else f", {len(torch.unique(held.symbols))} symbols"
        counts = torch.bincount(held.y, minlength=CLASSES).tolist()
        shares = ", ".join(f"{name} {count:,}" for name, count in zip(NAMES, counts, strict=True))
        limited = f" of {len(books[part].y):,} (data.limit)" if len(source) < len(books[part].y) else ""
        lines.append(f"{part}: {len(source):,} windows{limited}{symbols}; {shares} ({held.origin})")
    rows = {id(source.books.rows): source.books.rows for source in parts.values()}
    held_bytes = sum(t.numel() * t.element_size() for t in rows.values())
    indices = sum((source.nbytes or 0) - source.books.rows.numel() * 4 for source in parts.values())
    return [
        *lines,
        f"memory: {(held_bytes + indices) / 1e6:.1f} MB, windows gathered from {sum(map(len, rows.values())):,} rows",
    ]
