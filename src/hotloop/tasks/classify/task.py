"""The `classify` task: the class of a text, or its class in each of several label sets.

One label set: batches hold ids (B, T) and y (B,). Several: a column of labels for each, and weights that mask the
missing ones; the loss is a term for each. What rebuilds the model without its data: tokens, classes, the encoder's
configuration.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.data.ragged import Ragged, RaggedSource, by_length
from hotloop.data.sampler import Sampler
from hotloop.errors import HotloopError
from hotloop.task import Batch, Exportable, LossValues, Piece, Splits, Tally, Task
from hotloop.tasks import classification
from hotloop.tasks.characters import Characters
from hotloop.tasks.classify import baselines, encoder, outputs, source, tokens
from hotloop.tasks.classify.corpus import Corpus, gather, left_out, require_examples, told
from hotloop.tasks.classify.labels import Classes, Labels, settle
from hotloop.tasks.classify.model import Answers, Classifier, SmallEncoder
from hotloop.tasks.classify.options import SMALL, ClassifyData, ClassifyModel
from hotloop.tasks.classify.read import Sheet, find_files, read_pieces, read_sheet
from hotloop.tasks.classify.synthetic import synthetic_sheet

_LONG = {"train": "training", "val": "validation", "test": "test"}


class Classify(Task):
    """Text classification with one head for each label set."""

    Model = ClassifyModel
    Data = ClassifyData
    obeys = classification.OBEYS

    def __init__(self, model_options: ClassifyModel, data_options: ClassifyData, *, seed: int) -> None:
        super().__init__(model_options, data_options, seed=seed)
        self.classes: Classes = {}
        self.tokens: tokens.Tokens | None = None
        self.widths: tuple[int, ...] = ()
        self._encoder: dict[str, Any] | None = None  # configuration of a pretrained encoder
        self._given: dict[str, Any] | None = None  # assets of the run to start from
        self._weights_come = False  # of the encoder, from a run
        self._notes: list[str] = []

    # What is trained on

    def sources(self) -> Splits:
        """Token rows of the training, validation and test part."""
        sheets = self._sheets()
        others = [sheet for part, found in sheets.items() if part != "train" for sheet in found]
        settled = settle(self.model_options, self.data_options.label_columns, sheets["train"], others)
        self.classes, self._notes = settled.classes, list(settled.notes)
        corpora = {part: gather(found, self.classes, self.data_options) for part, found in sheets.items()}
        whole = {part: source.numbered(corpus) for part, corpus in corpora.items()}
        cut = super().cut(Splits(whole["train"], whole.get("val"), {}, whole.get("test")))
        parts = {"train": (corpora["train"], source.rows_of(cut.train))}
        if cut.val is not None:
            parts["val"] = (corpora.get("val", corpora["train"]), source.rows_of(cut.val))
        if cut.test is not None:
            parts["test"] = (corpora["test"], source.rows_of(cut.test))
        built = self._built(parts, corpora)
        return Splits(built["train"], built.get("val"), {}, built.get("test"))

    def cut(self, splits: Splits) -> Splits:
        """As they are: `sources` has split and limited them."""
        return splits

    def sampler(self, source: Any, batch_size: int, seed: int) -> Sampler:
        """Batches of texts of about one length."""
        return by_length(source, batch_size, seed)

    def _sheets(self) -> dict[str, list[Sheet]]:
        data = self.data_options
        if data.path is None and data.train_path is None:
            return {"train": [synthetic_sheet(data.rows, seed=0)]}
        return {part: [read_sheet(path) for path in paths] for part, paths in find_files(data).items()}

    def _built(self, parts: dict[str, tuple[Corpus, Labels]], corpora: dict[str, Corpus]) -> dict[str, RaggedSource]:
        """The sources, once the training rows are known: their texts make the vocabulary and the widths."""
        corpus, rows = parts["train"]
        rows, lines = source.fitting(corpus, rows, self.data_options)
        parts["train"] = (corpus, rows)
        self._notes += [*lines, *require_examples(corpus, rows, self.classes)]
        for part, whole in corpora.items():
            held_out = part == "train" and len(parts) > len(corpora)  # so it is more than is trained on
            self._notes += told("data" if held_out else _LONG[part], whole, self.classes)
        longest = self.model_options.max_sequence_length
        self.tokens = self._settled_tokens([corpus.texts[row] for row in rows])
        found = {}
        for part, (held, chosen) in parts.items():
            texts = [held.texts[row] for row in chosen]
            ids = Ragged.of(self.tokens.encode(texts, longest))
            if part == "train":
                self.widths = tokens.widths_for(ids.lengths, longest, self.data_options.length_buckets)
            found[part] = source.build(ids, held, chosen, self.widths, self.tokens.pad)
            line = tokens.told(_LONG[part], self.tokens, texts, ids, longest)
            self._notes.append(f"{line}; {len(texts):,} texts")
            if part != "train" and (count := source.shared_texts(corpus, rows, held, chosen)):
                self._notes.append(f"{count:,} of {len(texts):,} {_LONG[part]} texts stand in the training part too")
        return found

    def _settled_tokens(self, texts: Sequence[str]) -> tokens.Tokens:
        """The tokens of the encoder; those of the run to start from where there is one."""
        options, given = self.model_options, self._given
        pretrained = options.name != SMALL
        if given is not None:
            if pretrained != (given["encoder"] is not None):
                fix = "use the model.name of that run"
                raise HotloopError("the run to start from has another kind of encoder", where="model.name", fix=fix)
            self._weights_come = True
            if pretrained:
                self._encoder = encoder.changed(given["encoder"], options)
                self._notes.append(f"the encoder is that of the run to start from; nothing is read from {options.name}")
            return tokens.from_json(given["tokens"])
        if not pretrained:
            return tokens.Graphemes(Characters.build(texts))
        pieces, self._encoder = encoder.read_folder(options.name, options)
        return pieces

    # The model and its loss

    def model(self) -> Classifier:
        """The encoder with a head for each task."""
        assert self.tokens is not None, "sources() or use_assets() comes before model()"
        options, counts = self.model_options, {task: len(names) for task, names in self.classes.items()}
        if self._encoder is None:
            assert isinstance(self.tokens, tokens.Graphemes)
            small = SmallEncoder(options, self.tokens.characters.size)
            return Classifier(small, options.hidden_size, counts, options, self.tokens.pad)
        built = (
            encoder.blank_encoder(self._encoder)
            if self._weights_come
            else encoder.load_encoder(options.name, self._encoder)
        )
        return Classifier(built, encoder.width_of(built), counts, options, self.tokens.pad)

    @property
    def _single(self) -> bool:
        return len(self.classes) == 1

    def loss(self, model: nn.Module, batch: Batch, training: bool) -> LossValues:
        """Cross entropy of each text in nats, float32, (B,); a term for each task where there are several."""
        return self._losses(model(batch["ids"]), batch, training)

    def _losses(self, logits: dict[str, Tensor], batch: Batch, training: bool) -> LossValues:
        if self._single:
            (only,) = logits.values()
            return classification.class_loss(only, batch["y"], self.loss_options, training)
        return {
            task: classification.class_loss(part, batch[task].clamp(min=0), self.loss_options, training)
            for task, part in logits.items()
        }

    def loss_and_metrics(self, model: nn.Module, batch: Batch) -> tuple[LossValues, dict[str, Tally]]:
        """The plain loss and the confusions, out of one forward pass."""
        logits = model(batch["ids"])
        return self._losses(logits, batch, False), self._tallies(logits, batch)

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tally]:
        """A confusion matrix for each task."""
        return self._tallies(model(batch["ids"]), batch)

    def _tallies(self, logits: dict[str, Tensor], batch: Batch) -> dict[str, Tally]:
        weight: Any = batch.get("weight")
        if self._single:
            (only,) = logits.values()
            return classification.class_tallies(only, batch["y"], weight)
        return {
            f"confusion_{task}": classification.class_tallies(part, batch[task].clamp(min=0), weight[task])["confusion"]
            for task, part in logits.items()
        }

    def scores(self, tables: dict[str, Tensor]) -> dict[str, float]:
        """Macro-F1 and others; of each task, and their weighted mean, where there are several."""
        if self._single:
            return classification.class_scores(tables["confusion"])
        by_task = {task: outputs.scores_of(tables[f"confusion_{task}"]) for task in self.classes}
        return outputs.mean_scores(by_task, self.term_weights())

    def term_weights(self) -> dict[str, float]:
        """What each task counts."""
        return {} if self._single else {task: self.model_options.weight_of(task) for task in self.classes}

    def class_names(self) -> Sequence[str]:
        return next(iter(self.classes.values())) if self._single else ()

    def heads(self) -> Mapping[str, Sequence[str]]:
        return {} if self._single else self.classes

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Logits, and the classes where the batch has them; named by task where there are several."""
        logits = model(batch["ids"])
        found = {outputs.name_of(task, self.classes): part.float() for task, part in logits.items()}
        labels = ("y",) if self._single else tuple(self.classes)
        return found | {name: batch[name] for name in labels if name in batch}

    def conclude(self, parts: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
        """Each class, the confusions and the calibration, task by task."""
        return outputs.conclusion(parts, self.classes)

    def baselines(self, splits: Splits) -> dict[str, dict[str, float]]:
        """The most frequent class, and a linear model of the tokens and pairs that occur."""
        if splits.val is None or self.tokens is None:
            return {}
        parts = {"train": splits.train, "": splits.val, "test_": splits.test}
        return baselines.measured(parts, self.classes, self.tokens.pad, self.term_weights())

    # What the run keeps, and what comes after training

    def assets(self) -> dict[str, Any]:
        """Tokens, classes, padded widths, and the configuration of a pretrained encoder."""
        assert self.tokens is not None, "sources() comes before assets()"
        return {
            "classes": {task: list(names) for task, names in self.classes.items()},
            "tokens": self.tokens.to_json(),
            "widths": list(self.widths),
            "encoder": self._encoder,
        }

    def use_assets(self, assets: dict[str, Any]) -> None:
        """Take what a run folder says."""
        try:
            self.classes = {task: tuple(names) for task, names in assets["classes"].items()}
            self.widths = tuple(int(width) for width in assets["widths"])
            self._encoder, self._weights_come = assets["encoder"], True
            self.tokens = tokens.from_json(assets["tokens"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            fix = "use a run folder that the task classify has written"
            raise HotloopError(f"the run's tokens cannot be rebuilt: {error!r}", where="assets", fix=fix) from error

    def inherit(self, assets: dict[str, Any]) -> None:
        """Keep the tokens of the run that this one starts from."""
        if "tokens" not in assets or "encoder" not in assets:
            raise HotloopError("the run to start from is none of the task classify", where="model.init_from")
        self._given = assets

    def notes(self) -> list[str]:
        """What was read, how it is labelled, and how long the texts are."""
        return list(self._notes)

    def pieces(self, path: Path, rows: int) -> Iterator[Piece]:
        """Texts of a file, of .json, .jsonl, .csv, .tsv, or .txt with a text a line."""
        for texts, values in read_pieces(path, rows, self.data_options.text_column):
            yield Piece(self._encoded(texts, None), values)

    def labelled(self, path: Path) -> RaggedSource:
        """The texts of a file that have a label."""
        sheet, data = read_sheet(path), self.data_options
        text = data.text_column if data.text_column in sheet.columns else None  # a training file beside may have had it
        plain = data.model_copy(update={"use_sample_weights": False, "group_column": None, "text_column": text})
        corpus = gather([sheet], self.classes, plain)
        return self._encoded(corpus.texts, corpus).saying(left_out("evaluated", corpus))

    def _encoded(self, texts: Sequence[str], corpus: Corpus | None) -> RaggedSource:
        assert self.tokens is not None, "use_assets() comes first"
        ids = Ragged.of(self.tokens.encode(texts, self.model_options.max_sequence_length))
        rows = None if corpus is None else torch.arange(len(texts)).numpy()
        return source.build(ids, corpus, rows, self.widths, self.tokens.pad)

    def answers(self, outputs_: dict[str, Tensor], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Each row with TASK, the class, and TASK_probabilities; beside a column of that name TASK_predicted."""
        return outputs.answers(outputs_, rows, self.classes)

    def combine(self, outputs_: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The mean of the probabilities, as logits."""
        return outputs.combined(outputs_, self.classes)

    def exportable(self, model: nn.Module) -> Exportable:
        """Ids to the logits of each task; pad positions are found by their id."""
        assert isinstance(model, Classifier)
        assert self.tokens is not None
        known = next(part for part in model.modules() if isinstance(part, nn.Embedding)).num_embeddings
        ids = Ragged.of([[place % known for place in row] for row in ((4, 5, 6, 7, 8, 9), (7, 8, 9, 10))])
        example = {"ids": source.build(ids, None, None, (8,), self.tokens.pad).batch(torch.arange(2))["ids"]}
        names = tuple(f"{task}_logits" for task in self.classes)
        return Exportable(Answers(model), example, names, {"ids": {0: "batch", 1: "length"}})

    def save_huggingface(self, model: nn.Module, folder: Path) -> None:
        """The encoder with its tokenizer, and beside them the heads.

        Raises:
            HotloopError: the small encoder, which no other library knows.
        """
        if not isinstance(model, Classifier) or not isinstance(self.tokens, encoder.Pieces):
            raise HotloopError("the small encoder has no form that transformers knows", fix="use --format torch-export")
        encoder.save_huggingface(model.encoder, self.tokens, folder)

    def load_huggingface(self, folder: Path) -> nn.Module:
        """The encoder that `save_huggingface` wrote."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return encoder.load_encoder(str(folder), config)
