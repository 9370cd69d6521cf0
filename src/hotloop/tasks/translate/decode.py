"""Writing a translation token by token, with a key-value cache: the likeliest token each time, or a beam.

Shapes: B rows, S source positions, L positions to write, V vocabulary, K beam width. Rows that are done are filled up
with PAD; nothing but text and the end is ever written. Source of the length penalty: Wu et al., arXiv 1609.08144,
equation 14, with the length itself to the power instead of (5 + length) / 6.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hotloop.tasks.characters import BOS, EOS, PAD
from hotloop.tasks.translate.model import Translator

_LOOK = 4  # steps between two looks at whether all rows are done: a look waits for a GPU


@torch.no_grad()
def greedy(model: Translator, src_bs: Tensor, longest: int, first_text: int) -> Tensor:
    """The likeliest token at each place, (B, L) int64, L at most `longest`; EOS included, then PAD.

    Args:
        model: in evaluation mode.
        src_bs: source ids.
        longest: tokens to write at most, the end included.
        first_text: ids from here on are text.
    """
    memory, visible = model.encode(src_bs)
    caches, token = model.new_caches(), torch.full_like(src_bs[:, 0], BOS)
    done, written = torch.zeros_like(token, dtype=torch.bool), []
    for place in range(longest):
        logits = _only_text(model.step(token, place, memory, visible, caches), first_text)
        token = logits.argmax(dim=-1).masked_fill(done, PAD)
        written.append(token)
        done = done | (token == EOS)
        if place % _LOOK == _LOOK - 1 and bool(done.all()):
            break
    return torch.stack(written, dim=1)


@torch.no_grad()
def beam_search(model: Translator, src_bs: Tensor, longest: int, first_text: int, width: int, penalty: float) -> Tensor:
    """The best of `width` candidates, (B, L) int64, as `greedy` gives them.

    Args:
        model, src_bs, longest, first_text: as for `greedy`.
        width: K.
        penalty: the log probability of a candidate is divided by its length to this power.
    """
    rows = len(src_bs)
    memory, visible = (part.repeat_interleave(width, dim=0) for part in model.encode(src_bs))
    caches = model.new_caches()
    token = torch.full((rows * width,), BOS, device=src_bs.device)
    score = torch.full((rows, width), float("-inf"), device=src_bs.device)
    score[:, 0] = 0.0  # all candidates are alike at first, so one alone counts
    done = torch.zeros(rows * width, dtype=torch.bool, device=src_bs.device)
    written = torch.empty((rows * width, 0), dtype=torch.int64, device=src_bs.device)
    origin = torch.arange(rows, device=src_bs.device)[:, None] * width
    for place in range(longest):
        logits = _only_text(model.step(token, place, memory, visible, caches), first_text)
        gain = F.log_softmax(logits.float(), dim=-1)
        still = torch.full_like(gain, float("-inf"))
        still[:, PAD] = 0.0  # a candidate that is done stays as it is
        gain = torch.where(done[:, None], still, gain)
        flat = (score.view(-1, 1) + gain).view(rows, -1)
        score, best = flat.topk(width, dim=-1)
        kept = (origin + best // gain.shape[-1]).view(-1)
        token = (best % gain.shape[-1]).view(-1)
        written = torch.cat([written[kept], token[:, None]], dim=1)
        done = done[kept] | (token == EOS)
        caches = [cache.chosen(kept) for cache in caches]
        if place % _LOOK == _LOOK - 1 and bool(done.all()):
            break
    length = (written != PAD).sum(dim=1).view(rows, width)
    chosen = (score / length.float().clamp(min=1).pow(penalty)).argmax(dim=-1)
    return written.view(rows, width, -1)[torch.arange(rows, device=src_bs.device), chosen]


def _only_text(logits_bv: Tensor, first_text: int) -> Tensor:
    """Neither padding nor a beginning, a tag or the sign of the unknown may be written."""
    banned = torch.ones(logits_bv.shape[-1], dtype=torch.bool, device=logits_bv.device)
    banned[first_text:] = False
    banned[EOS] = False
    return logits_bv.masked_fill(banned, float("-inf"))
