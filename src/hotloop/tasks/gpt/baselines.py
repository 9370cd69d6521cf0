"""What a language model must beat: each token by its own frequency, and by its frequency after the one before it.

Counted on the training part, measured on every target of the validation part. Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hotloop.tasks.gpt.vocabulary import Tokens

Ids = np.ndarray[Any, np.dtype[np.int64]]
Shares = np.ndarray[Any, np.dtype[np.float64]]

_CHUNK = 1 << 20  # tokens counted at a time, which bounds the memory
_COUNTED = 50_000_000  # training tokens, at most: more change the frequencies little
_PAIRS = 2048  # largest vocabulary whose V x V pairs are counted


def measured(train: Tokens, val: Tokens, vocabulary: int) -> dict[str, dict[str, float]]:
    """Loss in nats a token of both: unigram, and bigram where the vocabulary is not too large.

    Args:
        train, val: (N,) ids each.
        vocabulary: V.
    """
    train = train[:_COUNTED]
    single = np.zeros(vocabulary, dtype=np.int64)
    for start in range(0, len(train), _CHUNK):
        single += np.bincount(train[start : start + _CHUNK], minlength=vocabulary)
    share = (single + 1) / (single.sum() + vocabulary)
    found = {"unigram": {"loss": _mean(val, lambda _, after: share[after])}}
    if vocabulary > _PAIRS:
        return found
    pairs = np.zeros(vocabulary * vocabulary, dtype=np.int64)
    for start in range(0, len(train) - 1, _CHUNK):
        before, after = _pairs(train, start)
        pairs += np.bincount(before * vocabulary + after, minlength=vocabulary * vocabulary)
    table = pairs.reshape(vocabulary, vocabulary)
    # one observation more of each token, spread as tokens are: what was never seen after another is still possible
    shares = (table + share) / (table.sum(axis=1, keepdims=True) + 1)
    found["bigram"] = {"loss": _mean(val, lambda before, after: shares[before, after])}
    return found


def _pairs(tokens: Tokens, start: int) -> tuple[Ids, Ids]:
    part = tokens[start : start + _CHUNK + 1].astype(np.int64)
    return part[:-1], part[1:]


def _mean(val: Tokens, share_of: Callable[[Ids, Ids], Shares]) -> float:
    total = 0.0
    for start in range(0, len(val) - 1, _CHUNK):
        total -= float(np.log(share_of(*_pairs(val, start))).sum())
    return total / (len(val) - 1)
