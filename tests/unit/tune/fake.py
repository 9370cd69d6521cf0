"""A bench whose trials are arithmetic: times and peaks by a law that the test knows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from hotloop.engine.plan import Choice
from hotloop.runs.reporter import Silent
from hotloop.tune.bench import NoRoom
from hotloop.tune.gauge import Cost, Facts

MB = 2**20
FACTS = Facts("cuda", "bf16", "adamw", 32, 32, 32, 128, True, False, 100 * MB, 200 * MB, 150 * MB, True, ())
Law = Callable[[Choice, int], Cost]


@dataclass
class FakeBench:
    """Counts what was run.

    Args:
        law: what a size of a choice costs.
        facts: of every trial.
        whole: what a confirmation says, given what the law says.
        refused: choices that cannot be put together.
    """

    law: Law
    facts: Facts = FACTS
    whole: Callable[[Choice, Cost], Cost] = lambda choice, cost: cost
    refused: Callable[[Choice], bool] = lambda choice: False
    ran: list[tuple[Choice, int]] = field(default_factory=list)
    confirmed: list[Choice] = field(default_factory=list)

    @contextlib.contextmanager
    def open(self, choice: Choice, *, whole: bool = False) -> Iterator[FakeTrial]:
        if self.refused(choice):
            raise NoRoom("no room")
        precision = choice.precision or self.facts.precision
        optimizer = choice.optimizer or self.facts.optimizer
        yield FakeTrial(self, choice, replace(self.facts, precision=precision, optimizer=optimizer))


@dataclass
class FakeTrial:
    bench: FakeBench
    choice: Choice
    facts: Facts

    def measure(self, size: int) -> Cost:
        self.bench.ran.append((self.choice, size))
        return self.bench.law(self.choice, size)

    def confirm(self, steps: int) -> Cost:
        self.bench.confirmed.append(self.choice)
        assert self.choice.micro_batch is not None
        return self.bench.whole(self.choice, self.bench.law(self.choice, self.choice.micro_batch))


class Told(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str, level: str = "info") -> None:
        self.lines.append(text)
