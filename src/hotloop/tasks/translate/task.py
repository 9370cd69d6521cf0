"""The `translate` task: a text out of another, learned from pairs and validated on targets never trained on.

Batches hold src (B, S), x and y (B, T), and weight (B, T), as `source` says. The vocabulary, complete and frozen before
the first batch, is the run's asset, with the padded widths and how long a target may get.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotloop.data.ragged import RaggedSource, by_length
from hotloop.data.sampler import Sampler
from hotloop.errors import HotloopError
from hotloop.task import Batch, Exportable, Piece, Splits, Tally, Task
from hotloop.tasks.characters import EOS, PAD, RESERVED, UNK
from hotloop.tasks.translate import baselines, source, tokens
from hotloop.tasks.translate.chrf import chrf_counts, chrf_score
from hotloop.tasks.translate.decode import beam_search, greedy
from hotloop.tasks.translate.model import Translator
from hotloop.tasks.translate.options import TranslateData, TranslateModel
from hotloop.tasks.translate.pairs import Pairs, described, hold_out, shared
from hotloop.tasks.translate.phrases import number_phrases
from hotloop.tasks.translate.read import find_files, read_pairs, read_pieces

_LONG = {"train": "training", "val": "validation", "test": "test"}
_ROOM = 8  # tokens that a translation may be longer than any training target
_EXAMPLES = 10


class Translate(Task):
    """Translation with an encoder-decoder Transformer."""

    Model = TranslateModel
    Data = TranslateData
    obeys = frozenset({"label_smoothing"})
    needs_prompt = True
    """`hotloop generate` writes nothing out of nothing."""

    def __init__(self, model_options: TranslateModel, data_options: TranslateData, *, seed: int) -> None:
        super().__init__(model_options, data_options, seed=seed)
        self.tokens: tokens.Tokens | None = None
        self.widths: source.Widths = {}
        self.longest = 0  # tokens written at most, the end included
        self._given: tokens.Tokens | None = None
        self._parts: dict[str, Pairs] = {}
        self._notes: list[str] = []

    # What is trained on

    def sources(self) -> Splits:
        """Training pairs, validation pairs of other groups, test pairs, and some training pairs to measure."""
        parts = self._read()
        tags = tuple(dict.fromkeys(tag for tag in parts["train"].tags or () if tag)) if self._tagged else ()
        known = self._given
        data = self.data_options
        self.tokens = known or tokens.build(data.vocabulary, data.vocabulary_size, parts["train"].texts(), tags)
        self._parts = {part: self._fitting(part, pairs) for part, pairs in parts.items()}
        self._describe(known is not None)
        train = self._parts["train"]
        longest = self.model_options.max_sequence_length
        self.widths = source.widths_for(train, self.tokens, self._tagged, longest)
        self.longest = min(longest - 1, max(map(len, source.target_ids(train.tgt, self.tokens))) - 1 + _ROOM)
        built = {part: self._built(pairs, part != "train") for part, pairs in self._parts.items()}
        extra = {}
        if data.train_eval:
            extra["train"] = self._built(train.chosen(range(min(data.train_eval, len(train)))), False)
        return Splits(built["train"], built.get("val"), extra, built.get("test"))

    def cut(self, splits: Splits) -> Splits:
        """As they are: `sources` has split and limited them."""
        return splits

    def sampler(self, source: Any, batch_size: int, seed: int) -> Sampler:
        """Batches of pairs of about one length."""
        return by_length(source, batch_size, seed)

    @property
    def _tagged(self) -> bool:
        return bool(self.data_options.use_tags)

    def _read(self) -> dict[str, Pairs]:
        data = self.data_options
        if data.path is None and data.train_path is None:
            found = {"train": number_phrases(data.phrases, seed=0)}
        else:
            found = {part: read_pairs(path, data) for part, path in find_files(data).items()}
        self._notes = [line for pairs in found.values() for line in pairs.notes]
        if "val" not in found and data.val_fraction > 0:
            found["train"], found["val"] = hold_out(found["train"], data.split, data.val_fraction, self.seed)
        if data.limit is not None:
            found = {part: pairs.chosen(range(min(data.limit, len(pairs)))) for part, pairs in found.items()}
        return found

    def _fitting(self, part: str, pairs: Pairs) -> Pairs:
        assert self.tokens is not None
        longest, how = self.model_options.max_sequence_length, self.data_options.on_long
        kept, line = source.fitting(pairs, self.tokens, self._tagged, longest, how, _LONG[part])
        self._notes += [line] if line else []
        return kept

    def _describe(self, inherited: bool) -> None:
        assert self.tokens is not None
        train = self._parts["train"]
        for part, pairs in self._parts.items():
            self._notes.append(described(_LONG[part], pairs, train.groups is not None))
            self._notes += shared(train, pairs, _LONG[part]) if part != "train" else []
        partial = inherited or self.tokens.size >= self.data_options.vocabulary_size  # of the training part too
        told = {_LONG[part]: pairs.texts() for part, pairs in self._parts.items() if part != "train" or partial}
        self._notes += tokens.told(self.tokens, told, "the run it starts from" if inherited else "the training part")

    def _built(self, pairs: Pairs, measured: bool) -> RaggedSource:
        assert self.tokens is not None
        return source.build(pairs, self.tokens, self._tagged, self.widths, measured)

    # The model and its loss

    def model(self) -> Translator:
        """The Transformer for the vocabulary found."""
        assert self.tokens is not None, "sources() or use_assets() comes before model()"
        return Translator(self.model_options, self.tokens.size)

    def loss(self, model: nn.Module, batch: Batch, training: bool) -> Tensor:
        """Cross entropy of each target token in nats, float32, (B, T)."""
        return self._losses(model(batch["src"], batch["x"]), batch, training)

    def _losses(self, logits_btv: Tensor, batch: Batch, training: bool) -> Tensor:
        smoothing = self.loss_options.label_smoothing if training else 0.0
        flat, wanted = logits_btv.flatten(0, 1).float(), batch["y"].flatten()
        return F.cross_entropy(flat, wanted, reduction="none", label_smoothing=smoothing).view_as(batch["y"])

    def loss_and_metrics(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tally]]:
        """The plain loss, and what was written."""
        logits = model(batch["src"], batch["x"])
        return self._losses(logits, batch, False), self._tallies(model, logits, batch)

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tally]:
        """Share of the target tokens that are right after a right beginning, and of whole translations; chrF.

        Whole translations are written for it where the batch has references. Without them a pair counts as right if
        each of its tokens is right after the right beginning, which is when the likeliest tokens write it.
        """
        return self._tallies(model, model(batch["src"], batch["x"]), batch)

    def _tallies(self, model: nn.Module, logits_btv: Tensor, batch: Batch) -> dict[str, Tally]:
        weight, y, real = batch["weight"], batch["y"], batch["weight"].amax(dim=1)
        right = (logits_btv.argmax(dim=-1) == y) & (y != UNK)  # which is never written
        found = {"accuracy": Tally.of(right, weight)}
        if "reference" not in batch:
            return found | {"exact_match": Tally.of((right | (weight == 0)).all(dim=1), real)}
        outputs, wanted = self.texts(self._written(model, batch["src"])), source.references(batch["reference"])
        exact = torch.tensor([one == other for one, other in zip(outputs, wanted, strict=True)], device=real.device)
        rows = [row for row, counts in enumerate(real.tolist()) if counts]
        counts = chrf_counts([outputs[row] for row in rows], [wanted[row] for row in rows])
        return found | {
            "exact_match": Tally.of(exact, real),
            "chrf": Tally(counts.float().to(real.device), real.sum()),
        }

    def scores(self, tables: dict[str, Tensor]) -> dict[str, float]:
        """chrF, in percent."""
        return {"chrf": chrf_score(tables["chrf"])}

    def _written(self, model: nn.Module, src_bs: Tensor, width: int | None = None) -> Tensor:
        """Tokens (B, L) of the translations, by beam where one is asked for."""
        assert self.tokens is not None
        options, first = self.model_options, RESERVED + len(self.tokens.specials)
        width = width or options.beam
        if width == 1:
            return greedy(cast(Translator, model), src_bs, self.longest, first)
        return beam_search(cast(Translator, model), src_bs, self.longest, first, width, options.length_penalty)

    def texts(self, ids_bl: Tensor) -> list[str]:
        """The texts of tokens (B, L), up to the end of each."""
        assert self.tokens is not None
        rows = (row[: row.index(EOS)] if EOS in row else row for row in ids_bl.tolist())
        return [self.tokens.decode(row).strip() for row in rows]

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Tokens of the translations and the sources, and the reference where the batch has one."""
        found = {
            "tokens": source.padded_to(self._written(model, batch["src"]), self.longest),
            "src": source.padded_to(batch["src"], self.widths["src"][-1]),
        }
        return found | {name: batch[name] for name in ("reference",) if name in batch}

    def conclude(self, parts: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
        """The first translations of each part beside what they should be."""
        assert self.tokens is not None
        found = {}
        for part, outputs in parts.items():
            columns = {
                "source": [self.tokens.decode(row) for row in outputs["src"][:_EXAMPLES].tolist()],
                "translation": self.texts(outputs["tokens"][:_EXAMPLES]),
                "reference": source.references(outputs["reference"][:_EXAMPLES]),
            }
            rows = zip(*columns.values(), strict=True)
            found[part] = {"examples": [dict(zip(columns, row, strict=True)) for row in rows]}
        return found

    def baselines(self, splits: Splits) -> dict[str, dict[str, float]]:
        """The most frequent target, and the target of the most similar training source."""
        parts = {"": self._parts.get("val"), "test_": self._parts.get("test")}
        there = {prefix: pairs for prefix, pairs in parts.items() if pairs is not None}
        return baselines.measured(self._parts["train"], there) if there else {}

    # What the run keeps, and what comes after training

    def assets(self) -> dict[str, Any]:
        """The vocabulary, the padded widths, and how long a translation may get."""
        assert self.tokens is not None, "sources() comes before assets()"
        widths = {name: list(found) for name, found in self.widths.items()}
        return {"tokens": self.tokens.to_json(), "widths": widths, "longest": self.longest}

    def use_assets(self, assets: dict[str, Any]) -> None:
        """Take what a run folder says."""
        try:
            self.widths = {name: tuple(map(int, found)) for name, found in assets["widths"].items()}
            self.longest, saved = int(assets["longest"]), assets["tokens"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            fix = "use a run folder that the task translate has written"
            raise HotloopError(f"the run's vocabulary is damaged: {error!r}", where="assets", fix=fix) from error
        self.tokens = tokens.from_json(saved)

    def inherit(self, assets: dict[str, Any]) -> None:
        """Keep the vocabulary of the run that this one starts from: its embedding is in that order."""
        if "tokens" not in assets or "longest" not in assets:
            raise HotloopError("the run to start from is none of the task translate", where="model.init_from")
        self._given = tokens.from_json(assets["tokens"])

    def notes(self) -> list[str]:
        """What was read, how it is parted, and what the vocabulary does not know."""
        return list(self._notes)

    def pieces(self, path: Path, rows: int) -> Iterator[Piece]:
        """Sources of a file, of .jsonl, .json, .tsv, .csv, or .txt with a source a line."""
        assert self.tokens is not None, "use_assets() comes first"
        for texts, tags, places, values in read_pieces(path, rows, self.data_options, self.tokens.specials):
            yield Piece(self._untranslated(texts, tags, places), values)

    def _untranslated(self, texts: Sequence[str], tags: Sequence[str], places: Sequence[str]) -> RaggedSource:
        assert self.tokens is not None, "use_assets() comes first"
        longest = self.model_options.max_sequence_length
        ids = source.source_ids(texts, tags if self._tagged else None, self.tokens)
        source.require_translatable(ids, tags, places, self.tokens.specials if self._tagged else (), longest)
        return source.untranslated(ids, self.widths)

    def labelled(self, path: Path) -> RaggedSource:
        """The pairs of a file; what is too long is left out and told, or refused, as in validation."""
        pairs = read_pairs(path, self.data_options)
        assert self.tokens is not None, "use_assets() comes first"
        longest, how = self.model_options.max_sequence_length, self.data_options.on_long
        kept, line = source.fitting(pairs, self.tokens, self._tagged, longest, how, "given")
        return self._built(kept, True).saying([*pairs.notes, *([line] if line else [])])

    def answers(self, outputs: dict[str, Tensor], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Each row with its translation."""
        return [{**row, "translation": text} for row, text in zip(rows, self.texts(outputs["tokens"]), strict=True)]

    def write(
        self, model: nn.Module, prompt: str, *, beam: int | None = None, device: str | torch.device = "cpu"
    ) -> str:
        """The translation of a text; a tag of the run's, such as [EN], may stand before it.

        Args:
            model: trained; left on `device`.
            prompt: the text.
            beam: candidates in the search, at least 1; None takes the run's own.
            device: where to compute.

        Raises:
            HotloopError: an empty text, one that is too long, or a beam out of range.
        """
        assert self.tokens is not None, "use_assets() comes first"
        tag, text = tokens.parted(prompt, self.tokens.specials)
        if not text:
            raise HotloopError("there is nothing to translate", where="--prompt", fix="write a text")
        if beam is not None and not 1 <= beam <= self.tokens.size:
            raise HotloopError(f"beam is {beam}; it must be 1 to {self.tokens.size}", where="--beam")
        batch = self._untranslated([text], [tag], ["--prompt"]).batch(torch.arange(1))
        with torch.no_grad():
            written = self._written(model.to(device).eval(), batch["src"].to(device), beam)
        return self.texts(written)[0]

    def exportable(self, model: nn.Module) -> Exportable:
        """Source ids and target ids so far to the logits of each next target token."""
        src = torch.tensor([[RESERVED, RESERVED + 1, RESERVED + 2, PAD], [RESERVED, RESERVED + 1, PAD, PAD]])
        x = torch.tensor([[2, RESERVED, RESERVED + 1], [2, RESERVED + 1, RESERVED]])
        axes = {"src": {0: "batch", 1: "source"}, "x": {0: "batch", 1: "target"}}
        return Exportable(model, {"src": src, "x": x}, ("logits",), axes)
