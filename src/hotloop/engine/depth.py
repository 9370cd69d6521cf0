"""How deep each parameter of a model lies, for rates that shrink from the top layer down to the embedding.

Source: discriminative fine-tuning, Howard and Ruder, arXiv 1801.06146; layer-wise decay as in Clark et al. (ELECTRA),
arXiv 2003.10555.
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from hotloop.errors import HotloopError


def depth_groups(model: nn.Module) -> list[nn.Module]:
    """Parts of a model from the bottom up: embeddings, then each block; what is in none of them is the top.

    A model says it itself by a method `depth_groups()`; else the longest list of blocks (nn.ModuleList) counts, under
    all embeddings outside it.

    Raises:
        HotloopError: no list of two blocks or more.
    """
    told: Any = getattr(model, "depth_groups", None)
    if callable(told):
        return cast(list[nn.Module], told())
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    blocks = max(lists, key=len, default=nn.ModuleList())
    if len(blocks) < 2:
        raise HotloopError(
            f"{type(model).__name__} has no list of blocks whose depth could count",
            where="optimization.layerwise_decay",
            fix="leave it out, or give the model a method depth_groups() that lists its parts from the bottom up",
        )
    inside = {id(module) for module in blocks.modules()}
    embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding) and id(m) not in inside]
    return [nn.ModuleList(embeddings), *blocks] if embeddings else list(blocks)


def rate_factors(model: nn.Module, decay: float | None) -> dict[int, float]:
    """The factor of each parameter's rate by its id; parameters that are not in it keep the full rate.

    Args:
        model: whose parameters.
        decay: factor from one part to the one below it; None for one rate.
    """
    if decay is None or decay == 1.0:
        return {}
    groups = depth_groups(model)
    found: dict[int, float] = {}
    for number, group in enumerate(groups):
        for parameter in group.parameters():
            found.setdefault(id(parameter), decay ** (len(groups) - number))
    return found
