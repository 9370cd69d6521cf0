"""Who an unexpected exception belongs to: us (exit code 1), or the user's own file that we called (exit code 2).

The traceback is shown in both cases: a person who writes a task needs it, and so do we.
"""

from __future__ import annotations

import site
import sys
import sysconfig
import traceback
from pathlib import Path

import click

_OURS = str(Path(__file__).resolve().parents[1])


def show_fault() -> int:
    """Print the exception being handled and whose it is.

    Returns:
        The exit code.
    """
    sys.stdout.flush()
    click.echo(traceback.format_exc().rstrip(), err=True)
    error = sys.exc_info()[1]
    assert error is not None, "called outside of an except block"
    frame = blamed(traceback.extract_tb(error.__traceback__))
    if frame is None:
        click.secho("this is a bug in hotloop; please report it with the lines above", fg="red", bold=True, err=True)
        return 1
    click.secho(f"error: your code raised {type(error).__name__}: {error}", fg="red", bold=True, err=True)
    click.echo(f"  where: {frame.filename}, line {frame.lineno}, in {frame.name}", err=True)
    return 2


def blamed(frames: traceback.StackSummary) -> traceback.FrameSummary | None:
    """The user's frame that an exception came out of; None where it came out of ours.

    Frames of libraries say nothing: a library raises because of who called it. So the innermost frame that belongs to
    no library decides.
    """
    libraries = [sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")]
    libraries += [*site.getsitepackages(), site.getusersitepackages()]
    for frame in reversed(frames):
        if frame.filename.startswith(_OURS):
            return None
        if not frame.filename.startswith(("<", *libraries)):
            return frame
    return None
