"""The micro-batch that pays: the smallest one with which the stated effective batch is trained as fast as it can be.

Sizes are run in ascending order until the machine has had enough, then between neighbours until the knee is known to a
tenth. The answer has been run, alone and in whole steps; the effective batch stays what the person said.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hotloop import device as machine
from hotloop.engine.plan import Choice
from hotloop.errors import HotloopError
from hotloop.runs.reporter import Reporter
from hotloop.tune.bench import Bench, Trial
from hotloop.tune.gauge import Cost, Facts
from hotloop.tune.knee import allowed_sizes, doubling, is_falling, is_flat, is_rising, next_size, pieces_of, useful
from hotloop.tune.tried import Tried, disturbed, size_text, table

_MOST = 16  # sizes that are run at most
_STEPS, _CONFIRMED = 3, 3
_SLOW = 1.0  # seconds of a pass from which on larger sizes must promise something to be run
_FREE = 0.9  # of the free memory: what would take more is not run, as a CPU has no allocator that would say no


@dataclass
class Sizes:
    """Sizes of one combination, run one after another.

    Args:
        trial: the combination, put together.
        choice: what it is, without its size.
        reporter: told of each size as it is known.
        limit: bytes that a size may take; 0 for no limit but the machine's.
    """

    trial: Trial
    choice: Choice
    reporter: Reporter
    limit: int = 0
    tried: dict[int, Tried] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of the effective batch, as many of them as the data has."""
        return self.trial.facts.rows

    @property
    def rates(self) -> dict[int, float]:
        """Size -> samples per second, 0 where it does not fit."""
        return {size: one.rate if one.fits else 0.0 for size, one in self.tried.items()}

    def run(self, size: int) -> Tried:
        """Run one size, if the machine has the memory for it."""
        cost = self._foreseen(size) or self.trial.measure(size)
        over = bool(self.limit) and cost.peak > self.limit
        fits = cost.ran and not over
        reason = cost.note or (f"over {size_text(self.limit)}" if over else "")
        one = Tried(replace(self.choice, micro_batch=size), self.rows, cost, fits, reason=reason)
        self.tried[size] = one
        self.reporter.note(f"  {_line(one)}")
        return one

    def _foreseen(self, size: int) -> Cost | None:
        """An answer without a run, where the last two sizes say that the memory would not do."""
        facts, ran = self.trial.facts, sorted(size for size, one in self.tried.items() if one.cost and one.cost.ran)
        if len(ran) < 2 or size <= ran[-1] or not facts.device.startswith("cpu"):
            return None
        one, other = (self.tried[size].peak for size in ran[-2:])
        wanted = other + max(0, other - one) * (size - ran[-1]) // (ran[-1] - ran[-2])
        free = int(_FREE * machine.memory_free(machine.pick_device("cpu")))
        if wanted <= free:
            return None
        return Cost(size, False, note=f"not run: would take about {size_text(wanted)}, {size_text(free)} are free")

    def ascend(self, sizes: list[int]) -> None:
        """Run `sizes` upwards until one does not fit, or larger ones are clearly slower."""
        for size in sizes:
            one = self.run(size)
            out = one.cost is not None and not one.fits and (one.cost.peak > self.limit > 0 or _is_memory(one.cost))
            slow = one.cost is not None and one.cost.seconds > _SLOW
            if out or is_falling(self.rates) or (slow and is_flat(self.rates)):
                return

    def refine(self) -> None:
        """Run what lies between, until the knee is known."""
        sizes = allowed_sizes(self.rows)
        if not any(self.rates.values()) and not any(one.cost and _is_memory(one.cost) for one in self.tried.values()):
            return  # smaller ones would fail for the same reason
        while len(self.tried) < _MOST and (size := next_size(self.rates, sizes)) is not None:
            self.run(size)


def _is_memory(cost: Cost) -> bool:
    return not cost.ran and ("memory" in cost.note or cost.note.startswith(("took", "not run")))


def _line(one: Tried) -> str:
    pieces = f"{one.pieces} piece{'s' if one.pieces > 1 else ''}"
    if not one.step_seconds:
        return f"micro-batch {one.choice.micro_batch} ({pieces}): {one.reason}"
    speed = f"{1e3 * one.step_seconds:,.1f} ms a step, {one.rate:,.1f} samples/s, peak {size_text(one.peak)}"
    return f"micro-batch {one.choice.micro_batch} ({pieces}): {speed}{f' ({one.reason})' if one.reason else ''}"


