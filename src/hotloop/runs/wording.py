"""Numbers as a person reads them, and the lines made of them; pure functions of records and summaries.

Invariants: the training line keeps the form `Step 100 | Loss: 0.4521 | LR: 1.25e-05 | GPU Mem: 3.2GB/4GB`, which other
tools read. Memory is in bytes; seconds are seconds; a missing or non-finite number is shown as such, never as 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Baselines = Mapping[str, Mapping[str, float]]
"""Name of a simple predictor -> metric (without eval_) -> value."""
_GB = 2**30
_PARTS = ("startup", "compile", "train", "eval", "total")
_NOT_METRICS = {"eval_seconds", "eval_loss"}


def training_line(record: Mapping[str, Any], memory_total: int = 0) -> str:
    """Word a training record.

    Args:
        record: as in metrics.jsonl; `tokens_per_second` is preferred to `samples_per_second` where both are there.
        memory_total: bytes that the run may take: of its budget, or of a GPU's memory; 0 if unknown.
    """
    parts = [f"Step {record['step']}", f"Loss: {number(record['train_loss'], '.4f')}"]
    if record.get("learning_rate") is not None:
        parts.append(f"LR: {record['learning_rate']:.2e}")
    if record.get("gpu_memory"):
        parts.append(f"GPU Mem: {gigabytes(record['gpu_memory'])}{_of(memory_total)}")
    elif "memory" in record:  # of a budget
        parts.append(f"Mem: {gigabytes(record['memory'])}{_of(memory_total)}")
    else:
        parts.append(f"Mem: {gigabytes(process_memory())}")
    for key, unit in (("tokens_per_second", "tokens/s"), ("samples_per_second", "samples/s")):
        if record.get(key):
            parts.append(f"{thousands(record[key])} {unit}")
            break
    return " | ".join(parts)


def _of(total: int) -> str:
    """`/4GB` behind what is used of it; a card says a little less than the whole number that it is sold by."""
    amount = total / _GB
    if not total:
        return ""
    return f"/{amount:.0f}GB" if amount >= 10 or abs(amount - round(amount)) <= 0.05 * amount else f"/{amount:.2g}GB"


def evaluation_line(record: Mapping[str, Any], baselines: Baselines | None = None) -> str:
    """Word an evaluation record: the loss first, then the task's metrics beside what simple predictors reach, then
    whether it is the best so far.
    """
    parts = [f"Step {record['step']}"]
    if "eval_loss" in record:
        parts.append(f"Eval loss: {number(record['eval_loss'], '.4f')}{beside('eval_loss', baselines)}")
    for key, value in record.items():
        if key.startswith("eval_") and key not in _NOT_METRICS and not isinstance(value, (dict, list, str)):
            parts.append(f"{key}: {number(value, '.4g')}{beside(key, baselines)}")
    if record.get("best"):
        parts.append("best")
    return " | ".join(parts)


def beside(key: str, baselines: Baselines | None) -> str:
    """` (linear 0.426, majority 0.333)` for a metric that baselines were measured by; empty for others."""
    name = key.removeprefix("eval_")
    known = [(who, values[name]) for who, values in (baselines or {}).items() if name in values]
    return f" ({_listed(known)})" if known else ""


def baseline_lines(baselines: Baselines) -> list[str]:
    """One line a baseline, before training: what is to be beaten."""
    return [f"baseline {who}: {_listed(list(values.items()))}" for who, values in baselines.items() if values]


def _listed(pairs: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {number(value, '.4g')}" for name, value in pairs)


def epoch_line(epoch: int, epochs: int, train_loss: float, eval_loss: float, seconds: float) -> str:
    """The line of a finished epoch that other tools read."""
    return f"Epoch [{epoch}/{epochs}] - Train Loss: {train_loss:.6f}, Val Loss: {eval_loss:.6f}, Time: {seconds:.2f}s"


def _failed(why: Any) -> str | None:
    return None if not why else f"failed, the weights are kept: {str(why).splitlines()[0]}"


def _class_rows(summary: Mapping[str, Any]) -> dict[str, str]:
    """A row for each class, and one for the calibration, of the weights that were concluded on."""
    rows = {
        f"class {row['class']}": f"precision {row['precision']:.3f}, recall {row['recall']:.3f}, F1 {row['f1']:.3f} "
        f"({row['support']:,} rows, {row['predicted']:,} predicted)"
        for row in summary.get("per_class", [])
    }
    found = summary.get("calibration")
    if found:
        rows["calibration"] = (
            f"temperature {found['temperature']:.3f}: NLL {found['nll_before']:.4f} -> {found['nll_after']:.4f}, "
            f"ECE {found['ece_before']:.4f} -> {found['ece_after']:.4f}"
        )
    return rows


def evaluation_warning(metrics: Mapping[str, Any]) -> str:
    """What a person must know of an evaluation whose loss is not a number; empty for a sound one."""
    loss = metrics.get("eval_loss", 0.0)
    return "" if math.isfinite(loss) else f"the validation loss is not finite ({loss}): do not use these weights"


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Word a training_summary.json as (name, value) rows; what is not in it gets no row."""
    metrics = {
        key: f"{number(value, '.4f' if abs(value) >= 0.01 else '.4g')}{beside(key, summary.get('baselines'))}"
        for key, value in summary.items()
        if key.startswith(("eval_", "test_"))
        and key not in _NOT_METRICS
        and not isinstance(value, (dict, list, str))
        and value is not None
    }
    candidates = {
        "status": summary.get("status"),
        "reason": summary.get("reason"),
        "warning": summary.get("warning"),
        "conclusion": _failed(summary.get("conclusion_failed")),
        "steps": _steps(summary),
        "train loss": _optional(summary.get("train_loss")),
        "eval loss": _beside_loss(summary),
        **metrics,
        "best": best_text(summary.get("best")),
        **_class_rows(summary),
        "concluded on": f"the {summary['weights']} weights" if summary.get("weights") else None,
        "time": _seconds(summary.get("seconds")),
        "batch": None if summary.get("effective_batch") is None else f"{summary['effective_batch']} effective",
        "compiled again": _recompiles(summary.get("recompiles")),
        "memory": _memory(summary),
        "parameters": None if summary.get("parameters") is None else thousands(summary["parameters"]),
        "folder": summary.get("dir"),
    }
    return [(name, str(value)) for name, value in candidates.items() if value not in (None, "")]


