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
from hotloop.engine import adamw8bit
from hotloop.engine.adamw8bit import AdamW8bit
from hotloop.engine.depth import rate_factors
from hotloop.engine.moments import pieces
from hotloop.engine.muon import Muon
from hotloop.engine.offload import OffloadedAdam
from hotloop.errors import HotloopError

Group = dict[str, Any]
Factors = dict[int, float]  # id of a parameter -> share of the rate; absent is 1
OFFLOADED = ("adamw", "adam")  # optimizers whose state can live on the host
_PIECE = 64 << 20  # bytes of gradients that making the state takes at once


def build_optimizers(
    model: nn.Module,
    options: OptimizationSection,
    device: torch.device,
    matrix_dtype: torch.dtype = torch.float32,
    offload: bool = False,
) -> list[torch.optim.Optimizer]:
    """The optimizers of a model: one, or two where a rule is not for every tensor and AdamW takes the rest.

    Weight decay applies to tensors of two and more dimensions, never to biases and norms.

    Args:
        model: already on `device`.
        options: the optimization section.
        device: where the model lives.
        matrix_dtype: dtype in which Muon orthogonalises.
        offload: the state lives in the host's memory.

    Raises:
        HotloopError: nothing to train, Muon on a model without hidden matrices, or an optimizer that stays on the GPU.
    """
    if offload:
        require_offloadable(options.optimizer)
    factors = rate_factors(model, options.layerwise_decay)
    return [
        _optimizer(kind, parameters, options, device, factors, matrix_dtype, offload)
        for kind, parameters in _shares(model, options.optimizer)
    ]


def require_offloadable(optimizer: str) -> None:
    """Only rules with a fused kernel for the host can work there.

    Raises:
        HotloopError: this one is another.
    """
    if optimizer not in OFFLOADED:
        raise HotloopError(
            f"{optimizer} cannot keep its state on the host: only {' and '.join(OFFLOADED)} can",
            where="memory.offload",
            fix="use memory.offload=off, or optimization.optimizer=adamw",
        )


def _shares(model: nn.Module, optimizer: str) -> list[tuple[str, list[nn.Parameter]]]:
    """Which rule takes which parameters: all to one, but hidden matrices to muon and large tensors to adamw8bit."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise HotloopError(
            "the model has no parameter that requires a gradient", fix="unfreeze some, or check the model"
        )
    if optimizer not in ("muon", "adamw8bit"):
        return [(optimizer, trained)]
    hidden = hidden_matrices(model)
    taken = {id(p) for p in trained if (id(p) in hidden if optimizer == "muon" else p.numel() >= adamw8bit.SMALLEST)}
    if not taken and optimizer == "muon":
        raise HotloopError(
            "muon is for the matrices of hidden layers, and this model has none that is trained",
            where="optimization.optimizer",
            fix="use optimization.optimizer=adamw",
        )
    shares = [
        (optimizer, [p for p in trained if id(p) in taken]),
        ("adamw", [p for p in trained if id(p) not in taken]),
    ]
    return [(kind, parameters) for kind, parameters in shares if parameters]


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


def _optimizer(
    kind: str,
    parameters: list[nn.Parameter],
    options: OptimizationSection,
    device: torch.device,
    factors: Factors,
    matrix_dtype: torch.dtype,
    offload: bool,
) -> torch.optim.Optimizer:
    """One rule over its parameters."""
    if kind == "muon":
        matrices = _group(parameters, options.muon_learning_rate, device, weight_decay=options.weight_decay)
        return Muon([matrices], momentum=options.momentum, compute_dtype=matrix_dtype)
    groups = _by_decay(parameters, options, device, factors)
    rate, betas = groups[0]["lr"], options.betas
    if offload:
        return OffloadedAdam(groups, lr=rate, betas=betas, decoupled=kind == "adamw")
    if kind == "adamw8bit":
        return AdamW8bit(groups, lr=rate, betas=betas)
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True)
    if kind == "adam":
        return torch.optim.Adam(groups, lr=rate, betas=betas, fused=True)
    assert kind == "sgd", kind
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=options.momentum, fused=True)
    if options.momentum:  # a held first step would leave torch's own first buffer uninitialised
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def allocate(optimizers: list[torch.optim.Optimizer]) -> None:
    """Make every state tensor that is not there yet, so that no later update needs memory for it.

    torch makes the state of a parameter at its first update. This is such an update, of zeros and held: the weights
    stay as they are, the count of updates and the moments are 0. It takes gradients for a part at a time.
    """
    for optimizer in optimizers:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        missing = [p for p in parameters if not optimizer.state.get(p) and p.grad is None]
        for piece in pieces(missing, _PIECE):
            for parameter in piece:
                parameter.grad = torch.zeros_like(parameter)
            hold([optimizer], torch.ones((), device=piece[0].device))
            bare_step(optimizer)()
            for parameter in piece:
                parameter.grad = None
        if missing:
            optimizer.found_inf = None  # type: ignore[attr-defined]


def lay_like_parameters(optimizers: list[torch.optim.Optimizer]) -> None:
    """Bring state tensors into their parameter's memory layout: fused updates go through memory as it lies.

    A state dict brings the layout that it was saved in; torch's own loading keeps it.
    """
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                is_alike = isinstance(value, Tensor) and value.shape == parameter.shape
                if is_alike and value.stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


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
