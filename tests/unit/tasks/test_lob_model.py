"""DeepLOB: shapes for every book, equal to plain convolutions, gradients everywhere, parts on and off."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hotloop.tasks.lob.model import DeepLob, Merge
from hotloop.tasks.lob.options import LobModel


@pytest.mark.parametrize("name", ["deeplob", "deeplob_improved"])
@pytest.mark.parametrize(("features", "rows"), [(20, 100), (40, 100), (8, 20), (20, 37)])
def test_it_takes_books_of_any_depth_and_length(name, features, rows):
    net = DeepLob(LobModel(name=name, channels=4, inception_channels=4, hidden_size=8), features)
    logits = net(torch.randn(3, rows, features))
    assert logits.shape == (3, 3)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_single_window_gives_what_it_gives_among_others():
    net = DeepLob(LobModel(channels=4, inception_channels=4, hidden_size=8), 20).eval()
    x = torch.randn(5, 100, 20)
    torch.testing.assert_close(net(x[2:3]), net(x)[2:3])


@pytest.mark.parametrize(("inputs", "columns", "width"), [(1, 20, 2), (3, 10, 2), (4, 5, 5)])
def test_merging_columns_is_the_convolution_as_published(inputs, columns, width):
    merge, conv = Merge(inputs, 6, width), nn.Conv2d(inputs, 6, (1, width), stride=(1, width))
    with torch.no_grad():
        conv.weight.copy_(merge.linear.weight.view(6, width, inputs).transpose(1, 2).unsqueeze(2))
        conv.bias.copy_(merge.linear.bias)
    x = torch.randn(2, inputs, 7, columns)
    torch.testing.assert_close(merge(x.permute(0, 2, 3, 1)), conv(x).permute(0, 2, 3, 1), atol=1e-5, rtol=1e-5)


def test_the_name_decides_what_is_left_on_auto():
    plain, improved = DeepLob(LobModel(), 20), DeepLob(LobModel(name="deeplob_improved"), 20)
    assert plain.attention is None and isinstance(plain.norm_in, nn.Identity)
    assert improved.attention is not None and isinstance(improved.norm_in, nn.LayerNorm)
    mixed = DeepLob(LobModel(name="deeplob_improved", attention_pooling="off", layer_norm="on"), 20)
    assert mixed.attention is None and isinstance(mixed.norm_out, nn.LayerNorm)


def test_attention_looks_at_all_time_steps():
    net = DeepLob(LobModel(name="deeplob_improved", channels=4, inception_channels=4, hidden_size=8), 20).eval()
    states = torch.randn(2, 30, 8)
    early = states.clone()
    early[:, 3] = -early[:, 3]
    assert not torch.allclose(net._pool(early), net._pool(states))


def test_the_published_sizes():
    assert sum(p.numel() for p in DeepLob(LobModel(), 40).parameters()) == pytest.approx(143_907, rel=0.06)
