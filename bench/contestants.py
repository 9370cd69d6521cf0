"""The same tiny training in a bare loop, in hotloop and in three other trainers, each timed by the same clock.

Every contestant trains the same network from the same weights on the same resident tensors in shuffled batches, with
a weighted mean of unreduced losses, gradient clipping, a rate set at every step, fused AdamW, a running loss that is
never read in between, and no evaluation. A function here takes a `Work` and returns (milliseconds per step,
mean loss of the timed steps). The clock runs from the end of step `warm` to the end of step `steps`, so that
start-up and tear-down are left out for all alike. Nothing is imported but torch until a contestant is called.

Shapes: x (N, 32) float32, y (N,) int64, weight (N,) float32; a batch is (B, ...) of each.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES, HIDDEN, CLASSES, ROWS = 32, 64, 10, 4096
RATE, MIN_RATE, WEIGHT_DECAY, CLIP = 1e-3, 1e-4, 0.01, 1.0


@dataclass(frozen=True)
class Work:
    """What is trained: `steps` optimizer steps of `batch` rows, timed from step `warm` on."""

    steps: int
    warm: int = 100
    batch: int = 32
    threads: int = 2
    seed: int = 1
    hidden: int = HIDDEN

    @property
    def warmup(self) -> int:
        return min(100, self.steps // 4)

    def data(self) -> dict[str, Tensor]:
        """A classification that can be learned: labels from a fixed random linear map, weights between 0.5 and 1.5."""
        random = torch.Generator().manual_seed(self.seed)
        x = torch.randn(ROWS, FEATURES, generator=random)
        y = (x @ torch.randn(FEATURES, CLASSES, generator=random)).argmax(1)
        return {"x": x, "y": y, "weight": 0.5 + torch.rand(ROWS, generator=random)}

    def model(self) -> nn.Module:
        torch.manual_seed(self.seed)
        return nn.Sequential(nn.Linear(FEATURES, self.hidden), nn.ReLU(), nn.Linear(self.hidden, CLASSES))

    def optimizer(self, model: nn.Module) -> torch.optim.AdamW:
        """Decay for matrices only, as hotloop and HF Trainer do it: two groups for everyone."""
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        rest = [p for p in model.parameters() if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=RATE, fused=True)

    def factor(self, step: int) -> float:
        """Rate of step 0, 1, ... as a share of RATE: linear warmup, then cosine down to MIN_RATE."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / (self.steps - self.warmup))
        low = MIN_RATE / RATE
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass
class Clock:
    """Notes the time at the end of step `warm` and of the last step."""

    work: Work
    started: float = 0.0
    ended: float = 0.0
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    weight_sum: Tensor = field(default_factory=lambda: torch.zeros(()))

    def weighted(self, losses: Tensor, weight: Tensor) -> Tensor:
        """The weighted mean; its sum and weight are added to the running loss, which is read only at the end."""
        total, weights = (losses * weight).sum(), weight.sum()
        self.loss_sum += total.detach()
        self.weight_sum += weights
        return total / weights

    def tick(self, step: int) -> None:
        """`step` counts from 1 and is over."""
        if step == self.work.warm:
            self.loss_sum.zero_()
            self.weight_sum.zero_()
            self.started = time.perf_counter()
        elif step == self.work.steps:
            self.ended = time.perf_counter()

    def result(self) -> tuple[float, float]:
        assert self.ended > self.started > 0, "the contestant did not make all its steps"
        weight = float(self.weight_sum)
        loss = float(self.loss_sum) / weight if weight else 0.0
        return (self.ended - self.started) * 1e3 / (self.work.steps - self.work.warm), loss


class Feed:
    """Shuffled batches of resident tensors, gathered with index_select; new order every epoch; endless or one epoch."""

    def __init__(self, work: Work, *, endless: bool) -> None:
        self.dataset = work.data()
        self.batch, self.endless = work.batch, endless
        self.random = torch.Generator().manual_seed(work.seed)

    def __len__(self) -> int:
        return ROWS // self.batch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            for rows in torch.randperm(ROWS, generator=self.random).split(self.batch):
                yield {name: values.index_select(0, rows) for name, values in self.dataset.items()}
            if not self.endless:
                return


