"""Checkpoints: whole or absent, verified by checksum, loaded without running code; the best k and the last n are kept.

A checkpoint is one file of tensors and plain values. Its SHA-256 lies beside it (`step_N.pt.sha256`, the format of
sha256sum) and is written before the checkpoint appears under its name. `last.pt` and `best_model.pt` are further names
of the same files. Nothing is deleted before what replaces it is safe on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from hotloop.disk import replacing, telling, write_atomic
from hotloop.errors import HotloopError

_STEP = re.compile(r"step_(\d+)\.pt")
_SUM = ".sha256"
LAST, BEST, INDEX = "last.pt", "best_model.pt", "index.json"
Payload = dict[str, Any]


def save(path: Path, payload: Payload) -> None:
    """Write a checkpoint and its checksum.

    Raises:
        HotloopError: the disk is full or not writable; what was there before is untouched.
    """
    with replacing(path) as file:
        torch.save(payload, file)
        file.flush()
        file.seek(0)
        digest = _sha256(file)
        write_atomic(path.with_name(path.name + _SUM), f"{digest}  {path.name}\n".encode())


def load(path: Path, device: torch.device | str = "cpu") -> Payload:
    """Read a checkpoint, after its checksum; never runs code from the file.

    Raises:
        HotloopError: missing, damaged, or not a checkpoint of tensors and plain values.
    """
    verify(path)
    try:
        payload = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise HotloopError(
            f"{path.name} holds more than tensors and plain values, and loading it could run code",
            where=str(path),
            fix="use a checkpoint that hotloop wrote, or convert it to a state dict first",
        ) from error
    except Exception as error:  # a damaged file makes the reader raise almost anything
        raise _damaged(path, (str(error) or type(error).__name__).splitlines()[0]) from error
    if not isinstance(payload, dict):
        raise HotloopError(f"{path.name} is not a checkpoint", where=str(path), fix="choose a file of checkpoints/")
    return payload


def _sha256(file: BinaryIO) -> str:
    """Of the rest of an open file, read in pieces."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def verify(path: Path) -> None:
    """Check a file against the checksum beside it, if there is one.

    Raises:
        HotloopError: missing, unreadable or changed since it was written.
    """
    if not path.is_file():
        raise HotloopError(f"no checkpoint at {path}", where=str(path), fix="look into the run's folder checkpoints/")
    beside = path.with_name(path.name + _SUM)
    with telling("read", path):
        if path.stat().st_size == 0:
            raise _damaged(path, "it is empty")
        if beside.is_file():
            stated = beside.read_text(encoding="utf-8").split()
            with open(path, "rb") as file:
                actual = _sha256(file)
            if not stated or stated[0] != actual:
                raise _damaged(path, "its checksum does not match")


def _damaged(path: Path, why: str) -> HotloopError:
    return HotloopError(f"{path.name} is damaged: {why}", where=str(path), fix="resume from an earlier checkpoint")


def step_of(path: Path) -> int:
    """The optimizer step in a checkpoint's name, -1 for another name."""
    match = _STEP.fullmatch(path.name)
    return int(match.group(1)) if match else -1


def newest_good(folder: Path, device: torch.device | str = "cpu") -> tuple[Payload | None, list[str]]:
    """The newest checkpoint that is whole, and a line for each newer one that was not.

    Returns:
        (payload, remarks); the payload is None where the folder holds none yet.

    Raises:
        HotloopError: there are checkpoints and all are damaged.
    """
    candidates = sorted((p for p in folder.glob("step_*.pt") if step_of(p) >= 0), key=step_of, reverse=True)
    remarks: list[str] = []
    for path in candidates:
        try:
            payload = load(path, device)
        except HotloopError as error:
            remarks.append(f"{error.what}: falling back to the one before")
            continue
        return payload, remarks
    if candidates:
        raise HotloopError(
            f"all {len(candidates)} checkpoints are damaged: {'; '.join(p.name for p in candidates)}",
            where=str(folder),
            fix="start the run again; metrics and configuration are still there",
        )
    return None, remarks


@dataclass
class Keeper:
    """Keeps the best `top_k` and the last `keep_last` checkpoints of a folder, and says which file is what.

    Args:
        folder: where they go.
        top_k: how many of the best to keep.
        keep_last: how many of the latest, at least 1.
        sign: 1.0 where a smaller metric is better, -1.0 where a larger one is.
    """

    folder: Path
    top_k: int
    keep_last: int
    sign: float = 1.0

    def save(self, step: int, payload: Payload, metric: float | None) -> Path:
        """Write step_N.pt, point last.pt and best_model.pt where they belong, and drop what is no longer kept.

        Args:
            step: optimizer steps done.
            payload: what `load` will give back.
            metric: value of the deciding metric at this step; None where it was not measured.
        """
        path = self.folder / f"step_{step}.pt"
        save(path, payload)
        scores = {**read_scores(self.folder), **({step: metric} if metric is not None and metric == metric else {})}
        write_atomic(self.folder / INDEX, json.dumps({str(s): v for s, v in scores.items()}).encode())
        self._name(path, LAST)
        ranked = sorted(scores, key=lambda s: (self.sign * scores[s], s))
        if self.top_k and ranked and ranked[0] == step:
            self._name(path, BEST)
        self._drop(keep=set(ranked[: self.top_k]), newest=step)
        return path

    def _drop(self, keep: set[int], newest: int) -> None:
        steps = sorted((step_of(p) for p in self.folder.glob("step_*.pt") if step_of(p) >= 0), reverse=True)
        latest = {newest, *steps[: self.keep_last]}
        for step in steps:
            if step not in latest and step not in keep:
                _remove(self.folder / f"step_{step}.pt")

    def _name(self, path: Path, name: str) -> None:
        """Let `name` be the same file as `path`: a hard link where the file system has them, else a copy."""
        _alias(path, self.folder / name)
        digest = path.with_name(path.name + _SUM).read_text(encoding="utf-8").split()[0]
        write_atomic(self.folder / (name + _SUM), f"{digest}  {name}\n".encode())


def _alias(path: Path, name: Path) -> None:
    temporary = name.with_name(f".{name.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
        os.replace(temporary, name)
    except OSError:
        with replacing(name) as file, open(path, "rb") as original:
            while piece := original.read(1 << 20):
                file.write(piece)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(path.name + _SUM).unlink(missing_ok=True)


def read_scores(folder: Path) -> dict[int, float]:
    """The deciding metric of each step that was saved with one."""
    try:
        stored = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return {int(step): float(value) for step, value in stored.items()}
    except (OSError, ValueError, AttributeError):  # absent, or damaged: then no old checkpoint counts as best
        return {}


def forget_after(folder: Path, step: int) -> None:
    """Before going on from `step`: remove what a later part of the run left behind; it will be made again."""
    for path in folder.glob("step_*.pt"):
        if step_of(path) > step:
            _remove(path)
    kept = {saved: value for saved, value in read_scores(folder).items() if saved <= step}
    write_atomic(folder / INDEX, json.dumps({str(saved): value for saved, value in kept.items()}).encode())
    for stray in folder.glob(".*.tmp"):
        stray.unlink(missing_ok=True)
