"""The `gpt` task: next-token prediction on a text, validated on the whole of its held-out end.

Batches hold x and y (B, T) int64, y being x one token later; validation adds weight (B, T), which counts every target
once. The vocabulary is the run's asset: with it and the options the model can be rebuilt without the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotloop.data.sampler import RandomStarts, Sampler, ShiftedBlocks
from hotloop.data.source import Source, Subset
from hotloop.data.windows import TokenWindows, WholeSplit
from hotloop.errors import HotloopError
from hotloop.task import Batch, Exportable, Piece, Splits, Tally, Task
from hotloop.tasks.byte_pairs import BytePairs
from hotloop.tasks.gpt import baselines
from hotloop.tasks.gpt.binary import is_token_folder, read_token_folder, tokenize
from hotloop.tasks.gpt.generate import generate
from hotloop.tasks.gpt.model import Transformer
from hotloop.tasks.gpt.options import GptData, GptModel
from hotloop.tasks.gpt.text import check_long_enough, embedded_text, read_text
from hotloop.tasks.gpt.vocabulary import Tokens, Vocabulary, from_json

_SAMPLED_EVALUATION = 4  # purpose number that keeps these draws apart from all others of the same seed


class Gpt(Task):
    """A character or byte-pair language model."""

    Model = GptModel
    Data = GptData

    def __init__(self, model_options: GptModel, data_options: GptData, *, seed: int) -> None:
        super().__init__(model_options, data_options, seed=seed)
        self.vocabulary: Vocabulary | None = None
        self._given: Vocabulary | None = None
        self._parts: tuple[Tokens, Tokens] | None = None
        self._notes: list[str] = []

    def sources(self) -> Splits:
        """Training windows, the whole validation part, and where asked for the sampled estimate."""
        train, val = self._parts = self._read()
        block = self.model_options.block_size
        train_tokens, val_tokens = torch.from_numpy(train), torch.from_numpy(val)
        if not len(val):
            return Splits(TokenWindows(train_tokens, block))
        extra: dict[str, Source] = {}
        if count := self.data_options.sampled_eval_windows:
            windows = TokenWindows(val_tokens, block, "validation")
            starts = np.random.default_rng([self.seed, _SAMPLED_EVALUATION]).integers(len(windows), size=count)
            extra["sampled"] = Subset(windows, torch.from_numpy(starts))
        return Splits(TokenWindows(train_tokens, block), WholeSplit(val_tokens, block), extra)

    def model(self) -> Transformer:
        """The Transformer for the vocabulary found."""
        assert self.vocabulary is not None, "sources() or use_assets() comes before model()"
        return Transformer(self.model_options, self.vocabulary.size)

    def loss(self, model: nn.Module, batch: Batch, training: bool) -> Tensor:
        """Cross entropy of each target in nats, float32, (B, T)."""
        return _cross_entropy(model(batch["x"]), batch["y"])

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tally]:
        """Share of the targets that were the model's first choice."""
        return _accuracy(model(batch["x"]), batch)

    def loss_and_metrics(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tally]]:
        """What `loss` and `metrics` give in evaluation, out of one forward pass."""
        logits = model(batch["x"])
        return _cross_entropy(logits, batch["y"]), _accuracy(logits, batch)

    def sampler(self, source: Source, batch_size: int, seed: int) -> Sampler:
        """Uniform random starts, or disjoint blocks at an offset that changes each epoch."""
        block = self.model_options.block_size
        if self.data_options.sampling == "shifted":
            return ShiftedBlocks(len(source) + block, block, batch_size, seed)
        return RandomStarts(len(source), batch_size, seed, max(1, (len(source) + block - 1) // (block * batch_size)))

    def baselines(self, splits: Splits) -> dict[str, dict[str, float]]:
        """Each token by its frequency, and by its frequency after the one before it."""
        if splits.val is None or self._parts is None or self.vocabulary is None:
            return {}
        return baselines.measured(*self._parts, self.vocabulary.size)

    def assets(self) -> dict[str, Any]:
        """The vocabulary."""
        assert self.vocabulary is not None, "sources() comes before assets()"
        return {"vocabulary": self.vocabulary.to_json()}

    def use_assets(self, assets: dict[str, Any]) -> None:
        """Take the vocabulary of a run folder."""
        self.vocabulary = from_json(assets.get("vocabulary", {}))

    def inherit(self, assets: dict[str, Any]) -> None:
        """Keep the vocabulary of the run that this one starts from: its embedding is in that order."""
        self._given = from_json(assets.get("vocabulary", {}))

    def write(
        self,
        model: nn.Module,
        prompt: str,
        *,
        length: int = 500,
        temperature: float = 0.8,
        top_k: int | None = None,
        seed: int = 1337,
        device: str | torch.device = "cpu",
    ) -> str:
        """The prompt and what the model writes after it, as `generate` says."""
        assert self.vocabulary is not None and isinstance(model, Transformer), "use_assets() comes first"
        how: dict[str, Any] = {"length": length, "temperature": temperature, "top_k": top_k}
        return generate(model, self.vocabulary, prompt, seed=seed, device=device, **how)

    def notes(self) -> list[str]:
        """What was read, how much of it, and how it is cut."""
        return list(self._notes)

    def pieces(self, path: Path, rows: int) -> Iterator[Piece]:
        """None: a language model goes on writing, it does not answer row by row."""
        fix = "use `hotloop generate RUN --prompt TEXT`, or `hotloop evaluate RUN --data FILE.txt` for its loss"
        raise HotloopError("a language model has nothing to predict for the rows of a file", fix=fix)

    def labelled(self, path: Path) -> WholeSplit:
        """A text file, every token a target once."""
        assert self.vocabulary is not None, "use_assets() comes first"
        tokens = self.vocabulary.encode(read_text(path).content)
        return WholeSplit(torch.from_numpy(tokens), self.model_options.block_size, "evaluated")

    def exportable(self, model: nn.Module) -> Exportable:
        """Token ids (B, T) to the logits of the next token (B, T, V)."""
        assert self.vocabulary is not None, "use_assets() comes first"
        length = min(self.model_options.block_size, 16)
        ids = torch.arange(3 * length).view(3, length) % self.vocabulary.size
        return Exportable(model, {"ids": ids}, ("logits",), {"ids": {0: "batch", 1: "length"}})

    def _read(self) -> tuple[Tokens, Tokens]:
        """Both parts as token ids; sets the vocabulary and the notes."""
        options = self.data_options
        path = None if options.path is None else Path(options.path).expanduser()
        if path is not None and is_token_folder(path):
            files = read_token_folder(path)
            self.vocabulary, train, val = files.vocabulary, files.train, files.val
            if options.vocabulary == "bpe" and not isinstance(self.vocabulary, BytePairs):
                raise HotloopError(
                    f"the token files in '{path}' are not of a bpe vocabulary",
                    where="data.vocabulary",
                    fix="leave data.vocabulary out, or give the text instead of its token files",
                )
            name, unit, read = f"token files in {path}", "tokens", f"token files in {path} ({files.note})"
        else:
            text = embedded_text() if path is None else read_text(path)
            self.vocabulary, train, val = tokenize(
                text.content, options.val_fraction, options.vocabulary, options.vocabulary_size, self._given
            )
            name, unit = text.name, "characters" if options.vocabulary == "char" else "tokens"
            read = f"{text.name}: {len(text.content):,} characters"
        if self._given is not None and self.vocabulary.to_json() != self._given.to_json():
            fix = "give the text itself, so that it is encoded anew, or train without model.init_from"
            raise HotloopError("the token files are of another vocabulary than the run to start from", fix=fix)
        self._check_length(train, val, unit, name)
        self._notes = [f"text: {read}", f"vocabulary: {self.vocabulary.size:,} {unit}"]
        kept = None if options.limit is None else options.limit * self.model_options.block_size + 1
        train, val = train[:kept], val[:kept]
        limited = f" (data.limit: the first {options.limit:,} windows of each part)" if kept else ""
        self._notes.append(f"split: {len(train):,} {unit} for training, {len(val):,} for validation{limited}")
        return train, val

    def _check_length(self, train: Tokens, val: Tokens, unit: str, name: str) -> None:
        validated = len(val) or self.data_options.val_fraction > 0
        shortest = len(val) if validated else len(train)
        check_long_enough(len(train), shortest, self.model_options.block_size, unit, name)


def _cross_entropy(logits_btv: Tensor, y_bt: Tensor) -> Tensor:
    flat = F.cross_entropy(logits_btv.flatten(0, 1).float(), y_bt.flatten(), reduction="none")
    return flat.view_as(y_bt)


def _accuracy(logits_btv: Tensor, batch: Batch) -> dict[str, Tally]:
    return {"accuracy": Tally.of(logits_btv.argmax(dim=-1) == batch["y"], batch.get("weight"))}
