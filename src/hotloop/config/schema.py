"""Every knob that holds for all tasks: its type, range, unit, default and meaning.

Frozen pydantic models, one per section. A task adds its own knobs by subclassing `ModelSection` and `DataSection`;
everything else is the same for all tasks. Ranges stand here, rules between knobs in `guards`. Nothing imports torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from hotloop.config.limits import MemorySection as MemorySection
from hotloop.config.section import Auto as Auto
from hotloop.config.section import Count as Count
from hotloop.config.section import Positive as Positive
from hotloop.config.section import Section as Section
from hotloop.config.section import Switch as Switch
from hotloop.config.section import knob as knob
from hotloop.config.training import TrainingSection as TrainingSection

Weighing = Literal["none", "auto", "auto_sqrt", "effective_number"]
Metric = Annotated[str, Field(pattern=r"^[A-Za-z_][\w./-]*$")]
_FOLDER = re.compile(r"(?!\.)[^\x00-\x1f/\\]*[^\x00-\x1f/\\. ]")


class ModelSection(Section):
    """The model's own options; each task adds its own."""

    init_from: str | None = knob(
        None, "Start from the weights of another run (its folder) or of a file; what does not fit begins anew."
    )
    freeze: tuple[str, ...] = knob(
        (), "Parameters that stay as they are: names of the model's parts, as encoder or layers.*."
    )


class DataSection(Section):
    """Where the data is and how it reaches the device; each task adds its own."""

    path: str | None = knob(None, "File or folder of the data; null takes what the task carries within itself.")
    val_fraction: float = knob(
        0.1, "Share of the data held out for validation where the data brings no validation part.", ge=0, lt=1
    )
    limit: Positive | None = knob(None, "Use only this many samples; null uses all.", unit="samples")
    num_workers: Count | Auto = knob(
        "auto", "Processes that read data; 0 reads in the training process.", unit="processes"
    )
    pin_memory: Switch = knob("auto", "Page-locked host memory for faster copies to a GPU.")
    prefetch: Positive = knob(2, "With workers: batches that each makes ready ahead of the step.", unit="batches")
    resident: Switch = knob("auto", "Keep the whole data set on the device; auto does where it fits.")


class RowsData(DataSection):
    """Data of separate rows that may have a class each (column y): how they are split, balanced and weighed."""

    split: Literal["random", "stratified", "group", "time"] = knob(
        "random",
        "How rows are held out: at random, each class by its share, whole groups (column group), or the last ones.",
    )
    folds: Annotated[int, Field(ge=2)] | None = knob(
        None, "Cross-validation in this many parts, instead of val_fraction.", unit="folds"
    )
    fold: Positive | None = knob(None, "With folds: train this one only, from 1 on; null trains all of them in turn.")
    balance_sampler: bool = knob(False, "Draw every class equally often; a rare row is then seen several times.")
    use_sample_weights: bool = knob(False, "Weigh each training row by the column sample_weight.")
    weights_clip: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]] = knob(
        (0.1, 10.0), "Sample weights are clipped to this range, before they are normalised."
    )
    weights_normalize: Literal["mean_to_1", "none"] = knob(
        "mean_to_1", "Scale the clipped sample weights so that their mean is 1."
    )
    on_conflict: Literal["stop", "sampler_wins"] = knob(
        "stop",
        "When balance_sampler, class weights and sample weights would multiply: stop, or keep the sampler alone.",
    )


