"""Compiling block by block: each repeated block is one compiled piece, and blocks of one class share one program.

A block's `forward` is replaced on the instance (`engine.forwards`); `remove` takes it off again. The program is built
from the class's own `forward`, with the block as an argument, so torch builds it once for all blocks of that class. It
runs where a block trains and gradients are taken, nowhere else: an evaluation is not compiled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from hotloop.engine.blocks import Named, blocks_of
from hotloop.engine.forwards import unwrap, wrap
from hotloop.errors import HotloopError


def require_blocks(model: nn.Module) -> None:
    """Whether there is something to compile block by block.

    Raises:
        HotloopError: the model has no repeated blocks.
    """
    if not blocks_of(model):
        raise HotloopError(
            f"{type(model).__name__} has no repeated blocks (a list of modules of one class) to compile one by one",
            where="training.compile_region",
            fix="use training.compile_region=model, or put its layers into an nn.ModuleList of blocks",
        )


def apply(model: nn.Module) -> list[str]:
    """Let each block compile itself when it trains; after `recompute.apply`, whose wrappers are compiled with it.

    Args:
        model: on its device.

    Returns:
        Lines for the person who trains.
    """
    remove(model)
    blocks = blocks_of(model)
    own = [name for name, part in blocks if not _is_known(part.__dict__.get("forward"))]
    taken = [(name, part) for name, part in blocks if name not in own]
    for _, part in taken:
        wrap(part, _forward)
    lines = [_told(taken)] if taken else []
    return lines + ([f"not compiled: {', '.join(own)}; the forward pass was replaced on the instance"] if own else [])


def _told(taken: Named) -> str:
    names, kinds = [name for name, _ in taken], {type(part) for _, part in taken}
    shown = ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]}, ... {names[-1]}"
    programs = "one program" if len(kinds) == 1 else f"{len(kinds)} programs"
    return f"compiled block by block: {programs} for {len(names)} blocks ({shown})"


def remove(model: nn.Module) -> None:
    """Take off every wrapper that `apply` put on."""
    unwrap(model, _forward)


@contextlib.contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """Nothing is compiled inside: for passes over other sizes than training's."""
    found = unwrap(model, _forward)
    try:
        yield
    finally:
        for part, wrapper in found:
            part.__dict__["forward"] = wrapper


def _is_known(own: Any) -> bool:
    """Whether a forward pass can share a program: that of the class, or a plain function with arguments bound."""
    return own is None or isinstance(own, partial)


def _forward(module: nn.Module, before: partial[Any] | None, *args: Any, **kwargs: Any) -> Any:
    """A block's forward pass, compiled where it trains.

    Args:
        module: the block.
        before: a forward of the instance's own that was there already; None for that of its class.
    """
    function, bound = (type(module).forward, (module,)) if before is None else (before.func, before.args)
    kwargs = kwargs if before is None else {**before.keywords, **kwargs}
    if module.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _program(function)(*bound, *args, **kwargs)
    return function(*bound, *args, **kwargs)


@cache
def _program(function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled form of a function; torch keeps one program for each shape that it meets."""
    return torch.compile(function, dynamic=False)
