"""The Transformer of gpt: sizes, initialisation, causality, and that it equals a plain reference written out here."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hotloop.engine import recompute
from hotloop.tasks.gpt.model import Transformer
from hotloop.tasks.gpt.options import GptModel
from hotloop.tasks.layers import FeedForward, Rotary, TokenShift, attend

SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "dropout": 0.0}
STYLES = {
    "nanogpt": {},
    "biased": {"bias": True},
    "untied": {"tie_embeddings": False},
    "modern": {"positions": "rotary", "norm": "rmsnorm", "activation": "relu2", "qk_norm": True},
    "shifted": {"positions": "rotary", "token_shift": True, "embedding_norm": True},
    "swiglu": {"activation": "swiglu", "norm_scale": False, "qk_norm": True},
}


def build(**options) -> Transformer:
    """A small model whose weights are large enough for every part to matter."""
    torch.manual_seed(0)
    model = Transformer(GptModel(**{**SMALL, **options}), 11).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def tokens(rows: int = 3, length: int = 12) -> torch.Tensor:
    return torch.randint(11, (rows, length), generator=torch.Generator().manual_seed(1))


def test_the_small_reference_model_has_the_known_number_of_parameters():
    model = Transformer(GptModel(n_layer=4, n_head=4, n_embd=128, block_size=64), 65)
    assert model.count_parameters(positions=False) == 4 * (12 * 128**2 + 2 * 128) + 65 * 128 + 128 == 795_904
    assert model.count_parameters() == 795_904 + 64 * 128


def test_the_default_model_has_the_known_number_of_parameters():
    with torch.device("meta"):
        assert round(Transformer(GptModel(), 65).count_parameters(positions=False) / 1e6, 2) == 10.65


def test_swiglu_keeps_the_number_of_parameters():
    plain, gated = (FeedForward(48, ratio=4.0, activation=a, bias=False, dropout=0.0) for a in ("gelu", "swiglu"))
    assert sum(p.numel() for p in gated.parameters()) == sum(p.numel() for p in plain.parameters())


def test_the_initialisation_is_that_of_nanogpt():
    torch.manual_seed(0)
    model = Transformer(GptModel(n_layer=4, n_head=4, n_embd=128, block_size=64, bias=True), 65)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, 0.0 if name.endswith("bias") else 1.0)), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            expected = 0.02 / math.sqrt(8) if "project" in name else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.03), name
            assert abs(parameter.mean().item()) < 4 * expected / math.sqrt(parameter.numel()), name


def test_a_fresh_model_is_as_unsure_as_it_should_be():
    torch.manual_seed(0)
    logits = Transformer(GptModel(**SMALL), 11).eval()(tokens())
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(11), abs=0.1)


def test_zero_init_starts_every_block_as_the_identity():
    torch.manual_seed(0)
    model = Transformer(GptModel(**SMALL, zero_init=True), 11)
    x_btc = torch.randn(2, 5, 16)
    for block in model.blocks:
        assert torch.equal(block(x_btc), x_btc)


def reference(model: Transformer, x_bt: torch.Tensor) -> torch.Tensor:
    """nanoGPT's arithmetic, written out with explicit scores and mask."""
    length, width, heads = x_bt.size(1), 16, 2
    h = model.token_embedding.weight[x_bt] + model.position_embedding.weight[:length]
    mask = torch.ones(length, length).tril().bool()

    def norm(layer, value):
        spread = value - value.mean(-1, keepdim=True)
        return spread / (spread.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight

    for block in model.blocks:
        normed, layers = (
            norm(block.attention_norm, h),
            (block.attention.query, block.attention.key, block.attention.value),
        )
        q, k, v = ((normed @ layer.weight.T).unflatten(-1, (heads, -1)).transpose(1, 2) for layer in layers)
        scores = (q @ k.transpose(-2, -1) / math.sqrt(width // heads)).masked_fill(~mask, float("-inf"))
        attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        h = h + attended @ block.attention.project.weight.T
        hidden = norm(block.feed_forward_norm, h) @ block.feed_forward.expand.weight.T
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        h = h + hidden @ block.feed_forward.project.weight.T
    return norm(model.final_norm, h) @ model.token_embedding.weight.T


def test_with_nanogpts_options_it_computes_what_nanogpt_computes():
    model = build().double()
    torch.testing.assert_close(model(tokens()), reference(model, tokens()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("style", STYLES)
def test_a_later_token_changes_nothing_before_it(style):
    model, x_bt = build(**STYLES[style]), tokens()
    changed = x_bt.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 11
    before, after = model(x_bt), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=0)
    assert (before[:, 7:] - after[:, 7:]).abs().amax(dim=(0, 2)).gt(1e-4).all(), "later positions must see the change"


@pytest.mark.parametrize("style", STYLES)
def test_the_cached_path_equals_the_full_one(style):
    model, x_bt = build(**STYLES[style]), tokens()
    full, caches = model(x_bt), model.new_caches()
    torch.testing.assert_close(model.forward_cached(x_bt[:, :5], caches), full[:, 4], rtol=1e-4, atol=1e-5)
    for place in range(5, 12):
        step = model.forward_cached(x_bt[:, place : place + 1], caches)
        torch.testing.assert_close(step, full[:, place], rtol=1e-4, atol=1e-5)


def test_a_full_cache_slides_with_rotary_positions_only():
    sliding, fixed, x_bt = build(positions="rotary", n_layer=1), build(), tokens(1, 14)
    caches = sliding.new_caches()
    sliding.forward_cached(x_bt[:, :12], caches)
    assert not sliding.is_full(caches)
    for place in (12, 13):
        step = sliding.forward_cached(x_bt[:, place : place + 1], caches)
    # With one layer a cached key depends on its own token alone, so sliding equals reading the cropped context.
    torch.testing.assert_close(step, sliding(x_bt[:, 2:])[:, -1], rtol=1e-4, atol=1e-5)
    caches = fixed.new_caches()
    fixed.forward_cached(x_bt[:, :12], caches)
    assert fixed.is_full(caches)


@pytest.mark.parametrize("style", STYLES)
def test_recomputing_changes_no_gradient(style):
    model, x_bt = build(**STYLES[style], dropout=0.1).train(), tokens()
    gradients = []
    for how in (False, True):
        recompute.apply(model, how, compiled=False)
        model.zero_grad()
        torch.manual_seed(5)
        model(x_bt).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


def test_blocks_really_run_twice():
    model, calls = build().train(), []
    model.blocks[0].attention.register_forward_hook(lambda *_: calls.append(1))
    for how, expected in ((False, 1), (True, 2)):
        recompute.apply(model, how, compiled=False)
        calls.clear()
        model(tokens()).sum().backward()
        assert len(calls) == expected


@pytest.mark.parametrize("style", STYLES)
def test_every_parameter_learns_and_every_weight_is_stored_once(style):
    model = build(**STYLES[style])
    model(tokens()).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    stored = [value.data_ptr() for value in model.state_dict().values()]
    assert len(stored) == len(set(stored))
    assert model.output_layers == ([model.head] if style == "untied" else [])


def test_rotary_scores_depend_on_the_distance_alone():
    rotary = Rotary(8, 20)
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(2)).view(2, 1, 1, 1, 8)
    scores = [(rotary(query, place + 3) * rotary(key, place)).sum() for place in range(15)]
    torch.testing.assert_close(torch.stack(scores), scores[0].expand(15), rtol=1e-4, atol=1e-5)
    assert not torch.isclose((rotary(query, 5) * rotary(key, 0)).sum(), scores[0], rtol=1e-2)


def test_dropout_acts_in_training_only():
    model = build(dropout=0.5)
    assert torch.equal(model(tokens()), model(tokens()))
    model.train()
    assert not torch.equal(model(tokens()), model(tokens()))


@pytest.mark.parametrize(
    ("queries", "keys", "causal"),
    [(12, 12, True), (1, 12, False), (65, 65, True), (256, 256, True), (300, 300, True), (300, 300, False)],
)
def test_attention_written_out_equals_the_fused_kernel(queries, keys, causal):
    draw = torch.Generator().manual_seed(4)
    q, k, v = (torch.randn(2, 3, length, 8, generator=draw) for length in (queries, keys, keys))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [part.to(dtype, copy=True).requires_grad_() for part in (q, k, v)]
        mixed = attend(*inputs, drop=nn.Dropout(0.0), causal=causal)
        assert mixed.dtype == dtype
        mixed.float().pow(2).sum().backward()
        found.append([part.float() for part in (mixed, *(one.grad for one in inputs))])
    for fused, written in zip(*found, strict=True):
        torch.testing.assert_close(written, fused, rtol=0.03, atol=0.015 * fused.abs().max().item())


def test_attention_in_blocks_drops_each_share_by_itself():
    q = torch.zeros(1, 1, 200, 8, dtype=torch.bfloat16)  # every share is 1 / (position + 1)
    v = torch.ones(1, 1, 200, 8, dtype=torch.bfloat16)
    kept = attend(q, q, v, drop=nn.Dropout(0.5), causal=True)[0, 0, :, 0].float()
    assert kept[100:].mean().item() == pytest.approx(1, abs=0.1)
    assert kept[100:].std().item() == pytest.approx(150**-0.5, rel=0.4)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("low", [False, True])
def test_bf16_stays_near_float32(style, low):
    model = build(**STYLES[style], low_precision_residual=low)
    for parameter in model.parameters():
        parameter.data.mul_(0.3)
    seen = []
    model.blocks[0].register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    full = model(tokens())
    with torch.autocast("cpu", torch.bfloat16):
        half = model(tokens())
    torch.testing.assert_close(half.float(), full, rtol=0, atol=0.05 * full.abs().max().item())
    assert seen == [torch.float32, torch.bfloat16 if low else torch.float32]


def test_the_initialisation_follows_its_options():
    torch.manual_seed(0)
    options = {"initialisation": "fan_in", "zero_init": True, "tie_embeddings": False, "embedding_std": 1.0}
    model = Transformer(GptModel(n_layer=2, n_head=4, n_embd=128, block_size=64, **options), 65)
    assert model.token_embedding.weight.std().item() == pytest.approx(1.0, rel=0.03)
    assert model.blocks[0].attention.query.weight.std().item() == pytest.approx(0.6 / math.sqrt(128), rel=0.03)
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.blocks[1].feed_forward.project.weight.any()


def test_token_shift_starts_at_nothing_and_looks_one_back():
    shift, x_btc = TokenShift(4), torch.randn(2, 5, 4)
    assert torch.equal(shift(x_btc), x_btc)
    torch.nn.init.constant_(shift.share, 0.5)
    expected = x_btc.clone()
    expected[:, 1:] += 0.5 * x_btc[:, :-1]
    torch.testing.assert_close(shift(x_btc), expected)


def test_a_tiny_text_is_learned_by_heart():
    torch.manual_seed(0)
    model = Transformer(GptModel(**SMALL), 11)
    x_bt = tokens(1, 12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = F.cross_entropy(model(x_bt[:, :-1]).flatten(0, 1), x_bt[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
