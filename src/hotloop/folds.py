"""Cross-validation: one run for each fold, in turn, and what they reached together.

Each fold is a whole run of its own (data.fold=k), with its folder, its resume and its conclusion; the table of all
goes into one JSON file beside them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from hotloop import launch
from hotloop.assemble import NOTHING
from hotloop.config.load import Loaded
from hotloop.disk import write_atomic
from hotloop.engine.plan import Choice
from hotloop.errors import HotloopError, Interrupted
from hotloop.runs.reporter import Reporter
from hotloop.saved import Run
from hotloop.task import Task


@dataclass(frozen=True)
class Folds:
    """What all folds reached.

    Attributes:
        runs: one a fold, in order.
        scores: metric -> (mean, standard deviation) over the folds, of the last evaluation.
        file: where it is written.
    """

    runs: tuple[Run, ...]
    scores: dict[str, tuple[float, float]]
    file: Path

    def to_json(self) -> dict[str, Any]:
        """For programs: the folders, and mean and spread of each metric."""
        scores = {name: {"mean": mean, "std": spread} for name, (mean, spread) in self.scores.items()}
        return {"folds": [str(run.dir) for run in self.runs], "scores": scores}

    def lines(self) -> list[str]:
        """For people: one line a metric."""
        width = max(map(len, self.scores), default=0)
        return [
            f"{name:<{width}}  {mean:.4f} +- {spread:.4f} over {len(self.runs)} folds"
            for name, (mean, spread) in self.scores.items()
        ]


def wanted(loaded: Loaded) -> bool:
    """Whether all folds are to be trained, and not a single one."""
    data = loaded.config.data
    return getattr(data, "folds", None) is not None and getattr(data, "fold", None) is None


def require_one(loaded: Loaded) -> None:
    """A call that trains one run must know which fold.

    Raises:
        HotloopError: folds are asked for, and none of them named.
    """
    if wanted(loaded):
        count: int = loaded.config.data.folds  # type: ignore[attr-defined]
        raise HotloopError(
            f"a call trains one run, and {count} folds are {count} runs",
            where="data.folds",
            fix=f"say which with fold=1 to {count} and call it for each; `hotloop train` trains all of them in turn",
        )


def train_folds(
    loaded: Loaded,
    reporter: Reporter | None = None,
    task: type[Task] | None = None,
    callbacks: Sequence[Any] = (),
    choice: Choice = NOTHING,
) -> Folds:
    """Train every fold in turn.

    Args:
        loaded: the configuration, with data.folds.
        reporter: what the person sees.
        task: the class, where its name alone does not find it.
        callbacks: observers of the caller.
        choice: what was decided in place of the configuration, for every fold.

    Raises:
        HotloopError: as `launch.train`; folds that are done are kept.
    """
    config = loaded.config
    count: int = config.data.folds  # type: ignore[attr-defined]
    name = config.experiment.name or Path(config.task.partition(".py")[0]).name
    runs = []
    for fold in range(1, count + 1):
        part = only(loaded, fold)
        one = part.config
        made = None if task is None else task(one.model, one.data, seed=one.experiment.seed)
        try:
            runs.append(launch.train(part, made, reporter=reporter, callbacks=callbacks, choice=choice))
        except Interrupted as error:
            left = f", then train the rest one by one: data.fold={fold + 1} to {count}" if fold < count else ""
            raise Interrupted(f"fold {fold} of {count}: {error.what}", fix=f"{error.fix}{left}") from error
    folder = Path(config.experiment.dir).expanduser()
    found = Folds(
        tuple(runs),
        scores([run.summary for run in runs]),
        folder / f"{name}_folds_{time.strftime('%Y%m%d_%H%M%S')}.json",
    )
    write_atomic(found.file, (json.dumps(found.to_json(), indent=2) + "\n").encode())
    return found


def only(loaded: Loaded, fold: int) -> Loaded:
    """The configuration of one fold's run, named after it."""
    config = loaded.config
    name = config.experiment.name or Path(config.task.partition(".py")[0]).name
    one = config.model_copy(
        update={
            "data": config.data.model_copy(update={"fold": fold}),
            "experiment": config.experiment.model_copy(update={"name": f"{name}_fold{fold}"}),
        }
    )
    return replace(loaded, config=one)


def scores(summaries: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of every metric that all folds have."""
    names = [name for name, value in summaries[0].items() if name.startswith("eval_") and isinstance(value, float)]
    found = {}
    for name in names:
        values = [summary[name] for summary in summaries if isinstance(summary.get(name), float)]
        if len(values) == len(summaries) and all(map(math.isfinite, values)):
            found[name] = (fmean(values), stdev(values))
    return found
