"""What a run is given in place of its configuration: by a search where one was asked for, by rule on a small card."""

from __future__ import annotations

from dataclasses import replace

import torch

from hotloop import device as machine
from hotloop.config.arguments import ORIGIN
from hotloop.config.load import CALL, Loaded
from hotloop.config.schema import Config
from hotloop.data.stream import StreamSource
from hotloop.engine.plan import Choice
from hotloop.errors import HotloopError
from hotloop.given import Given
from hotloop.runs.reporter import Reporter, Silent
from hotloop.task import Task
from hotloop.tasks import BUILTIN
from hotloop.tune.batch import find_batch
from hotloop.tune.bench import Bench, Fresh, Here
from hotloop.tune.budget import Freedom, find_fitting
from hotloop.tune.low import CARD, is_open, low_memory


def choose(loaded: Loaded, task: Task | None = None, reporter: Reporter | None = None) -> Choice:
    """Search before a run for what the configuration asks to be searched for; nothing without that.

    Args:
        loaded: the resolved configuration.
        task: made already, where it is one that only this process can build.
        reporter: what the person sees while it goes on.

    Raises:
        HotloopError: no size runs, nothing fits, or the run cannot be put together.
    """
    config = loaded.config
    searched = config.training.auto_batch_size or config.memory.budget is not None
    quiet = config.experiment.log_level in ("warning", "error")
    shown: Reporter = Silent() if reporter is None or quiet else reporter
    device = machine.pick_device(config.training.device)
    if searched:
        refuse_idle_tuning(loaded, "training.auto_batch_size and memory.budget search by themselves")
    if isinstance(task, Given):
        refuse_idle_tuning(
            loaded, "candidates run in other processes, which cannot build a model that is only in this one"
        )
    if not searched:
        return _for_a_small_card(loaded, task, device)
    if config.memory.budget is None:
        splittable = config.memory.on_batchnorm != "refuse"
        found = find_batch(_bench(loaded, task), Choice(), shown, splittable)
    else:
        budget = machine.budget_bytes(config.memory.budget, device)
        found = find_fitting(_bench(loaded, task, budget), budget, Choice(), freedom(loaded, device), shown)
    return replace(found, precision=found.precision if config.training.precision == "auto" else None)


def refuse_idle_tuning(loaded: Loaded, why: str) -> None:
    """A `training.tune=auto` that a person asks for, where nothing would be tuned.

    In a file it may stand without being asked for: the config.yaml of a run holds every key.

    Raises:
        HotloopError: with the reason.
    """
    if loaded.config.training.tune == "auto" and loaded.origins.get("training.tune") in (ORIGIN, CALL):
        raise HotloopError(
            f"training.tune=auto has no effect here: {why}",
            where="training.tune",
            fix="leave it out; a task in a file is tuned with `hotloop tune FILE.py:CLASS`",
        )


def freedom(loaded: Loaded, device: torch.device) -> Freedom:
    """What a search within a budget may change: what nobody stated by hand."""
    config, origins = loaded.config, loaded.origins
    return Freedom(
        precisions=_precisions(config, device),
        recompute=is_open(origins, "optimization.gradient_checkpointing") and not _recomputes(config),
        optimizer=is_open(origins, "optimization.optimizer") and config.optimization.optimizer == "adamw",
        splittable=config.memory.on_batchnorm != "refuse",
        offload=device.type == "cuda" and is_open(origins, "memory.offload") and config.memory.offload == "off",
    )


def _recomputes(config: Config) -> bool:
    return bool(config.optimization.gradient_checkpointing)


def _precisions(config: Config, device: torch.device) -> tuple[str, ...]:
    """What `auto` could also come to."""
    if config.training.precision != "auto":
        return ()
    native = machine.native_precision(device)
    return tuple(dict.fromkeys(["fp32", native]))


def _bench(loaded: Loaded, task: Task | None, limit: int = 0) -> Bench:
    """Where to measure: in fresh processes, unless only this one can build the model."""
    name = loaded.config.task
    if task is None or (not isinstance(task, Given) and (name in BUILTIN or ".py" in name)):
        return Fresh(loaded, limit)
    if isinstance(task, Given) and isinstance(task.given.train, StreamSource | torch.utils.data.IterableDataset):
        raise HotloopError(
            "a search reads rows before the run, and a stream in hand cannot be put back to its start",
            where="training.auto_batch_size, memory.budget",
            fix="leave the search out, or put the data into a task in a file: hotloop train FILE.py:CLASS",
        )
    return Here(loaded, task)


def _for_a_small_card(loaded: Loaded, task: Task | None, device: torch.device) -> Choice:
    """The low-memory measures; the model is asked for what it knows, in a process of its own where that can be."""
    if device.type != "cuda" or (total := machine.memory_total(device)) > CARD:
        return Choice()
    with _bench(loaded, task).open(Choice(micro_batch=1)) as trial:
        recomputes = trial.facts.recomputes
    return low_memory(device.type, total, loaded.config, loaded.origins, recomputes)
