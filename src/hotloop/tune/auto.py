"""`training.tune: auto`: settings found before are used, and a long run is tuned first, in a twentieth of its time.

A run is long where that twentieth is enough to find anything. What is not known or not worth it changes nothing.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from hotloop.assemble import Session
from hotloop.config.load import Loaded
from hotloop.errors import HotloopError
from hotloop.runs.reporter import Reporter
from hotloop.saved import is_findable
from hotloop.tune.kept import keep, key_of, recall
from hotloop.tune.lane import data_shape
from hotloop.tune.lanes import FreshTrack
from hotloop.tune.search import Climbed, tune
from hotloop.tune.settings import with_knobs, without_idle
from hotloop.tune.written import in_words

SHARE = 0.05
"""Of the predicted time of training that tuning may take."""
_FEWEST = 120.0  # seconds in which something can be found: less than that is not begun
_BEGIN_WITHIN = 0.6  # of the time: a candidate begun later would not come to its end
_REBUILD = 20.0  # seconds of training from which on known settings are worth putting the run together again


def settle(loaded: Loaded, session: Session, reporter: Reporter) -> Loaded | None:
    """The configuration to train with in place of `loaded`, with a note on where it comes from; None for no other.

    Args:
        loaded: the run's configuration.
        session: put together with it, for what only is known then.
        reporter: told while a search goes on.
    """
    if (key := key_for(loaded, session)) is None:
        return None
    if (found_before := recalled(loaded, key)) is not None:
        return found_before
    predicted = session.predicted_seconds
    seconds = SHARE * predicted
    if seconds < _FEWEST:
        return None
    reporter.note(
        f"tuning for up to {seconds:.0f} s, {SHARE:.0%} of the {predicted:,.0f} s that training is predicted to take "
        "(training.tune=off leaves it out)"
    )
    try:
        found = tune(loaded, reporter, _BEGIN_WITHIN * seconds / 60, track=FreshTrack(seconds))
    except Exception as error:  # a search is no reason for a run not to begin
        said = error.what if isinstance(error, HotloopError) else f"{type(error).__name__}: {error}"
        return _noted(loaded, f"tuning came to nothing ({said}): training as without it")
    file, why = remember(key, found)
    kept = f"not kept for later runs: {why}" if file is None else f"rows in {file}"
    return _noted(found.best, f"{told_of(found)} (measured in {seconds:.0f} s at most; {kept})")


def known(loaded: Loaded, session: Session, reporter: Reporter) -> Loaded | None:
    """As `settle`, without a search."""
    key = key_for(loaded, session)
    return None if key is None else recalled(loaded, key)


def recalled(loaded: Loaded, key: dict[str, Any]) -> Loaded | None:
    """The configuration with the settings that a search found before, with a note; None where none did."""
    if (kept := recall(key)) is None or (fitting := _fitting(loaded, kept.knobs)) is None:
        return None
    told = f"settings measured on {kept.measured}, {kept.factor:.2f}x the plain way: {in_words(kept.knobs)}"
    return _noted(fitting, f"{told} (training.tune=off leaves them out)")


def key_for(loaded: Loaded, session: Session) -> dict[str, Any] | None:
    """What settings of a run are kept under; None where nothing is kept or used: it is off, or the run is short."""
    searched = loaded.config.training.auto_batch_size or loaded.config.memory.budget is not None
    short = session.predicted_seconds < _REBUILD
    if loaded.config.training.tune == "off" or searched or short or not is_findable(loaded.config.task):
        return None
    parameters = sum(p.numel() for p in session.state.model.parameters())
    return key_of(loaded, parameters, data_shape(session))


def remember(key: dict[str, Any], found: Climbed) -> tuple[Path | None, str]:
    """Keep what was found for later runs: its file, or why it is not kept."""
    if found.broken:
        return None, found.broken
    try:
        return keep(key, found.knobs, found.factor, found.to_json(), found.untried), ""
    except HotloopError as error:
        return None, error.what


def _fitting(loaded: Loaded, knobs: dict[str, Any]) -> Loaded | None:
    """The configuration with settings of before; None where they are none of this version's."""
    with contextlib.suppress(ValueError, AttributeError):
        return without_idle(with_knobs(loaded, knobs))
    return None


def _noted(loaded: Loaded, line: str) -> Loaded:
    return replace(loaded, notes=(*loaded.notes, line))


def told_of(found: Climbed) -> str:
    """What a search came to, in one line."""
    return f"tuned: {found.factor:.2f}x the plain way: {in_words(found.knobs)}"
