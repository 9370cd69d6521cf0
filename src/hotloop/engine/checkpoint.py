"""Checkpoints: whole or absent, verified by checksum, loaded without running code; the best k and the last n are kept.

A checkpoint is one file of tensors and plain values. Its SHA-256 lies beside it (`step_N.pt.sha256`, the format of
sha256sum) and is written before the checkpoint appears under its name. `last.pt` and `best_model.pt` are further names
of the same files. Nothing is deleted before what replaces it is safe on the disk. A checkpoint knows the scores up to
its step, so that everything beside it can be put right from it alone, wherever the process died.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from hotloop.disk import replacing, telling, write_atomic
from hotloop.errors import HotloopError

_STEP = re.compile(r"step_(\d+)\.pt")
_SUM = ".sha256"
LAST, BEST, INDEX = "last.pt", "best_model.pt", "index.json"
SCORES = "scores"
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
        write_atomic(_sum_of(path), f"{digest}  {path.name}\n".encode())


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


def weights_of(payload: Payload) -> dict[str, Any]:
    """The weights of a checkpoint that later commands use: the averaged ones where the run kept an average."""
    return {**payload["model"], **payload.get("average", {})}


def _sha256(file: BinaryIO) -> str:
    """Of the rest of an open file, read in pieces."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def verify(path: Path) -> None:
    """Check a file against the checksum beside it, if there is one.

    `last.pt` and `best_model.pt` may be any of the folder's checkpoints: a process can die between naming one so and
    writing the checksum of that name.

    Raises:
        HotloopError: missing, unreadable or changed since it was written.
    """
    if not path.is_file():
        raise HotloopError(f"no checkpoint at {path}", where=str(path), fix="look into the run's folder checkpoints/")
    others = path.parent.glob(f"step_*.pt{_SUM}") if path.name in (LAST, BEST) else ()
    with telling("read", path):
        if path.stat().st_size == 0:
            raise _damaged(path, "it is empty")
        beside = [file for file in (_sum_of(path), *others) if file.is_file()]
        if beside and _digest(path) not in {_stated(file) for file in beside}:
            raise _damaged(path, "its checksum does not match")


def _sum_of(path: Path) -> Path:
    """Where the checksum of a file is."""
    return path.with_name(path.name + _SUM)


def _stated(sum_file: Path) -> str:
    """The checksum that a file of checksums states, "" where it holds or is none."""
    words = sum_file.read_text(encoding="utf-8", errors="replace").split() if sum_file.is_file() else []
    return words[0] if words else ""


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return _sha256(file)


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
        HotloopError: there are checkpoints and none can be used.
    """
    candidates = sorted((p for p in folder.glob("step_*.pt") if step_of(p) >= 0), key=step_of, reverse=True)
    faults: list[str] = []
    for path in candidates:
        try:
            payload = load(path, device)
        except HotloopError as error:
            faults.append(error.what)
            continue
        return payload, [f"{fault}: falling back to the one before" for fault in faults]
    if candidates:
        raise HotloopError(
            f"none of the {len(candidates)} checkpoints can be used: {'; '.join(faults)}",
            where=str(folder),
            fix="start the run again; metrics and configuration are still there",
        )
    return None, []


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
        scores = read_scores(self.folder)
        if metric is not None and math.isfinite(metric):
            scores[step] = metric
        path = self.folder / f"step_{step}.pt"
        save(path, {**payload, SCORES: scores})
        self._arrange(step, scores)
        return path

    def restore(self, step: int, scores: Mapping[int, float]) -> None:
        """Before going on from `step`: leave the folder as it was when the checkpoint of that step had been saved.

        What a later part of the run left behind goes, it will be made again; what the process did not come to do after
        it wrote step_N.pt is done now.

        Args:
            step: the step that the run goes on from, 0 without a checkpoint.
            scores: what that checkpoint holds under `SCORES`.
        """
        for path in self.folder.glob("step_*.pt"):
            if step_of(path) > step:
                _remove(path)
        for path in self.folder.glob(f"step_*.pt{_SUM}"):
            if not path.with_name(path.name.removesuffix(_SUM)).exists():
                path.unlink()
        for stray in self.folder.glob(".*.tmp"):
            stray.unlink(missing_ok=True)
        best = self._ranked(scores)[:1]
        if not any((self.folder / f"step_{s}.pt").is_file() or self._is_best(s) for s in best):
            _remove(self.folder / BEST)  # of a part of the run that will be made again
        if (self.folder / f"step_{step}.pt").is_file():
            self._arrange(step, scores)

    def _arrange(self, step: int, scores: Mapping[int, float]) -> None:
        """Everything that follows from step_N.pt; doing it twice changes nothing."""
        ranked = self._ranked(scores)
        write_atomic(self.folder / INDEX, json.dumps({str(s): v for s, v in scores.items()}).encode())
        self._name(step, LAST)
        if self.top_k and ranked and (self.folder / f"step_{ranked[0]}.pt").is_file():
            self._name(ranked[0], BEST)
        self._drop(keep=set(ranked[: self.top_k]), newest=step)

    def _ranked(self, scores: Mapping[int, float]) -> list[int]:
        """Steps, the best first; of equal ones the earliest."""
        return sorted(scores, key=lambda s: (self.sign * scores[s], s))

    def _is_best(self, step: int) -> bool:
        """Whether best_model.pt is whole and of this step."""
        try:
            return bool(load(self.folder / BEST).get("step") == step)
        except HotloopError:
            return False

    def _drop(self, keep: set[int], newest: int) -> None:
        steps = sorted((step_of(p) for p in self.folder.glob("step_*.pt") if step_of(p) >= 0), reverse=True)
        latest = {newest, *steps[: self.keep_last]}
        for step in steps:
            if step not in latest and step not in keep:
                _remove(self.folder / f"step_{step}.pt")

    def _name(self, step: int, name: str) -> None:
        """Let `name` be the same file as step_N.pt: a hard link where the file system has them, else a copy."""
        path, alias = self.folder / f"step_{step}.pt", self.folder / name
        digest = _stated(_sum_of(path)) or _digest(path)
        if alias.is_file() and _stated(_sum_of(alias)) == digest:
            return
        _sum_of(alias).unlink(missing_ok=True)  # first: a checksum that is there is that of the file beside it
        _alias(path, alias)
        write_atomic(_sum_of(alias), f"{digest}  {name}\n".encode())


def _alias(path: Path, name: Path) -> None:
    if name.is_file() and os.path.samefile(path, name):  # a rename onto another name of the same file does nothing
        return
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
    _sum_of(path).unlink(missing_ok=True)


def read_scores(folder: Path) -> dict[int, float]:
    """The deciding metric of each step that was saved with one."""
    try:
        stored = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return {int(step): float(value) for step, value in stored.items()}
    except (OSError, ValueError, AttributeError):  # absent, or damaged: then no old checkpoint counts as best
        return {}
