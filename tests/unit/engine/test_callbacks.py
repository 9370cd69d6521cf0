"""Observers: judging what is best, stopping, limits; hooks under other libraries' names; what they may ask for."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import hotloop
from hotloop.engine.callbacks import Cadence, Judge, MaxTime, Plateau, StopAt
from hotloop.engine.hooks import Ask, Callback, Hooks
from hotloop.errors import HotloopError


def at(step: int) -> SimpleNamespace:
    return SimpleNamespace(step=step)


def judged(judge: Judge, values: list[float], metric: str = "eval_loss") -> list[Ask | None]:
    return [judge.on_evaluate(at(step), {metric: value}) for step, value in enumerate(values, start=1)]


def test_the_judge_marks_what_is_best() -> None:
    judge = Judge("eval_loss", "min")
    asks = judged(judge, [3.0, 2.0, 2.5, 1.0])
    assert [bool(ask and ask.best) for ask in asks] == [True, True, False, True]
    assert (judge.best_value, judge.best_step) == (1.0, 4)
    assert Judge("eval_loss", "min").best_value is None


def test_the_judge_of_a_score_takes_the_largest() -> None:
    judge = Judge("eval_f1_macro", "max")
    asks = judged(judge, [0.2, 0.5, 0.4], "eval_f1_macro")
    assert [bool(ask and ask.best) for ask in asks] == [True, True, False]
    assert (judge.best_value, judge.best_step) == (0.5, 2)


def test_patience_counts_validations_without_a_better_one() -> None:
    judge = Judge("eval_loss", "min", patience=2)
    asks = judged(judge, [3.0, 3.1, 2.0, 2.1, 2.0])
    assert [bool(ask and ask.stop) for ask in asks] == [False, False, False, False, True]
    assert asks[-1].stop == "eval_loss has not been better for 2 evaluations"
    assert asks[-1].save


def test_a_change_below_min_delta_is_no_improvement() -> None:
    judge = Judge("eval_loss", "min", min_delta=0.1, patience=3)
    asks = judged(judge, [1.0, 0.95, 0.91, 0.905])
    assert asks[-1].stop
    assert [bool(ask and ask.best) for ask in asks] == [True, True, True, True]  # but the best is the best
    assert judge.best_value == 0.905


def test_the_best_is_saved_whatever_the_cadence_where_it_is_kept() -> None:
    assert [ask and ask.save for ask in judged(Judge("eval_loss", "min", save=True), [2.0, 3.0, 1.0])] == [
        True,
        None,
        True,
    ]
    assert not judged(Judge("eval_loss", "min"), [2.0])[0].save


def test_an_infinite_score_is_no_best_and_no_goal() -> None:
    assert judged(Judge("eval_f1", "max"), [math.inf], "eval_f1") == [None]
    assert StopAt({"eval_f1": (0.5, "max")}).on_evaluate(at(1), {"eval_f1": math.inf}) is None


def test_plateau_stays_above_its_floor_and_counts_small_changes_as_none() -> None:
    plateau = Plateau(0.1, patience=0, floor=0.05, min_delta=0.5)
    asks = [plateau.on_evaluate(at(n), {"eval_loss": value}) for n, value in enumerate([2.0, 1.6, 1.4, 1.4, 1.4])]
    rates = [ask.rate_factor if ask else 1.0 for ask in asks]
    assert rates == pytest.approx([1.0, 0.1, 1.0, 0.5, 1.0])


def test_nan_is_never_the_best() -> None:
    judge = Judge("eval_loss", "min", patience=2)
    asks = judged(judge, [math.nan, 1.0, math.nan, math.nan])
    assert [bool(ask and ask.best) for ask in asks] == [False, True, False, False]
    assert asks[-1].stop
    assert judge.best_value == 1.0


def test_the_judge_goes_through_a_checkpoint() -> None:
    judge, other = Judge("eval_loss", "min", patience=2), Judge("eval_loss", "min", patience=2)
    judged(judge, [1.0, 2.0])
    other.load_state_dict(judge.state_dict())
    assert other.on_evaluate(at(3), {"eval_loss": 2.0}).stop
    assert other.best_value == 1.0


def test_a_metric_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(HotloopError, match=r"no metric 'eval_f1' (.|\n)*choose one of eval_loss, eval_accuracy"):
        Judge("eval_f1", "max").on_evaluate(at(1), {"eval_loss": 1.0, "eval_accuracy": 0.5})
    with pytest.raises(HotloopError, match=r"no metric 'eval_f1' to stop at(.|\n)*experiment.stop_at"):
        StopAt({"eval_f1": (0.5, "max")}).on_evaluate(at(1), {"eval_loss": 1.0})


@pytest.mark.parametrize(("mode", "values"), [("min", [1.6, 1.51, 1.5]), ("max", [1.4, 1.49, 1.5])])
def test_stop_at_stops_when_the_target_is_reached(mode: str, values: list[float]) -> None:
    stop = StopAt({"eval_x": (1.5, mode)})
    asks = [stop.on_evaluate(at(step), {"eval_x": value}) for step, value in enumerate(values)]
    assert asks[:2] == [None, None]
    assert asks[2].stop == "eval_x 1.5000 reached 1.5"
    assert asks[2].save


def test_plateau_reduces_after_its_patience_and_waits_anew() -> None:
    plateau = Plateau(0.1, patience=1)
    asks = [plateau.on_evaluate(at(n), {"eval_loss": v}) for n, v in enumerate([2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0])]
    assert [ask.rate_factor if ask else 1.0 for ask in asks] == [1.0, 1.0, 0.1, 1.0, 0.1, 1.0, 1.0]
    other = Plateau(0.1, patience=1)
    other.load_state_dict(plateau.state_dict())
    assert other.on_evaluate(at(9), {"eval_loss": 1.0}).rate_factor == 0.1


def test_max_time_stops_evaluates_and_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    limit = MaxTime(5.0)
    limit.on_start(None)
    now[0] = 104.9
    assert limit.on_step(at(1)) is None
    now[0] = 105.0
    ask = limit.on_step(at(2))
    assert (ask.stop, ask.evaluate, ask.save) == ("the time limit of 5 s is over", True, True)


def test_cadence_logs_evaluates_and_saves_at_its_steps_and_at_the_end(make_plan) -> None:
    cadence = Cadence(make_plan(total_steps=10, log_every=2, eval_every=3, checkpoint_every=4), save_with_eval=False)
    asks = {step: cadence.on_step(at(step)) or Ask() for step in range(1, 11)}
    assert [step for step, ask in asks.items() if ask.log] == [2, 4, 6, 8, 10]
    assert [step for step, ask in asks.items() if ask.evaluate] == [3, 6, 9, 10]
    assert [step for step, ask in asks.items() if ask.save] == [4, 8, 10]
    with_eval = Cadence(make_plan(total_steps=10, log_every=99, eval_every=3), save_with_eval=True)
    assert [step for step in range(1, 11) if (with_eval.on_step(at(step)) or Ask()).save] == [3, 6, 9, 10]


def test_what_several_ask_is_joined() -> None:
    joined = Ask(log=True, stop="first", rate_factor=0.5) | Ask(save=True, stop="second", rate_factor=0.5)
    assert joined == Ask(log=True, save=True, stop="first", rate_factor=0.25)


# ---- through hotloop.fit ----------------------------------------------------------------------------------------

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
DATA = {"x": X}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["x"]).square().mean(1)


class Listener:
    """Every hook under another library's name; it derives from nothing."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_train_begin(self, state) -> None:
        self.heard.append("begin")

    def on_train_batch_end(self, info) -> None:
        self.heard.append(f"step {info.step}")

    def on_train_epoch_end(self, info) -> None:
        self.heard.append(f"epoch {info.epoch:g}")

    def on_validation_end(self, info, metrics) -> None:
        self.heard.append(f"evaluated {sorted(metrics)[0]}")

    def on_save_checkpoint(self, step) -> None:
        self.heard.append(f"saved {step}")

    def on_train_end(self, reason) -> None:
        self.heard.append(f"end {reason!r}")


