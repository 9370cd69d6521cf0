"""Text from a trained model, one token at a time with a key-value cache.

The draws come from an own generator on the host, so that a seed gives the same text whatever ran before. Beyond
block_size the oldest tokens are forgotten: with rotary positions the cached window slides; with learned positions the
context is cropped and read afresh for each token, as nanoGPT does.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hotloop.errors import HotloopError
from hotloop.tasks.gpt.model import Transformer
from hotloop.tasks.gpt.vocabulary import Vocabulary


def generate(
    model: Transformer,
    vocabulary: Vocabulary,
    prompt: str = "",
    *,
    length: int = 500,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 1337,
    device: str | torch.device = "cpu",
) -> str:
    """The prompt and the text that the model writes after it.

    Args:
        model: a trained model; left on `device`.
        vocabulary: the one it was trained with.
        prompt: text to go on from; where empty, a line end (or the first token) stands in, unseen.
        length: tokens to write, at least 0.
        temperature: divides the logits; 0 always takes the likeliest token.
        top_k: draw from the k likeliest tokens only; None draws from all.
        seed: of the draws.
        device: where to compute.

    Raises:
        HotloopError: an argument is out of range, or the prompt holds characters that the vocabulary does not.
    """
    _check(length, temperature, top_k)
    start = prompt_ids(vocabulary, prompt)
    trained = model.training
    model.to(device).eval()
    try:
        written = [*_draw(model, start, length, temperature, top_k, seed, torch.device(device))]
    finally:
        model.train(trained)
    return prompt + vocabulary.decode(written) if prompt else vocabulary.decode(written)


def prompt_ids(vocabulary: Vocabulary, prompt: str) -> list[int]:
    """Ids to start from, never empty.

    Raises:
        HotloopError: the prompt holds characters that the vocabulary does not.
    """
    try:
        ids: list[int] = vocabulary.encode(prompt).tolist()
    except HotloopError as error:
        raise HotloopError(f"the prompt cannot be encoded: {error.what}", where="--prompt", fix=error.fix) from None
    return ids or _line_end(vocabulary)


def _line_end(vocabulary: Vocabulary) -> list[int]:
    try:
        return [int(token) for token in vocabulary.encode("\n")] or [0]
    except HotloopError:
        return [0]


def _check(length: int, temperature: float, top_k: int | None) -> None:
    if length < 0:
        raise HotloopError(f"length is {length}; it must be 0 or more tokens", where="--length")
    if not 0 <= temperature < float("inf"):
        raise HotloopError(
            f"temperature is {temperature}; it must be 0 (always the likeliest) or more", where="--temperature"
        )
    if top_k is not None and top_k < 1:
        raise HotloopError(f"top_k is {top_k}; it must be 1 or more tokens", where="--top-k")


@torch.no_grad()
def _draw(
    model: Transformer,
    start: list[int],
    length: int,
    temperature: float,
    top_k: int | None,
    seed: int,
    device: torch.device,
) -> Iterator[int]:
    draws = torch.Generator().manual_seed(seed)
    limit, seen = model.options.block_size, list(start)
    caches, fresh = model.new_caches(), seen[-limit:]
    for _ in range(length):
        if model.is_full(caches):
            caches, fresh = model.new_caches(), seen[-limit:]
        logits_bv = model.forward_cached(torch.tensor([fresh], device=device), caches)
        token = choose(logits_bv[0].float().cpu(), temperature, top_k, draws)
        seen.append(token)
        fresh = [token]
        yield token


def choose(logits_v: Tensor, temperature: float, top_k: int | None, draws: torch.Generator) -> int:
    """One token id from logits (V,), float32 on the host.

    Raises:
        HotloopError: the logits are not finite, so the model's weights are damaged.
    """
    if not bool(torch.isfinite(logits_v).all()):
        raise HotloopError("the model's output is not finite", fix="its weights are damaged; use another checkpoint")
    if temperature == 0:
        return int(logits_v.argmax())
    if top_k is not None and top_k < len(logits_v):
        lowest = logits_v.topk(top_k).values[-1]
        logits_v = logits_v.masked_fill(logits_v < lowest, float("-inf"))
    # Shifted before dividing, so that a tiny temperature cannot overflow.
    shares = torch.softmax((logits_v - logits_v.max()) / temperature, dim=0)
    return int(torch.multinomial(shares, 1, generator=draws))
