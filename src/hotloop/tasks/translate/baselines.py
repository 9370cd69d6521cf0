"""What a translator must beat: the most frequent target, and the target of the training source that is most alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from hotloop.tasks.translate.chrf import chrf_counts, chrf_score
from hotloop.tasks.translate.pairs import Pairs

_ROWS = 1000  # of a part, at most: the nearest of tens of thousands takes a while


def measured(train: Pairs, parts: Mapping[str, Pairs]) -> dict[str, dict[str, float]]:
    """Exact match and chrF of both.

    Args:
        train: what they know.
        parts: prefix of the metric's name -> the pairs that they are measured on, the first thousand of them.
    """
    common = Counter(train.tgt).most_common(1)[0][0]
    nearest = _Nearest(train)
    found: dict[str, dict[str, float]] = {"most_frequent": {}, "nearest_source": {}}
    for prefix, pairs in parts.items():
        wanted, src = pairs.tgt[:_ROWS], pairs.src[:_ROWS]
        found["most_frequent"] |= _scores(prefix, [common] * len(wanted), wanted)
        found["nearest_source"] |= _scores(prefix, [nearest.target(text) for text in src], wanted)
    return found


def _scores(prefix: str, outputs: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    exact = sum(output == target for output, target in zip(outputs, wanted, strict=True)) / len(wanted)
    return {f"{prefix}exact_match": exact, f"{prefix}chrf": chrf_score(chrf_counts(outputs, wanted))}


class _Nearest:
    """Sources by the pairs of characters that they share with another (Dice's coefficient)."""

    def __init__(self, train: Pairs) -> None:
        self._tgt = train.tgt
        grams = [_grams(text) for text in train.src]
        self._sizes = np.array([len(found) for found in grams], dtype=np.float64)
        places: dict[str, list[int]] = {}
        for row, found in enumerate(grams):
            for gram in found:
                places.setdefault(gram, []).append(row)
        self._places = {gram: np.array(rows) for gram, rows in places.items()}

    def target(self, text: str) -> str:
        """The target of the training source most like `text`; of the first one among equals."""
        found, shared = _grams(text), np.zeros(len(self._tgt))
        for gram in found:
            rows = self._places.get(gram)
            if rows is not None:
                shared[rows] += 1
        return self._tgt[int((2 * shared / (self._sizes + len(found))).argmax())]


def _grams(text: str) -> set[str]:
    framed = f" {text} "
    return {framed[place : place + 2] for place in range(len(framed) - 1)}
