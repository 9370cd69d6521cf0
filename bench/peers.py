"""Trainers that drive a given workload: hotloop, loops written by hand, Lightning, HF Trainer, Accelerate.

Each function trains until the process ends and calls `pacer.tick()` after every optimizer step; the pacer keeps the
time, answers the parent and ends the process. Every trainer keeps its own defaults, but that progress bar and
checkpoints are off. Nothing but torch is imported before a trainer is called.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from workloads import AUTO, Ready, Workload, loaded_for, prepare


class Pacer:
    """Counts steps and time between two answers; waits for the next request in between.

    Args:
        warm: steps before the first answer.
        channel: where answers go, a line of JSON each; requests come by standard input.
    """

    def __init__(self, warm: int, channel: TextIO, device: str) -> None:
        self.left = self.asked = self.warm = warm
        self.channel, self.device = channel, torch.device(device)
        self.started, self.cpu = time.perf_counter(), time.process_time()
        self.step_sum = self.step_weight = self.total = torch.zeros((), device=self.device)

    def start(self) -> None:
        """The next step begins now."""
        self.started, self.cpu = time.perf_counter(), time.process_time()

    def add(self, loss: Tensor, weight: Tensor | None = None) -> None:
        """The mean loss of a step, or of a micro-batch with its weight."""
        if weight is None:
            self.total = self.total + loss.detach()
            return
        self.step_sum = self.step_sum + loss.detach() * weight
        self.step_weight = self.step_weight + weight

    def tick(self) -> None:
        """An optimizer step is over."""
        if self.step_weight is not self.step_sum:
            self.total = self.total + self.step_sum / self.step_weight
            self.step_sum = self.step_weight = torch.zeros_like(self.total)
        self.left -= 1
        if self.left == 0:
            self.answer()

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def answer(self) -> None:
        """Tell time and loss, and take the next request; without one the process is over."""
        self.wait()
        seconds, cpu = time.perf_counter() - self.started, time.process_time() - self.cpu
        loss = float(self.total) / self.asked
        found = {"seconds": seconds, "cpu": cpu, "steps": self.asked, "loss": loss if math.isfinite(loss) else None}
        print(json.dumps(found), file=self.channel, flush=True)
        line = sys.stdin.readline()
        if not line.strip():
            os._exit(0)
        self.left = self.asked = json.loads(line)["steps"]
        self.total = torch.zeros_like(self.total)
        self.start()


def train_hotloop(workload: Workload, keys: dict[str, Any], pacer: Pacer, folder: str) -> None:
    """The whole of `hotloop train` with run folder, records and TensorBoard, silent, without validation."""
    from hotloop import launch

    class Watcher:
        def on_start(self, state: Any) -> None:
            pacer.start()

        def on_step(self, info: Any) -> None:
            pacer.add(info.loss)
            pacer.tick()

    launch.train(loaded_for(workload, keys, folder), callbacks=[Watcher()])


def _share(ready: Ready, found: dict[str, Tensor], pacer: Pacer) -> Tensor:
    """A micro-batch's loss as a loop by hand takes it: the mean, over the number of micro-batches."""
    if ready.pieces == 1:
        pacer.add(found["loss"])
        return found["loss"]
    pacer.add(found["loss"], found["weight"])
    return found["loss"] / ready.pieces


def bare(ready: Ready, pacer: Pacer) -> None:
    """The loop by hand, until the process ends."""
    for _ in steps_by_hand(ready, pacer):
        pacer.tick()


