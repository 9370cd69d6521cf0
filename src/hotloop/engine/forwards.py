"""A block's `forward` replaced on the instance: put on, found, and taken off again.

Parameters, state dicts, hooks, copies and pickles stay what they were, as the block itself does. A wrapper is
`partial(function, block, before)`, where `before` is a forward of the instance's own that was there already.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

Wrapped = list[tuple[nn.Module, partial[Any]]]


def wrap(block: nn.Module, function: Callable[..., Any]) -> None:
    """Let `function(block, before, *args, **kwargs)` be the block's forward pass."""
    block.__dict__["forward"] = partial(function, block, block.__dict__.get("forward"))


def wrapped(model: nn.Module, function: Callable[..., Any]) -> Wrapped:
    """The blocks that `function` wraps, with their wrappers."""
    found = [(part, part.__dict__.get("forward")) for part in model.modules()]
    return [(part, own) for part, own in found if isinstance(own, partial) and own.func is function]


def unwrap(model: nn.Module, function: Callable[..., Any]) -> Wrapped:
    """Take every wrapper of `function` off; returns what was taken."""
    found = wrapped(model, function)
    for part, wrapper in found:
        before = wrapper.args[1]
        if before is None:
            del part.__dict__["forward"]
        else:
            part.__dict__["forward"] = before
    return found
