"""From the answers of all rounds to the table: medians, spreads, ratios taken within each round, and losses.

Nothing here imports torch, so that pages can be made anywhere. A row is a dict, as it is stored in bench/results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

SAME = 0.01
"""Relative difference of the mean loss up to which it counts as the same."""
OWN, PLAIN = "hotloop tuned", "bare fp32"
PEERS = ("lightning", "transformers")
"""The trainers whose defaults the goals are set against."""
Answers = Mapping[str, Sequence[Mapping[str, Any]]]


def rows_of(
    answers: Answers, warmed: Mapping[str, Mapping[str, Any]], batch: int, skipped: Mapping[str, str], starts: int = 1
) -> list[dict[str, Any]]:
    """One row for each contestant.

    Args:
        answers: name -> one answer (seconds, steps, loss) a round.
        warmed: name -> the answer to the warm-up, which holds compiling.
        batch: rows of a step.
        skipped: name -> why it has no answers.
        starts: how many times all were started; the answers of a start follow one another.
    """
    rows: list[dict[str, Any]] = []
    plain = _loss(answers[PLAIN]) if PLAIN in answers else None
    for name, found in answers.items():
        times = _times(found)
        loss, middle = _loss(found), median(times)
        rows.append({
            "name": name, "ms": middle, "spread": [min(times), max(times)], "rounds": times,
            "samples_per_second": 1e3 * batch / middle, "compile_seconds": _compile(warmed.get(name), middle),
            "loss": loss, **_beside(loss, plain), **_ratios(answers, name, starts),
        })  # fmt: skip
    return rows + [{"name": name, "skipped": why} for name, why in skipped.items()]


def _times(found: Sequence[Mapping[str, Any]]) -> list[float]:
    """Milliseconds a step, round by round."""
    return [1e3 * answer["seconds"] / answer["steps"] for answer in found]


def _loss(found: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean over all timed steps; None where one was not finite."""
    losses = [answer["loss"] for answer in found]
    return None if None in losses else mean(losses)


def _compile(warmed: Mapping[str, Any] | None, ms: float) -> float:
    """Seconds that the warm-up took over what its steps take later: compiling, and a first step's other costs."""
    return 0.0 if warmed is None else max(0.0, warmed["seconds"] - warmed["steps"] * ms / 1e3)


def _beside(loss: float | None, plain: float | None) -> dict[str, Any]:
    """The relative difference to the plain loop's loss, and a word on it."""
    if loss is None:
        return {"loss_difference": None, "verdict": "not finite"}
    if plain is None:
        return {"loss_difference": None, "verdict": "-"}
    difference = (loss - plain) / abs(plain)
    return {"loss_difference": difference, "verdict": "same" if abs(difference) <= SAME else f"{difference:+.1%}"}


def _ratios(answers: Answers, name: str, starts: int) -> dict[str, Any]:
    """How many times as fast the tuned hotloop (and the default one) is as this contestant, within each round.

    Median, smallest and largest of all rounds; `by_start` holds the median of each start.
    """
    found: dict[str, Any] = {}
    for key, own in (("tuned_is_faster", OWN), ("default_is_faster", "hotloop")):
        if own in answers:
            pairs = zip(_times(answers[name]), _times(answers[own]), strict=True)
            ratios = [theirs / ours for theirs, ours in pairs]
            found[key] = [median(ratios), min(ratios), max(ratios)]
            each = len(ratios) // starts
            if starts > 1 and own == OWN:
                found["by_start"] = [median(ratios[first : first + each]) for first in range(0, len(ratios), each)]
    return found


def reached(result: Mapping[str, Any]) -> list[tuple[str, float, bool]]:
    """For each peer with its defaults: how many times as fast the tuned hotloop was, and whether that is the goal."""
    return [
        (row["name"], row["tuned_is_faster"][0], row["tuned_is_faster"][0] >= result["goal"])
        for row in result["rows"]
        if row["name"] in PEERS and "tuned_is_faster" in row
    ]


def rounds_of(result: Mapping[str, Any]) -> str:
    """How it was measured, in words."""
    starts = f"{result['starts']} starts of " if result.get("starts", 1) > 1 else ""
    return f"{starts}{result['rounds']} rounds of {result['steps']} steps"


def by_start(row: Mapping[str, Any]) -> str:
    """The median of each start, smallest first; empty where all were started once."""
    return " ".join(f"{ratio:.2f}" for ratio in sorted(row.get("by_start", ())))


def show(result: Mapping[str, Any]) -> None:
    """The table of one workload, for a terminal."""
    print(f"\n{result['title']}: {rounds_of(result)}")
    print(
        f"{'':22}{'ms/step':>10}{'min .. max':>20}{'samples/s':>11}{'compile s':>11}{'tuned x':>9}{'loss':>9}  loss is"
    )
    for row in result["rows"]:
        if "skipped" in row:
            print(f"{row['name']:22} {row['skipped']}")
            continue
        spread = "{:.2f} .. {:.2f}".format(*row["spread"])
        loss = "-" if row["loss"] is None else f"{row['loss']:.4f}"
        ratio = f"{row['tuned_is_faster'][0]:.2f}" if "tuned_is_faster" in row else "-"
        print(f"{row['name']:22}{row['ms']:10.2f}{spread:>20}{row['samples_per_second']:11,.0f}"
              f"{row['compile_seconds']:11.1f}{ratio:>9}{loss:>9}  {row['verdict']:10}{by_start(row)}")  # fmt: skip
    for name, ratio, well in reached(result):
        print(f"over {name} with its defaults: {ratio:.2f} times ({'reaches' if well else 'misses'} {result['goal']})")
