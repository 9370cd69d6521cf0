"""Recomputing activations: a block keeps its inputs alone, and the backward pass runs it again (checkpointing).

A block's `forward` is replaced on the instance (`engine.forwards`); `remove` takes it off again. It acts where a block
trains and gradients are taken, nowhere else. The second run draws the same random numbers and leaves no trace: buffers
(the statistics of BatchNorm) change once.

Source: Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hotloop import device as machine
from hotloop.engine import dropout, layout, regions
from hotloop.engine.blocks import KEY, Named, named, runnable
from hotloop.engine.blocks import blocks_of as blocks_of
from hotloop.engine.forwards import unwrap, wrap
from hotloop.errors import HotloopError

How = bool | float | tuple[str, ...]
"""Every block, this share of them, or the parts that these patterns name; False is none."""
_SWITCH = "gradient_checkpointing"


def supports(model: nn.Module) -> bool:
    """Whether recomputing every block (True) would do anything."""
    return _has_switch(model) or bool(blocks_of(model))


def apply(model: nn.Module, how: How, *, compiled: bool) -> list[str]:
    """Let a model recompute; what an earlier call did is undone first.

    A share, in a model without blocks that is compiled, becomes the share of the activations that the compiler may
    not keep (torch's activation_memory_budget is the rest); where there are blocks, the share is of these.

    Args:
        model: on the device it is trained on.
        how: see `How`. True uses a switch of the model's own where it has one.
        compiled: the training step is certain to be compiled.

    Returns:
        Lines for the person who trains.

    Raises:
        HotloopError: the model has no blocks, or no part of such a name.
    """
    remove(model)
    if how is False:
        return []
    if how is True and _has_switch(model):
        _switch_on(model)
        return ["activations are recomputed in the backward pass, by the model's own switch"]
    blocks = named(model, how) if isinstance(how, tuple) else blocks_of(model)
    if not blocks and compiled and isinstance(how, float):
        machine.set_activation_budget(1.0 - how)
        return [f"the compiler keeps {1.0 - how:.0%} of the activations, and recomputes the others"]
    if not blocks:
        raise _without_blocks(model, how)
    chosen = blocks if isinstance(how, bool | tuple) else _spread(blocks, how)
    return _wrap(chosen, len(blocks), where_named=isinstance(how, tuple))


def remove(model: nn.Module) -> None:
    """Take off every wrapper that `apply` put on; the model's own switch stays as it is (see `put_back`)."""
    machine.set_activation_budget(None)
    regions.remove(model)  # they are put on last
    dropout.remove(model)
    unwrap(model, _forward)


@contextlib.contextmanager
def put_back(model: object) -> Iterator[None]:
    """A person's model afterwards as it came: without wrappers, its own switch and the weights' layout as they were."""
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    switches = [(part, part.__dict__.get(_SWITCH)) for part in parts]  # it may be the class's until it is set
    try:
        with layout.put_back(model) if isinstance(model, nn.Module) else contextlib.nullcontext():
            yield
    finally:
        machine.set_attention("auto")
        if isinstance(model, nn.Module):
            remove(model)
            for part, was in switches:
                if was is not None:
                    part.__dict__[_SWITCH] = was
                else:
                    part.__dict__.pop(_SWITCH, None)


def _spread(blocks: Named, share: float) -> Named:
    """That share of the blocks, one at least, evenly over all."""
    count = max(1, round(share * len(blocks)))
    return [blocks[int((number + 0.5) * len(blocks) / count)] for number in range(count)]


def _wrap(chosen: Named, total: int, *, where_named: bool) -> list[str]:
    """Put the wrapper on, and say where."""
    left = [name for name, part in chosen if _draws_out_of_reach(part)]
    why = "an LSTM or GRU with dropout inside draws it on a GPU from a state of cuDNN's own, and not twice the same"
    if left and where_named:
        raise HotloopError(f"{', '.join(left)} cannot be recomputed: {why}", where=KEY, fix=f"leave {left[0]} out")
    taken = [(name, part) for name, part in chosen if name not in left]
    for _, part in taken:
        wrap(part, _forward)
    names = [name for name, _ in taken]
    shown = ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]}, ... {names[-1]}"
    count = f"{len(names)} part{'' if len(names) == 1 else 's'}"
    of = count if where_named else f"{len(names)} of {total} blocks"
    lines = [f"activations are recomputed in the backward pass: {of} ({shown})"] if names else []
    return lines + ([f"not recomputed: {', '.join(left)}; {why}"] if left else [])