def test_hooks_under_other_names_are_called_in_the_loops_order(quick) -> None:
    listener = Listener()
    quick(nn.Linear(4, 2), DATA, loss=loss, val=DATA, batch_size=6, num_epochs=2, callbacks=[listener])
    epoch = ["step {}", "step {}", "epoch {}", "evaluated eval_loss", "saved {}"]
    first = [line.format(n) for line, n in zip(epoch, [1, 2, 1, 0, 2], strict=True)]
    second = [line.format(n) for line, n in zip(epoch, [3, 4, 2, 0, 4], strict=True)]
    assert listener.heard == ["begin", *first, *second, "end ''"]


def test_a_function_of_step_info_is_a_callback(quick) -> None:
    seen = []
    quick(nn.Linear(4, 2), DATA, loss=loss, batch_size=5, max_steps=4, callbacks=[seen.append])
    assert [(info.step, info.epoch, info.rows) for info in seen] == [
        (1, 1 / 3, 5),
        (2, 2 / 3, 5),
        (3, 1.0, 2),
        (4, 4 / 3, 5),
    ]
    assert all(info.loss.dim() == 0 and info.grad_norm > 0 and info.learning_rate > 0 for info in seen)


def test_a_callback_stops_the_run_by_asking(quick) -> None:
    class Stopper(hotloop.Callback):
        def on_step(self, info):
            return hotloop.Ask(stop="seen enough", save=True) if info.step == 3 else None

    run = quick(nn.Linear(4, 2), DATA, loss=loss, batch_size=4, max_steps=50, callbacks=[Stopper()])
    assert (run.summary["status"], run.summary["reason"], run.summary["steps"]) == ("stopped", "seen enough", 3)
    assert (run.dir / "checkpoints" / "step_3.pt").is_file()


