"""The parent's side of a lane: each run in a process of its own, asked over a pipe, gone when the block ends."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from hotloop.config.load import Loaded
from hotloop.config.schema import to_plain
from hotloop.errors import HotloopError
from hotloop.saved import CONFIG, rooted
from hotloop.tune.child import Child
from hotloop.tune.lane import Burst, LaneFacts
from hotloop.tune.proof import Gradients


class TimeOver(HotloopError):
    """A lane's time was over before it had answered."""


_BUILDING, _STEPPING = 1800.0, 900.0  # seconds after which a lane is given up


class Runner(Protocol):
    """A lane, wherever it is."""

    facts: LaneFacts
    alive: bool

    def warm(self) -> float:
        """Make the first steps; seconds of compilation."""
        ...

    def run(self, seconds: float) -> Burst:
        """Make steps for about so long."""
        ...

    def peak(self) -> int:
        """Bytes at the highest point."""
        ...

    def gradients(self, precision: str | None = None) -> Gradients:
        """What the optimizer gets in the first steps."""
        ...

    def losses(self, seeds: list[int], steps: int) -> list[float]:
        """Training loss after some steps, by seed."""
        ...

    def allow(self, seconds: float) -> None:
        """It is given up so much later."""
        ...

    def stay(self) -> None:
        """It has proved itself: it is not given up any more before everything is."""
        ...

    def close(self) -> None:
        """End it; harmless when repeated."""
        ...


class Track(Protocol):
    """Where lanes are opened."""

    def open(self, loaded: Loaded, seconds: float = math.inf) -> Runner:
        """A lane of this configuration, given up after so many seconds.

        Raises:
            HotloopError: the run cannot be put together so.
        """
        ...


class FreshTrack:
    """Lanes in processes of their own, for tasks that any process can build.

    Args:
        seconds: after which every lane is given up, whatever it is doing; None gives each answer its own long time.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    def open(self, loaded: Loaded, seconds: float = math.inf) -> Runner:
        """As `Track.open`."""
        return FreshRunner(loaded, min(self._end, time.monotonic() + seconds), self._end)


class FreshRunner:
    """A lane in a process of its own, given up at `end`, after `stay` at `last` (both on the monotonic clock)."""

    def __init__(self, loaded: Loaded, end: float = math.inf, last: float = math.inf) -> None:
        self._end, self._last = end, last
        self.alive = True
        self._stack = contextlib.ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="hotloop_lane_")))
        config = rooted(loaded.config)
        (self._folder / CONFIG).write_text(json.dumps(to_plain(config)), encoding="utf-8")
        self._child = Child({"lane": True, "folder": str(self._folder), "origins": loaded.origins})
        self._stack.callback(self._child.close)
        with self._closed_on_error():
            self.facts = LaneFacts(**self._answered(self._child.answer(self._patience(_BUILDING))))

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _ask(self, do: str, **wanted: Any) -> dict[str, Any]:
        with self._closed_on_error():
            return self._answered(self._child.ask({"do": do, **wanted}, self._patience(_STEPPING)))

    def _patience(self, seconds: float) -> float:
        return max(1.0, min(seconds, self._end - time.monotonic()))

    def _answered(self, answer: dict[str, Any]) -> dict[str, Any]:
        kind = answer.pop("kind")
        if kind == "fault":
            raise HotloopError(answer["what"], where=answer["where"], fix=answer["fix"])
        if kind == "memory":
            raise HotloopError("out of memory, beside the lanes it is measured against, which hold a copy each")
        if kind == "gone" and answer["why"].startswith("took more"):
            raise TimeOver("given up: its share of the time was over")
        if kind == "gone":
            last = answer.get("said", "").splitlines()[-1:]
            raise HotloopError(answer["why"], where=last[0] if last else "")
        return answer

    def warm(self) -> float:
        """As `Runner.warm`."""
        return float(self._ask("warm")["seconds"])

    def run(self, seconds: float) -> Burst:
        """As `Runner.run`."""
        return Burst(**self._ask("run", seconds=seconds))

    def peak(self) -> int:
        """As `Runner.peak`."""
        return int(self._ask("peak")["bytes"])

    def gradients(self, precision: str | None = None) -> Gradients:
        """As `Runner.gradients`; they come through a file."""
        file = self._folder / "gradients.pt"
        self._ask("gradients", precision=precision, file=str(file))
        found: Gradients = torch.load(file, weights_only=True)
        file.unlink()
        return found

    def losses(self, seeds: list[int], steps: int) -> list[float]:
        """As `Runner.losses`."""
        return list(self._ask("losses", seeds=seeds, steps=steps)["losses"])

    def allow(self, seconds: float) -> None:
        """As `Runner.allow`."""
        self._end = min(self._last, self._end + seconds)

    def stay(self) -> None:
        """As `Runner.stay`."""
        self._end = self._last

    def close(self) -> None:
        """As `Runner.close`."""
        self.alive = False
        self._stack.close()
