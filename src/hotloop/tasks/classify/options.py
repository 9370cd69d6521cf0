"""The options of the `classify` task: its label sets, its encoder, and where its texts come from.

Torch-free, because the command line reads it before anything trains. A "task" here is one set of classes, such as
toxicity; a text may have a label for each, and a label that is missing counts nowhere.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from hotloop.config.schema import ModelSection, Positive, RowsData, TaskOptions, knob

REFERENCE = {
    "toxicity": ("none", "toxic", "severe"),
    "bullying": ("none", "harassment", "threat"),
    "role": ("none", "perpetrator", "victim", "bystander"),
    "emotion": ("negative", "neutral", "positive"),
}
"""The four tasks that are known by name."""
WEIGHTS = {"toxicity": 1.0, "bullying": 1.0, "role": 0.5, "emotion": 0.5}
SMALL = "small"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_TAKEN = (
    "ids",
    "weight",
    "y",
    "group",
    "sample_weight",
    "rows",
    "loss",
)  # columns and terms with a meaning of their own
_SMALL_ONLY = ("hidden_size", "n_head")
Files = str | tuple[str, ...] | None


class ClassifyModel(ModelSection):
    """An encoder of the text with one linear layer for each task."""

    name: str = knob(
        SMALL, "small: an encoder of characters, trained from scratch; or the folder of a Hugging Face encoder."
    )
    tasks: dict[str, int | list[str | int]] | None = knob(
        None,
        "Task -> names of its classes, or how many; null takes toxicity, bullying, role and emotion where the data has "
        "them, else what the data has.",
    )
    task_weights: dict[str, Annotated[float, Field(ge=0)]] = knob(
        {}, "Task -> its share in the loss and in f1_macro; not named: 1.0, and 0.5 for role and emotion."
    )
    num_labels: Annotated[int, Field(ge=2)] | None = knob(
        None, "Classes of a single task, numbered from 0, whose labels are in the column label or labels."
    )
    use_multitask: bool | None = knob(
        None, "Several tasks, or only the column label or labels; null goes by what the data has."
    )
    max_sequence_length: int = knob(128, "Tokens of a text that are read; the rest is cut off.", unit="tokens", ge=4)
    num_layers: Positive | None = knob(
        None,
        "Keep only so many layers of a pretrained encoder, from below; null keeps all. small has 2.",
        unit="layers",
    )
    hidden_size: int = knob(128, "small: width.", unit="features", ge=8)
    n_head: int = knob(4, "small: attention heads; must divide hidden_size.", unit="heads", ge=1)
    pooling: Literal["mean", "cls"] = knob(
        "mean", "What stands for the whole text: the mean over its tokens, or its first token."
    )
    dropout: float = knob(0.1, "Share of the text's features dropped before the last layers, in training.", ge=0, lt=1)
    encoder_dropout: Annotated[float, Field(ge=0, lt=1)] | None = knob(
        None, "Dropout inside the encoder; null is its own (0.1 in small). 0 is faster on a CPU."
    )

    def problems(self) -> list[tuple[str, str, str]]:
        """Names that cannot be used, knobs without effect."""
        found = self._task_problems()
        if self.name == SMALL and self.hidden_size % self.n_head:
            wider = -(-self.hidden_size // self.n_head) * self.n_head
            why = f"{self.n_head} heads do not divide hidden_size={self.hidden_size}"
            found.append(("n_head", why, f"use model.hidden_size={wider}"))
        if self.name == SMALL and self.pooling == "cls":
            found.append(("pooling", "small has no token that stands for the text", "use model.pooling=mean"))
        for key in _SMALL_ONLY if self.name != SMALL else ():
            if getattr(self, key) != type(self).model_fields[key].default:
                found.append((key, "a pretrained encoder has its own", "leave it out, or use model.name=small"))
        return found

    def _task_problems(self) -> list[tuple[str, str, str]]:
        found = []
        for name, classes in (self.tasks or {}).items():
            if not _NAME.fullmatch(name) or name in _TAKEN:
                why = f"'{name}' cannot be the name of a task"
                found.append(("tasks", why, "use a word of letters, digits, _ and -, other than " + ", ".join(_TAKEN)))
            names = [str(c) for c in classes] if isinstance(classes, list) else None
            if (classes if names is None else len(names)) < 2:  # type: ignore[operator]
                found.append(("tasks", f"{name} has fewer than two classes", "name at least two"))
            elif names is not None and len(set(names)) < len(names):
                found.append(("tasks", f"{name} names a class twice", "name each class once"))
        if self.tasks is not None and self.num_labels is not None:
            found.append(("num_labels", "model.tasks says it already", "keep one of them"))
        for name in self.task_weights if self.tasks is not None else ():
            if name not in (self.tasks or {}):
                found.append(("task_weights", f"there is no task {name}", f"name one of {', '.join(self.tasks or {})}"))
        if self.use_multitask is False and self.tasks is not None and len(self.tasks) > 1:
            found.append(("use_multitask", "model.tasks names several tasks", "leave one of the two out"))
        if self.use_multitask and self.num_labels is not None:
            found.append(("num_labels", "it is for a single task", "use model.tasks to give each task its classes"))
        return found

    def weight_of(self, task: str) -> float:
        """What a task counts in the loss and in the mean over tasks."""
        return float(self.task_weights.get(task, WEIGHTS.get(task, 1.0)))


class ClassifyData(RowsData):
    """Texts with labels: JSON, JSON lines, CSV or TSV; or generated ones, called synthetic."""

    path: Files = knob(  # type: ignore[assignment]
        None,
        "File (.json, .jsonl, .csv, .tsv), list of files, or folder with train, dev and test files; null takes "
        "generated Traditional Chinese texts, called synthetic.",
    )
    train_path: Files = knob(None, "File or files of the training texts, instead of path.")
    val_path: Files = knob(None, "With train_path: file or files of the validation texts.")
    test_path: Files = knob(None, "With train_path: file or files of the test texts; measured once, at the end.")
    text_column: str | None = knob(None, "Column of the text; null takes text, TEXT, content, sentence or review.")
    label_columns: dict[str, str] = knob(
        {},
        "Task -> column of its labels, or FILE:COLUMN for some files only (FILE may hold *); for tasks not named: "
        "TASK_labels, TASK_label, TASK, and label or labels of a single task.",
    )
    group_column: str | None = knob(None, "Column whose values keep rows together, for data.split=group.")
    min_length: int = knob(1, "Training texts shorter than this are left out.", unit="characters", ge=0)
    max_length: Positive | None = knob(
        None,
        "Training texts longer than this are left out; null keeps all, cut to max_sequence_length.",
        unit="characters",
    )
    length_buckets: int = knob(
        8, "Widths that texts are padded to, at most: more leave less to pad, and compiled code more to build.", ge=1
    )
    rows: int = knob(3000, "Generated texts: how many.", unit="texts", ge=100)

    def problems(self) -> list[tuple[str, str, str]]:
        """Knobs without effect beside the others."""
        found = []
        files = self.path is not None or self.train_path is not None
        if files and self.rows != type(self).model_fields["rows"].default:
            found.append(("rows", "it is for generated texts, and files are given", "leave it out"))
        for key in ("text_column", "label_columns", "group_column"):
            if not files and getattr(self, key):
                found.append((key, "generated texts have their own columns", "leave it out, or give data.path"))
        for key in ("val_path", "test_path"):
            if getattr(self, key) is not None and self.train_path is None:
                found.append((key, "it goes with data.train_path", "set data.train_path, or use data.path alone"))
        if self.path is not None and self.train_path is not None:
            found.append(("path", "data.train_path says the same in another way", "keep one of the two"))
        if self.max_length is not None and self.max_length < self.min_length:
            found.append(("max_length", f"it is below min_length={self.min_length}", "leave one of them out"))
        if self.split == "group" and self.group_column is None:
            found.append(("split", "the column of the groups is not known", "name it: data.group_column=NAME"))
        if self.group_column is not None and self.split != "group":
            found.append(("group_column", "it is for data.split=group", "leave it out, or set data.split=group"))
        if self.use_sample_weights and not files:
            found.append(("use_sample_weights", "generated texts have no weights", "leave it out"))
        return found


def listed(paths: Files) -> list[str]:
    """One path or several, as a list."""
    return [paths] if isinstance(paths, str) else list(paths or ())


def named(classes: Any) -> tuple[str, ...]:
    """The names of classes that are given as names or as a number."""
    return tuple(str(c) for c in (range(classes) if isinstance(classes, int) else classes))


OPTIONS = TaskOptions(name="classify", model=ClassifyModel, data=ClassifyData)
"""What the configuration needs to know of this task."""