def bare(work: Work) -> tuple[float, float]:
    """The loop as one would write it by hand for exactly this."""
    model, clock = work.model(), Clock(work)
    optimizer, parameters = work.optimizer(model), list(model.parameters())
    for step, batch in enumerate(Feed(work, endless=True), start=1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * work.factor(step - 1)
        losses = F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
        clock.weighted(losses, batch["weight"]).backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick(step)
        if step == work.steps:
            return clock.result()
    raise AssertionError("the feed ended")


def hotloop_settings(work: Work) -> dict[str, Any]:
    """The same work in hotloop's keys."""
    return {
        "training.batch_size": work.batch, "training.max_steps": work.steps, "training.threads": work.threads,
        "training.device": "cpu", "training.precision": "fp32", "training.compile": "off", "data.resident": "on",
        "optimization.optimizer": "adamw", "optimization.learning_rate": RATE, "optimization.min_lr": MIN_RATE,
        "optimization.weight_decay": WEIGHT_DECAY, "optimization.max_grad_norm": CLIP,
        "optimization.lr_scheduler": "cosine", "optimization.warmup_steps": work.warmup,
        "training.log_every": 50, "experiment.seed": work.seed,
        "memory.keep_freed": "off",  # it would hold for the whole process, and so for the others too
    }  # fmt: skip


def hotloop_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def hotloop_steps(work: Work) -> tuple[float, float]:
    """`for info in hotloop.steps(...)`: the engine, driven by the user's own loop."""
    import hotloop

    clock = Clock(work)
    for info in hotloop.steps(work.model(), work.data(), loss=hotloop_loss, config=hotloop_settings(work)):
        clock.tick(info.step)
    return clock.result()


def hotloop_fit(work: Work) -> tuple[float, float]:
    """`hotloop.fit(...)` with run folder, metrics.jsonl, TensorBoard and progress; one checkpoint, at the end."""
    import hotloop

    clock = Clock(work)
    with tempfile.TemporaryDirectory() as folder:
        config = {**hotloop_settings(work), "callbacks.checkpoint_every": "off", "experiment.dir": folder}
        ticking = [lambda info: clock.tick(info.step)]
        run = hotloop.fit(work.model(), work.data(), loss=hotloop_loss, config=config, callbacks=ticking)
        return clock.result()[0], run.summary["train_loss"]


def accelerate(work: Work) -> tuple[float, float]:
    """The bare loop with Accelerate's model, optimizer, schedule, backward and clipping."""
    from accelerate import Accelerator

    accelerator, clock = Accelerator(cpu=True), Clock(work)
    model = work.model()
    optimizer = work.optimizer(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, work.factor)
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    parameters = list(model.parameters())
    for step, batch in enumerate(Feed(work, endless=True), start=1):
        losses = F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
        accelerator.backward(clock.weighted(losses, batch["weight"]))
        accelerator.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        clock.tick(step)
        if step == work.steps:
            return clock.result()
    raise AssertionError("the feed ended")


def lightning(work: Work, *, extras: bool = False) -> tuple[float, float]:
    """Lightning's Trainer; `extras`: with its progress bar, its CSV logger every 50 steps and its checkpoint."""
    import lightning as L

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    clock = Clock(work)

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = work.model()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            losses = F.cross_entropy(self.model(batch["x"]), batch["y"], reduction="none")
            loss = clock.weighted(losses, batch["weight"])
            if extras:
                self.log("train_loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = work.optimizer(self)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, work.factor)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            clock.tick(self.global_step)

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing"), extras)
        trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=work.steps, gradient_clip_val=CLIP,
                            enable_model_summary=False, default_root_dir=folder, **options)  # fmt: skip
        trainer.fit(Module(), Feed(work, endless=False))
    return clock.result()


def transformers(work: Work, *, extras: bool = False) -> tuple[float, float]:
    """Hugging Face's Trainer; `extras`: with its progress bar and its log every 50 steps."""
    import transformers as hf

    clock = Clock(work)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = work.model()

        def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> dict[str, Tensor]:
            losses = F.cross_entropy(self.model(x), y, reduction="none")
            return {"loss": clock.weighted(losses, weight)}

    class Ticker(hf.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.tick(state.global_step)

    class Trainer(hf.Trainer):
        def get_train_dataloader(self) -> Any:
            return Feed(work, endless=False)

    net = Net()
    optimizer = work.optimizer(net)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, work.factor)
    with tempfile.TemporaryDirectory() as folder:
        arguments = hf.TrainingArguments(
            output_dir=folder, max_steps=work.steps, per_device_train_batch_size=work.batch, max_grad_norm=CLIP,
            use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=not extras,
            logging_strategy="steps" if extras else "no", logging_steps=50,
        )  # fmt: skip
        Trainer(net, arguments, optimizers=(optimizer, schedule), callbacks=[Ticker()],
                train_dataset=[0] * ROWS).train()  # fmt: skip
    return clock.result()
