"""A person's own code, named on the command line as FILE.py:NAME: a Task class, or a callback."""

from __future__ import annotations

import importlib.util
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hotloop.config.schema import TaskOptions
from hotloop.errors import HotloopError
from hotloop.task import Task, options_of


def load_object(spec: str) -> Any:
    """What FILE.py:NAME names; the file is run as a module, with its own folder on the import path.

    Raises:
        HotloopError: no such file or name, or the file fails while it is run.
    """
    file, colon, name = spec.rpartition(":")
    path = Path(file if colon else spec).expanduser()
    if not colon or not name:
        raise HotloopError(f"'{spec}' names a file but nothing in it", fix=f"write {spec}:NAME")
    if not path.is_file():
        raise HotloopError(
            f"there is no file {path}", where=spec, fix="check the path; it counts from the current folder"
        )
    module_name = f"hotloop_own_{path.stem}"
    located = importlib.util.spec_from_file_location(module_name, path)
    assert located is not None and located.loader is not None
    module = importlib.util.module_from_spec(located)
    sys.modules[module_name] = module  # so that its classes can be found again by loader workers
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        located.loader.exec_module(module)
    except HotloopError:
        raise
    except Exception as error:
        raise HotloopError(
            f"{path} fails when it is loaded: {type(error).__name__}: {error}", where=_line(error, path)
        ) from error
    if not hasattr(module, name):
        near = get_close_matches(name, vars(module), n=1)
        raise HotloopError(f"{path} has no '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""), where=spec)
    return getattr(module, name)


def load_user_task(spec: str) -> tuple[TaskOptions, type[Task]]:
    """The options and the class of a user's own task.

    Raises:
        HotloopError: as `load_object`, or what is named is no Task class.
    """
    found = load_object(spec)
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise HotloopError(f"{spec} is not a Task class", where=spec, fix="derive it from hotloop.Task")
    return options_of(found, spec), found


def _line(error: Exception, path: Path) -> str:
    """Where in the person's file it happened."""
    trace, line = error.__traceback__, 0
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.lineno:
        line = error.lineno
    return f"{path}, line {line}" if line else str(path)
