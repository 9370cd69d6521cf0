"""The options of the `forecast` task: the model, the series it reads, and how time is cut into parts.

Torch-free, because the command line reads it before anything trains. T is `data.sequence`, H is `data.horizon`.
"""

from __future__ import annotations

from typing import Literal

from hotloop.config.schema import DataSection, ModelSection, Positive, TaskOptions, knob

AUTO, RETURN, CLOSE, ALL = "auto", "return", "close", "all"
"""Words that `data.target` knows besides the names of columns."""


class ForecastModel(ModelSection):
    """An encoder of the window, and beside it a linear map of each target's own past."""

    name: Literal["lstm", "gru", "transformer"] = knob("lstm", "Encoder of the window.")
    hidden_size: int = knob(128, "Width of the encoder.", unit="features", ge=1)
    num_layers: int = knob(2, "Layers of the encoder.", unit="layers", ge=1)
    n_head: int = knob(4, "Attention heads of the transformer; must divide hidden_size.", unit="heads", ge=1)
    dropout: float = knob(0.2, "Share of the activations dropped in training.", ge=0, lt=1)
    symbol_embedding: int = knob(
        32, "Features of each symbol's own embedding; used where there is more than one symbol, 0 is off.", ge=0
    )
    channels: Literal["mix", "independent"] = knob(
        "mix",
        "The encoder reads all columns of a step together, or each target's column as a series of its own with shared "
        "weights.",
    )
    patch: int = knob(
        1, "Steps that enter the encoder as one; must divide data.sequence. More is faster.", unit="steps", ge=1
    )
    window_norm: Literal["auto", "none", "last", "mean", "standard"] = knob(
        AUTO,
        "What each window is freed of before the model and given back afterwards: nothing, its last value, its mean, "
        "or mean and spread; auto takes none for a return, last for a close, and mean otherwise.",
    )

    def norm_for(self, targets: tuple[str, ...]) -> str:
        """`window_norm`, with auto settled."""
        known: dict[tuple[str, ...], str] = {(RETURN,): "none", (CLOSE,): "last"}
        settled = known.get(targets, "mean")
        return settled if self.window_norm == AUTO else self.window_norm

    linear_skip: bool = knob(True, "Add a linear map of each target's own window, which starts at zero.")

    def problems(self) -> list[tuple[str, str, str]]:
        """Heads that do not divide the width."""
        if self.name == "transformer" and self.hidden_size % self.n_head:
            why = f"{self.n_head} heads do not divide hidden_size={self.hidden_size}"
            wider = -(-self.hidden_size // self.n_head) * self.n_head
            return [("n_head", why, f"use model.hidden_size={wider}, or a number of heads that divides")]
        if self.name != "transformer" and self.n_head != type(self).model_fields["n_head"].default:
            return [("n_head", f"{self.name} has no attention", "leave it out, or set model.name=transformer")]
        return []


class ForecastData(DataSection):
    """The series: a prepared cache of bars, a CSV file, or simulated bars; and the parts of time."""

    path: str | None = knob(
        None,
        "CSV file, or folder that `hotloop prepare forecast` wrote; null prepares simulated bars (synthetic).",
    )
    sequence: int = knob(60, "Steps that the model looks back on.", unit="steps", ge=2)
    horizon: int = knob(1, "Steps ahead that it forecasts, each of them.", unit="steps", ge=1)
    target: str = knob(
        AUTO,
        "What is forecast: return (log return of the close from step to step), close, the name of a column, or all; "
        "auto takes return for bars and all columns of a CSV.",
        min_length=1,
    )
    columns: tuple[str, ...] | None = knob(
        None,
        "Columns that the model sees, besides the target; null takes the indicators of bars, and all numeric columns "
        "of a CSV.",
    )
    symbols: tuple[str, ...] | None = knob(None, "Only these symbols of a cache; null takes all.")
    val_fraction: float = knob(
        0.1, "Share of the time held out for validation, before the test part; 0 is none.", ge=0, lt=1
    )
    test_fraction: float = knob(0.1, "Share of the time, at its end, held out for the test; 0 is none.", ge=0, lt=1)
    parts: tuple[Positive, Positive, Positive] | None = knob(
        None,
        "Times (rows of a CSV) for training, validation and test, from the first on, instead of the two shares; what "
        "is left is not used.",
        unit="times",
    )
    scaling: Literal["standard", "none"] = knob(
        "standard",
        "Give every column of every symbol mean 0 and standard deviation 1 over its training part; both numbers are "
        "then applied to all parts.",
    )
    limit: Positive | None = knob(
        None, "Use at most this many windows of each part, evenly spread over it; null uses all.", unit="windows"
    )

    def problems(self) -> list[tuple[str, str, str]]:
        """Two ways to cut time at once, parts that leave nothing, symbols or columns named twice."""
        found = []
        fields = type(self).model_fields
        changed = [k for k in ("val_fraction", "test_fraction") if getattr(self, k) != fields[k].default]
        if self.parts is not None and changed:
            found.append((changed[0], "data.parts says already where each part ends", "leave one of the two out"))
        if self.val_fraction + self.test_fraction >= 1:
            why = f"validation and test take {self.val_fraction + self.test_fraction:g} of the time: none is left"
            found.append(("test_fraction", why, "make the two shares smaller"))
        for key in ("symbols", "columns"):
            names = getattr(self, key)
            if names is not None and (not names or len(set(names)) < len(names)):
                why = "the list is empty" if not names else "a name stands there twice"
                found.append((key, why, "name each once, or leave the option out for all"))
        return found


OPTIONS = TaskOptions(name="forecast", model=ForecastModel, data=ForecastData)
"""What the configuration needs to know of this task."""
