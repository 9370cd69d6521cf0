"""A person's own code, named on the command line as FILE.py:NAME: a Task class, or a callback."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hotloop.config.schema import DataSection, ModelSection, TaskOptions
from hotloop.errors import HotloopError
from hotloop.task import Task, options_of

_REQUIRED = ("sources", "model", "loss")
_GIVEN = {
    "sources": (),
    "model": (),
    "loss": ("model", "batch", "training"),
    "metrics": ("model", "batch"),
    "predict": ("model", "batch"),
}
"""What the methods of a task are called with."""


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
        said = str(error).splitlines()[0] if str(error) else ""
        raise HotloopError(
            f"{path} fails when it is loaded: {type(error).__name__}: {said}", where=_line(error, path)
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
    found = require_task(load_object(spec), spec)
    return options_of(found, spec), found


def require_task(found: Any, where: str) -> type[Task]:
    """A class that can be trained, looked at before anything is read or built.

    Raises:
        HotloopError: it is no Task class, lacks a method, or has one that cannot be called as it will be.
    """
    if not (isinstance(found, type) and issubclass(found, Task)):
        kind = "is" if isinstance(found, type) else f"is a {type(found).__name__},"
        raise HotloopError(f"{where} {kind} not a Task class", where=where, fix="derive it from hotloop.Task")
    missing = [name for name in _REQUIRED if getattr(found, name) is getattr(Task, name)]
    if missing:
        lacks = " and ".join(f"{name}()" for name in missing)
        raise HotloopError(f"{found.__name__} has no {lacks}", where=where, fix=_to_write(missing[0]))
    for name, given in _GIVEN.items():
        if not _takes(found, name, *given):
            told = f"{found.__name__}.{name}() cannot be called with ({', '.join(given)})"
            raise HotloopError(told, where=where, fix=_to_write(name))
    if not _takes(found, "__init__", "model_options", "data_options", seed=0):
        fix = "leave __init__ out, or take (self, model_options, data_options, *, seed) and hand them to super()"
        raise HotloopError(f"{found.__name__} cannot be made with its options and a seed", where=where, fix=fix)
    _require_options(found, "Model", ModelSection, where)
    _require_options(found, "Data", DataSection, where)
    return found


def _to_write(name: str) -> str:
    return f"write `def {name}({', '.join(('self', *_GIVEN[name]))}):` in the class"


def _takes(found: type, name: str, *given: Any, **named: Any) -> bool:
    """Whether a method can be called with these arguments."""
    if isinstance(inspect.getattr_static(found, name), staticmethod | classmethod):
        return True
    try:
        inspect.signature(getattr(found, name)).bind(None, *given, **named)
    except TypeError:
        return False
    return True


def _require_options(found: type, name: str, base: type[ModelSection] | type[DataSection], where: str) -> None:
    """The class of options is one of ours, and its defaults keep its own limits."""
    kind = getattr(found, name)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        shown = kind.__name__ if isinstance(kind, type) else f"a {type(kind).__name__}"
        fix = f"derive it from hotloop.config.schema.{base.__name__}"
        raise HotloopError(f"{found.__name__}.{name} is {shown}, no class of options", where=where, fix=fix)
    try:
        kind.model_validate(kind().model_dump())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise HotloopError(
            f"the default of {kind.__name__}.{key}, {first['input']!r}, is refused: {first['msg']}",
            where=where,
            fix="give a default that its type and limits allow",
        ) from error


def _line(error: Exception, path: Path) -> str:
    """Where in the person's file it happened."""
    trace, line = error.__traceback__, 0
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).resolve() == path.resolve():
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.lineno:
        line = error.lineno
    return f"{path}, line {line}" if line else str(path)
