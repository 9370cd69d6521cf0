"""Sources of pairs: padded source ids, and the target as decoder input and as what is to be written next.

A batch has src (B, S), x and y (B, T) int64, y being x one token later, and weight (B, T), 1 where y is real. Sources
that are measured carry reference (B, R) too: the target's own characters as code points, whatever the vocabulary knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hotloop.data.ragged import Ragged, RaggedSource, bucket_widths, up_to
from hotloop.errors import HotloopError
from hotloop.tasks.characters import BOS, EOS, PAD
from hotloop.tasks.translate.pairs import Pairs
from hotloop.tasks.translate.tokens import Tokens

Widths = dict[str, tuple[int, ...]]
_SRC_WIDTHS, _TGT_WIDTHS = 3, 2  # few: each pair of widths is a shape of its own


def source_ids(texts: Sequence[str], tags: Sequence[str] | None, tokens: Tokens) -> list[list[int]]:
    """The ids of sources, each after its tag where it has one; a vocabulary without tags knows none."""
    if tags is None or not tokens.specials:
        return [tokens.encode(text) for text in texts]
    return [
        [*([tokens.special(tag)] if tag else []), *tokens.encode(text)] for text, tag in zip(texts, tags, strict=True)
    ]


def target_ids(texts: Sequence[str], tokens: Tokens) -> list[list[int]]:
    """The ids of targets between BOS and EOS."""
    return [[BOS, *tokens.encode(text), EOS] for text in texts]


def fitting(pairs: Pairs, tokens: Tokens, tagged: bool, longest: int, on_long: str, part: str) -> tuple[Pairs, str]:
    """The pairs that are not too long, and a line that counts the others.

    Raises:
        HotloopError: one is too long and `on_long` refuses, or none is left.
    """
    src = source_ids(pairs.src, pairs.tags if tagged else None, tokens)
    sizes = [max(len(ids), len(target)) for ids, target in zip(src, target_ids(pairs.tgt, tokens), strict=True)]
    kept = [row for row, size in enumerate(sizes) if size <= longest]
    if len(kept) == len(pairs):
        return pairs, ""
    count, widest = len(pairs) - len(kept), max(sizes)
    fix = f"raise model.max_sequence_length (the longest needs {widest})"
    if on_long == "refuse" or not kept:
        what = f"{count:,} of {len(pairs):,} {part} pairs are longer than {longest} tokens"
        first = next(row for row, size in enumerate(sizes) if size > longest)
        where = f"{pairs.name}: {pairs.src[first][:60]!r}"
        raise HotloopError(what, where=where, fix=f"{fix}, or set data.on_long=drop" if kept else fix)
    return pairs.chosen(kept), f"{part}: left out {count:,} pairs longer than {longest} tokens; {fix} to keep them"


def widths_for(pairs: Pairs, tokens: Tokens, tagged: bool, longest: int) -> Widths:
    """The padded widths of a run: few, fitting the training pairs, the last one for any pair that is not too long."""
    src = Ragged.of(source_ids(pairs.src, pairs.tags if tagged else None, tokens)).lengths
    tgt = Ragged.of(target_ids(pairs.tgt, tokens)).lengths
    return {
        "src": up_to(bucket_widths(src, _SRC_WIDTHS), longest),
        "tgt": up_to([width + 1 for width in bucket_widths(tgt - 1, _TGT_WIDTHS)], longest),
    }


def build(pairs: Pairs, tokens: Tokens, tagged: bool, widths: Mapping[str, Any], measured: bool) -> RaggedSource:
    """The source of some pairs; with their references where they are measured."""
    ragged = {
        "src": Ragged.of(source_ids(pairs.src, pairs.tags if tagged else None, tokens)),
        "tgt": Ragged.of(target_ids(pairs.tgt, tokens)),
    }
    chosen = dict(widths)
    if measured:
        ragged["reference"] = Ragged.of([list(map(ord, text)) for text in pairs.tgt])
        chosen["reference"] = (int(ragged["reference"].lengths.max()),)
    return RaggedSource(ragged, pad=PAD, widths=chosen, finish=_shifted)


def _shifted(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    tgt = batch.pop("tgt")
    y = tgt[:, 1:].contiguous()
    return {**batch, "x": tgt[:, :-1].contiguous(), "y": y, "weight": (y != PAD).float()}


def require_translatable(
    ids: Sequence[Sequence[int]], tags: Sequence[str], places: Sequence[str], specials: Sequence[str], longest: int
) -> None:
    """Nothing is translated that the model cannot read whole, or under a tag that it was not trained on.

    Args:
        ids, tags, places: of each source, and where it stands.
        specials: tags that are known; empty where tags are not used.
        longest: tokens that the model reads.

    Raises:
        HotloopError: the first source of this kind, by its place.
    """
    for tag, found, place in zip(tags, ids, places, strict=True):
        if len(found) > longest:
            what = f"a source of {len(found)} tokens is longer than the {longest} that the model reads"
            raise HotloopError(what, where=place, fix="cut it into sentences")
        if specials and tag and tag not in specials:
            raise HotloopError(f"{tag!r} is no tag of this run", where=place, fix=f"use one of {', '.join(specials)}")


def untranslated(ids: list[list[int]], widths: Mapping[str, Any]) -> RaggedSource:
    """The source of texts that have no target."""
    return RaggedSource({"src": Ragged.of(ids)}, pad=PAD, widths={"src": widths["src"]})


def references(codes_br: Tensor) -> list[str]:
    """The texts of code points (B, R)."""
    return ["".join(chr(code) for code in row if code) for row in codes_br.tolist()]


def padded_to(ids_bt: Tensor, width: int) -> Tensor:
    """Ids filled up to one width, so that batches of all buckets fit together."""
    return torch.nn.functional.pad(ids_bt, (0, max(0, width - ids_bt.shape[1])), value=PAD)