def _draws_out_of_reach(module: nn.Module) -> bool:
    """Whether a part draws random numbers that torch's own state does not decide."""
    cells = [part for part in module.modules() if isinstance(part, nn.RNNBase)]
    return any(cell.dropout > 0 and cell.num_layers > 1 and next(cell.parameters()).is_cuda for cell in cells)


def _forward(module: nn.Module, before: Callable[..., Any] | None, *args: Any, **kwargs: Any) -> Any:
    """A block's forward pass, recomputed in the backward pass where it trains.

    Args:
        module: the block.
        before: a forward of the instance's own that was there already; None for that of its class.
    """
    run = partial(type(module).forward, module) if before is None else before
    if not (module.training and torch.is_grad_enabled()):
        return run(*args, **kwargs)
    args = tuple(None if _is_cache(value) else value for value in args)
    kwargs = {name: None if _is_cache(value) else value for name, value in kwargs.items()}
    if torch.compiler.is_compiling():  # the compiler sees to random numbers and buffers itself
        return checkpoint(run, *args, use_reentrant=False, **kwargs)
    contexts = partial(_contexts, module)
    return checkpoint(_unpacked, run, args, kwargs, use_reentrant=False, context_fn=contexts)


def _unpacked(run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Packed, since checkpoint has keywords of its own and looks for devices among what is positional alone."""
    return run(*args, **kwargs)


def _is_cache(value: Any) -> bool:
    """Whether this is a key-value cache of transformers, which would grow once more in the second run."""
    return not isinstance(value, Tensor) and hasattr(value, "get_seq_length")


def _contexts(module: nn.Module) -> tuple[Any, Any]:
    """What surrounds the first and the second run: the second sees the buffers that the first one saw."""
    before = [
        (part._buffers, name, buffer.clone())
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None and name not in part._non_persistent_buffers_set
    ]
    return contextlib.nullcontext(), _with_buffers(before)


@contextlib.contextmanager
def _with_buffers(before: list[tuple[dict[str, Any], str, Tensor]]) -> Iterator[None]:
    now = [buffers[name] for buffers, name, _ in before]
    for buffers, name, value in before:
        buffers[name] = value
    try:
        yield
    finally:  # the second run may end early, by an exception of torch's own
        for (buffers, name, _), value in zip(before, now, strict=True):
            buffers[name] = value


def _has_switch(model: nn.Module) -> bool:
    """Whether a model is to recompute by itself: a method as in models of transformers, or a plain attribute.

    Models of transformers whose blocks are found do not: compiled, their own way was seen to leave the embeddings
    without a gradient (transformers 5.23, torch 2.13), and it puts hooks on the model.
    """
    if hasattr(model, "_set_gradient_checkpointing") and blocks_of(model):
        return False
    if _enable(model) is not None:
        return bool(getattr(model, "supports_gradient_checkpointing", True))
    return _is_switch(model)


def _is_switch(part: nn.Module) -> bool:
    return isinstance(getattr(part, _SWITCH, None), bool)


def _switch_on(model: Any) -> None:
    enable = _enable(model)
    if enable is None:
        model.gradient_checkpointing = True
        return
    # older versions of transformers take the form of checkpointing that needs inputs with a gradient
    stated = [name for name in inspect.signature(enable).parameters if name.endswith("checkpointing_kwargs")]
    enable(**{name: {"use_reentrant": False} for name in stated})


def _enable(model: nn.Module) -> Any:
    """A model's method to switch recomputing on, by its name in newer versions of transformers or in older; or None."""
    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable"):
        if callable(found := getattr(model, name, None)):
            return found
    return None


def _without_blocks(model: nn.Module, how: How) -> HotloopError:
    tops = [name for name, part in model.named_children() if runnable(name, part)]
    share = " or a share with training.compile=default," if how is True else " or use training.compile=default,"
    return HotloopError(
        f"{type(model).__name__} has no repeated blocks (a list of modules of one class) to recompute",
        where=KEY,
        fix=f"name parts of it, as in [{', '.join(tops[:3])}],{share} or leave it out"
        if tops
        else "put its layers into an nn.ModuleList of blocks, or leave it out",
    )
