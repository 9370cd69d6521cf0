"""Blocks that the tasks' models share. Each is small, keeps shapes, and knows nothing of a task.

Shape legend: B rows, T positions, C features of the residual stream, H heads, D features of a head (C = H x D).
The residual projections (the last linear layer of attention and feed-forward) are named `project`, so that a model
can find them by name for its initialisation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotloop.device import names_fused_attention


@dataclass
class LayerCache:
    """What one attention block remembers between tokens while text is generated; empty at first.

    Keys are kept before the rotation, so that they can be turned to new places when the window slides.
    """

    limit: int
    keys: Tensor | None = None  # (B, H, T, D), T <= limit
    values: Tensor | None = None  # (B, H, T, D)
    inputs: list[Tensor | None] = field(default_factory=lambda: [None, None])  # (B, 1, C), last input of both layers

    def extend(self, key_bhtd: Tensor, value_bhtd: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values, drop the oldest beyond `limit`, and give all that remain."""
        if self.keys is None or self.values is None:
            self.keys, self.values = key_bhtd, value_bhtd
        else:
            assert key_bhtd.size(2) == 1, "after the first call a cache takes one token at a time"
            self.keys = torch.cat([self.keys, key_bhtd], dim=2)[:, :, -self.limit :]
            self.values = torch.cat([self.values, value_bhtd], dim=2)[:, :, -self.limit :]
        return self.keys, self.values


class Norm(nn.Module):
    """Normalisation over the last axis.

    Args:
        kind: "layernorm" (mean 0, variance 1) or "rmsnorm" (root mean square 1).
        width: C. scale: a learned factor per feature. bias: a learned offset per feature (layernorm with scale only).
    """

    def __init__(self, kind: str, width: int, *, scale: bool = True, bias: bool = False) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.ones(width)) if scale else None
        self.bias = nn.Parameter(torch.zeros(width)) if scale and bias and kind == "layernorm" else None

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return normalise(self.kind, x, weight, None if self.bias is None else self.bias.to(x.dtype))


def normalise(kind: str, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Normalise the last axis as "layernorm" or "rmsnorm" do (the first is the faster one on a CPU)."""
    if kind == "rmsnorm":
        return F.rms_norm(x, x.shape[-1:], weight, 1e-6)
    return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)


class Rotary(nn.Module):
    """Rotary positions: feature i of a head's first half and of its second half turn together, by place / base^(2i/D).

    Args:
        width: D, features of a head, even.
        length: most positions ever asked for.
        base: longest wavelength over 2 pi, in tokens.

    Source: Su et al., RoFormer, arXiv 2104.09864, equation 34.
    """

    cosine_td: Tensor
    sine_td: Tensor

    def __init__(self, width: int, length: int, base: float = 10000.0) -> None:
        super().__init__()
        rate = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)  # (D / 2,)
        angle = torch.outer(torch.arange(length, dtype=torch.float64), rate)  # (T, D / 2)
        cosine, sine = angle.cos().float(), angle.sin().float()
        # Two halves side by side, the sign inside, so that a rotation is two products and one swap.
        self.register_buffer("cosine_td", torch.cat([cosine, cosine], dim=1), persistent=False)
        self.register_buffer("sine_td", torch.cat([-sine, sine], dim=1), persistent=False)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """Turn queries or keys (..., T, D) whose places are first, first + 1, ..."""
        last = first + x.size(-2)
        cosine, sine = self.cosine_td[first:last].to(x.dtype), self.sine_td[first:last].to(x.dtype)
        return torch.addcmul(x * cosine, torch.roll(x, x.size(-1) // 2, -1), sine)


class TokenShift(nn.Module):
    """Adds to each position a learned share of the position before it, feature by feature; starts at nothing.

    Source: Peng et al., RWKV, arXiv 2305.13048, section 3.1 (there as an interpolation).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.zeros(width))  # (C,)

    def forward(self, x_btc: Tensor, before: Tensor | None = None) -> Tensor:
        """`before` is the position ahead of the first, (B, 1, C); None where there is none."""
        if before is None:
            earlier = F.pad(x_btc[:, :-1], (0, 0, 1, 0))
        else:
            earlier = torch.cat([before, x_btc[:, :-1]], dim=1)
        return torch.addcmul(x_btc, earlier, self.share.to(x_btc.dtype))