def find_batch(bench: Bench, stated: Choice, reporter: Reporter, splittable: bool = True) -> Choice:
    """The micro-batch that pays, as a choice.

    Args:
        bench: where trials run.
        stated: what the search keeps (a precision, say).
        reporter: told as the search goes on.
        splittable: False where BatchNorm must not see other batches than stated: then only that size is measured.

    Raises:
        HotloopError: no size runs, or the run cannot be put together at all.
    """
    reporter.note("looking for the micro-batch that pays (training.auto_batch_size); each size is run on its own")
    with bench.open(stated) as trial:
        facts = trial.facts
        sizes = Sizes(trial, replace(stated, precision=facts.precision), reporter)
        own = pieces_of(facts.rows, pieces_of(facts.rows, facts.micro_batch))
        if facts.couples and not splittable:
            sizes.run(own)
        else:
            sizes.ascend(sorted({*doubling(allowed_sizes(facts.rows)), own}))
            sizes.refine()
    if useful(sizes.rates) is None:
        last = sizes.tried[min(sizes.tried)]
        raise HotloopError(
            f"no micro-batch runs, not even {last.choice.micro_batch}: {last.reason}",
            where="training.auto_batch_size",
            fix="use less memory (optimization.gradient_checkpointing=true, shorter samples), or leave the search out",
        )
    chosen, seconds = _confirmed(bench, sizes, reporter)
    return _told(sizes, facts, chosen, seconds, own, reporter)


def _confirmed(bench: Bench, sizes: Sizes, reporter: Reporter) -> tuple[Tried, float]:
    """The useful size that whole steps confirm, and seconds of such a step."""
    fault: HotloopError | None = None
    for _ in range(_CONFIRMED):
        size = useful(sizes.rates)
        if size is None:
            break
        one = sizes.tried[size]
        try:
            with bench.open(one.choice, whole=True) as trial:
                cost = trial.confirm(_STEPS)
        except HotloopError as error:
            cost, fault = Cost(size, False, note=error.what), error
        if cost.ran:
            reporter.note(f"  confirmed: whole steps at {size} take {1e3 * cost.seconds:,.1f} ms")
            return one, cost.seconds
        sizes.tried[size] = replace(one, fits=False, reason=f"whole steps: {cost.note}")
        reporter.note(f"  not confirmed at {size}: {cost.note}")
    raise fault or HotloopError(
        "no micro-batch that ran alone runs in whole steps",
        where="training.auto_batch_size",
        fix="state training.batch_size by hand",
    )


def _told(sizes: Sizes, facts: Facts, chosen: Tried, seconds: float, own: int, reporter: Reporter) -> Choice:
    """The choice with its lines and rows."""
    size = chosen.choice.micro_batch or 0
    best = max(sizes.rates.values())
    listed = []
    for number, one in sorted(sizes.tried.items()):
        why = one.reason or (f"{one.rate / best - 1:+.0%} against the best" if one.rate < best else "the best")
        mark = "chosen: the smallest within 3 % of the best" if number == size else why
        listed.append(replace(one, chosen=number == size, reason=mark))
    for line in table(listed, settings=False):
        reporter.note(f"  {line}")
    pays = f"micro-batch {size} ({chosen.pieces} a step): {chosen.rate:,.1f} samples/s on the longest samples"
    if size != own and own in sizes.rates and sizes.rates[own] > 0:
        pays += f", {sizes.rates[own]:,.1f} with the stated {own}"
    lines = [f"{pays}; whole steps took {1e3 * seconds:,.1f} ms (measured)"]
    lines += disturbed(seconds, chosen.step_seconds)
    if size == facts.rows and is_rising(sizes.rates):
        lines.append(
            f"samples/s still rise at the whole effective batch of {facts.effective}: a larger one may be faster; it "
            "was not measured, and the effective batch stays as it is stated (training.batch_size)"
        )
    if facts.couples and size != own:
        lines.append(f"BatchNorm sees batches of {size} in place of {own}: results differ from those with {own}")
    rows = tuple(one.to_json() for one in listed)
    return replace(chosen.choice, told=tuple(lines), rows=rows)
