"""Pretrained encoders: a local folder of Hugging Face's `transformers`, its tokenizer and its model.

Nothing is fetched from the network. What a run keeps (the tokenizer and the configuration, as JSON) rebuilds both
without the folder; the weights then come from the run. Shapes: B rows, T tokens, C features.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.errors import HotloopError
from hotloop.tasks.classify.options import ClassifyModel
from hotloop.tasks.layers import attend_to

_ATTENTION = "hotloop"  # the name under which `transformers` finds our attention


@dataclass(frozen=True)
class Pieces:
    """A fast tokenizer.

    Args:
        text: the tokenizer as JSON.
        pad: id that fills up rows. unknown: id of what it does not know; None where it knows all.
    """

    text: str
    pad: int
    unknown: int | None

    @cached_property
    def _whole(self) -> Any:
        """The tokenizer as `transformers` has it; it reads one from a file only."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tokenizer.json"
            path.write_text(self.text, encoding="utf-8")
            return _quiet().PreTrainedTokenizerFast(tokenizer_file=str(path))

    @cached_property
    def _tokenizer(self) -> Any:
        found = self._whole.backend_tokenizer
        found.no_padding()
        return found

    def encode(self, texts: Sequence[str], longest: int) -> list[list[int]]:
        """The ids of each text, its begin and end signs included, cut to `longest`."""
        self._tokenizer.enable_truncation(longest)
        return [found.ids for found in self._tokenizer.encode_batch(list(texts))]

    def save(self, folder: Path) -> None:
        """Write it into a folder, where AutoTokenizer finds it."""
        whole = _quiet().PreTrainedTokenizerFast(
            tokenizer_object=self._tokenizer,
            pad_token=self._tokenizer.id_to_token(self.pad),
            unk_token=None if self.unknown is None else self._tokenizer.id_to_token(self.unknown),
        )
        whole.save_pretrained(folder)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs."""
        return {"kind": "tokenizer", "tokenizer": json.loads(self.text), "pad": self.pad, "unknown": self.unknown}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Pieces:
        """The tokenizer that `to_json` described."""
        return cls(json.dumps(saved["tokenizer"], ensure_ascii=False), int(saved["pad"]), saved["unknown"])


def read_folder(name: str, options: ClassifyModel) -> tuple[Pieces, dict[str, Any]]:
    """The tokenizer and the configuration in an encoder's folder, with the options' changes.

    Raises:
        HotloopError: no such folder, or one that holds no encoder with a fast tokenizer.
    """
    folder, transformers = _folder(name), _quiet()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, config=config)
    except (OSError, ValueError, KeyError, ImportError) as error:
        fix = "give a folder with config.json, the weights and tokenizer.json or vocab.txt"
        raise HotloopError(f"the encoder cannot be read: {_first_line(error)}", where=str(folder), fix=fix) from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.pad_token_id is None:
        what = "is no fast one" if backend is None else "has no pad token"
        raise HotloopError(f"the tokenizer {what}", where=str(folder), fix="give a folder with a tokenizer.json")
    if config.is_encoder_decoder:
        what = f"the model ({config.model_type}) has a decoder too, which a class of a text has no use for"
        raise HotloopError(what, where=str(folder), fix="give the folder of an encoder such as BERT")
    pieces = Pieces(backend.to_str(), int(tokenizer.pad_token_id), tokenizer.unk_token_id)
    _change(config, options, str(folder))
    if backend.get_vocab_size() > config.vocab_size:
        what = f"the tokenizer has {backend.get_vocab_size():,} tokens, and the encoder {config.vocab_size:,}"
        raise HotloopError(what, where=str(folder), fix="use the tokenizer that belongs to the encoder")
    return pieces, json.loads(config.to_json_string(use_diff=False))


def changed(config: dict[str, Any], options: ClassifyModel) -> dict[str, Any]:
    """The configuration of another run's encoder, with the options' changes.

    Raises:
        HotloopError: more layers, or longer texts, than it has.
    """
    built = _quiet().AutoConfig.for_model(**config)
    _change(built, options, "the run to start from")
    found: dict[str, Any] = json.loads(built.to_json_string(use_diff=False))
    return found


def load_encoder(name: str, config: dict[str, Any]) -> nn.Module:
    """The encoder with the weights in its folder, in float32.

    Raises:
        HotloopError: weights that are missing, damaged, or not of this encoder.
    """
    transformers, folder = _quiet(), _folder(name)
    built = transformers.AutoConfig.for_model(**config)
    try:
        found, told = transformers.AutoModel.from_pretrained(
            folder,
            config=built,
            local_files_only=True,
            dtype=torch.float32,
            attn_implementation=_implementation(transformers, built),
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        fix = "give a folder with model.safetensors"
        raise HotloopError(f"the weights cannot be read: {_first_line(error)}", where=str(folder), fix=fix) from None
    missing = sorted(key for key in told["missing_keys"] if "pooler" not in key)
    if missing:
        what = f"the weights lack {len(missing)} of the encoder's tensors: {', '.join(missing[:3])}"
        raise HotloopError(what, where=str(folder), fix="give the folder of an encoder such as BERT, with its weights")
    return _without_pooler(found)


def blank_encoder(config: dict[str, Any]) -> nn.Module:
    """The encoder of a configuration with random weights, in float32, for weights that are loaded afterwards."""
    transformers = _quiet()
    built = transformers.AutoConfig.for_model(**config)
    attention = _implementation(transformers, built)
    blank = transformers.AutoModel.from_config(built, attn_implementation=attention)
    return _without_pooler(blank.float())  # a configuration may name the half precision that its weights were stored in


def width_of(encoder: Any) -> int:
    """C, whatever the encoder's configuration calls it."""
    return int(encoder.config.hidden_size)


