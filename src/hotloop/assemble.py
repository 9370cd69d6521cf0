"""The assembly page: config -> task -> data -> plan -> state -> callbacks -> loop -> run folder.

The one module that sees the whole configuration; every part below receives only its own section. Read it from top to
bottom to know what happens when a person says `hotloop train`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hotloop import device as machine
from hotloop import memory
from hotloop.config import direction
from hotloop.config.load import Loaded
from hotloop.config.schema import Config
from hotloop.data.loader import batches
from hotloop.data.sampler import key_of
from hotloop.data.source import Source
from hotloop.distributed import require_single_process
from hotloop.engine import callbacks as observers
from hotloop.engine import measure, recompute, schedule
from hotloop.engine.budgeting import keeps_freed
from hotloop.engine.execution import capture_steps, compiled, prepare_model
from hotloop.engine.footprint import Forecast
from hotloop.engine.hooks import Hooks
from hotloop.engine.layout import channels_last
from hotloop.engine.optim import build_optimizers
from hotloop.engine.plan import Choice, Plan, apply_to_process
from hotloop.engine.precision import autocast
from hotloop.engine.probe import Facts, look_at_what_fits, refuse_lone_rows, rehearse
from hotloop.engine.reduce import Totals, micro_loss, total_weights
from hotloop.engine.resolve import Sections, resolve, total_steps
from hotloop.engine.state import TrainState
from hotloop.errors import HotloopError
from hotloop.given import Given
from hotloop.initial import begin, inherited
from hotloop.parts import Parts, first_micro_batch, prepare
from hotloop.premises import check_schedule, remarks_on, require_metrics, require_no_reader
from hotloop.task import Batch, Splits, Task
from hotloop.tasks.own import load_object

NOTHING = Choice()
_DROPOUT = 7  # purpose number of the random stream that training itself draws from


@dataclass
class Session:
    """Everything a run consists of, put together and ready to train."""

    config: Config
    task: Task
    parts: Parts
    plan: Plan
    state: TrainState
    room: measure.Room
    remarks: list[str] = field(default_factory=list)
    forecast: Forecast | None = None
    predicted_seconds: float = 0.0  # of training, 0 where nothing was timed

    @property
    def splits(self) -> Splits:
        """The sources, on the device where the plan says resident."""
        return self.parts.splits

    def feed(self, watch: Callable[[Iterator[Batch]], Iterator[Batch]] | None = None) -> Iterator[Batch]:
        """Effective batches from the state's step on; `watch` as in `batches`."""
        plan = self.plan
        return batches(
            self.splits.train,
            self.parts.sampler,
            plan.torch_device,
            first_step=self.state.step,
            pad=plan.pad_ragged,
            seed=self.config.experiment.seed,
            num_workers=plan.num_workers,
            pin_memory=plan.pin_memory,
            prefetch=plan.prefetch,
            resident=plan.resident,
            watch=watch,
            tell=self.state.say,
        )

    def evaluate(self) -> dict[str, float]:
        """Every evaluation metric of the model as it is, eval_ prefix included."""
        assert self.splits.val is not None
        average = self.state.average
        with contextlib.nullcontext() if average is None else average.swapped_in():
            return self._evaluate(self.splits.val)

    def _evaluate(self, val: Source) -> dict[str, float]:
        found = measure.prefixed(self._measure(val))
        for name, source in self.splits.extra.items():
            found |= {f"eval_{metric}_{name}": value for metric, value in self._measure(source).items()}
        return found

    def _measure(self, source: Source) -> dict[str, float]:
        self.state.guard.make_room()
        with self.state.guard:
            return measure.evaluate(self.task, self.state.model, source, self.plan, self.room)


def build(
    loaded: Loaded, task: Task, *, plan: Plan | None = None, begun: bool = False, choice: Choice = NOTHING
) -> Session:
    """Put a run together, up to the point where it could take its first step.

    Args:
        loaded: the resolved configuration, with the origin of each value.
        task: constructed with its options.
        plan: of the run to go on with; a new run works out its own.
        choice: what was decided in place of the configuration; a run that goes on has it in its plan.
        begun: a checkpoint will bring the weights, so nothing is loaded from `model.init_from`.

    Raises:
        HotloopError: the data, the device or the model cannot do what was asked for.
    """
    config = loaded.config
    device = _device(config, plan)
    before = memory.own_at_rest(device)  # what the budget leaves out: the process as it is without data and model
    _settle_process(config, plan, device)
    if plan is None and (assets := inherited(config.model.init_from)) is not None:
        task.inherit(assets)
    parts = prepare(task, config, loaded.origins)
    machine.seed_everything(config.experiment.seed)  # the model starts the same whatever the sources drew
    model, remarks = _model(config, choice, task, device, plan, begun)
    check_schedule(loaded, parts.sampler.steps_per_epoch)
    is_new, predicted = plan is None, 0.0
    if plan is None:
        plan, told, predicted = _plan(loaded, choice, task, model, parts, device)
        remarks += told
    plan = apply_to_process(plan)
    if plan.resident:
        parts.move_to(device)
    if is_new and parts.splits.val is not None:
        require_metrics(config, parts.splits, rehearse(task, model, parts.splits.val, plan))
    machine.seed_everything(dropout_seed(config.experiment.seed))
    remarks += prepare_model(model, plan)
    state = _state(config, task, model, plan)
    state.guard.baseline = before
    remarks += [*parts.remarks, *remarks_on(config, plan, parts.sampler, model), *plan.inexact()]
    return Session(config, task, parts, plan, state, measure.Room(plan.eval_batch, state.say), remarks, None, predicted)