class OptimizationSection(Section):
    """The optimizer and the course of its learning rate."""

    optimizer: Literal["adamw", "adam", "sgd", "muon", "adamw8bit"] = knob(
        "adamw",
        "Update rule; muon takes the matrices and leaves the rest to AdamW, adamw8bit keeps its moments in 8 bits.",
    )
    learning_rate: float = knob(1e-3, "Peak learning rate (with muon: of the AdamW part).", gt=0)
    muon_learning_rate: float = knob(0.02, "Peak learning rate of the matrices under muon.", gt=0)
    min_lr: float = knob(0.0, "Learning rate at the end of the decay.", ge=0)
    weight_decay: float = knob(0.01, "Decoupled weight decay (for adam and sgd: L2 penalty) of matrices.", ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = knob(
        (0.9, 0.999), "Decay of the first and second moment of Adam and AdamW."
    )
    momentum: float = knob(0.95, "Momentum of muon and of sgd (there 0.9 is usual).", ge=0, lt=1)
    max_grad_norm: Annotated[float, Field(gt=0)] | None = knob(
        1.0, "Clip the gradient to this norm over all parameters; null does not clip."
    )
    lr_scheduler: Literal["cosine", "linear", "polynomial", "constant", "wsd", "plateau"] = knob(
        "cosine", "Course of the rate after warmup; wsd holds it and decays at the end, plateau reacts to validation."
    )
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | None = knob(None, "Warmup as a share of the whole run.")
    warmup_steps: Count | None = knob(None, "Warmup in optimizer steps.", unit="steps")
    warmup_epochs: Annotated[float, Field(ge=0)] | None = knob(
        None, "Warmup in epochs; may be a fraction.", unit="epochs"
    )
    warmup_start_factor: Annotated[float, Field(gt=0, le=1)] | None = knob(
        None, "The first step's rate as a share of the peak; null is 1 / (warmup steps + 1)."
    )
    decay_steps: Positive | None = knob(
        None, "Step at which the decay reaches min_lr; null is the end of the run.", unit="steps"
    )
    decay_ratio: float = knob(0.2, "wsd: share of the run in which the rate decays.", gt=0, le=1)
    polynomial_power: float = knob(2.0, "polynomial: exponent of the decay; 1 is linear.", gt=0)
    plateau_factor: float = knob(0.5, "plateau: the rate is multiplied by this.", gt=0, lt=1)
    plateau_patience: int = knob(3, "plateau: validations without improvement before that.", unit="validations", ge=0)
    class_weights: (
        Literal["none", "auto", "auto_sqrt", "effective_number"] | tuple[Annotated[float, Field(ge=0)], ...]
    ) = knob(
        "none",
        "Weight of each class in the training loss: inverse to its count (auto), to the root of it (auto_sqrt), to "
        "the effective number of samples (effective_number), or a list with one number a class.",
    )
    label_smoothing: float = knob(0.0, "Share of each target that is spread over all classes.", ge=0, lt=1)
    focal_gamma: float = knob(0.0, "Focal loss: rows that are already right count less; 0 is plain.", ge=0, le=10)
    layerwise_decay: Annotated[float, Field(gt=0, le=1)] | None = knob(
        None, "Each layer below the top learns at this share of the rate of the one above it; null is one rate."
    )
    gradient_checkpointing: bool | Annotated[float, Field(gt=0, lt=1)] | tuple[str, ...] = knob(
        False,
        "Recompute activations in the backward pass, for less memory and more time: in every block, in this share of "
        "the blocks, or in the named parts of the model, as [layers.*].",
    )


class CallbacksSection(Section):
    """Stopping early, keeping checkpoints, and the user's own callbacks."""

    early_stopping_patience: Positive | None = knob(
        None, "Stop after this many validations without improvement; null never does.", unit="validations"
    )
    early_stopping_metric: Metric = knob("eval_loss", "Metric of validation that decides what is best.")
    early_stopping_mode: Literal["auto", "min", "max"] = knob(
        "auto", "Which direction is better; auto knows it for losses, errors, accuracies and F1."
    )
    min_delta: float = knob(0.0, "Smallest change that counts as an improvement.", ge=0)
    save_top_k: int = knob(1, "Best checkpoints to keep.", unit="checkpoints", ge=0)
    keep_last: int = knob(
        2, "Latest checkpoints to keep; with one alone there may be none to fall back to.", unit="checkpoints", ge=1
    )
    checkpoint_every: Positive | Literal["eval", "off"] = knob(
        "eval", "Save after every so many steps, with each validation (eval), or only at the end (off).", unit="steps"
    )
    user: tuple[Annotated[str, Field(pattern=r"^.+\.py:[A-Za-z_]\w*$")], ...] = knob(
        (), "Your own callbacks, each as file.py:Name."
    )


class ExperimentSection(Section):
    """The run's name and place, its seed, and what is written about it."""

    name: str | None = knob(None, "Name of the run and of its folder; null takes the task's name.")
    dir: str = knob("experiments", "Folder in which the run's own folder is made.", min_length=1)
    seed: int = knob(42, "Seed of everything random in the run.", ge=0, le=2**32 - 1)
    log_level: Literal["debug", "info", "warning", "error"] = knob("info", "How much the run says.")
    trackers: tuple[Literal["tensorboard"], ...] = knob(
        ("tensorboard",), "Where metrics go besides the run's own files."
    )
    stop_at: dict[Metric, float] = knob(
        {}, "Stop as soon as validation reaches a value, as {eval_loss: 1.5}; of several the first reached."
    )
    notes: str = knob("", "Free text kept with the run.")

    @field_validator("name")
    @classmethod
    def _fit_for_a_folder(cls, name: str | None) -> str | None:
        if name is not None and not _FOLDER.fullmatch(name):
            raise ValueError("becomes the name of a folder: no slashes, not empty, no dot at either end")
        return name


class DoctorSection(Section):
    """Checks while the run goes on."""

    on_nan: Literal["stop", "skip"] = knob(
        "stop", "What a non-finite loss or gradient does: stop before the update, or skip that update and go on."
    )


class Config(BaseModel):
    """The whole configuration of a run, resolved and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    task: str
    model: ModelSection
    data: DataSection
    training: TrainingSection = Field(default_factory=TrainingSection)
    optimization: OptimizationSection = Field(default_factory=OptimizationSection)
    callbacks: CallbacksSection = Field(default_factory=CallbacksSection)
    experiment: ExperimentSection = Field(default_factory=ExperimentSection)
    memory: MemorySection = Field(default_factory=MemorySection)
    doctor: DoctorSection = Field(default_factory=DoctorSection)


@dataclass(frozen=True)
class TaskOptions:
    """The option classes of one task; `name` is also the folder of its templates."""

    name: str
    model: type[ModelSection] = ModelSection
    data: type[DataSection] = DataSection


def sections(options: TaskOptions) -> dict[str, type[Section]]:
    """The sections by name, in the order in which people read them, with the task's own classes."""
    return {
        "model": options.model,
        "data": options.data,
        "training": TrainingSection,
        "optimization": OptimizationSection,
        "callbacks": CallbacksSection,
        "experiment": ExperimentSection,
        "memory": MemorySection,
        "doctor": DoctorSection,
    }


def to_plain(config: Config) -> dict[str, Any]:
    """The configuration as plain dicts, lists, numbers and text, ready for JSON and YAML."""
    plain: dict[str, Any] = {"task": config.task}
    for name in type(config).model_fields:
        if name != "task":
            plain[name] = getattr(config, name).model_dump(mode="json")
    return plain
