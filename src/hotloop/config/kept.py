"""A resumed run keeps its configuration: what is asked for beside it must be what the run has. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hotloop.config.load import Loaded
from hotloop.config.schema import to_plain
from hotloop.errors import HotloopError


def refuse_changes(loaded: Loaded, saved: Mapping[str, Any], fix: str) -> None:
    """Say so where another configuration is asked for, rather than ignore it.

    Args:
        loaded: what the command line or the call asks for.
        saved: what the run's config.json holds.
        fix: what to do instead.

    Raises:
        HotloopError: values that were asked for differ from the run's own; all are listed.
    """
    wanted = to_plain(loaded.config)
    quiet = ("default",) if loaded.arguments.templates else ("default", "template")
    differing = []
    for key, origin in loaded.origins.items():
        section, _, name = key.partition(".")
        own, asked = saved.get(section, {}).get(name), wanted[section].get(name)
        if not origin.startswith(quiet) and asked != own:
            differing.append(f"{key}: {own!r} in the run, {asked!r} asked for ({origin})")
    if differing:
        raise HotloopError("a resumed run keeps its own configuration", where="\n    ".join(["", *differing]), fix=fix)
