"""nanoGPT's token files: train.bin and val.bin (uint16, native little endian), with meta.pkl or meta.json beside them.

meta.pkl is data here, never code: its unpickler can build strings, numbers, dicts, lists and tuples and refuses every
name it would have to import. meta.json says the same in JSON; where both exist they must agree.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hotloop.errors import HotloopError
from hotloop.tasks.byte_pairs import BytePairs
from hotloop.tasks.gpt.text import check_long_enough, read_text, split_at
from hotloop.tasks.gpt.vocabulary import LARGEST, BareIds, Characters, Tokens, Vocabulary, from_json

_LARGEST_META = 64 * 1024 * 1024  # bytes; a vocabulary of 65,536 tokens takes about two million
_TOKEN = np.dtype("<u2")


@dataclass(frozen=True)
class TokenFiles:
    """A folder of token files: the two parts (memory-mapped) and what is known of their vocabulary."""

    train: Tokens
    val: Tokens
    vocabulary: Vocabulary
    note: str


def is_token_folder(path: Path) -> bool:
    """Whether a path is a folder with token files, or with one of the two."""
    return path.is_dir() and any((path / name).exists() for name in ("train.bin", "val.bin"))


def read_token_folder(folder: Path) -> TokenFiles:
    """Both parts and the vocabulary of a folder.

    Raises:
        HotloopError: a file is missing, of odd length, empty or unreadable; meta is damaged or would run code; an id
            is outside the vocabulary.
    """
    train, val = _map(folder / "train.bin"), _map(folder / "val.bin")
    largest = max(_largest(train), _largest(val))
    vocabulary, note = _vocabulary(folder, largest)
    for name, part in (("train.bin", train), ("val.bin", val)):
        if _largest(part) >= vocabulary.size:
            place = int(np.argmax(part >= vocabulary.size))
            raise HotloopError(
                f"token {place:,} of {name} is id {int(part[place])}, but the vocabulary has {vocabulary.size} tokens "
                f"(0 to {vocabulary.size - 1})",
                where=str(folder),
                fix="the token files and meta.pkl or meta.json do not belong together: prepare the folder again",
            )
    return TokenFiles(train, val, vocabulary, note)


def read_meta_pickle(path: Path) -> Vocabulary:
    """The vocabulary of a meta.pkl, without running any code that it may carry.

    Raises:
        HotloopError: it asks for code, is damaged, or is not nanoGPT's (vocab_size, with itos and stoi or without).
    """
    raw = _read(path)
    try:
        meta = _DataOnly(io.BytesIO(raw)).load()
    except HotloopError as error:
        raise HotloopError(error.what, where=str(path), fix=error.fix) from None
    except Exception as error:  # a damaged pickle raises almost anything
        raise HotloopError(f"the file is not a whole pickle: {error}", where=str(path), fix=_AGAIN) from error
    size = meta.get("vocab_size") if isinstance(meta, dict) else None
    if type(size) is not int or not 0 < size <= LARGEST:
        raise HotloopError(f"the file names no vocab_size from 1 to {LARGEST}", where=str(path), fix=_AGAIN)
    itos, stoi = meta.get("itos"), meta.get("stoi")
    if itos is None and stoi is None:
        return BareIds(size)
    return Characters(_characters(itos, stoi, size, path))


def write_token_folder(
    source: Path, folder: Path, *, val_fraction: float = 0.1, kind: str = "char", vocabulary_size: int = 1024
) -> dict[str, Any]:
    """Turn a text into train.bin, val.bin, meta.json and (for characters) a meta.pkl that nanoGPT reads.

    Args:
        source: UTF-8 text. folder: made if absent; it must not hold token files yet.
        val_fraction: last part kept for validation. kind: "char" or "bpe". vocabulary_size: for "bpe".

    Returns:
        Counts: characters, train_tokens, val_tokens, vocabulary_size.

    Raises:
        HotloopError: the text cannot be read, the folder cannot be written, or it holds token files already.
    """
    text = read_text(source)
    if is_token_folder(folder):
        raise HotloopError(f"'{folder}' holds token files already", fix="name another folder, or remove them first")
    vocabulary, train, val = tokenize(text.content, val_fraction, kind, vocabulary_size)
    check_long_enough(len(train), len(val), 1, "tokens", text.name)
    files = {
        "meta.json": json.dumps({"vocab_size": vocabulary.size, "vocabulary": vocabulary.to_json()}).encode(),
        "meta.pkl": pickle.dumps(_meta(vocabulary)),
        "val.bin": val.astype(_TOKEN).tobytes(),
        "train.bin": train.astype(_TOKEN).tobytes(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            _write(folder / name, content)
    except OSError as error:
        raise HotloopError(f"'{folder}' cannot be written: {error.strerror}") from error
    return {
        "characters": len(text.content),
        "train_tokens": len(train),
        "val_tokens": len(val),
        "vocabulary_size": vocabulary.size,
    }


def tokenize(
    text: str, val_fraction: float, kind: str, size: int, given: Vocabulary | None = None
) -> tuple[Vocabulary, Tokens, Tokens]:
    """Split a text by characters and encode both parts: the vocabulary, training ids, validation ids.

    With a vocabulary `given` nothing is collected, and a text that it cannot write is refused. Else characters are
    collected over the whole text (as nanoGPT does); byte pairs are learned on the training part only.
    """
    cut = split_at(len(text), val_fraction)
    train, val = text[:cut], text[cut:]
    vocabulary = given or (Characters.of(text) if kind == "char" else BytePairs.learn(train, size))
    return vocabulary, vocabulary.encode(train), vocabulary.encode(val)


_AGAIN = "prepare the folder again, or remove the file to train on bare token ids"


class _DataOnly(pickle.Unpickler):
    """Builds containers, strings and numbers; whatever needs an import is refused before it is imported."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise HotloopError(
            f"the file asks to import '{module_name}.{global_name}', which could run code; nothing of it was run",
            fix="do not trust where it came from; a plain meta.pkl holds dicts, strings and numbers only",
        )


