"""Numbers in 8 bits: bounded error block by block, zero stays zero, signs and order are kept."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hotloop.engine import eight_bits as bits

both = pytest.mark.parametrize("signed", [True, False])
LEVELS = {True: 127, False: 255}


def drawn(seed: int, decades: float, scale: float, signed: bool) -> Tensor:
    """Blocks whose numbers span so many orders of magnitude; some are zero."""
    generator = torch.Generator().manual_seed(seed)
    size = 10.0 ** (-decades * torch.rand(5, bits.BLOCK, generator=generator)) * scale
    size[torch.rand(size.shape, generator=generator) < 0.1] = 0.0
    sign = torch.randint(0, 2, size.shape, generator=generator) * 2.0 - 1.0 if signed else 1.0
    return size * sign


@both
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), decades=st.floats(0.0, 12.0), power=st.integers(-12, 12))
def test_the_error_is_bounded_block_by_block(signed: bool, seed: int, decades: float, power: int) -> None:
    x = drawn(seed, decades, 10.0**power, signed)
    codes, scale = bits.encode(x, signed)
    back = bits.decode(codes, scale)
    assert torch.equal(scale, x.abs().amax(dim=1, keepdim=True))
    root = (x.abs() / scale.clamp_min(1e-38)).double().pow(0.25)
    half = 0.5 / LEVELS[signed] * (1.0 if signed else 2.0)  # without a sign, what would become zero is one level up
    bound = (root + half).pow(4) - root.pow(4)
    assert ((back - x).abs().double() <= (bound + 1e-5 * root.pow(4) + 1e-12) * scale.double()).all()
    nearest = root * LEVELS[signed] > 0.5
    close = (root + 0.5 / LEVELS[signed]).pow(4) - root.pow(4)
    error = (back - x).abs().double() / scale.double().clamp_min(1e-300)
    assert (error[nearest] <= (close + 1e-5 * root.pow(4))[nearest]).all()
    assert (back[x == 0] == 0).all()
    assert (back * x >= 0).all()


@both
def test_the_levels_rise(signed: bool) -> None:
    lowest = -127 if signed else 0
    codes = torch.arange(lowest, LEVELS[signed] + 1).to(torch.int8 if signed else torch.uint8)
    values = bits.decode(codes[None], torch.ones(1, 1))[0]
    assert (values.diff() > 0).all()
    assert values[-1] == 1.0 and values[-lowest] == 0.0


@both
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), decades=st.floats(0.0, 10.0))
def test_order_is_kept_and_what_was_decoded_encodes_to_itself(signed: bool, seed: int, decades: float) -> None:
    x = drawn(seed, decades, 1.0, signed).sort(dim=1).values
    codes, scale = bits.encode(x, signed)
    assert (codes.int().diff(dim=1) >= 0).all()
    again, same = bits.encode(bits.decode(codes, scale), signed)
    assert torch.equal(again, codes) and torch.equal(same, scale)


def test_a_second_moment_never_becomes_zero() -> None:
    x = torch.full((1, bits.BLOCK), 1e-20)
    x[0, 0] = 1.0
    assert (bits.decode(*bits.encode(x, signed=False)) > 0).all()


@both
def test_a_block_of_zeros_is_zero(signed: bool) -> None:
    codes, scale = bits.encode(torch.zeros(2, bits.BLOCK), signed)
    assert not codes.any() and not scale.any() and not bits.decode(codes, scale).any()
    made = bits.zeros(300, signed, torch.device("cpu"))
    assert [tensor.shape for tensor in made] == [(2, bits.BLOCK), (2, 1)]
    assert made[0].dtype == codes.dtype


@pytest.mark.parametrize("numbers", [1, 255, 256, 257, 1000])
def test_blocks_hold_the_numbers_and_zeros_behind(numbers: int) -> None:
    flat = torch.arange(1.0, numbers + 1)
    blocks = bits.as_blocks(flat)
    assert blocks.shape == (math.ceil(numbers / 256), 256) == (bits.block_count(numbers), 256)
    assert torch.equal(blocks.view(-1)[:numbers], flat)
    assert not blocks.view(-1)[numbers:].any()
