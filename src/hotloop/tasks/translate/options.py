"""Options of the encoder-decoder model. Imports no torch."""

from __future__ import annotations

from typing import Literal

from hotloop.config.schema import ModelSection, knob


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
