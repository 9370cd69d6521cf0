"""Whose fault an exception is: one out of a person's own code is told with its line and the batch it met."""

from __future__ import annotations

import contextlib
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from traceback import walk_tb
from types import TracebackType
from typing import Any

import torch

from hotloop import memory
from hotloop.errors import HotloopError

_OURS = str(Path(__file__).resolve().parent.parent)
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


@contextlib.contextmanager
def telling_whose(what: str, batch: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Turn what a person's code raises into an error that names the line; other exceptions pass through.

    Args:
        what: whose code runs, as in "the loss".
        batch: what it was given.

    Raises:
        HotloopError: an exception came out of code that is neither ours nor a library's.
    """
    try:
        yield
    except HotloopError:
        raise
    except Exception as error:
        if memory.is_out_of_memory(error):
            raise  # nobody's fault in the code
        where = _line_of(error.__traceback__)
        if not where:
            raise
        said = str(error).strip().splitlines() or [""]
        raise HotloopError(
            f"{what} raised {type(error).__name__}: {said[0]}", where=where, fix=_fix(error, batch)
        ) from error


def _line_of(trace: TracebackType | None) -> str:
    """File and line of the innermost frame of a person's own; empty where ours called the library that raised."""
    for frame, line in reversed(list(walk_tb(trace))):
        file = frame.f_code.co_filename
        if file.startswith(_OURS):
            return ""
        if not file.startswith(("<frozen", *_LIBRARIES)):
            return f"{file}, line {line}, in {frame.f_code.co_name}"
    return ""


_HINTS = (
    ("more than 1 value per channel", "BatchNorm needs two rows or more in training: use a larger training.batch_size"),
    ("target dtype to be Long", "class numbers are int64: convert them with y.long()"),
    ("expected scalar type Long", "class numbers are int64: convert them with y.long()"),
    ("is out of bounds", "class numbers count from 0, and the model must have one output for each class"),
    ("multi-target not supported", "class numbers have the shape (B,): drop the axis of one with y.squeeze(1)"),
    ("shapes cannot be multiplied", "the layer takes another number of features than the data has"),
    ("not subscriptable", "the arguments are (model, batch), in this order"),
)
"""What a message of torch's means for a person who wrote a loss."""


def _fix(error: Exception, batch: Mapping[str, Any] | None) -> str:
    hint = next((hint for said, hint in _HINTS if said in str(error)), "")
    if batch is None:
        return hint or "see the line above"
    given = f"the batch was {described(batch)}"
    missing = error.args[0] if isinstance(error, KeyError) and error.args else None
    if isinstance(missing, str) and missing not in batch:
        hint = f"the batch has no {missing!r}: training and validation data need the columns that are used"
    if any(getattr(value, "dtype", None) is torch.float64 for value in batch.values()):
        hint = "numpy's numbers are float64 and models float32: convert with x.astype('float32') or x.float()"
    return f"{hint}; {given}" if hint else given


def described(batch: Mapping[str, Any]) -> str:
    """Names, shapes and dtypes of a batch."""
    return ", ".join(
        f"{name} {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
        if isinstance(value, torch.Tensor)
        else f"{name} ({described(value) if isinstance(value, Mapping) else type(value).__name__})"
        for name, value in batch.items()
    )
