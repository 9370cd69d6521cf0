"""How an effective batch is cut at present: the micro-batch shrinks where memory is short and grows back later.

Sizes are rows. The effective batch never changes, so neither does what the optimizer sees nor the order of the data.
"""

from __future__ import annotations

from typing import Any

_WAIT, _LONGEST_WAIT = 50, 12800  # steps without trouble before a larger micro-batch is tried again


class Pieces:
    """The micro-batch of the moment, and when a larger one is tried.

    Args:
        asked: micro-batch of the plan.
        lone_row: whether a piece may be a single row.

    Attributes:
        rows: the micro-batch now.
        retries: steps taken back for want of memory so far.
        begun: micro-batches begun in the step that is being made.
        spared: the size whose step was already repeated as it was; the next failure at it splits.
    """

    def __init__(self, asked: int, lone_row: bool = True) -> None:
        self.asked = self.rows = asked
        self.lone_row = lone_row
        self.retries = self.begun = self.spared = 0
        self._quiet, self._wait = 0, _WAIT
        self._grown_from = 0  # the size before a growth that has not proved itself yet

    def shrink(self, rows: int) -> None:
        """Go on in micro-batches of `rows` rows."""
        self.rows, self._quiet, self._grown_from = rows, 0, 0

    @property
    def wants_to_grow(self) -> bool:
        """Whether it has been quiet for long enough to try a larger size."""
        return self.rows < self.asked and self._quiet >= self._wait

    def grow(self) -> None:
        """Try twice the rows, at most what was asked for."""
        self._grown_from, self.rows, self._quiet = self.rows, min(2 * self.rows, self.asked), 0

    def put_off(self) -> None:
        """No room to grow into: ask again after the same time."""
        self._quiet = 0

    def take_growth_back(self) -> bool:
        """Go back to the size before an unproved growth and wait twice as long; False where there was none."""
        if not self._grown_from:
            return False
        self.rows, self._grown_from, self._quiet = self._grown_from, 0, 0
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        return True

    def done(self) -> int:
        """A step was made: count it. Returns the size before, where this step proved a growth; else 0."""
        self._quiet += 1
        proved, self._grown_from = self._grown_from, 0
        return proved

    @property
    def wait(self) -> int:
        """Steps without trouble before the next try."""
        return self._wait

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "retries": self.retries,
            "spared": self.spared,
            "quiet": self._quiet,
            "wait": self._wait,
        }

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        self.rows, self.retries, self.spared = stored["rows"], stored["retries"], stored["spared"]
        self._quiet, self._wait = stored["quiet"], stored["wait"]
