"""What is trained side by side: model, data, order of rows and optimizer, the same for hotloop and for everyone else.

A `Workload` names a task of hotloop's with its keys; `prepare` makes of it what any trainer needs: the task's own
source and model from the same seed, so that every contestant begins with equal weights and sees equal rows in equal
order. `TUNED` is the one table of the settings that hotloop and the peers "with hotloop's knobs" run with.
Shapes: B rows of the effective batch; a batch is a dict of tensors with first axis B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from feeds import Feed, Net, Order, Rows, rows_and_collate
from torch import nn
from torch.utils.data import DataLoader

# The settings of "hotloop tuned", keys of hotloop's; a folder of YAML files (--tuned) goes before them.
TUNED: dict[str, dict[str, Any]] = {
    "lob": {
        "training.precision": "bf16",
        "training.compile": "default",
        "training.threads": 2,
        "training.channels_last": "on",
    },
    "gpt-12x64": {"training.precision": "bf16", "training.compile": "default", "training.threads": 2},
    "gpt-64x256": {"training.precision": "bf16", "training.compile": "default", "training.threads": 2},
    "lstm": {"training.precision": "bf16", "training.compile": "default", "training.threads": 2},
    "translate": {"training.precision": "bf16", "training.compile": "off", "training.threads": 2},
    "classify": {"training.precision": "bf16", "training.compile": "default", "training.threads": 2},
}
AUTO = {
    "training.precision": "auto", "training.compile": "auto", "training.threads": "auto", "memory.keep_freed": "auto",
    "training.fast_dropout": "auto",
}  # fmt: skip
SAME = {
    "optimization.optimizer": "adamw", "optimization.lr_scheduler": "constant", "optimization.warmup_ratio": 0.0,
    "optimization.max_grad_norm": 1.0, "optimization.weight_decay": 0.01, "training.eval_every": "off",
    "callbacks.checkpoint_every": "off", "experiment.seed": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Knobs:
    """How a peer executes: the defaults are what its users get."""

    precision: str = "fp32"
    compile: bool = False
    threads: int | None = None  # None leaves torch's own choice
    micro: int | None = None  # rows of a micro-batch; None takes the whole batch
    resident: bool = False  # hotloop's feed in place of a DataLoader
    fused: bool = False
    blocks: bool = False  # each repeated block is compiled, not the whole
    channels_last: bool = False
    keep_freed: bool = False  # malloc keeps what tensors gave back
    fast_dropout: bool = False  # masks by hotloop's way
    pad: bool = False  # the last, shorter batch is filled up, as hotloop does where code is compiled


@dataclass(frozen=True)
class Workload:
    """One thing to train.

    Args:
        name, title: short, and for people.
        task, template, keys: of hotloop.
        batch: rows of the effective batch.
        steps: length of the run, by which hotloop's `auto` decides whether compiling pays.
        accumulation: micro-batches a step in the plain loop and in the peers' defaults.
        goal: how much faster than the defaults of Lightning and HF Trainer hotloop is meant to be.
        device: cpu or cuda.
    """

    name: str
    title: str
    task: str
    keys: Mapping[str, Any]
    batch: int
    steps: int
    goal: float
    template: str = "default"
    accumulation: int = 1
    device: str = "cpu"
    tuned: Mapping[str, Any] = field(default_factory=dict)

    def shared_keys(self) -> dict[str, Any]:
        """What holds for everyone."""
        size = {"training.batch_size": self.batch, "training.max_steps": self.steps, "training.device": self.device}
        return {**SAME, **size, **self.keys}

    def tuned_keys(self) -> dict[str, Any]:
        """What `hotloop tuned` adds; a smaller micro-batch is accumulated to the same effective batch."""
        keys = {**AUTO, **(self.tuned or TUNED.get(self.name, {}))}
        size = keys.get("training.batch_size", self.batch)
        if self.batch % size:
            raise SystemExit(f"{self.name}: micro-batches of {size} do not make up an effective batch of {self.batch}")
        return {**keys, "training.gradient_accumulation_steps": self.batch // size}

    def default_knobs(self) -> Knobs:
        """What the peers' users get; the batch in the pieces that the recipe has."""
        return Knobs(micro=self.batch // self.accumulation if self.accumulation > 1 else None)

    def tuned_knobs(self) -> Knobs:
        """The tuned settings, for trainers other than hotloop."""
        keys = self.tuned_keys()
        for key, known in _PEERS_TAKE.items():
            if keys.get(key, known[0]) not in known:
                raise SystemExit(
                    f"{self.name}: other trainers cannot be given {key}={keys[key]}, so nothing would be compared\n"
                    f"  fix: state one of {', '.join(known)} in the tuned settings"
                )
        threads, size = keys["training.threads"], keys.get("training.batch_size", self.batch)
        compiled = keys["training.compile"] != "off"
        blocks = keys.get("training.compile_region") == "blocks"
        return Knobs(
            precision="bf16" if keys["training.precision"] == "bf16" else "fp32",
            compile=compiled and not blocks,
            blocks=compiled and blocks,
            channels_last=keys.get("training.channels_last") == "on",
            keep_freed=keys["memory.keep_freed"] != "off" and self.device == "cpu",
            fast_dropout=self.device == "cpu" and _drops_fast(keys["training.fast_dropout"]),
            pad=compiled,
            threads=threads if isinstance(threads, int) else None,
            micro=size if size < self.batch else None,
            resident=True,
            fused=True,
        )


_PEERS_TAKE = {
    "training.precision": ("bf16", "fp32"), "training.compile": ("off", "default"),
    "training.attention": ("auto",),
}  # fmt: skip
HERE = Path(__file__).resolve().parent
PLAIN_LOB = {"model.dropout": 0.0, "optimization.class_weights": "none", "optimization.label_smoothing": 0.0}
PAIRS = {"model.dropout": 0.1, "data.train_eval": 0, "data.phrases": 600, "optimization.learning_rate": 3e-4}
_LSTM = {
    "model.hidden_size": 128, "model.num_layers": 2, "model.dropout": 0.2, "data.sequence": 60,
    "optimization.weight_decay": 0.01,
}  # fmt: skip
_TEXTS = {"model.tasks": {"toxicity": ["none", "toxic", "severe"]}}
CPU = [
    Workload(
        "lob", "DeepLOB with the convolutions of its paper, windows of 100 x 40, batch 64",
        f"{HERE / 'published.py'}:PublishedLob", PLAIN_LOB, 64, 2000, 2.2,
    ),
    Workload("gpt-12x64", "GPT, 4 layers of 128, batch 12 x 64 characters", "gpt", {}, 12, 2000, 1.6, "nanogpt"),
    Workload(
        "gpt-64x256", "GPT, 4 layers of 128, batch 64 x 256 characters", "gpt", {"model.block_size": 256}, 64, 2000,
        1.6, "nanogpt",
    ),
    Workload("lstm", "LSTM of 2 layers of 128, sequences of 60, batch 256", "forecast", _LSTM, 256, 2000, 1.5),
    Workload(
        "translate", "Transformer of 3 + 3 layers of 256, 600 pairs, effective batch 32 (peers: 4 x 8)", "translate",
        PAIRS, 32, 850, 2.5, "hlbd", 8,
    ),
    Workload(
        "classify", "BERT of 4 layers of 384 from transformers, batch 32", "classify",
        {**_TEXTS, "model.name": "bert", "optimization.learning_rate": 1e-4}, 32, 2000, 1.5,
    ),
]  # fmt: skip


def _drops_fast(said: str) -> bool:
    """As hotloop decides it."""
    from hotloop.engine.dropout import is_slow_in_torch

    return said == "on" or (said == "auto" and is_slow_in_torch())


@dataclass
class Ready:
    """A workload put together for a trainer other than hotloop."""

    workload: Workload
    knobs: Knobs
    task: Any
    source: Any
    sampler: Any
    net: nn.Module
    device: torch.device
    optimization: Any  # hotloop's section: rate, betas, decay, clip

    @property
    def pieces(self) -> int:
        """Micro-batches of a step."""
        return -(-self.workload.batch // (self.knobs.micro or self.workload.batch))

    def optimizer(self) -> torch.optim.AdamW:
        """AdamW with decay for matrices only, as hotloop does it."""
        chosen, parameters = self.optimization, list(self.net.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": chosen.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        fused = True if self.knobs.fused else None
        return torch.optim.AdamW(groups, lr=chosen.learning_rate, betas=chosen.betas, fused=fused)

    def order(self) -> Order:
        """Rows of every micro-batch, in hotloop's order."""
        return Order(self.sampler, self.workload.steps, self.knobs.micro or self.workload.batch)

    def loader(self) -> DataLoader[Any]:
        """What a user writes: a Dataset of rows, a DataLoader without workers."""
        rows, collate = rows_and_collate(self.task, self.source)
        return DataLoader(Rows(rows, len(self.source)), batch_sampler=self.order(), collate_fn=collate, num_workers=0)

    def feed(self) -> Any:
        """Micro-batches by the knobs: hotloop's feed where they ask for it, else the DataLoader."""
        return Feed(self) if self.knobs.resident else self.loader()


def loaded_for(workload: Workload, keys: Mapping[str, Any], folder: str) -> Any:
    """hotloop's configuration of a workload."""
    from hotloop.config.load import load
    from hotloop.saved import find_task

    overrides = {**workload.shared_keys(), **keys, "experiment.dir": folder}
    if overrides.get("model.name") == "bert":
        from published import encoder_folder

        overrides["model.name"] = str(encoder_folder(Path(folder)))
    options = find_task(workload.task)[0]
    kind = "cuda" if workload.device.startswith("cuda") else "cpu"
    return load(options, templates=[workload.template], overrides=overrides, device_kind=kind)


def prepare(workload: Workload, knobs: Knobs, folder: str) -> Ready:
    """The workload for a trainer other than hotloop, from the same data, order and weights."""
    from hotloop import device as machine
    from hotloop.engine import dropout
    from hotloop.engine.blocks import blocks_of
    from hotloop.parts import prepare as read
    from hotloop.saved import make_task

    loaded = loaded_for(workload, {}, folder)
    config = loaded.config
    device = torch.device(workload.device)
    machine.seed_everything(config.experiment.seed)
    task = make_task(config)
    parts = read(task, config, loaded.origins)
    machine.seed_everything(config.experiment.seed)
    net = Net(task, task.model()).to(device).train()
    if knobs.channels_last:
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if knobs.fast_dropout:
        dropout.apply(net)
    for _, block in blocks_of(net.model) if knobs.blocks else ():
        block.compile(dynamic=False)
    return Ready(workload, knobs, task, parts.splits.train, parts.sampler, net, device, config.optimization)


def named(names: list[str], among: list[Workload]) -> list[Workload]:
    """Workloads by name, all where none is named."""
    known = {workload.name: workload for workload in among}
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else among


def with_tuned(workload: Workload, folder: str | None) -> Workload:
    """The workload with the settings of FOLDER/NAME.yaml (as `hotloop tune` writes), where there is one."""
    from pathlib import Path

    import yaml

    path = Path(folder) / f"{workload.name}.yaml" if folder else None
    if path is None or not path.is_file():
        return workload
    stored = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    keys = {
        f"{section}.{key}": value
        for section in ("training", "data", "memory")
        for key, value in stored.get(section, {}).items()
    }
    kept = ("training.precision", "training.compile", "training.compile_region", "training.channels_last",
            "training.threads", "training.attention", "training.fast_dropout",
            "training.batch_size", "training.gradient_accumulation_steps",
            "data.resident", "memory.keep_freed")  # fmt: skip
    return replace(workload, tuned={key: value for key, value in keys.items() if key in kept})