def layers_of(encoder: Any) -> list[nn.Module]:
    """The embeddings and then the layers, from the bottom up."""
    count = encoder.config.num_hidden_layers
    stacks = (part for part in encoder.modules() if isinstance(part, nn.ModuleList) and len(part) == count)
    return [getattr(encoder, "embeddings", None) or encoder.get_input_embeddings(), *next(stacks, nn.ModuleList())]


def save_huggingface(encoder: Any, pieces: Pieces, folder: Path) -> None:
    """Write the encoder and its tokenizer so that AutoModel and AutoTokenizer read them."""
    encoder.save_pretrained(folder)
    pieces.save(folder)


def _folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    hub = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    fix = "give the path of its folder: one with config.json, model.safetensors and tokenizer.json"
    if hub:
        fix = f"nothing is loaded from the network: download {name} first, and give the path of its folder"
    raise HotloopError(f"there is no folder '{name}'", where="model.name", fix=f"{fix}; or use model.name=small")


def _change(config: Any, options: ClassifyModel, place: str) -> None:
    """Apply what the options say of the encoder."""
    layers = config.num_hidden_layers
    if options.num_layers is not None and options.num_layers > layers:
        what = f"the encoder has {layers} layers, and {options.num_layers} are asked for"
        raise HotloopError(what, where="model.num_layers", fix=f"use 1 to {layers}, or leave it out for all")
    longest = getattr(config, "max_position_embeddings", None) or options.max_sequence_length
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        longest -= config.pad_token_id + 1  # their positions count from there
    if options.max_sequence_length > longest:
        what = f"the encoder of {place} reads {longest} tokens at most"
        raise HotloopError(what, where="model.max_sequence_length", fix=f"use {longest} or fewer")
    config.num_hidden_layers = options.num_layers or layers
    if getattr(config, "layer_types", None):  # a kind of attention for each layer
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    if options.encoder_dropout is not None:
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
            if hasattr(config, key):
                setattr(config, key, options.encoder_dropout)


def _without_pooler(encoder: Any) -> nn.Module:
    """Nothing reads the pooler, so it would be weights without a gradient."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    found: nn.Module = encoder.train()  # loaded ones come in evaluation mode: no dropout, no checkpointing
    return found


def _implementation(transformers: Any, config: Any) -> str | None:
    """Our attention where the model can take one; None leaves the choice to `transformers`."""
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    transformers.AttentionInterface.register(_ATTENTION, _attention)
    AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
    return _ATTENTION if config.model_type in ("bert", "roberta", "xlm-roberta", "electra") else None


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float = 0.0, **_: Any
) -> tuple[Tensor, None]:
    """Attention of (B, H, T, D) as `transformers` asks for it, (B, T, H, D)."""
    own = getattr(module, "dropout", None)  # the layer that holds the rate, which may have been made faster
    drop = own if isinstance(own, nn.Dropout) else nn.Dropout(dropout)
    return attend_to(query, key, value, visible=mask, drop=drop).transpose(1, 2).contiguous(), None


def _quiet() -> Any:
    """`transformers` without its own messages and bars."""
    try:
        import transformers
    except ImportError:
        what = "a pretrained encoder needs the package transformers"
        raise HotloopError(what, where="model.name", fix="install it: pip install 'hotloop[text]'") from None
    logging: Any = transformers.utils.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return transformers


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