def steps_by_hand(ready: Ready, pacer: Pacer) -> Iterator[None]:
    """The loop by hand, one step at a time: forward, backward, clip, step; with the knobs where there are any."""
    optimizer, parameters = ready.optimizer(), list(ready.net.parameters())
    net = torch.compile(ready.net, dynamic=False) if ready.knobs.compile else ready.net
    cast = ready.knobs.precision == "bf16"
    pacer.start()
    for place, batch in enumerate(ready.feed(), start=1):
        batch = {name: value.to(ready.device) for name, value in batch.items()}
        with torch.autocast(ready.device.type, torch.bfloat16) if cast else contextlib.nullcontext():
            found = net(**batch)
        _share(ready, found, pacer).backward()
        if place % ready.pieces:
            continue
        nn.utils.clip_grad_norm_(parameters, ready.optimization.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        yield


def nanogpt(ready: Ready, pacer: Pacer) -> None:
    """A plain script in nanoGPT's manner: windows drawn from a token file; autocast, compile and fused by knobs."""
    import tempfile

    import numpy as np

    tokens, block = ready.source.tokens.numpy().astype(np.uint16), ready.source.block_size
    cuda, size = ready.device.type == "cuda", ready.workload.batch
    file = tempfile.NamedTemporaryFile(suffix=".bin")  # noqa: SIM115 - it lives as long as the process
    tokens.tofile(file.name)

    def get_batch() -> dict[str, Tensor]:
        data = np.memmap(file.name, dtype=np.uint16, mode="r")  # anew each time, as a kept one leaks memory
        starts = torch.randint(len(data) - block, (size,)).tolist()
        x = torch.stack([torch.from_numpy(data[i : i + block].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + block].astype(np.int64)) for i in starts])
        if cuda:
            x, y = x.pin_memory(), y.pin_memory()
        return {"x": x.to(ready.device, non_blocking=True), "y": y.to(ready.device, non_blocking=True)}

    optimizer, cast = ready.optimizer(), ready.knobs.precision == "bf16"
    net = torch.compile(ready.net) if ready.knobs.compile else ready.net
    context = torch.autocast(ready.device.type, torch.bfloat16) if cast else contextlib.nullcontext()
    pacer.start()
    batch = get_batch()
    while True:
        for group in optimizer.param_groups:
            group["lr"] = ready.optimization.learning_rate
        with context:
            loss = net(**batch)["loss"]
        batch = get_batch()  # the next one, while the device works
        loss.backward()
        nn.utils.clip_grad_norm_(ready.net.parameters(), ready.optimization.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        pacer.add(loss)
        pacer.tick()


def lightning(ready: Ready, pacer: Pacer) -> None:
    """Lightning's Trainer: its own logger and a logged loss in its defaults; none with the knobs."""
    import lightning as L

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    tuned, knobs = ready.knobs.resident, ready.knobs

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = ready.net
            self.run = torch.compile(ready.net, dynamic=False) if knobs.compile else ready.net

        def on_train_start(self) -> None:
            pacer.start()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            found = self.run(**batch)
            pacer.add(found["loss"], found["weight"] if ready.pieces > 1 else None)
            if not tuned:
                self.log("train_loss", found["loss"], batch_size=ready.workload.batch)
            return found["loss"]

        def configure_optimizers(self) -> Any:
            # its mixed precision refuses to clip for a fused optimizer
            return replace(ready, knobs=replace(knobs, fused=False)).optimizer()

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if (batch_idx + 1) % ready.pieces == 0:
                pacer.tick()

    L.Trainer(
        accelerator="gpu" if ready.device.type == "cuda" else "cpu", devices=1, max_steps=ready.workload.steps,
        precision="bf16-mixed" if knobs.precision == "bf16" else "32-true",
        gradient_clip_val=ready.optimization.max_grad_norm, accumulate_grad_batches=ready.pieces,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, logger=not tuned,
    ).fit(Module(), ready.feed())  # fmt: skip


def transformers(ready: Ready, pacer: Pacer) -> None:
    """Hugging Face's Trainer with its own optimizer; its own log and data preparation where there are no knobs."""
    import transformers as hf

    knobs, chosen, tuned = ready.knobs, ready.optimization, ready.knobs.resident

    class Ticker(hf.TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            pacer.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            pacer.tick()

    class Trainer(hf.Trainer):
        def get_train_dataloader(self) -> Any:
            return ready.feed() if tuned else self.accelerator.prepare(ready.loader())

        def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            found = model(**inputs)
            pacer.add(found["loss"], found["weight"] if ready.pieces > 1 else None)
            return (found["loss"], found) if return_outputs else found["loss"]

    arguments = hf.TrainingArguments(
        output_dir="hf", max_steps=ready.workload.steps, use_cpu=ready.device.type == "cpu", report_to="none",
        per_device_train_batch_size=knobs.micro or ready.workload.batch, gradient_accumulation_steps=ready.pieces,
        learning_rate=chosen.learning_rate, weight_decay=chosen.weight_decay, adam_beta1=chosen.betas[0],
        adam_beta2=chosen.betas[1], max_grad_norm=chosen.max_grad_norm, lr_scheduler_type="constant",
        bf16=knobs.precision == "bf16", torch_compile=knobs.compile, remove_unused_columns=False,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    Trainer(ready.net, arguments, callbacks=[Ticker()], train_dataset=[0] * (ready.workload.steps * 64)).train()


def accelerate(ready: Ready, pacer: Pacer) -> None:
    """The loop by hand with Accelerate's model, optimizer, backward and clipping."""
    from accelerate import Accelerator

    knobs = ready.knobs
    accelerator = Accelerator(
        cpu=ready.device.type == "cpu", mixed_precision="bf16" if knobs.precision == "bf16" else "no",
        gradient_accumulation_steps=ready.pieces, dynamo_backend="inductor" if knobs.compile else None,
    )  # fmt: skip
    net, optimizer = accelerator.prepare(ready.net, ready.optimizer())
    parameters = list(net.parameters())
    pacer.start()
    for batch in ready.feed():
        with accelerator.accumulate(net):
            found = net(**batch)
            pacer.add(found["loss"], found["weight"] if ready.pieces > 1 else None)
            accelerator.backward(found["loss"])
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(parameters, ready.optimization.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            pacer.tick()


# name -> (package it needs, the trainer or None for hotloop itself, whether it runs with the tuned settings)
FIELD: dict[str, tuple[str, Any, bool]] = {
    "hotloop": ("hotloop", None, False),
    "hotloop tuned": ("hotloop", None, True),
    "bare tuned": ("torch", bare, True),
    "bare fp32": ("torch", bare, False),
    "nanogpt script": ("torch", nanogpt, False),
    "nanogpt script tuned": ("torch", nanogpt, True),
    "lightning": ("lightning", lightning, False),
    "lightning tuned": ("lightning", lightning, True),
    "transformers": ("transformers", transformers, False),
    "transformers tuned": ("transformers", transformers, True),
    "accelerate tuned": ("accelerate", accelerate, True),
    "composer": ("composer", None, False),
}


def serve(name: str, workload: Workload, warm: int, folder: str, channel: TextIO) -> None:
    """Be one contestant until the parent has no more requests."""
    _, trainer, tuned = FIELD[name]
    pacer = Pacer(warm, channel, workload.device)
    if trainer is None:
        train_hotloop(workload, workload.tuned_keys() if tuned else AUTO, pacer, folder)
        return
    knobs = workload.tuned_knobs() if tuned else workload.default_knobs()
    if knobs.threads is not None:
        torch.set_num_threads(knobs.threads)
    if knobs.keep_freed:
        from hotloop.memory import keep_freed

        keep_freed(True)
    os.chdir(folder)  # what a trainer writes of its own accord lands there
    trainer(prepare(workload, knobs, folder), pacer)
