"""What the classifying tasks share: the loss, the metrics from one confusion matrix, calibration, a linear baseline.

A confusion matrix is (C, C) counts, rows the true class, columns the predicted one; it adds up over uneven batches and
ranks, and every metric here is a function of it. Shapes: N or B rows, C classes, F features; logits (B, C), y (B,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hotloop.task import LossOptions, Tally

OBEYS = frozenset({"label_smoothing", "focal_gamma"})
"""What `class_loss` applies, for `Task.obeys`."""
_BINS = 15  # of the expected calibration error, as in Guo et al.


def class_loss(logits_bc: Tensor, y_b: Tensor, options: LossOptions, training: bool) -> Tensor:
    """Cross entropy of each row in nats, float32, (B,); smoothing and focal factor in training only.

    Source: focal loss, Lin et al., arXiv 1708.02002, equation 4.
    """
    smoothing = options.label_smoothing if training else 0.0
    logits = logits_bc.float()
    loss = F.cross_entropy(logits, y_b, reduction="none", label_smoothing=smoothing)
    if training and options.focal_gamma:
        right = F.softmax(logits, dim=-1).gather(1, y_b.unsqueeze(1)).squeeze(1)
        loss = loss * (1.0 - right).pow(options.focal_gamma)
    return loss


def class_tallies(logits_bc: Tensor, y_b: Tensor, weight_b: Tensor | None) -> dict[str, Tally]:
    """Accuracy, and the confusion matrix of a batch; rows of weight 0 (padding) count nowhere."""
    classes, guess = logits_bc.shape[-1], logits_bc.argmax(dim=-1)
    count = torch.ones_like(y_b, dtype=torch.float32) if weight_b is None else weight_b.float()
    table = torch.zeros(classes * classes, device=y_b.device).index_add_(0, y_b * classes + guess, count)
    return {"accuracy": Tally.of(guess == y_b, count), "confusion": Tally(table.view(classes, classes), count.sum())}


def class_scores(confusion_cc: Tensor) -> dict[str, float]:
    """Macro-F1 and balanced accuracy over the classes that occur, and Matthews' correlation.

    Source: R. Gorodkin's multi-class correlation ("Comparing two K-category assignments by a K-category correlation
    coefficient", 2004).
    """
    rows = [row for row in per_class(confusion_cc) if row["support"] or row["predicted"]]
    seen = [row for row in rows if row["support"]]
    total, right = confusion_cc.sum().item(), confusion_cc.diagonal().sum().item()
    true, guessed = confusion_cc.sum(1), confusion_cc.sum(0)
    spread = (total**2 - (true**2).sum().item()) * (total**2 - (guessed**2).sum().item())
    return {
        "f1_macro": sum(row["f1"] for row in rows) / len(rows) if rows else math.nan,
        "balanced_accuracy": sum(row["recall"] for row in seen) / len(seen) if seen else math.nan,
        "mcc": (right * total - (true * guessed).sum().item()) / math.sqrt(spread) if spread > 0 else 0.0,
    }


def per_class(confusion_cc: Tensor, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Precision, recall, F1, support and number of predictions of each class; a quotient by zero counts 0."""
    table = confusion_cc.double()
    right, true, guessed = table.diagonal(), table.sum(1), table.sum(0)
    rows = []
    for c in range(len(table)):
        precision = (right[c] / guessed[c]).item() if guessed[c] else 0.0
        recall = (right[c] / true[c]).item() if true[c] else 0.0
        f1 = 2 * right[c].item() / (true[c] + guessed[c]).item() if true[c] + guessed[c] else 0.0
        name = names[c] if c < len(names) else str(c)
        counts = {"support": round(true[c].item()), "predicted": round(guessed[c].item())}
        rows.append({"class": name, "precision": precision, "recall": recall, "f1": f1, **counts})
    return rows


def confusion_of(logits_nc: Tensor, y_n: Tensor) -> Tensor:
    """The confusion matrix of rows at hand, (C, C) float64."""
    return class_tallies(logits_nc, y_n, None)["confusion"].sum.double()


def conclusion(parts: dict[str, dict[str, Tensor]], names: Sequence[str]) -> dict[str, Any]:
    """What a classifier's summary says of its best weights: the classes one by one, confusions, calibration.

    Args:
        parts: "val" and "test": {"logits": (N, C), "y": (N,)}.
        names: of the classes.
    """
    found: dict[str, Any] = {"classes": list(names)}
    for part, rows in parts.items():
        table = confusion_of(rows["logits"], rows["y"])
        prefix = "" if part == "val" else f"{part}_"
        found[f"{prefix}per_class"] = per_class(table, names)
        found[f"{prefix}confusion"] = table.long().tolist()
    if "val" in parts:
        found["calibration"] = calibrate(parts["val"]["logits"], parts["val"]["y"])
        if "test" in parts:
            scaled = parts["test"]["logits"].double() / found["calibration"]["temperature"]
            found["calibration"] |= {f"test_{name}": value for name, value in _before_after(parts["test"], scaled)}
    return found


