"""One rule: sum of values x weight over the total weight of the effective batch, whatever the split, per loss term."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hotloop.engine.loop import steps
from hotloop.errors import HotloopError

X = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
WEIGHT = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0, 0.0, 1.0, 1.0, 0.25, 4.0])
STEADY = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 1.0, "lr_scheduler": "constant", "weight_decay": 0.0}
PLAIN = {**STEADY, "warmup_steps": 0, "max_grad_norm": None}


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(4, 3)


def squares(model: nn.Module, batch: dict[str, Tensor], training: bool) -> Tensor:
    return (model(batch["x"]) - batch["y"]) ** 2  # (B, 3)


def first_step(session) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of one step: plain descent at rate 1 leaves them in the weights' difference."""
    before = [p.detach().clone() for p in session.state.model.parameters()]
    info = next(steps(session.state, session.feed()))
    gradients = [b - p.detach() for b, p in zip(before, session.state.model.parameters(), strict=True)]
    return info.loss, gradients


def expected(reference) -> tuple[Tensor, list[Tensor]]:
    model = net()
    loss = reference(model)
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


def check(session, reference) -> None:
    loss, gradients = first_step(session)
    wanted, wanted_gradients = expected(reference)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-7, check_dtype=False)
    for got, want in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


SPLITS = [{"batch_size": size, "gradient_accumulation_steps": pieces} for size, pieces in ((10, 1), (4, 3), (1, 10))]
each_split = pytest.mark.parametrize("split", SPLITS, ids=["whole", "4+4+2", "ones"])


@each_split
def test_without_weights_every_value_counts_the_same(build, split: dict) -> None:
    check(build(net, {"x": X, "y": Y}, squares, **PLAIN, **split), lambda model: ((model(X) - Y) ** 2).mean())


@each_split
def test_a_weight_a_row_weighs_the_rows_mean(build, split: dict) -> None:
    session = build(net, {"x": X, "y": Y, "weight": WEIGHT}, squares, **PLAIN, **split)
    check(session, lambda model: (((model(X) - Y) ** 2).mean(1) * WEIGHT).sum() / WEIGHT.sum())


@each_split
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int64, torch.float64])
def test_a_mask_a_value_counts_what_it_covers(build, split: dict, dtype: torch.dtype) -> None:
    mask = (torch.rand(10, 3, generator=torch.Generator().manual_seed(5)) > 0.4).to(dtype)
    session = build(net, {"x": X, "y": Y, "weight": mask}, squares, **PLAIN, **split)
    check(session, lambda model: ((model(X) - Y) ** 2)[mask.bool()].mean())


class WeightATerm:
    """A source whose weight is a dict: one tensor a loss term."""

    nbytes = None

    def __len__(self) -> int:
        return 10

    def batch(self, indices: Tensor) -> dict:
        weight = WEIGHT[indices]
        weights = {"a": weight, "b": 2 - weight.clamp(max=2), "c": 0 * weight}
        return {"x": X[indices], "y": Y[indices], "weight": weights}

    def to(self, device: torch.device) -> WeightATerm:
        return self


@each_split
def test_terms_have_their_own_weights_and_an_empty_one_counts_nothing(build, split: dict) -> None:
    def terms(model: nn.Module, batch: dict, training: bool) -> dict[str, Tensor]:
        values = squares(model, batch, training)
        return {"a": values[:, 0], "b": values[:, 1], "c": values[:, 2] * 1e6}

    def reference(model: nn.Module) -> Tensor:
        values, other = (model(X) - Y) ** 2, 2 - WEIGHT.clamp(max=2)
        return (values[:, 0] * WEIGHT).sum() / WEIGHT.sum() + 0.5 * (values[:, 1] * other).sum() / other.sum()

    check(build(net, WeightATerm(), terms, methods={"term_weights": lambda: {"b": 0.5}}, **PLAIN, **split), reference)


@each_split
def test_terms_may_share_one_weight(build, split: dict) -> None:
    def terms(model: nn.Module, batch: dict, training: bool) -> dict[str, Tensor]:
        values = squares(model, batch, training)
        return {"a": values[:, 0], "b": values[:, 1:]}

    def reference(model: nn.Module) -> Tensor:
        values = (model(X) - Y) ** 2
        return ((values[:, 0] + values[:, 1:].mean(1)) * WEIGHT).sum() / WEIGHT.sum()

    check(build(net, {"x": X, "y": Y, "weight": WEIGHT}, terms, **PLAIN, **split), reference)