def attend(query: Tensor, key: Tensor, value: Tensor, *, drop: nn.Dropout, causal: bool) -> Tensor:
    """Scaled dot-product attention, (B, H, T, D); with `causal` a position sees itself and what is before it.

    `drop` is the layer that drops shares of attention, with its own word on whether it trains.
    The fused kernel of the device, but for contexts in bf16 on a CPU up to some length, where it is up to several
    times slower than the same arithmetic as matrix products.
    """
    if _better_written_out(query, key, _LONGEST_CAUSAL if causal else _LONGEST_WHOLE):
        return _attend_written_out(query, key, value, drop, causal)
    return F.scaled_dot_product_attention(query, key, value, dropout_p=_rate(drop), is_causal=causal)


def attend_to(query: Tensor, key: Tensor, value: Tensor, *, visible: Tensor | None, drop: nn.Dropout) -> Tensor:
    """Scaled dot-product attention of (B, H, T, D) to (B, H, S, D), of which each query sees what `visible` says.

    Args:
        visible: boolean, broadcasts to (B, H, T, S); every query sees something. None shows all.
        drop: as in `attend`.
    """
    if _better_written_out(query, key, _LONGEST_WHOLE):
        scores = (query * query.size(-1) ** -0.5) @ key.mT
        if visible is not None:
            scores = scores.masked_fill(~visible, float("-inf"))
        shares: Tensor = drop(scores.softmax(dim=-1))
        return shares @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=_rate(drop))


def _rate(drop: nn.Dropout) -> float:
    return drop.p if drop.training else 0.0


def _better_written_out(query: Tensor, key: Tensor, longest: int) -> bool:
    """Whether matrix products are faster than the fused kernel; never where the run names that kernel."""
    short = query.device.type == "cpu" and query.dtype == torch.bfloat16 and key.size(2) <= longest
    return short and not names_fused_attention()


_LONGEST_WHOLE, _LONGEST_CAUSAL = 512, 1024  # tokens up to which the scores (T x T a head) are worth holding


def _attend_written_out(query: Tensor, key: Tensor, value: Tensor, drop: nn.Dropout, causal: bool) -> Tensor:
    """Two products and a softmax; causal in blocks of queries, each with no keys but those up to its own end.

    The blocks leave out most of the scores that a mask would only throw away, and are small enough for the cache.
    """
    rows, heads, length, width = query.shape
    q, k, v = (part.reshape(rows * heads, -1, width) for part in (query, key, value))
    mask = torch.zeros(length, key.size(2), dtype=query.dtype)
    if causal:
        mask = torch.full_like(mask, float("-inf")).triu(1)
    parts, block = [], (64 if length <= 256 else 128) if causal else length
    for start in range(0, length, block):
        rows_seen = slice(start, start + block)
        seen = slice(0, min(length, start + block)) if causal else slice(None)
        shares = torch.baddbmm(mask[rows_seen, seen], q[:, rows_seen], k[:, seen].mT, alpha=width**-0.5).softmax(-1)
        parts.append(torch.bmm(drop(shares), v[:, seen]))
    return torch.cat(parts, dim=1).view(rows, heads, length, width)


