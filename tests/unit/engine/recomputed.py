"""What tests of recomputing share: a network with all that could go wrong, and a count of what a pass keeps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hotloop.engine import recompute

Built = tuple[nn.Module, Callable[[nn.Module], Tensor]]


def passes(built: Built, how: recompute.How, *, bf16: bool = False) -> tuple[int, list[Tensor]]:
    """(bytes that the forward pass keeps besides the weights, loss and gradients and buffers after two passes)."""
    model, call = built
    recompute.apply(model.train(), how, compiled=False)
    own, kept = {weight.untyped_storage().data_ptr() for weight in model.parameters()}, {}
    held = []  # so that no two have one address

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        held.append(storage)
        kept.update({} if storage.data_ptr() in own else {storage.data_ptr(): storage.nbytes()})
        return value

    torch.manual_seed(5)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            kept.clear()
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
                loss = call(model).float().square().mean()
        loss.backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    found = [loss.detach(), *gradients, *model.state_dict().values()]
    return sum(kept.values()), [value.clone() for value in found]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Block(nn.Module):
    """Two layers with what changes in training: statistics, a vector of power iteration, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 32), nn.Linear(32, 8)
        self.norm, self.drop = nn.BatchNorm1d(32), nn.Dropout(0.3)

    def forward(self, x: Tensor, *, context_fn: float = 1.0) -> Tensor:
        hidden = self.drop(self.norm(self.enter(x)).relu())
        result: Tensor = x + context_fn * self.leave(hidden)
        return result


class Net(nn.Module):
    """Blocks that are called with a keyword, which checkpoint has one of the same name as."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(depth)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, context_fn=0.5)
        result: Tensor = self.head(x)
        return result


X = torch.randn(10, 8, generator=torch.Generator().manual_seed(1))


def net(depth: int = 6) -> Net:
    torch.manual_seed(0)
    return Net(depth)


def wrapped(model: nn.Module) -> list[str]:
    return [name for name, part in model.named_modules() if "forward" in part.__dict__]
