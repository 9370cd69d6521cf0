"""The options of the `gpt` task: the model's sizes and style, and where its text comes from.

Torch-free, because the command line reads it before anything trains. The defaults of `GptModel` are nanoGPT's model
(learned positions, layer norm without bias, GELU, tied embedding); templates switch to the modern style.
"""

from __future__ import annotations

from typing import Literal

from hotloop.config.schema import DataSection, ModelSection, Positive, TaskOptions, knob


class GptModel(ModelSection):
    """A decoder-only Transformer; every option keeps the causal order of the tokens."""

    n_layer: int = knob(6, "Transformer blocks.", unit="blocks", ge=1)
    n_head: int = knob(6, "Attention heads; must divide n_embd.", unit="heads", ge=1)
    n_embd: int = knob(384, "Width of the residual stream.", unit="features", ge=1)
    block_size: int = knob(256, "Longest context that the model sees.", unit="tokens", ge=1)
    dropout: float = knob(0.2, "Share of the activations dropped in training.", ge=0, lt=1)
    bias: bool = knob(False, "Biases in linear layers and layer norms.")
    positions: Literal["learned", "rotary"] = knob(
        "learned", "How a token knows its place: a learned table, or rotation of queries and keys."
    )
    rotary_base: float = knob(10000.0, "Longest wavelength of rotary positions, over 2 pi.", unit="tokens", gt=1)
    norm: Literal["layernorm", "rmsnorm"] = knob("layernorm", "Normalisation before each layer.")
    norm_scale: bool = knob(True, "A learned scale in each norm.")
    activation: Literal["gelu", "relu2", "swiglu"] = knob(
        "gelu", "Feed-forward activation; swiglu narrows the hidden layer, so that the parameter count stays."
    )
    mlp_ratio: float = knob(4.0, "Feed-forward hidden width over n_embd.", gt=0, le=16)
    qk_norm: bool = knob(False, "Normalise queries and keys per head, without a learned scale.")
    tie_embeddings: bool = knob(True, "One weight for the token embedding and the output layer.")
    zero_init: bool = knob(False, "Start each block as the identity: its residual projections are zero.")
    embedding_norm: bool = knob(False, "Normalise the embedded tokens before the first block.")
    embedding_std: float = knob(0.02, "Spread of the token embedding at the start (standard deviation).", gt=0)
    initialisation: Literal["normal", "fan_in"] = knob(
        "normal", "Spread of the hidden matrices at the start: 0.02 as in nanoGPT, or 0.6 / sqrt(inputs)."
    )
    token_shift: bool = knob(False, "Add to each layer's input a learned share of the position before it.")
    low_precision_residual: bool = knob(
        False, "In bf16 training keep the residual stream in bf16 as well: faster, slightly coarser."
    )

    def problems(self) -> list[tuple[str, str, str]]:
        """Heads that do not divide the width, rotary positions on heads of odd width, a knob without effect."""
        width, heads = self.n_embd, self.n_head
        if width % heads:
            nearest = min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: abs(n - heads))
            wider = -(-width // heads) * heads
            why = f"{heads} heads do not divide n_embd={width}"
            return [("n_head", why, f"use model.n_head={nearest}, or model.n_embd={wider}")]
        if self.positions == "rotary" and (width // heads) % 2:
            why = f"rotary turns pairs of features; n_embd={width} over n_head={heads} gives heads of {width // heads}"
            return [("positions", why, f"use model.n_embd={width + heads}, or model.positions=learned")]
        if self.positions == "learned" and self.rotary_base != _default(self, "rotary_base"):
            return [("rotary_base", "learned positions do not rotate", "leave it out, or set model.positions=rotary")]
        return []


class GptData(DataSection):
    """The text: a file, a folder of token files, or the manual that every CPython carries."""

    path: str | None = knob(
        None,
        "UTF-8 text file, or folder with train.bin and val.bin (and meta.pkl or meta.json); null takes the text of "
        "Python's own manual.",
    )
    val_fraction: float = knob(0.1, "Share of the text, at its end, held out for validation; 0 is none.", ge=0, lt=1)
    limit: Positive | None = knob(
        None, "Use only the first this many windows of block_size of each part; null uses all.", unit="windows"
    )
    vocabulary: Literal["char", "bpe"] = knob(
        "char", "One token per character, or byte-level pairs learned on the training part (extra: text)."
    )
    vocabulary_size: int = knob(1024, "Tokens of the bpe vocabulary.", unit="tokens", ge=257, le=65536)
    sampling: Literal["random", "shifted"] = knob(
        "random",
        "Training windows: uniform random starts as in nanoGPT, or each epoch all disjoint blocks at another offset.",
    )
    sampled_eval_windows: int = knob(
        0,
        "Random validation windows of nanoGPT's sampled estimate (its eval_iters x batch_size), reported as "
        "eval_loss_sampled; 0 is off.",
        unit="windows",
        ge=0,
    )

    def problems(self) -> list[tuple[str, str, str]]:
        """Knobs without effect beside the others."""
        found = []
        if self.vocabulary == "char" and self.vocabulary_size != _default(self, "vocabulary_size"):
            why = "a character vocabulary is as large as the text makes it"
            found.append(("vocabulary_size", why, "leave it out, or set data.vocabulary=bpe"))
        if self.sampled_eval_windows and self.val_fraction == 0:
            why = "there is no validation part to draw from"
            found.append(("sampled_eval_windows", why, "leave it out, or set data.val_fraction"))
        return found


def _default(section: ModelSection | DataSection, key: str) -> object:
    return type(section).model_fields[key].default


OPTIONS = TaskOptions(name="gpt", model=GptModel, data=GptData)
"""What the configuration needs to know of this task."""
