"""Which direction of a metric is better, known from its name; an unknown metric has none, never a guess."""

from __future__ import annotations

import re
from typing import Literal

Mode = Literal["min", "max"]
_LESS = re.compile("loss|error|perplexity|ppl|bpc|bpb|nll|mse|rmse|mae|mape|smape|ece|wer|cer")
_MORE = re.compile("accuracy|acc|f1|precision|recall|auc|auroc|mcc|bleu|chrf|map|iou|dice|r2|exact")


def mode_of(metric: str) -> Mode | None:
    """The better direction of a metric such as `eval_loss` or `eval_f1_macro`; None where the name does not tell."""
    words = re.split(r"[^a-z0-9]|_", metric.lower())
    less, more = any(map(_LESS.fullmatch, words)), any(map(_MORE.fullmatch, words))
    if less == more:
        return None
    return "min" if less else "max"


def resolve(metric: str, stated: str) -> Mode | None:
    """The direction of a metric when `stated` (auto, min, max) is what the configuration says."""
    if stated == "min":
        return "min"
    return "max" if stated == "max" else mode_of(metric)
