"""Parameter groups and optimizers. Every optimizer built here obeys two device tensors and never asks the host:
`lr` (written by the step from the schedule's table) and `found_inf` (1.0 holds the update).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.config.schema import OptimizationSection
from hotloop.engine.depth import rate_factors
from hotloop.engine.muon import Muon
from hotloop.errors import HotloopError

Group = dict[str, Any]
Factors = dict[int, float]  # id of a parameter -> share of the rate; absent is 1


def build_optimizers(
    model: nn.Module, options: OptimizationSection, device: torch.device, matrix_dtype: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """The optimizers of a model: one, or for `muon` two (Muon for hidden matrices, AdamW for the rest).

    Weight decay applies to tensors of two and more dimensions, never to biases and norms.

    Args:
        model: already on `device`.
        options: the optimization section.
        device: where the model lives.
        matrix_dtype: dtype in which Muon orthogonalises.

    Raises:
        HotloopError: nothing to train, or Muon on a model without hidden matrices.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise HotloopError(
            "the model has no parameter that requires a gradient", fix="unfreeze some, or check the model"
        )
    if options.optimizer != "muon":
        factors = rate_factors(model, options.layerwise_decay)
        return [_classic(list(trained.values()), options, device, factors)]
    hidden = hidden_matrices(model)
    matrices = [p for p in trained.values() if id(p) in hidden]
    if not matrices:
        raise HotloopError(
            "muon is for the matrices of hidden layers, and this model has none that is trained",
            where="optimization.optimizer",
            fix="use optimization.optimizer=adamw",
        )
    rest = [p for p in trained.values() if id(p) not in hidden]
    rate = options.muon_learning_rate
    groups = [_group(matrices, rate, device, weight_decay=options.weight_decay)]
    muon = Muon(groups, momentum=options.momentum, compute_dtype=matrix_dtype)
    return [muon, _adamw(rest, options, device, {})] if rest else [muon]


def hidden_matrices(model: nn.Module) -> set[int]:
    """Identities of the 2-D weights of Linear layers, without the output layer and weights shared with an embedding.

    The output layer is the Linear defined last, as models are usually written; a model can name its own choice in an
    attribute `output_layers` (a list of modules).
    """
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    outputs = getattr(model, "output_layers", linears[-1:])
    excluded = {
        id(module.weight) for module in [*outputs, *(m for m in model.modules() if isinstance(m, nn.Embedding))]
    }
    return {id(module.weight) for module in linears} - excluded


def _group(parameters: list[nn.Parameter], rate: float, device: torch.device, **rest: Any) -> Group:
    """A group whose rate is a device tensor (the state makes it a view); the schedule's factor multiplies `base_lr`."""
    return {"params": parameters, "lr": torch.tensor(rate, device=device), "base_lr": rate, **rest}


def _by_decay(
    parameters: list[nn.Parameter], options: OptimizationSection, device: torch.device, factors: Factors
) -> list[Group]:
    """Groups of one weight decay and one rate each; the highest rate first."""
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in parameters:
        decay = options.weight_decay if parameter.dim() >= 2 else 0.0
        members.setdefault((-factors.get(id(parameter), 1.0), -decay), []).append(parameter)
    return [
        _group(members[key], -key[0] * options.learning_rate, device, weight_decay=-key[1]) for key in sorted(members)
    ]


def _adamw(
    parameters: list[nn.Parameter], options: OptimizationSection, device: torch.device, factors: Factors
) -> torch.optim.Optimizer:
    beta1, beta2 = options.betas
    groups = _by_decay(parameters, options, device, factors)
    return torch.optim.AdamW(groups, lr=groups[0]["lr"], betas=(beta1, beta2), fused=True)


def _classic(
    parameters: list[nn.Parameter], options: OptimizationSection, device: torch.device, factors: Factors
) -> torch.optim.Optimizer:
    if options.optimizer == "adamw":
        return _adamw(parameters, options, device, factors)
    groups = _by_decay(parameters, options, device, factors)
    if options.optimizer == "adam":
        beta1, beta2 = options.betas
        return torch.optim.Adam(groups, lr=groups[0]["lr"], betas=(beta1, beta2), fused=True)
    assert options.optimizer == "sgd", options.optimizer
    optimizer = torch.optim.SGD(groups, lr=groups[0]["lr"], momentum=options.momentum, fused=True)
    if options.momentum:  # a held first step would leave torch's own first buffer uninitialised
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def bare_step(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """The optimizer's own step, without what torch wraps around it.

    The wrappers feed the profiler's and users' step hooks and shield the compiler; none of them is needed here, and
    each call takes microseconds that a small model feels.
    """
    return partial(torch.no_grad()(inspect.unwrap(type(optimizer).step)), optimizer)


def hold(optimizers: list[torch.optim.Optimizer], flag: Tensor) -> None:
    """Let `flag` (0-d float32 on the device; 1.0 holds the update) decide over the next step of each optimizer."""
    for optimizer in optimizers:
        optimizer.found_inf = flag  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined]
