"""Recomputing activations: a block keeps its inputs alone, and the backward pass runs it again (checkpointing).

A block's `forward` is replaced on the instance, so that parameters, state dicts, hooks, copies and pickles stay what
they were; `remove` takes it off again. It acts where a block trains and gradients are taken, nowhere else. The second
run draws the same random numbers and leaves no trace: buffers (the statistics of BatchNorm) change once.

Source: Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174.
"""

from __future__ import annotations

import contextlib
import fnmatch
import inspect
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hotloop import device as machine
from hotloop.errors import HotloopError

How = bool | float | tuple[str, ...]
"""Every block, this share of them, or the parts that these patterns name; False is none."""
Named = list[tuple[str, nn.Module]]
_KEY = "optimization.gradient_checkpointing"
_LISTS = (nn.ModuleList, nn.Sequential)


def blocks_of(model: nn.Module) -> Named:
    """The repeated blocks of a model by name, in its own order; empty where it has none.

    A model says it itself by a method `recompute_blocks()`. Else they are the children of its lists (nn.ModuleList,
    nn.Sequential) whose class occurs there twice or more, of each outermost list: both those of an encoder and of a
    decoder, none inside another block. Where there is no such list, one with a single child counts.
    """
    names = {id(part): name for name, part in model.named_modules()}
    told: Any = getattr(model, "recompute_blocks", None)
    if callable(told):
        return [(names[id(part)], part) for part in cast(Sequence[nn.Module], told())]
    found = list(_repeated(model, 2)) or list(_repeated(model, 1))
    return [(names[id(part)], part) for part in dict.fromkeys(found)]


def supports(model: nn.Module) -> bool:
    """Whether recomputing every block (True) would do anything."""
    return _has_switch(model) or bool(blocks_of(model))


def apply(model: nn.Module, how: How, *, compiled: bool) -> list[str]:
    """Let a model recompute; what an earlier call did is undone first.

    A share, in a model without blocks that is compiled, becomes the share of the activations that the compiler may
    not keep (torch's activation_memory_budget is the rest); where there are blocks, the share is of these.

    Args:
        model: on the device it is trained on.
        how: see `How`. True uses the model's own switch where it has one (as models of transformers do).
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
    for part in model.modules():
        wrapper = part.__dict__.get("forward")
        if isinstance(wrapper, partial) and wrapper.func is _forward:
            before = wrapper.args[1]
            if before is None:
                del part.__dict__["forward"]
            else:
                part.__dict__["forward"] = before


@contextlib.contextmanager
def put_back(model: object) -> Iterator[None]:
    """A person's model afterwards as it came: without wrappers, its own switch where it was."""
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    switches = [(part, part.__dict__["gradient_checkpointing"]) for part in parts if _is_switch(part)]
    try:
        yield
    finally:
        if isinstance(model, nn.Module):
            remove(model)
            off: Any = getattr(model, "gradient_checkpointing_disable", None)
            if callable(off) and any(part.__dict__["gradient_checkpointing"] is not was for part, was in switches):
                off()  # takes off more than the switches: hooks, in models of peft
            for part, was in switches:
                part.__dict__["gradient_checkpointing"] = was


