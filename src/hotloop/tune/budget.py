"""A budget of memory that holds: the fastest combination of settings whose measured peak is within it.

Combinations are tried in the order in which they cost speed: the arithmetic that is fastest, then recomputing some
activations, then all, then an optimizer with small state, then state on the host. A combination that cannot win is not
run, and the table says why. What is chosen has been confirmed by whole steps, evaluation included.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hotloop.engine.plan import Choice
from hotloop.errors import HotloopError
from hotloop.runs.reporter import Reporter
from hotloop.tune.batch import Sizes
from hotloop.tune.bench import Bench, NoRoom
from hotloop.tune.gauge import Cost, Facts
from hotloop.tune.knee import USEFUL, allowed_sizes, doubling, is_rising
from hotloop.tune.tried import Tried, disturbed, setting_text, size_text, table

FULL = 0.97  # of the budget: what measures higher would be over it on another day
_STEPS, _CONFIRMED = 2, 4
_LONG = 20.0  # seconds of a step that is confirmed by one alone
_BELOW = 3  # halvings of the whole batch that sizes begin at
_HEAVY = 0.5  # share of the budget above which the optimizer's state is worth shrinking


@dataclass(frozen=True)
class Freedom:
    """What the person left open.

    Args:
        precisions: to try where the first, the one resolved, does not do; empty where one was stated.
        recompute, optimizer, offload: whether the search may change it.
        splittable: False where BatchNorm must not see other batches than stated: then only that size is measured.
    """

    precisions: tuple[str, ...] = ()
    recompute: bool = True
    optimizer: bool = True
    offload: bool = False
    splittable: bool = True


@dataclass
class Search:
    """The search for what fits.

    Args:
        bench: where trials run.
        budget: bytes.
        freedom: what may be changed.
        reporter: told as the search goes on.
    """

    bench: Bench
    budget: int
    freedom: Freedom
    reporter: Reporter
    tried: list[Tried] = field(default_factory=list)
    facts: Facts | None = None
    smallest: int = 0  # the smallest peak seen, whether it fits or not

    def run(self, choice: Choice) -> Sizes | None:
        """Measure a combination over its sizes; None where it cannot be put together."""
        self.reporter.note(f"trying {setting_text(choice) or 'the settings as they are'}")
        sizes: Sizes | None = None
        try:
            with self.bench.open(choice) as trial:
                facts = trial.facts
                self.facts = self.facts or facts
                own = replace(choice, precision=facts.precision, optimizer=facts.optimizer)
                sizes = Sizes(trial, own, self.reporter, int(FULL * self.budget))
                self._over(sizes, self._sizes(facts.rows))
        except HotloopError as error:
            self._left(choice, f"{'does not fit' if isinstance(error, NoRoom) else 'cannot be had'}: {error.what}")
            if self.facts is None and not isinstance(error, NoRoom):
                raise  # not even what was stated can be put together: that is the person's to know
        if sizes is not None:
            self.tried += [one for _, one in sorted(sizes.tried.items())]
        return sizes

    def _sizes(self, rows: int) -> list[int]:
        """Sizes to run: those that could still win, from an eighth of the batch up."""
        sizes = doubling(allowed_sizes(rows), _BELOW + 1)
        found = [one.choice.micro_batch or 0 for one in self.tried if one.fits]
        return [size for size in sizes if size >= max(found)] if found else sizes

    def _over(self, sizes: Sizes, wanted: list[int]) -> None:
        """Upwards until the budget is full; downwards where nothing fits; then what lies between."""
        facts = sizes.trial.facts
        if facts.built - facts.state > FULL * self.budget:
            return
        fixed = facts.couples and not self.freedom.splittable
        sizes.ascend([facts.micro_batch] if fixed else wanted)
        allowed = [] if fixed else allowed_sizes(sizes.rows)
        while not any(sizes.rates.values()) and (smaller := [s for s in allowed if s < min(sizes.tried)]):
            target = min(sizes.tried) / 2
            if not sizes.run(min(smaller, key=lambda size: abs(size - target))).peak:
                break
        fit, not_fit = ([s for s, rate in sizes.rates.items() if bool(rate) is good] for good in (True, False))
        if fit and not_fit and is_rising(sizes.rates):
            inside = [s for s in allowed if max(fit) < s < min(not_fit)]
            if inside:
                sizes.run(inside[len(inside) // 2])
        peaks = [one.peak for one in sizes.tried.values() if one.peak]
        self.smallest = min([*peaks, *([self.smallest] if self.smallest else [])], default=0)

    def _left(self, choice: Choice, reason: str) -> None:
        """A combination that was not run, with the reason."""
        self.tried.append(Tried(choice, self.facts.rows if self.facts else 1, reason=reason))
        self.reporter.note(f"  {setting_text(choice) or 'as stated'}: {reason}")

    def everything(self, stated: Choice) -> None:
        """Try what may win, in the order in which it costs speed."""
        first = self.run(stated)
        facts = self.facts
        if facts is not None and facts.built - facts.state > FULL * self.budget:
            self.smallest = facts.built  # before the first activation, and whatever the optimizer keeps
            return
        known = replace(stated, precision=facts.precision) if facts else stated
        wish = self._wish(first)
        state, recomputes = (facts.state, facts.recomputes) if facts else (0, True)
        for share in (0.5, True):
            choice = replace(known, recompute=share)
            if not self.freedom.recompute:
                break
            if not recomputes:
                self._left(replace(known, recompute=True), "not tried: the model does not know gradient checkpointing")
                break
            if not wish:
                self._left(choice, "not tried: a larger micro-batch would gain less than recomputing costs")
                break
            wish = self._wish(self.run(choice))
        heavy = state > _HEAVY * self.budget
        self._smaller_state(known, heavy and self._wish(first))
        for precision in self.freedom.precisions:
            if facts is not None and precision == facts.precision:
                continue
            choice = replace(stated, precision=precision)
            if self._found():
                why = next((line for line in facts.remarks if line.startswith("precision ")), "") if facts else ""
                self._left(choice, f"not tried: {why or 'slower on this device'}")
            else:
                self.run(choice)

    def _smaller_state(self, known: Choice, heavy: bool) -> None:
        """State in 8 bits, and on the host: where nothing fits, or where state takes most of the budget."""
        if self.freedom.optimizer:
            choice = replace(known, optimizer="adamw8bit")
            if heavy and self._found():
                self.run(choice)
            elif not self._found():
                self.run(replace(choice, recompute=True) if self._can_recompute() else choice)
            else:
                self._left(choice, "not tried: the optimizer's state is a small part of the budget")
        if self.freedom.offload:
            choice = replace(known, offload=True)
            if self._found():
                self._left(choice, "not tried: other settings fit, and moving the state costs time")
            else:
                self.run(replace(choice, recompute=True) if self._can_recompute() else choice)

    def _can_recompute(self) -> bool:
        return self.freedom.recompute and (self.facts is None or self.facts.recomputes)

    def _found(self) -> bool:
        return any(one.fits for one in self.tried)

    def _wish(self, sizes: Sizes | None) -> bool:
        """Whether less memory could buy speed: nothing fits, or something larger did not and size still pays."""
        if sizes is None or not any(sizes.rates.values()):
            return True
        return not all(sizes.rates.values()) and is_rising(sizes.rates)


def order(tried: list[Tried]) -> list[Tried]:
    """What fits, in the order in which it is to be taken: near the fastest by peak, the rest by speed."""
    fit = [one for one in tried if one.fits]
    best = max((one.rate for one in fit), default=0.0)
    near = sorted((one for one in fit if one.rate >= USEFUL * best), key=lambda one: one.peak)
    return near + sorted((one for one in fit if one.rate < USEFUL * best), key=lambda one: -one.rate)


def find_fitting(bench: Bench, budget: int, stated: Choice, freedom: Freedom, reporter: Reporter) -> Choice:
    """The fastest combination within the budget, as a choice.

    Args:
        bench: where trials run.
        budget: bytes.
        stated: what was stated and is kept.
        freedom: what may be changed.
        reporter: told as the search goes on.

    Raises:
        HotloopError: nothing fits; with the smallest peak seen and what would help.
    """
    reporter.note(f"looking for the fastest settings within {size_text(budget)} (memory.budget), by measurement")
    search = Search(bench, budget, freedom, reporter)
    search.everything(stated)
    confirmed: tuple[Tried, Cost] | None = None
    left = order(search.tried)
    for _ in range(_CONFIRMED):
        if not left or confirmed:
            break
        one = left[0]
        cost = _whole(bench, one)
        if cost.ran and cost.peak <= budget:
            confirmed = one, cost
            break
        why = f"{size_text(cost.peak)} in whole steps and evaluation" if cost.ran else f"in whole steps: {cost.note}"
        reporter.note(f"  not confirmed: {setting_text(one.choice)}, micro-batch {one.choice.micro_batch}: {why}")
        place = search.tried.index(one)
        search.tried[place] = replace(one, fits=False, reason=f"not taken: {why}")
        search.smallest = min(search.smallest, cost.peak) if cost.peak else search.smallest
        left = [other for other in order(search.tried) if other.peak < one.peak]
    if confirmed is None:
        _show(search.tried, reporter)
        raise _nothing_fits(search)
    return _told(search, *confirmed)


def _whole(bench: Bench, one: Tried) -> Cost:
    try:
        with bench.open(one.choice, whole=True) as trial:
            return trial.confirm(1 if one.step_seconds > _LONG else _STEPS)
    except HotloopError as error:
        return Cost(one.choice.micro_batch or 0, False, note=error.what)


def _show(tried: list[Tried], reporter: Reporter) -> None:
    for line in table(tried, settings=True):
        reporter.note(f"  {line}")


def _told(search: Search, chosen: Tried, cost: Cost) -> Choice:
    """The choice with its lines and rows."""
    best = max(one.rate for one in search.tried if one.fits)
    listed = []
    for one in search.tried:
        reason = one.reason
        if one is chosen:
            reason = f"chosen; whole steps and evaluation: {1e3 * cost.seconds:,.1f} ms, peak {size_text(cost.peak)}"
        elif one.fits:
            slower = f"not taken: {1 - one.rate / best:.0%} slower than the fastest that fits"
            reason = slower if one.rate < USEFUL * best else "not taken: as fast, and takes more memory"
        elif one.cost is not None and not reason.startswith("not taken"):
            reason = f"does not fit: {reason}"
        listed.append(replace(one, chosen=one is chosen, reason=reason))
    _show(listed, search.reporter)
    size, choice = chosen.choice.micro_batch, chosen.choice
    line = (
        f"within {size_text(search.budget)}: {setting_text(choice)}, micro-batch {size} x {chosen.pieces}; whole steps "
        f"take {1e3 * cost.seconds:,.1f} ms and the peak is {size_text(cost.peak)} (measured on the longest samples)"
    )
    told = [line, *disturbed(cost.seconds, chosen.step_seconds)]
    facts = search.facts
    if facts is not None and facts.couples and size != facts.micro_batch:
        told.append(f"BatchNorm sees batches of {size} in place of {facts.micro_batch}: results differ from those")
    return replace(choice, told=tuple(told), rows=tuple(one.to_json() for one in listed))


def _nothing_fits(search: Search) -> HotloopError:
    """What to do where the budget is too small."""
    needed = search.smallest or (search.facts.built if search.facts else 0)
    seen = f"the smallest peak seen is {size_text(needed)}" if needed else "no size could be run"
    weights = f" (its weights take {size_text(search.facts.weights)})" if search.facts else ""
    larger = f"a budget of at least {size_text(int(needed / FULL * 1.02))}" if needed else "a larger budget"
    return HotloopError(
        f"nothing fits into {size_text(search.budget)}: {seen}",
        where="memory.budget",
        fix=f"shorter samples; a smaller model{weights} or one partly frozen (model.freeze); or {larger}",
    )