def _characters(itos: Any, stoi: Any, size: int, path: Path) -> str:
    """The characters in the order of their ids, once both tables are seen to say the same."""
    good = isinstance(itos, dict) and itos.keys() == set(range(size))
    if not good or not all(isinstance(text, str) and len(text) == 1 for text in itos.values()):
        raise HotloopError(f"itos must map each of 0 to {size - 1} to one character", where=str(path), fix=_AGAIN)
    characters = "".join(itos[number] for number in range(size))
    if len(set(characters)) < size or stoi != {character: number for number, character in enumerate(characters)}:
        raise HotloopError("stoi and itos do not say the same", where=str(path), fix=_AGAIN)
    return characters


def _vocabulary(folder: Path, largest: int) -> tuple[Vocabulary, str]:
    pickled, plain = folder / "meta.pkl", folder / "meta.json"
    from_pickle = read_meta_pickle(pickled) if pickled.exists() else None
    if plain.exists():
        vocabulary = _read_meta_json(plain)
        described = vocabulary if isinstance(vocabulary, Characters) else BareIds(vocabulary.size)
        if from_pickle is not None and from_pickle != described:
            raise HotloopError(
                "meta.json and meta.pkl describe different vocabularies",
                where=str(folder),
                fix="remove the one that does not belong to train.bin and val.bin",
            )
        return vocabulary, "vocabulary from meta.json"
    if from_pickle is not None:
        return from_pickle, "vocabulary from meta.pkl (read as data, nothing executed)"
    return BareIds(largest + 1), f"no meta.pkl: token ids only, 0 to the largest found ({largest})"


def _read_meta_json(path: Path) -> Vocabulary:
    try:
        return from_json(json.loads(_read(path))["vocabulary"])
    except (ValueError, KeyError, TypeError) as error:
        raise HotloopError(f"the file cannot be read: {error!r}", where=str(path), fix=_AGAIN) from error


def _meta(vocabulary: Vocabulary) -> dict[str, Any]:
    """What nanoGPT's prepare script stores; byte pairs have no table of characters, so only their number."""
    if not isinstance(vocabulary, Characters):
        return {"vocab_size": vocabulary.size}
    itos = dict(enumerate(vocabulary.characters))
    return {"vocab_size": vocabulary.size, "itos": itos, "stoi": {text: number for number, text in itos.items()}}


def _map(path: Path) -> Tokens:
    try:
        size = path.stat().st_size
        if size % 2 or not size:
            raise HotloopError(
                f"'{path}' has {size:,} bytes; a token file has two for each token",
                where="data.path",
                fix="it is cut, or not a token file: prepare the folder again" if size else "prepare the folder again",
            )
        # Copy-on-write: torch wants a writable array, and the file stays as it is.
        return np.memmap(path, dtype=_TOKEN, mode="c")
    except FileNotFoundError as error:
        raise HotloopError(
            f"'{path}' does not exist; a folder of token files needs train.bin and val.bin", where="data.path"
        ) from error
    except OSError as error:
        raise HotloopError(f"'{path}' cannot be read: {error.strerror}", where="data.path") from error


def _largest(tokens: Tokens) -> int:
    return int(tokens.max())


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST_META:
            raise HotloopError(f"larger than any vocabulary ({_LARGEST_META:,} bytes)", where=str(path), fix=_AGAIN)
        return path.read_bytes()
    except OSError as error:
        raise HotloopError(f"'{path}' cannot be read: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
