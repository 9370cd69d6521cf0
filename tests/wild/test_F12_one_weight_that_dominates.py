"""F12: one sample weight of 539 dominates a batch, or is clipped after normalising. Here weights are clipped first,
what was clipped is told, and the ledger says how many equal rows the weighed ones are worth.
"""

from __future__ import annotations

import pytest
import torch

from hotloop.data.source import TensorSource
from hotloop.data.weights import Weighing, weigh
from hotloop.errors import HotloopError


def source(weights):
    n = len(weights)
    return TensorSource({"x": torch.zeros(n, 1), "y": torch.arange(n) % 2, "sample_weight": torch.tensor(weights)})


def factors(weights, **settings):
    weighed = weigh(source(weights), None, Weighing(sample_weights=True, **settings))
    return weighed.source.batch(torch.arange(len(weights)))["weight"], weighed.ledger


def test_clipping_comes_before_normalising():
    given = [539.0, *[1.0] * 98, 0.001]
    weight, ledger = factors(given)
    clipped = torch.tensor(given).clamp(0.1, 10.0)
    assert torch.allclose(weight, clipped / clipped.mean())
    # the other order would have left 98 of 100 rows at the lower bound, 0.1 / (539 + 98) * 100 = 0.157 each
    assert weight[1] == pytest.approx(1 / 1.081, rel=1e-4)
    assert (ledger.clipped, ledger.largest) == (2, 539.0)


def test_what_the_weighed_rows_are_worth():
    equal = weigh(source([1.0] * 50), None, Weighing(sample_weights=True)).ledger
    assert equal.effective_size == pytest.approx(50)
    weight, ledger = factors([10.0] + [0.1] * 49)
    assert ledger.effective_size == pytest.approx(float(weight.sum() ** 2 / weight.square().sum()))
    assert ledger.effective_size < 3


def test_the_range_and_the_scale_are_options():
    weight, _ = factors([4.0, 0.5], clip=(1.0, 2.0), normalize="none")
    assert weight.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_told_by_its_row(bad):
    with pytest.raises(HotloopError, match=r"1 sample weights are negative or not finite: rows 2 \("):
        factors([1.0, 1.0, bad, 1.0])


def test_real_weights_of_an_order_book(shared_data):
    import numpy as np

    raw = np.load(shared_data("tw-lob/tw_lob_rows.npz"))
    weight, ledger = factors(raw["weights"].tolist())
    assert ledger.largest > 118
    assert weight.max() / weight.min() == pytest.approx(100, rel=1e-3)
    assert weight.mean() == pytest.approx(1.0, abs=1e-4)