def named(model: nn.Module, patterns: Sequence[str]) -> Named:
    """The parts that patterns name (encoder, layers.*), by their names; of parts inside each other the outermost.

    A mere list of modules stands for its children.

    Raises:
        HotloopError: a pattern names nothing, or a part inside one that another pattern names.
    """
    parts = {name: part for name, part in model.named_modules(remove_duplicate=False) if name}
    found: dict[str, str] = {}
    for pattern in patterns:
        hits = [name for name in parts if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        outermost = [name for name in hits if not any(name.startswith(f"{other}.") for other in hits)]
        runnable = [name for hit in outermost for name in _runnable(hit, parts[hit])]
        if not runnable:
            raise _no_such_part(model, pattern, list(parts), is_there=bool(hits))
        found |= {name: pattern for name in runnable if name not in found}
    for name, pattern in found.items():
        inner = next((other for other in found if other.startswith(f"{name}.")), None)
        if inner is not None:
            raise HotloopError(
                f"'{pattern}' names {name}, which holds {inner} of '{found[inner]}': it would be run three times",
                where=_KEY,
                fix=f"name one of them: {pattern} recomputes all that is inside, {found[inner]} keeps more",
            )
    unique = {id(parts[name]): name for name in found}
    return [(name, parts[name]) for name in found if unique[id(parts[name])] == name]


def _repeated(module: nn.Module, least: int) -> Iterator[nn.Module]:
    """Blocks inside `module`: children of a list that runs them, of a class that occurs `least` times there."""
    children = list(module.children())
    blocks = [child for child in children if _is_block(child, module, least)]
    kinds = [type(child) for child in blocks]
    for child in children:
        is_repeated = child in blocks and kinds.count(type(child)) >= least
        inner = list(_repeated(child, least)) if not is_repeated or type(child) is nn.Sequential else []
        yield from inner or ([child] if is_repeated else [])


def _is_block(child: nn.Module, holder: nn.Module, least: int) -> bool:
    """Whether a list's child is worth running twice: a single layer of torch keeps little but its input anyway."""
    if not isinstance(holder, _LISTS) or not _runs(child):
        return False
    if isinstance(holder, nn.Sequential):
        return least > 1 and sum(not list(part.children()) for part in child.modules()) > 1
    return bool(list(child.children())) or isinstance(child, nn.RNNBase) or not _is_torchs_own(child)


def _is_torchs_own(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def _runs(module: nn.Module) -> bool:
    """Whether a module has a forward pass that can be replaced; a mere list has none."""
    own = type(module).forward is not nn.Module.forward or "forward" in module.__dict__
    return own and not isinstance(module, torch.jit.ScriptModule)


def _runnable(name: str, part: nn.Module) -> list[str]:
    if _runs(part):
        return [name]
    return [found for child, inner in part.named_children() for found in _runnable(f"{name}.{child}", inner)]


def _spread(blocks: Named, share: float) -> Named:
    """That share of the blocks, one at least, evenly over all."""
    count = max(1, round(share * len(blocks)))
    return [blocks[int((number + 0.5) * len(blocks) / count)] for number in range(count)]


def _wrap(chosen: Named, total: int, *, where_named: bool) -> list[str]:
    """Put the wrapper on, and say where."""
    left = [name for name, part in chosen if _draws_out_of_reach(part)]
    why = "an LSTM or GRU with dropout inside draws it on a GPU from a state of cuDNN's own, and not twice the same"
    if left and where_named:
        raise HotloopError(f"{', '.join(left)} cannot be recomputed: {why}", where=_KEY, fix=f"leave {left[0]} out")
    taken = [(name, part) for name, part in chosen if name not in left]
    for _, part in taken:
        part.__dict__["forward"] = partial(_forward, part, part.__dict__.get("forward"))
    names = [name for name, _ in taken]
    shown = ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]}, ... {names[-1]}"
    of = f"{len(names)} parts" if where_named else f"{len(names)} of {total} blocks"
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
    """Whether a model recomputes by itself: a method as in models of transformers, or a plain attribute."""
    if callable(getattr(model, "gradient_checkpointing_enable", None)):
        return bool(getattr(model, "supports_gradient_checkpointing", True))
    return _is_switch(model)


def _is_switch(part: nn.Module) -> bool:
    return isinstance(part.__dict__.get("gradient_checkpointing"), bool)


def _switch_on(model: Any) -> None:
    if not hasattr(model, "gradient_checkpointing_enable"):
        model.gradient_checkpointing = True
        return
    takes = inspect.signature(model.gradient_checkpointing_enable).parameters
    name = "gradient_checkpointing_kwargs"  # older versions take the form that needs inputs with a gradient
    model.gradient_checkpointing_enable(**({name: {"use_reentrant": False}} if name in takes else {}))


def _without_blocks(model: nn.Module, how: How) -> HotloopError:
    tops = [name for name, part in model.named_children() if _runnable(name, part)]
    share = " or a share with training.compile=default," if how is True else " or use training.compile=default,"
    return HotloopError(
        f"{type(model).__name__} has no repeated blocks (a list of modules of one class) to recompute",
        where=_KEY,
        fix=f"name parts of it, as in [{', '.join(tops[:3])}],{share} or leave it out"
        if tops
        else "put its layers into an nn.ModuleList of blocks, or leave it out",
    )


def _no_such_part(model: nn.Module, pattern: str, names: list[str], *, is_there: bool) -> HotloopError:
    if is_there:
        return HotloopError(f"'{pattern}' names nothing that has a forward pass", where=_KEY, fix="name its blocks")
    near = get_close_matches(pattern, names, n=3, cutoff=0.4)
    tops = [name for name, _ in model.named_children()]
    fix = f"did you mean {' or '.join(near)}?" if near else f"the model's parts are {', '.join(tops[:8])}"
    return HotloopError(f"no part of the model is called '{pattern}'", where=_KEY, fix=fix)