def _recompiles(count: int | None) -> str | None:
    """How often code was compiled anew; nothing where it never was."""
    return f"{count} time{'' if count == 1 else 's'} after the first step (training.log says why)" if count else None


def _memory(summary: Mapping[str, Any]) -> str | None:
    """The peak; where it was forecast or limited, of what the run itself took."""
    whole, own = summary.get("peak_memory"), summary.get("memory") or {}
    if not whole:
        return None
    if not own.get("forecast") and not own.get("limit"):
        return f"{gigabytes(whole)} at the peak"
    foreseen = f" (forecast {own['forecast'] / _GB:.2f}GB)" if own.get("forecast") else ""
    budget = f", budget {own['limit'] / _GB:.3g}GB" if own.get("limit") else ""
    retries = f", {own['oom_retries']} step(s) repeated" if own.get("oom_retries") else ""
    return (
        f"{own['peak'] / _GB:.2f}GB at the peak{foreseen}{budget}{retries}; {gigabytes(whole)} with all that is loaded"
    )


def _beside_loss(summary: Mapping[str, Any]) -> str | None:
    loss = _optional(summary.get("eval_loss"))
    return f"{loss}{beside('eval_loss', summary.get('baselines'))}" if loss else None


def best_text(best: Any) -> str:
    """Word `best`, a number or {"metric", "value", "step"}."""
    if isinstance(best, Mapping):
        value = _optional(best.get("value"))
        if value is None:
            return ""
        at = f" at step {best['step']}" if best.get("step") is not None else ""
        return f"{best.get('metric', '')} {value}{at}".strip()
    return _optional(best) or ""


def number(value: Any, form: str) -> str:
    """Format a number; None (a NaN once written as JSON) and NaN read "nan"."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "nan"
    return format(value, form) if isinstance(value, (int, float)) else str(value)


def thousands(value: float) -> str:
    """12345.6 as 12,346; small rates keep a digit."""
    return f"{value:,.0f}" if abs(value) >= 10 or float(value).is_integer() else f"{value:.1f}"


def gigabytes(size: float) -> str:
    """Bytes as GB of 2**30 bytes, one decimal (two below 0.1 GB)."""
    amount = size / _GB
    return f"{amount:.1f}GB" if amount >= 0.1 or amount == 0 else f"{amount:.2f}GB"


def duration(seconds: float) -> str:
    """Seconds as 4.2s, 42s, 1m05s or 2h03m."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def process_memory() -> int:
    """Resident bytes of this process."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def _optional(value: Any) -> str | None:
    return None if value is None else number(value, ".4f")


def _steps(summary: Mapping[str, Any]) -> str | None:
    if summary.get("steps") is None:
        return None
    epochs = summary.get("epochs")
    return f"{summary['steps']:,}" + ("" if epochs is None else f" ({number(epochs, '.3g')} epochs)")


def _seconds(seconds: Any) -> str | None:
    if not isinstance(seconds, Mapping):
        return None if seconds is None else duration(float(seconds))
    parts = [f"{name} {duration(seconds[name])}" for name in _PARTS[:-1] if seconds.get(name) is not None]
    total = f"{duration(seconds['total'])} = " if seconds.get("total") is not None else ""
    return total + " + ".join(parts) if parts else total.removesuffix(" = ")