def test_a_batch_that_weighs_nothing_changes_nothing(build) -> None:
    session = build(net, {"x": X, "y": Y, "weight": torch.zeros(10)}, squares, batch_size=10, **PLAIN)
    loss, gradients = first_step(session)
    assert loss == 0.0
    assert not any(gradient.any() for gradient in gradients)


def mean(model: nn.Module, batch: dict[str, Tensor], training: bool) -> Tensor:
    return ((model(batch["x"]) - batch["y"]) ** 2).mean()


def test_a_mean_is_taken_as_it_is_where_nothing_is_split(build) -> None:
    session = build(net, {"x": X, "y": Y}, mean, batch_size=10, **PLAIN)
    check(session, lambda model: ((model(X) - Y) ** 2).mean())


def test_a_mean_is_refused_where_it_would_have_to_be_averaged_again(build) -> None:
    with pytest.raises(HotloopError, match=r"a single number(.|\n)*gradient accumulation"):
        build(net, {"x": X, "y": Y}, mean, batch_size=5, gradient_accumulation_steps=2, **PLAIN)
    with pytest.raises(HotloopError, match=r"a single number(.|\n)*a batch with weights or padding"):
        build(net, {"x": X, "y": Y, "weight": WEIGHT}, mean, batch_size=10, **PLAIN)


@each_split
def test_a_mean_with_its_weight_is_exact_over_any_split(build, split: dict) -> None:
    """As with models that give a mean over the tokens that are not masked."""
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]] * 5).float()

    def masked_mean(model: nn.Module, batch: dict, training: bool) -> Tensor:
        values = squares(model, batch, training)
        return (values * batch["mask"]).sum() / batch["mask"].sum()

    session = build(
        net, {"x": X, "y": Y, "mask": mask}, masked_mean, **PLAIN, **split,
        methods={"loss_weight": lambda batch: batch["mask"].sum()},
    )  # fmt: skip
    check(session, lambda model: ((model(X) - Y) ** 2 * mask).sum() / mask.sum())


def wrong(shape: str):
    """Losses as people get them wrong."""
    return {
        "squeezed to one value for all rows": lambda m, b, t: m(b["x"]).mean(0),
        "with the batch axis second": lambda m, b, t: m(b["x"]).T,
        "one value too few": lambda m, b, t: m(b["x"])[1:, 0],
    }[shape]


@pytest.mark.parametrize(
    "shape", ["squeezed to one value for all rows", "with the batch axis second", "one value too few"]
)
def test_a_loss_of_another_length_than_the_batch_is_named(build, shape: str) -> None:
    with pytest.raises(HotloopError, match=r"shape \(.*\) for a batch of 2 rows(.|\n)*reduction='none'"):
        build(net, {"x": X, "y": Y}, wrong(shape), batch_size=4, **PLAIN)


def test_values_that_do_not_fit_their_weight_are_named(build) -> None:
    weight = torch.ones(10, 5)
    with pytest.raises(HotloopError, match=r"shape \(2, 3\) do not match a weight of shape \(2, 5\)"):
        build(net, {"x": X, "y": Y, "weight": weight}, squares, batch_size=4, **PLAIN)


def test_a_squeeze_that_breaks_only_a_batch_of_one_is_found_before_it_is_averaged(build) -> None:
    """`.squeeze()` makes a single number out of a lone last row: told before the run, and in a split before it is
    averaged.
    """

    def squeezed(model: nn.Module, batch: dict, training: bool) -> Tensor:
        return ((model(batch["x"])[:, :1] - batch["y"][:, :1]) ** 2).squeeze()

    for accumulation in (1, 4):  # 3 + 3 + 3 + 1 rows
        with pytest.raises(HotloopError, match="step . has a micro-batch of one row"):
            build(net, {"x": X, "y": Y}, squeezed, batch_size=3, gradient_accumulation_steps=accumulation, **PLAIN)
    whole = build(net, {"x": X, "y": Y}, squeezed, batch_size=5, **PLAIN)
    batch = {"x": X[:1], "y": Y[:1]}
    with pytest.raises(HotloopError, match="a batch that is split"):
        whole.state.micro_loss(batch, {"rows": 10})