def _before_after(part: dict[str, Tensor], scaled_nc: Tensor) -> list[tuple[str, float]]:
    y = part["y"]
    return [
        ("nll_before", negative_log_likelihood(part["logits"], y)),
        ("nll_after", negative_log_likelihood(scaled_nc, y)),
        ("ece_before", expected_calibration_error(part["logits"], y)),
        ("ece_after", expected_calibration_error(scaled_nc, y)),
    ]


def calibrate(logits_nc: Tensor, y_n: Tensor) -> dict[str, float]:
    """Temperature scaling: the one number to divide logits by that fits them best, and what it changes.

    Returns:
        temperature, nll_before, nll_after (nats), ece_before, ece_after (0 to 1).
    Source: Guo et al., "On calibration of modern neural networks", arXiv 1706.04599.
    """
    logits = logits_nc.double()
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(logits / log_temperature.exp(), y_n)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    temperature = float(log_temperature.detach().clamp(-5.0, 5.0).exp())
    part = {"logits": logits_nc, "y": y_n}
    return {"temperature": temperature, **dict(_before_after(part, logits / temperature))}


def negative_log_likelihood(logits_nc: Tensor, y_n: Tensor) -> float:
    """Mean cross entropy in nats."""
    return F.cross_entropy(logits_nc.double(), y_n).item()


def expected_calibration_error(logits_nc: Tensor, y_n: Tensor) -> float:
    """Mean gap between confidence and accuracy over 15 equal bins of confidence, weighted by their rows."""
    confidence, guess = F.softmax(logits_nc.double(), dim=-1).max(dim=-1)
    gap = (guess == y_n).double() - confidence
    place = (confidence * _BINS).ceil().long().clamp(1, _BINS) - 1
    sums = torch.zeros(_BINS, dtype=torch.float64).index_add_(0, place, gap)
    return sums.abs().sum().item() / len(y_n)


def combined(outputs: Sequence[dict[str, Tensor]], names: Sequence[str] = ("logits",)) -> dict[str, Tensor]:
    """The mean of the probabilities of several runs, as logits (N, C) of these names; the rest as the first has it."""
    found = dict(outputs[0])
    for name in names:
        shares = torch.stack([one[name].double().softmax(dim=1) for one in outputs])
        found[name] = shares.mean(dim=0).clamp(min=1e-30).log()
    return found


def linear_scores(
    x_nf: Tensor, y_n: Tensor, x_mf: Tensor, y_m: Tensor, classes: int, *, balanced: bool = True
) -> dict[str, float]:
    """Metrics of a linear classifier (multinomial logistic regression with a small L2 penalty).

    Args:
        x_nf, y_n: to fit on. x_mf, y_m: to measure on.
        balanced: weigh the rows so that every class counts the same in the fit.
    """
    mean, std = x_nf.double().mean(0), x_nf.double().std(0).clamp(min=1e-8)
    x, held = (x_nf.double() - mean) / std, (x_mf.double() - mean) / std
    weight = torch.zeros(x.shape[1] + 1, classes, dtype=torch.float64, requires_grad=True)
    counts = torch.bincount(y_n, minlength=classes).double()
    share = len(y_n) / (classes * counts.clamp(min=1.0)) if balanced else torch.ones(classes, dtype=torch.float64)
    solver = torch.optim.LBFGS([weight], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(torch.addmm(weight[-1], x, weight[:-1]), y_n, weight=share)
        loss = loss + 1e-4 * weight[:-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    table = confusion_of(torch.addmm(weight[-1], held, weight[:-1]).detach(), y_m)
    return {"accuracy": (table.diagonal().sum() / table.sum()).item(), **class_scores(table)}


def majority_scores(y_n: Tensor, y_m: Tensor, classes: int) -> dict[str, float]:
    """Metrics of always answering the class that is most frequent in training."""
    logits = F.one_hot(torch.bincount(y_n, minlength=classes).argmax(), classes).double().expand(len(y_m), -1)
    table = confusion_of(logits, y_m)
    return {"accuracy": (table.diagonal().sum() / table.sum()).item(), **class_scores(table)}
