"""chrF through sacrebleu: counts of character n-grams that add up over batches, and the score of their sum.

Source: M. Popovic, "chrF: character n-gram F-score for automatic MT evaluation" (2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

COUNTS = 18
"""Numbers that a corpus is summed up in: three for each order from 1 to 6."""


def chrf_counts(outputs: Sequence[str], references: Sequence[str]) -> Tensor:
    """Counts of n-grams written, wanted and matched, (COUNTS,), float64; they add up over texts.

    Args:
        outputs: what was written.
        references: what should have been written, one for each.
    """
    total = torch.zeros(COUNTS, dtype=torch.float64)
    for output, reference in zip(outputs, references, strict=True):
        (row,) = _metric()._extract_corpus_statistics([output], [[reference]])
        total += torch.tensor([float(count) for count in row], dtype=torch.float64)
    return total


def chrf_score(counts: Tensor) -> float:
    """chrF2 of a corpus in percent, from the sum of its counts."""
    return float(_metric()._compute_f_score([int(count) for count in counts.tolist()]))


@cache
def _metric() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
