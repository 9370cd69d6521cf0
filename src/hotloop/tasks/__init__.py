"""The built-in workloads by name. Importing this loads no torch: options come first, the task's class when needed."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from hotloop.errors import HotloopError

if TYPE_CHECKING:
    from hotloop.config.schema import TaskOptions
    from hotloop.task import Task

BUILTIN: dict[str, str] = {
    "lob": "price moves from limit order books, with DeepLOB",
    "translate": "short texts from pairs, with an encoder-decoder Transformer",
    "classify": "classes of short texts, one label set or several, with a pretrained encoder or a small one",
    "gpt": "character or byte-pair language model on a text",
    "forecast": "LSTM, GRU or Transformer on market bars and other series",
}
"""Name of each built-in task -> one line that says what it is."""


_CLASSES = {
    "lob": "Lob",
    "translate": "Translate",
    "classify": "Classify",
    "gpt": "Gpt",
    "forecast": "Forecast",
}


def _known(name: str) -> None:
    if name not in BUILTIN:
        near = get_close_matches(name, BUILTIN, n=1)
        raise HotloopError(
            f"there is no task named '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""),
            fix=f"choose one of {', '.join(BUILTIN)}, or a class of your own as FILE.py:CLASS",
        )


def options_of(name: str) -> TaskOptions:
    """The option classes of a built-in task, without loading torch.

    Raises:
        HotloopError: no built-in task has this name.
    """
    _known(name)
    return import_module(f"hotloop.tasks.{name}.options").OPTIONS  # type: ignore[no-any-return]


def task_class(name: str) -> type[Task]:
    """The class of a built-in task; loads torch.

    Raises:
        HotloopError: no built-in task has this name.
    """
    _known(name)
    return getattr(import_module(f"hotloop.tasks.{name}.task"), _CLASSES[name])  # type: ignore[no-any-return]