class SelfAttention(nn.Module):
    """Causal multi-head attention.

    Queries, keys and values have a matrix each (an optimizer for matrices treats them apart), joined for one product.

    Args:
        width: C. heads: H, divides C. bias: biases in the linear layers. dropout: on scores and on the output.
        qk_norm: kind of norm of queries and keys per head, or None. rotary: turns queries and keys, or None.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        bias: bool,
        dropout: float,
        qk_norm: str | None = None,
        rotary: Rotary | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.qk_norm, self.rotary = heads, qk_norm, rotary
        self.query = nn.Linear(width, width, bias=bias)  # each weight (C, C)
        self.key = nn.Linear(width, width, bias=bias)
        self.value = nn.Linear(width, width, bias=bias)
        self.project = nn.Linear(width, width, bias=bias)
        self.dropout, self.output_dropout = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x_btc: Tensor, cache: LayerCache | None = None) -> Tensor:
        rows, length, width = x_btc.shape
        pair, value = self._heads(x_btc)
        if self.qk_norm is not None:
            pair = normalise(self.qk_norm, pair)
        if cache is None:
            query, key = (pair if self.rotary is None else self.rotary(pair)).unbind()
        else:
            query, key = pair.unbind()
            key, value = cache.extend(key, value)
            if self.rotary is not None:
                query, key = self.rotary(query, key.size(2) - length), self.rotary(key)
        # A single new token sees all that is cached, so only as many queries as keys need the mask.
        causal = cache is None or length == key.size(2)  # without a cache no length is looked at: it may be a symbol
        mixed = attend(query, key, value, drop=self.dropout, causal=causal)
        result: Tensor = self.output_dropout(self.project(mixed.transpose(1, 2).reshape(rows, length, width)))
        return result

    def _heads(self, x_btc: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys together (2, B, H, T, D), and values (B, H, T, D)."""
        parts = (self.query, self.key, self.value)
        weight = torch.cat([part.weight for part in parts])  # (3C, C)
        bias = None if self.query.bias is None else torch.cat([part.bias for part in parts])
        shape = (*x_btc.shape[:2], 3, self.heads, -1)
        joined = F.linear(x_btc, weight, bias).view(shape).permute(2, 0, 3, 1, 4)
        return joined[:2], joined[2]


class FeedForward(nn.Module):
    """Two linear layers with an activation between: "gelu", "relu2" (ReLU squared) or "swiglu" (gated).

    Args:
        width: C. ratio: hidden width over C; swiglu takes two thirds of it, as it has a third matrix.

    Source: relu2: So et al., Primer, arXiv 2109.08668; swiglu: Shazeer, arXiv 2002.05202.
    """

    def __init__(self, width: int, *, ratio: float, activation: str, bias: bool, dropout: float) -> None:
        super().__init__()
        gated = activation == "swiglu"
        hidden = max(1, round(width * ratio * (2 / 3 if gated else 1)))
        self.activation = activation
        self.expand = nn.Linear(width, hidden * (2 if gated else 1), bias=bias)
        self.project = nn.Linear(hidden, width, bias=bias)
        self.output_dropout = nn.Dropout(dropout)

    def forward(self, x_btc: Tensor) -> Tensor:
        hidden = self.expand(x_btc)
        if self.activation == "swiglu":
            gate, hidden = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate) * hidden
        elif self.activation == "relu2":
            hidden = F.relu(hidden).square()
        else:
            hidden = F.gelu(hidden)
        result: Tensor = self.output_dropout(self.project(hidden))
        return result


class Block(nn.Module):
    """Attention and feed-forward, each normalised first and added to the residual stream (pre-norm).

    Args:
        shifts: one `TokenShift` for the input of each of the two, or none.
    """

    def __init__(
        self,
        attention: SelfAttention,
        feed_forward: FeedForward,
        attention_norm: Norm,
        feed_forward_norm: Norm,
        shifts: tuple[TokenShift, TokenShift] | None = None,
    ) -> None:
        super().__init__()
        self.attention_norm, self.attention = attention_norm, attention
        self.feed_forward_norm, self.feed_forward = feed_forward_norm, feed_forward
        self.shifts = None if shifts is None else nn.ModuleList(shifts)

    def forward(self, x_btc: Tensor, cache: LayerCache | None = None) -> Tensor:
        x_btc = x_btc + self.attention(self._shifted(0, self.attention_norm(x_btc), cache), cache)
        result: Tensor = x_btc + self.feed_forward(self._shifted(1, self.feed_forward_norm(x_btc), cache))
        return result

    def _shifted(self, site: int, x_btc: Tensor, cache: LayerCache | None) -> Tensor:
        if self.shifts is None:
            return x_btc
        before = None
        if cache is not None:
            before, cache.inputs[site] = cache.inputs[site], x_btc[:, -1:]
        shifted: Tensor = self.shifts[site](x_btc, before)
        return shifted
