"""The options of the `translate` task: the model's sizes, and where its pairs come from.

Torch-free, because the command line reads it before anything trains.
"""

from __future__ import annotations

from typing import Literal

from hotloop.config.schema import DataSection, ModelSection, TaskOptions, knob


class TranslateModel(ModelSection):
    """An encoder-decoder Transformer, normalised before each layer (pre-norm)."""

    hidden_size: int = knob(256, "Width of the model.", unit="features", ge=8)
    num_layers: int = knob(3, "Blocks of the encoder, and as many of the decoder.", unit="blocks", ge=1)
    n_head: int = knob(8, "Attention heads; divides hidden_size.", unit="heads", ge=1)
    ff_size: int = knob(1024, "Hidden width of the feed-forward layers.", unit="features", ge=8)
    dropout: float = knob(0.1, "Dropout, in training.", ge=0, lt=1)
    max_sequence_length: int = knob(64, "Longest source or target, begin and end included.", unit="tokens", ge=4)
    positions: Literal["sinusoidal", "learned"] = knob("sinusoidal", "How a token knows its place.")
    beam: int = knob(1, "Translations kept in the search; 1 takes the likeliest token each time.", ge=1, le=64)
    length_penalty: float = knob(0.6, "With a beam: scores are divided by length to this power.", ge=0, le=2)

    def problems(self) -> list[tuple[str, str, str]]:
        """Heads that do not divide the width, a knob without effect."""
        if self.hidden_size % self.n_head:
            wider = -(-self.hidden_size // self.n_head) * self.n_head
            why = f"{self.n_head} heads do not divide hidden_size={self.hidden_size}"
            return [("n_head", why, f"use model.hidden_size={wider}, or another number of heads")]
        if self.hidden_size % 2 and self.positions == "sinusoidal":
            return [("hidden_size", "sinusoidal positions come in pairs", "use an even width")]
        if self.beam == 1 and self.length_penalty != type(self).model_fields["length_penalty"].default:
            return [("length_penalty", "there is no beam to weigh", "leave it out, or set model.beam=4")]
        return []


class TranslateData(DataSection):
    """Pairs of a source and a target text: tables, JSON, the HLBD files as they are; or generated phrases."""

    path: str | None = knob(
        None,
        "Pairs: .tsv, .csv, .jsonl or .json with the columns src and tgt (and tag, group or concept), a table without "
        "names whose first two columns they are, or an HLBD file; null generates number and date phrases.",
    )
    train_path: str | None = knob(None, "File of the training pairs, instead of path.")
    val_path: str | None = knob(None, "With train_path: file of the validation pairs.")
    test_path: str | None = knob(None, "With train_path: file of the test pairs; measured once, at the end.")
    source_column: str | None = knob(None, "Column of the source text; null takes src, source or input.")
    target_column: str | None = knob(None, "Column of the target text; null takes tgt, target, output or translation.")
    group_column: str | None = knob(
        None, "Column whose values keep pairs together when they are split; null takes group or concept if present."
    )
    split: Literal["group", "random"] = knob(
        "group",
        "How validation pairs are held out: whole groups, never a target that is trained on too (without groups: nor a "
        "source); or pairs at random, and how many targets are on both sides is told.",
    )
    use_tags: bool = knob(True, "Where the data has tags, such as [EN]: put them before the source as one token.")
    vocabulary: Literal["char", "bpe"] = knob(
        "char", "A token for each character, or byte-level pairs learned on the training part (extra: text)."
    )
    vocabulary_size: int = knob(
        5000, "Tokens at most; the rarest characters beyond it are unknown.", unit="tokens", ge=270, le=65536
    )
    on_long: Literal["drop", "refuse"] = knob(
        "drop", "Pairs longer than model.max_sequence_length: leave them out and count them, or stop."
    )
    train_eval: int = knob(
        0, "Measure so many training pairs too, as eval_exact_match_train; 0 measures none.", unit="pairs", ge=0
    )
    phrases: int = knob(6000, "Generated phrases: how many.", unit="pairs", ge=100)

    def problems(self) -> list[tuple[str, str, str]]:
        """Knobs without effect beside the others."""
        found = []
        files = self.path is not None or self.train_path is not None
        if self.path is not None and self.train_path is not None:
            found.append(("path", "data.train_path says the same in another way", "keep one of the two"))
        for key in ("val_path", "test_path"):
            if getattr(self, key) is not None and self.train_path is None:
                found.append((key, "it goes with data.train_path", "set data.train_path, or use data.path alone"))
        for key in ("source_column", "target_column", "group_column"):
            if not files and getattr(self, key) is not None:
                found.append((key, "generated phrases have their own columns", "leave it out, or give data.path"))
        if files and self.phrases != type(self).model_fields["phrases"].default:
            found.append(("phrases", "it is for generated phrases, and files are given", "leave it out"))
        if self.val_path is not None and self.split == "random":
            found.append(("split", "data.val_path is the validation part, so no pair is held out", "leave it out"))
        return found


OPTIONS = TaskOptions(name="translate", model=TranslateModel, data=TranslateData)
"""What the configuration needs to know of this task."""
