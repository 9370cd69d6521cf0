"""What the tests of `classify` share: small files of texts, and a tiny pretrained encoder in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = ("好", "壞", "你", "我", "他", "人", "是", "很", "的", "天")


def rows(count: int, **labels: Sequence[Any]) -> list[dict[str, Any]]:
    """So many texts; the first label's class decides the first character. Each label cycles through its values."""
    found = []
    for number in range(count):
        row: dict[str, Any] = {name: values[number % len(values)] for name, values in labels.items()}
        first = next(iter(labels.values()))
        text = WORDS[number % len(first)] + "".join(WORDS[2 + (number * k) % 8] for k in range(3, 9)) + str(number)
        found.append({"text": text, **row})
    return found


def write(path: Path, found: list[dict[str, Any]]) -> Path:
    """A JSON list, or JSON lines, by the suffix."""
    if path.suffix == ".json":
        path.write_text(json.dumps(found, ensure_ascii=False, indent=0), encoding="utf-8")
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def tiny_encoder(folder: Path) -> Path:
    """A BERT of two layers with random weights and a vocabulary of single characters, as a folder."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir()
    signs = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    numbers = list("0123456789")
    vocabulary = [*signs, *WORDS, *numbers, *(f"##{number}" for number in numbers)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder
