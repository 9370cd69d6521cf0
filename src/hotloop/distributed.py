"""The world of ranks. Today it has one member: what several ranks need is decided here and nowhere else."""

from __future__ import annotations

import os

from hotloop.errors import HotloopError


def require_single_process() -> None:
    """Refuse to be one of several ranks: each would train the same thing and overwrite the others' files.

    Raises:
        HotloopError: the process was started by torchrun with more than one rank.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size not in ("", "1"):
        raise HotloopError(
            f"this process is one of {size} ranks, and training on several ranks is not available in this version",
            where="WORLD_SIZE in the environment",
            fix="start a single process: hotloop train ... without torchrun",
        )
