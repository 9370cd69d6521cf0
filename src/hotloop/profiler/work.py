"""What a step computes and moves: FLOPs, bytes and operations of one forward and backward pass, counted eagerly.

FLOPs are those of the products: matrix products, convolutions, attention (the whole square, where it is causal too),
recurrent layers; a multiplication and an addition are two. Recomputed activations count again, for they are computed
again. Kernels that a model brings itself are not seen. Bytes are what each operation reads and writes, every tensor
once: caches and the compiler save some of it, so it is an estimate from above.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hotloop import device as machine
from hotloop.assemble import Session
from hotloop.engine import regions
from hotloop.engine.footprint import made_bytes, tensor_bytes
from hotloop.engine.precision import autocast
from hotloop.engine.reduce import micro_batches, micro_loss
from hotloop.task import Batch

_BATCHES = 8  # batches may differ in length, so several are counted
_UNTOUCHED = ("_unsafe_view", "_reshape_alias", "empty", "lift_fresh")  # nothing is read or written
_PICKING = ("embedding.", "index_select", "gather", "index.Tensor")  # these read as much as they write


@dataclass(frozen=True)
class Work:
    """What a whole step does.

    Args:
        flops: of the products, forward and backward.
        bytes: read and written by operations, the optimizer's included.
        operations: called in forward and backward.
        uncounted: names of operations that are products and have no formula.
    """

    flops: float
    bytes: float
    operations: float
    uncounted: tuple[str, ...] = ()


def count_work(session: Session, feed: Iterator[Batch]) -> Work:
    """Count a step's work, on some batches of the feed where they differ; the session is afterwards as it was."""
    state, plan, counts, seen = session.state, session.plan, list[_Counting](), set[Any]()
    terms = session.task.term_weights()
    state.remember_buffers()
    with machine.undisturbed(plan.torch_device), regions.resting(state.model):
        for _ in range(_BATCHES):
            batch = next(feed)
            shapes = tuple(tuple(tensor.shape) for tensor in tree_leaves(batch))
            if shapes in seen and len(seen) == 1:
                break  # they are all alike
            seen.add(shapes)
            with _Counting() as counting:
                totals = state.totals(batch)
                for micro in micro_batches(batch, state.pieces.rows, state.pieces.lone_row):
                    with autocast(plan.torch_device, plan.precision):
                        part = micro_loss(session.task, state.model, terms, micro, totals)
                    part.backward()  # type: ignore[no-untyped-call]
            for parameter in state.parameters:
                parameter.grad = None
            counts.append(counting)
    state.put_buffers_back()
    return _mean(counts, _update_bytes(session))


def _mean(counts: list[_Counting], update: int) -> Work:
    number = len(counts)
    unknown = sorted(set().union(*(counting.unknown for counting in counts)))
    return Work(
        sum(c.flops for c in counts) / number,
        sum(c.bytes for c in counts) / number + update,
        sum(c.operations for c in counts) / number,
        tuple(unknown),
    )


def _update_bytes(session: Session) -> int:
    """The update reads and writes weights and state, and reads the gradients."""
    return 3 * tensor_bytes(session.state.parameters) + 2 * made_bytes(session.state.optimizers)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what reaches torch's dispatcher below autograd, where products are single operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.bytes = self.operations = 0
        self.unknown: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = str(func).removeprefix("aten.")
        formula = _FORMULAS.get(str(func._overloadpacket)) or flop_counter.flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **kwargs, out_val=out))
        elif any(word in name for word in ("_rnn", "dot_product", "_mm.", "convolution")):
            self.unknown[name.partition(".")[0]] += 1
        if func.is_view or name.startswith(_UNTOUCHED):
            return out
        self.operations += 1
        written = _bytes(out)
        self.bytes += 2 * written if name.startswith(_PICKING) else written + _bytes((args, kwargs))
        return out


def _bytes(values: Any) -> int:
    """Bytes of the tensors among `values`; an expanded one has no more than it stores."""
    tensors = [value for value in tree_leaves(values) if isinstance(value, Tensor)]
    return sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in tensors)


def _rows(source: Tensor) -> int:
    """Time steps x batch of a recurrent layer's input (T, B, I), or of packed rows (N, I)."""
    return math.prod(source.shape[:-1])


def _onednn_lstm(source: Tensor, to_input: Tensor, to_state: Tensor, *_: Any, **__: Any) -> int:
    """One layer in one direction: every row times both weight matrices."""
    return 2 * _rows(source) * (to_input.numel() + to_state.numel())


def _cudnn(source: Tensor, weights: list[Tensor], *_: Any, **__: Any) -> int:
    """All layers in all directions; biases have one axis."""
    return 2 * _rows(source) * sum(weight.numel() for weight in weights if weight.dim() == 2)


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(flop_counter.sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


def _attention_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    shapes = (gradient.shape, query.shape, key.shape, value.shape)
    return int(flop_counter.sdpa_backward_flop_count(*shapes))  # type: ignore[no-untyped-call]


_FORMULAS: Mapping[str, Any] = {  # of products that torch's own counter does not know
    "aten.mkldnn_rnn_layer": _onednn_lstm,
    "aten.mkldnn_rnn_layer_backward": lambda *given, **named: 2 * _onednn_lstm(*given, **named),
    "aten._cudnn_rnn": _cudnn,
    "aten._cudnn_rnn_backward": lambda *given, **named: 2 * _cudnn(*given, **named),
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
}
"""A backward pass does each product of the forward pass twice: for the input's gradient and for the weights'."""
