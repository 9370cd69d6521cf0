"""What tuning found, kept for later runs of the same model on data of the same shape, this machine and these versions.

A file for each such key in the user's cache folder. A damaged or older file is as if it were not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hotloop import device as machine
from hotloop.config.load import Loaded
from hotloop.config.schema import to_plain
from hotloop.disk import cache_folder, telling, write_atomic
from hotloop.errors import HotloopError
from hotloop.tune.low import is_open
from hotloop.tune.settings import SEARCHED

_FORM = 3


@dataclass(frozen=True)
class Kept:
    """A result of before.

    Args:
        knobs: dotted key -> value.
        factor: samples per second over the plain way to train.
        measured: the day, as 2026-11-28.
        untried: candidates that were left when the search's time was over.
    """

    knobs: dict[str, Any]
    factor: float
    measured: str
    untried: int = 0


def key_of(loaded: Loaded, parameters: int, shape: Mapping[str, Any]) -> dict[str, Any]:
    """What decides over speed, as plain values.

    Args:
        loaded: the run's configuration.
        parameters: of the model.
        shape: of its data, as `tune.lane.data_shape` gives it.
    """
    plain, here = to_plain(loaded.config), machine.describe()
    names = [
        f"{section}.{name}" for section in ("training", "data", "optimization", "memory") for name in plain[section]
    ]
    deciding = SEARCHED - {"training.tune"}
    stated = {name: _at(plain, name) for name in names if name in deciding and not is_open(loaded.origins, name)}
    optimization = plain["optimization"]
    return {
        "form": _FORM,
        "task": _task(loaded.config.task),
        "model": {name: value for name, value in plain["model"].items() if name not in ("init_from", "freeze")},
        "frozen": plain["model"]["freeze"],
        "parameters": parameters,
        "data": dict(shape),
        "optimizer": {name: optimization[name] for name in ("optimizer", "gradient_checkpointing")},
        "stated": stated,
        "machine": {name: here[name] for name in ("cpu", "cpu_capability", "cores", "gpus", "system")},
        "versions": {"hotloop": version("hotloop"), "torch": torch.__version__, "cuda": here["cuda"]},
    }


def _task(name: str) -> list[str]:
    """A built-in task's name, or the file of a person's own with its content."""
    file, _, kind = name.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        return [name]
    return [str(path.resolve()), kind, hashlib.sha256(path.read_bytes()).hexdigest()[:24]]


def _at(plain: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    return plain[section][name]


def keep(
    key: Mapping[str, Any],
    knobs: Mapping[str, Any],
    factor: float,
    ladder: Mapping[str, Any] | None = None,
    untried: int = 0,
) -> Path:
    """Write a result down, with what ladder.json would hold, for people; returns its file.

    Raises:
        HotloopError: it cannot be written, or it is of a search without an end and there is one with an end.
    """
    file = _file(key)
    if untried and (before := recall(key)) is not None and not before.untried:
        raise HotloopError(f"the search of {before.measured}, which came to its end, counts for more")
    with telling("make", file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    found = {"key": key, "knobs": dict(knobs), "factor": factor, "measured": time.strftime("%Y-%m-%d")}
    found["untried"] = untried
    found |= {"ladder": dict(ladder)} if ladder else {}
    write_atomic(file, json.dumps(found, indent=2, default=str).encode())
    return file


def recall(key: Mapping[str, Any]) -> Kept | None:
    """The result of before for this key, if there is one."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, HotloopError):
        found = json.loads(_file(key).read_text(encoding="utf-8"))
        return Kept(dict(found["knobs"]), float(found["factor"]), str(found["measured"]), int(found["untried"]))
    return None


def _file(key: Mapping[str, Any]) -> Path:
    text = json.dumps(key, sort_keys=True, default=str)
    return cache_folder() / "tuned" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
