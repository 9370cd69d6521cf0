"""The options of the `lob` task: the network's sizes, where its windows come from, and how they are split.

Torch-free, because the command line reads it before anything trains. Shapes: T rows a window (data.window), F columns
of the book, levels x (ask price, ask quantity, bid price, bid quantity).
"""

from __future__ import annotations

from typing import Literal

from hotloop.config.schema import ModelSection, RowsData, Switch, TaskOptions, knob

SHORTEST_WINDOW = 20
"""The three blocks take 18 rows off a window: two convolutions over 4 rows in each."""


class LobModel(ModelSection):
    """DeepLOB: three convolution blocks over the book, an inception module over time, an LSTM, a linear layer."""

    name: Literal["deeplob", "deeplob_improved", "summary"] = knob(
        "deeplob",
        "As published; improved adds layer norm and attention pooling over all time steps; summary is a small network "
        "on some thirty numbers of the window, for few symbols.",
    )
    channels: int = knob(32, "Channels of the three convolution blocks.", unit="channels", ge=1)
    inception_channels: int = knob(64, "Channels of each branch of the inception module.", unit="channels", ge=1)
    hidden_size: int = knob(64, "Width of the LSTM's state; of both layers in summary.", unit="features", ge=1)
    num_layers: int = knob(1, "Layers of the LSTM.", unit="layers", ge=1)
    dropout: float = knob(0.0, "Share of the features dropped before the last layer, in training.", ge=0, lt=1)
    layer_norm: Switch = knob("auto", "Layer norm before and after the LSTM; auto does in deeplob_improved.")
    attention_pooling: Switch = knob(
        "auto",
        "Pool all time steps by learned attention instead of taking the last; auto does in deeplob_improved.",
    )
    negative_slope: float = knob(0.01, "Slope of the leaky ReLU below zero.", ge=0, lt=1)

    def problems(self) -> list[tuple[str, str, str]]:
        """Knobs of the deep models beside the summary."""
        if self.name != "summary":
            return []
        deep = ("channels", "inception_channels", "num_layers", "layer_norm", "attention_pooling", "negative_slope")
        why, fix = "model.name=summary has no such part", "leave it out, or use model.name=deeplob"
        changed = (key for key in deep if getattr(self, key) != type(self).model_fields[key].default)
        return [(key, why, fix) for key in changed]

    def switched(self, key: Literal["layer_norm", "attention_pooling"]) -> bool:
        """Whether a part is on, by itself or by the model's name."""
        chosen: str = getattr(self, key)
        return self.name == "deeplob_improved" if chosen == "auto" else chosen == "on"


class LobData(RowsData):
    """The order books: rows and the windows that start in them, whole windows, FI-2010's text, or simulated books."""

    path: str | None = knob(
        None,
        "npz file (rows and start, or X), folder with a train and a val npz, or FI-2010 text (a file or folder); null "
        "takes a simulated order book, called synthetic.",
    )
    train_path: str | None = knob(None, "File of the training windows, instead of path.")
    val_path: str | None = knob(None, "With train_path: file of the validation windows.")
    test_path: str | None = knob(None, "With train_path: file of the test windows; measured once, at the end.")
    val_fraction: float = knob(
        0.2,
        "Share held out for validation where the data brings no validation part: of symbols, or of time.",
        ge=0,
        lt=1,
    )
    window: int = knob(100, "Rows of the book in one window.", unit="rows", ge=SHORTEST_WINDOW)
    split: Literal["symbol", "time", "random"] = knob(  # type: ignore[assignment]
        "symbol",
        "Hold out whole symbols, or the end of each symbol's windows; random is refused: overlapping windows leak.",
    )
    split_seed: int = knob(0, "Which symbols are held out; apart from experiment.seed.", ge=0)
    gap: int | None = knob(
        None,
        "split=time: rows between training and validation; null is window, so that none is shared.",
        unit="rows",
        ge=0,
    )
    horizon: Literal[10, 20, 30, 50, 100] = knob(10, "FI-2010: the label's horizon.", unit="rows")
    layout: Literal["auto", "level", "block"] = knob(
        "auto",
        "Order of the columns: level (ask price, ask quantity, bid price, bid quantity, level by level) or block (bid "
        "prices, ask prices, bid quantities, ask quantities); auto looks which columns move together.",
    )
    features: Literal["raw", "relative"] = knob(
        "raw",
        "What the model sees: the columns as they are, or prices as returns against their mean in the window and "
        "logarithms of quantities. model.name=summary makes its own, and takes raw.",
    )
    mirror: bool = knob(
        False, "In training half of the windows, at random, are seen from the other side: bids as asks, up as down."
    )
    scaling: Literal["none", "standard"] = knob(
        "none",
        "standard: subtract each column's mean and divide by its spread, both of the training part alone; "
        "model.name=summary always standardises its numbers so.",
    )
    symbols: int = knob(60, "Simulated books: how many symbols.", unit="symbols", ge=2)
    rows: int = knob(1000, "Simulated books: rows of each symbol.", unit="rows", ge=200)

    def problems(self) -> list[tuple[str, str, str]]:
        """Knobs without effect beside the others, and a gap in which windows would share rows."""
        found = []
        files = self.path is not None or self.train_path is not None
        for key in ("symbols", "rows"):
            if files and getattr(self, key) != self.default(key):
                found.append((key, "it is for simulated books, and files are given", "leave it out"))
        for key in ("val_path", "test_path"):
            if getattr(self, key) is not None and self.train_path is None:
                found.append((key, "it goes with data.train_path", "set data.train_path, or use data.path alone"))
        if self.path is not None and self.train_path is not None:
            found.append(("path", "data.train_path says the same in another way", "keep one of the two"))
        for key in ("folds", "fold"):
            if getattr(self, key) is not None:
                fix = "train with data.split_seed=0, 1, 2 instead: each holds out other symbols"
                found.append((key, "this task has no folds", fix))
        if self.features == "relative" and self.scaling == "standard":
            found.append(
                ("scaling", "relative features bring their own scale", "use data.features=raw, or leave it out")
            )
        return found + self._split_problems()

    def _split_problems(self) -> list[tuple[str, str, str]]:
        found = []
        if self.gap is not None and self.split != "time":
            found.append(("gap", "it is for data.split=time", "leave it out"))
        elif self.gap is not None and self.gap < self.window:
            why = f"windows of {self.window} rows that start {self.gap} apart share rows"
            found.append(("gap", why, f"use data.gap={self.window} or more"))
        if self.split_seed and self.split == "time":
            found.append(("split_seed", "a split by time draws nothing", "leave it out"))
        return found

    @classmethod
    def default(cls, key: str) -> object:
        """The value of a knob that nobody set."""
        return cls.model_fields[key].default


OPTIONS = TaskOptions(name="lob", model=LobModel, data=LobData)
"""What the configuration needs to know of this task."""
