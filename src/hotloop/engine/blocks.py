"""The blocks of a model: the repeated parts it is a list of, and the parts that a person names.

Names are those of `named_modules`. Nothing here changes a model.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, cast

import torch
from torch import nn

from hotloop.errors import HotloopError

Named = list[tuple[str, nn.Module]]
KEY = "optimization.gradient_checkpointing"
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
        names = [name for hit in outermost for name in runnable(hit, parts[hit])]
        if not names:
            raise _no_such_part(model, pattern, list(parts), is_there=bool(hits))
        found |= {name: pattern for name in names if name not in found}
    for name, pattern in found.items():
        inner = next((other for other in found if other.startswith(f"{name}.")), None)
        if inner is not None:
            raise HotloopError(
                f"'{pattern}' names {name}, which holds {inner} of '{found[inner]}': it would be run three times",
                where=KEY,
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


def runnable(name: str, part: nn.Module) -> list[str]:
    """The name of a part that has a forward pass, or the names of those inside a mere list."""
    if _runs(part):
        return [name]
    return [found for child, inner in part.named_children() for found in runnable(f"{name}.{child}", inner)]


def _no_such_part(model: nn.Module, pattern: str, names: list[str], *, is_there: bool) -> HotloopError:
    if is_there:
        return HotloopError(f"'{pattern}' names nothing that has a forward pass", where=KEY, fix="name its blocks")
    near = get_close_matches(pattern, names, n=3, cutoff=0.4)
    tops = [name for name, _ in model.named_children()]
    fix = f"did you mean {' or '.join(near)}?" if near else f"the model's parts are {', '.join(tops[:8])}"
    return HotloopError(f"no part of the model is called '{pattern}'", where=KEY, fix=fix)
