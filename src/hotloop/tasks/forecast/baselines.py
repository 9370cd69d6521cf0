"""What any forecast must beat: the last value kept, and a linear regression on each target's own window.

Both are measured on the very windows that the model is measured on. The regression is fitted on training windows alone,
one map of T lags and an offset to H steps for each target, by its normal equations in float64. Shapes: B rows, T lags,
H horizon, K targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from hotloop.data.source import Source

_CHUNK = 2048  # windows at a time
_MOST = 200_000  # training windows that the regression reads, evenly spread
_RIDGE = 1e-6  # of the mean diagonal: keeps constant columns solvable, and changes nothing else
Batch = Mapping[str, Tensor]
Predictor = Callable[[Batch], Tensor]


def naive(targets: list[int], zero: Tensor | None) -> Predictor:
    """The last value of each target for all steps ahead; for a return the close stays, which is a return of 0.

    Args:
        targets: positions of the K targets.
        zero: (S, K) a return of 0 in scaled units per series; None where the target is no return.
    """

    def predict(batch: Batch) -> Tensor:
        last = batch["x"][:, -1:, targets] if zero is None else zero[batch["symbol"]].unsqueeze(1)
        return last.expand_as(batch["y"])

    return predict


def linear(train: Source, targets: list[int]) -> Predictor:
    """Least squares of each target's own lags, fitted on the training windows."""
    left: Tensor | None = None
    right: Tensor | None = None
    for batch in _batches(train, _MOST):
        lags = _lags(batch, targets)  # (K, B, T + 1)
        left_now = lags.mT @ lags
        right_now = lags.mT @ batch["y"].permute(2, 0, 1).double()  # (K, T + 1, H)
        left = left_now if left is None else left + left_now
        right = right_now if right is None else right + right_now
    assert left is not None, "a source holds at least one window"
    assert right is not None
    ridge = _RIDGE * left.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-12)
    maps = torch.linalg.solve(left + ridge[:, None, None] * torch.eye(left.shape[-1], dtype=torch.float64), right)

    def predict(batch: Batch) -> Tensor:
        ahead: Tensor = _lags(batch, targets) @ maps  # (K, B, H)
        return ahead.permute(1, 2, 0)

    return predict


def measure(predict: Predictor, source: Source, scale_sk: Tensor) -> dict[str, float]:
    """Mean squared and mean absolute error over all windows, in scaled and in original units.

    Args:
        predict: gives (B, H, K).
        source: windows on the CPU.
        scale_sk: original units of one scaled unit, per series and target.
    """
    sums, count = torch.zeros(4, dtype=torch.float64), 0
    for batch in _batches(source, len(source)):
        error = predict(batch).double() - batch["y"].double()
        raw = error * scale_sk[batch["symbol"]].unsqueeze(1)
        sums += torch.stack([error.square().sum(), error.abs().sum(), raw.square().sum(), raw.abs().sum()])
        count += error.numel()
    return dict(zip(("mse", "mae", "mse_raw", "mae_raw"), (sums / count).tolist(), strict=True))


def _lags(batch: Batch, targets: list[int]) -> Tensor:
    own = batch["x"][:, :, targets].permute(2, 0, 1).double()  # (K, B, T)
    return torch.cat([own, torch.ones_like(own[:, :, :1])], dim=2)


def _batches(source: Source, most: int) -> Iterator[Batch]:
    """Batches of up to `most` windows, evenly spread over the source."""
    count = min(most, len(source))
    for first in range(0, count, _CHUNK):
        yield source.batch(torch.arange(first, min(first + _CHUNK, count)) * len(source) // count)