def dropout_seed(seed: int) -> int:
    """Seed of what training itself draws (dropout), for a run of this seed."""
    return key_of(seed, _DROPOUT) % (1 << 63)


def _settle_process(config: Config, plan: Plan | None, device: torch.device) -> None:
    """What torch keeps per process, before anything is drawn or computed."""
    require_single_process()
    machine.set_deterministic(config.training.deterministic)
    machine.set_attention(plan.attention if plan else config.training.attention, device)
    machine.set_threads(plan.threads if plan else config.training.threads)
    memory.keep_freed(plan.keep_freed if plan else keeps_freed(config.memory, device))
    machine.seed_everything(config.experiment.seed)


def _model(
    config: Config, choice: Choice, task: Task, device: torch.device, plan: Plan | None, begun: bool
) -> tuple[nn.Module, list[str]]:
    """The model as training begins with it, recomputing what the plan says; and remarks for the user."""
    model, remarks = begin(task, config.model, device, begun)
    how = plan.recompute if plan else Sections.of(config, choice).optimization.gradient_checkpointing
    mode = plan.compile if plan else config.training.compile  # auto is decided by a look at this very model
    return model, remarks + recompute.apply(model, how, compiled=mode not in ("off", "auto"))


def _plan(
    loaded: Loaded, choice: Choice, task: Task, model: nn.Module, parts: Parts, device: torch.device
) -> tuple[Plan, list[str], float]:
    """The plan of a new run, after a look at the loss; remarks for the user; predicted seconds of training."""
    config = loaded.config
    if parts.splits.val is None:
        require_no_reader(loaded)
    size = choice.micro_batch or config.training.batch_size

    def probe(precisions: list[str]) -> Facts:
        return look_at_what_fits(task, model, partial(first_micro_batch, parts), size, device, precisions)

    sections = Sections.of(config, choice, tunable=not isinstance(task, Given))
    plan, remarks, seconds = resolve(
        sections, device, model, parts.host.train, parts.sampler, probe, choice.micro_batch
    )
    refuse_lone_rows(task, model, parts.host.train, parts.sampler, plan)
    return plan, remarks, seconds


def _state(config: Config, task: Task, model: nn.Module, plan: Plan) -> TrainState:
    """The model with its optimizers and schedule, and the loss as the step calls it."""
    device, chosen = plan.torch_device, plan.optimizer or config.optimization.optimizer
    options = config.optimization.model_copy(update={"optimizer": chosen})
    terms = task.term_weights()

    def share(micro: Batch, totals: Totals) -> Tensor:
        with autocast(device, plan.precision):
            return micro_loss(task, model, terms, channels_last(micro) if plan.channels_last else micro, totals)

    matrix_dtype = torch.bfloat16 if plan.precision == "bf16" else torch.float32
    state = TrainState(
        model,
        build_optimizers(model, options, device, matrix_dtype, plan.offload),
        schedule.factors(options, plan.total_steps, plan.steps_per_epoch),
        plan,
        partial(total_weights, task),
        compiled(share, plan),
        options.max_grad_norm,
        options.learning_rate,
        config.training.ema,
    )
    capture_steps(state)
    return state


def observe(session: Session, extra: Sequence[Any] = ()) -> tuple[Hooks, observers.Judge]:
    """The callbacks of a run, in the order in which they are asked; `extra` come last."""
    config = session.config
    chosen = config.callbacks
    stated, metric = chosen.early_stopping_mode, chosen.early_stopping_metric
    mode = direction.resolve(metric, stated)
    assert mode is not None, "a guard has seen to it"
    judge = observers.Judge(metric, mode, chosen.min_delta, chosen.early_stopping_patience, chosen.save_top_k > 0)
    listed: list[Any] = [observers.Cadence(session.plan, chosen.checkpoint_every == "eval"), judge]
    if config.experiment.stop_at:
        targets = {name: (value, direction.mode_of(name) or mode) for name, value in config.experiment.stop_at.items()}
        listed.append(observers.StopAt(targets))
    if config.optimization.lr_scheduler == "plateau":
        rate = config.optimization
        floor = rate.min_lr / rate.learning_rate
        listed.append(observers.Plateau(rate.plateau_factor, rate.plateau_patience, floor, chosen.min_delta))
    if config.training.max_time is not None:
        listed.append(observers.MaxTime(config.training.max_time))
    listed += [observers.Interrupt(), *(_own_callback(spec) for spec in chosen.user), *extra]
    return Hooks(listed), judge


def schedule_preview(loaded: Loaded, task: Task) -> list[tuple[int, float]]:
    """(step, learning rate) for each step that the run would take, without training; reads the data for its length."""
    config = loaded.config
    per_epoch = prepare(task, config, loaded.origins).sampler.steps_per_epoch
    check_schedule(loaded, per_epoch)
    factors = schedule.factors(config.optimization, total_steps(config.training, per_epoch), per_epoch)
    return [(step, factor * config.optimization.learning_rate) for step, factor in enumerate(factors)]


def _device(config: Config, plan: Plan | None) -> torch.device:
    """Where to train: a run that goes on stays on the kind of device that it began on."""
    if plan is None:
        return machine.pick_device(config.training.device)
    try:
        return machine.pick_device(plan.device)
    except HotloopError as error:
        raise HotloopError(
            f"this run was trained on {plan.device}, and it cannot go on here: {error.what}",
            where="plan.device",
            fix=f"resume it on a machine with {plan.device}, or train a new run here",
        ) from error


def _own_callback(spec: str) -> Any:
    found = load_object(spec)
    return found() if isinstance(found, type) else found