def test_an_early_stop_through_fit(quick) -> None:
    def flat(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return loss(model, batch) * 0 + 1.0

    run = quick(nn.Linear(4, 2), DATA, loss=flat, val=DATA, batch_size=6, num_epochs=40, early_stopping_patience=3)
    assert run.summary["status"] == "stopped"
    assert run.summary["epochs"] == 4.0
    assert run.summary["best"] == {"metric": "eval_loss", "value": 1.0, "step": 2}


def test_a_goal_stops_the_run(quick) -> None:
    run = quick(
        nn.Linear(4, 2), DATA, loss=loss, val=DATA, batch_size=6, num_epochs=200,
        learning_rate=0.05, stop_at={"eval_loss": 0.1},
    )  # fmt: skip
    assert run.summary["status"] == "stopped"
    assert run.summary["eval_loss"] <= 0.1
    assert run.summary["steps"] < 400


def test_an_object_without_hooks_is_refused_before_the_first_step(quick) -> None:
    with pytest.raises(HotloopError, match=r"int has none of the hooks(.|\n)*on_start, on_step"):
        quick(nn.Linear(4, 2), DATA, loss=loss, max_steps=2, callbacks=[3])
    with pytest.raises(HotloopError, match="Silent has none of the hooks"):
        Hooks([type("Silent", (Callback,), {})()])


def test_a_class_instead_of_an_object_is_refused(quick) -> None:
    with pytest.raises(HotloopError, match=r"Listener is a class(.|\n)*Listener\(\)"):
        quick(nn.Linear(4, 2), DATA, loss=loss, max_steps=2, callbacks=[Listener])


def test_the_end_is_told_after_an_error_too(quick) -> None:
    listener = Listener()

    def failing(info) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        quick(nn.Linear(4, 2), DATA, loss=loss, max_steps=2, callbacks=[listener, failing])
    assert listener.heard[-1] == "end ''"
    assert listener.heard[:2] == ["begin", "step 1"]
