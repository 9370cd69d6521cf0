"""What a step is bound by, judged from what was measured, and the option that would change it. Pure functions.

The rules, the first that holds:

1. input-bound: more than 20 % of a step is waiting for data and copying it.
2. launch-bound: the device waits for the host. On a GPU kernels run for less than 60 % of the rest of the step; on a
   CPU calling the operations (their number times what a call takes on one number) is more than 40 % of it; where the
   model is compiled a CPU's calls are not known, and the rule is left out.
3. compute-bound: the products' FLOPs are at least 40 % of what this machine can do in this precision, or products
   (matrix, convolution, attention, recurrent) take at least half of the operators' time.
4. memory-bound: the rest, where most time is in operations that do little with each number that they read and write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hotloop.profiler.marks import COPY, DATA, OPTIMIZER

INPUT, BUSY, CALLING, MATRIX, PRODUCTS, UPDATE = 0.2, 0.6, 0.4, 0.4, 0.5, 0.2
TOO_HIGH = 1.1  # of a ceiling: it cannot have been the ceiling
_FASTER = 1.3  # times: another precision must be this much faster to be named


@dataclass(frozen=True)
class Facts:
    """What the verdict is drawn from.

    Args:
        phases: seconds of a step by phase.
        matrix: share of the ceiling of matrix products, over forward and backward; None if not to be had.
        products: share of the operators' time in products.
        calling: share of a quick step that calling the operations takes; None on a GPU and where it is not known.
        busy: share of a step in which a GPU runs kernels; None on a CPU.
        on_gpu: whether the run is on a GPU.
        precision, faster: of the run, and the fastest here by the ceilings with its factor.
        compiled, recomputes, resident, can_be_resident, workers, pinned: of the plan.
    """

    phases: dict[str, float]
    matrix: float | None
    products: float
    calling: float | None
    busy: float | None
    on_gpu: bool
    precision: str
    faster: tuple[str, float]
    compiled: bool
    recomputes: bool
    resident: bool
    can_be_resident: bool
    workers: int
    pinned: bool


@dataclass(frozen=True)
class Verdict:
    """What a step is bound by.

    Args:
        name: input-bound, launch-bound, compute-bound or memory-bound.
        reason: a sentence with the numbers.
        options: what to change, the first the likeliest to help; empty where nothing of the configuration would.
    """

    name: str
    reason: str
    options: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"name": self.name, "reason": self.reason, "options": list(self.options)}


def judge(facts: Facts) -> Verdict:
    """The first rule that holds."""
    phases, whole = facts.phases, sum(facts.phases.values())
    fetching, copying = phases[DATA] / whole, phases[COPY] / whole
    if fetching + copying > INPUT:
        return Verdict("input-bound", _waiting(facts, fetching, copying), _feeding(facts, copying > fetching))
    rest = 1 - fetching - copying
    if facts.busy is not None and facts.busy < BUSY * rest:
        reason = f"the GPU runs kernels for {facts.busy:.0%} of the step and waits for the host in the rest of it"
        return Verdict("launch-bound", reason, _launching(facts))
    if facts.calling is not None and facts.calling > CALLING * rest:
        reason = f"calling the operations takes about {facts.calling:.0%} of the step: they are many and small"
        return Verdict("launch-bound", reason, _launching(facts))
    share = "" if facts.matrix is None else f" and reach {facts.matrix:.0%} of what this machine can do"
    if (facts.matrix or 0.0) >= MATRIX or facts.products >= PRODUCTS:
        reason = f"products take {facts.products:.0%} of the operators' time{share}"
        return Verdict("compute-bound", reason, _computing(facts))
    reason = f"products take only {facts.products:.0%} of the operators' time{share}; the rest reads and writes memory"
    return Verdict("memory-bound", reason, _moving(facts))


def _waiting(facts: Facts, fetching: float, copying: float) -> str:
    from_where = "gathering rows" if facts.resident else "waiting for data"
    return f"{from_where} takes {fetching:.0%} of the step and copying it {copying:.0%}"


def _feeding(facts: Facts, copying: bool) -> tuple[str, ...]:
    options = []
    if facts.can_be_resident and not facts.resident:
        options.append("data.resident=on keeps the data on the device")
    if copying and facts.on_gpu and not facts.pinned:
        options.append("data.pin_memory=on lets copies run beside the computation")
    if not facts.resident and not copying:
        more = max(2, 2 * facts.workers)
        options.append(f"data.num_workers={more} fetches in {more} processes beside the training")
    return tuple(options)


def _launching(facts: Facts) -> tuple[str, ...]:
    options = ["training.batch_size: more rows a step cost little more; the learning rate may have to follow"]
    if not facts.compiled:
        mode = "reduce-overhead" if facts.on_gpu else "default"
        options.append(f"training.compile={mode} joins small operations, at the price of compiling once")
    return tuple(options)


def _computing(facts: Facts) -> tuple[str, ...]:
    name, factor = facts.faster
    options = []
    if facts.recomputes:
        options.append("optimization.gradient_checkpointing=false, if memory allows: nothing is computed twice")
    if factor >= _FASTER:
        options.append(f"training.precision={name}: products are up to {factor:.1f} times as fast here")
    if update := _sharing(facts):
        options.append(update)
    elif (facts.matrix or 1.0) < MATRIX:
        options.append("training.batch_size: products so far below their ceiling are small; more rows make them larger")
    if not facts.compiled:
        options.append("training.compile=default joins what lies between the products")
    return tuple(options)


def _moving(facts: Facts) -> tuple[str, ...]:
    options = []
    if not facts.compiled:
        options.append("training.compile=default joins operations, so that fewer read and write memory")
    if facts.precision in ("fp32", "tf32") and facts.faster[1] >= _FASTER:
        options.append(f"training.precision={facts.faster[0]} halves what is read and written")
    if update := _sharing(facts):
        options.append(update)
    return tuple(options)


def _sharing(facts: Facts) -> str:
    """What to do where the update is a large part of a step; empty where it is not."""
    share = facts.phases[OPTIMIZER] / sum(facts.phases.values())
    if share <= UPDATE:
        return ""
    return f"training.batch_size: the optimizer takes {share:.0%} of a step whatever its rows; more rows share it"
