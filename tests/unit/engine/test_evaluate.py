"""Evaluation is exact over uneven batches, plain, and leaves model, generators and training alone."""

from __future__ import annotations

import math

import pytest
import torch
import torchmetrics
from torch import Tensor, nn

from hotloop.errors import HotloopError
from hotloop.task import Tally

ROWS = 11
X = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (ROWS,), generator=torch.Generator().manual_seed(1))
WEIGHT = torch.rand(ROWS, generator=torch.Generator().manual_seed(2)) * 10
sizes = pytest.mark.parametrize("size", [1, 2, 3, 4, 10, 11, 50])


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def values(model: nn.Module, batch: dict[str, Tensor], training: bool = False) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def right(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return (model(batch["x"]).argmax(1) == batch["y"]).float()


def session_for(build, val: dict, loss=values, size: int = 4, **more):
    return build(net, {"x": X, "y": Y}, loss, val=val, batch_size=4, eval_batch_size=size, **more)


@sizes
@pytest.mark.parametrize("pad", [False, True])
def test_the_mean_over_rows_is_exact_however_they_are_cut(build, size: int, pad: bool) -> None:
    metrics = {"metrics": lambda model, batch: {"accuracy": Tally.of(right(model, batch), batch.get("weight"))}}
    session = session_for(build, {"x": X, "y": Y}, size=size, methods=metrics, changes={"pad_ragged": pad})
    found = session.evaluate()
    model = session.state.model.eval()
    with torch.no_grad():
        whole = {"x": X, "y": Y}
        assert found["eval_loss"] == pytest.approx(float(values(model, whole).double().mean()), rel=1e-6)
        theirs = torchmetrics.functional.accuracy(model(X), Y, task="multiclass", num_classes=3)
    assert found["eval_accuracy"] == pytest.approx(float(theirs), rel=1e-6)
    assert set(found) == {"eval_loss", "eval_accuracy"}


@sizes
@pytest.mark.parametrize("pad", [False, True])
def test_weights_are_kept(build, size: int, pad: bool) -> None:
    session = session_for(build, {"x": X, "y": Y, "weight": WEIGHT}, size=size, changes={"pad_ragged": pad})
    found = session.evaluate()["eval_loss"]
    with torch.no_grad():
        rows = values(session.state.model.eval(), {"x": X, "y": Y}).double()
    assert found == pytest.approx(float((rows * WEIGHT).sum() / WEIGHT.sum()), rel=1e-6)


@sizes
def test_several_terms_are_reported_and_added_with_their_weights(build, size: int) -> None:
    def terms(model: nn.Module, batch: dict, training: bool) -> dict[str, Tensor]:
        return {"ce": values(model, batch), "size": model(batch["x"]).square()}

    methods = {"term_weights": lambda: {"size": 0.25}}
    session = session_for(build, {"x": X, "y": Y}, terms, size, methods=methods)
    found = session.evaluate()
    with torch.no_grad():
        parts = {
            n: float(v.double().mean()) for n, v in terms(session.state.model.eval(), {"x": X, "y": Y}, False).items()
        }
    assert found["eval_loss_ce"] == pytest.approx(parts["ce"], rel=1e-6)
    assert found["eval_loss_size"] == pytest.approx(parts["size"], rel=1e-6)
    assert found["eval_loss"] == pytest.approx(parts["ce"] + 0.25 * parts["size"], rel=1e-6)


def test_a_term_without_weight_is_no_number_and_does_not_spoil_the_sum(build) -> None:
    def terms(model: nn.Module, batch: dict, training: bool) -> dict[str, Tensor]:
        return {"a": values(model, batch), "b": values(model, batch)}

    class Half:
        nbytes = None

        def __len__(self) -> int:
            return ROWS

        def batch(self, i: Tensor) -> dict:
            return {"x": X[i], "y": Y[i], "weight": {"a": torch.ones(len(i)), "b": torch.zeros(len(i))}}

        def to(self, device: torch.device) -> Half:
            return self

    found = session_for(build, Half(), terms).evaluate()
    assert math.isnan(found["eval_loss_b"])
    assert found["eval_loss"] == found["eval_loss_a"] > 0


def test_a_mean_over_several_batches_is_refused_and_over_one_is_taken(build) -> None:
    def mean(model: nn.Module, batch: dict, training: bool) -> Tensor:
        return values(model, batch).mean()

    with pytest.raises(HotloopError, match="an evaluation in several batches"):
        session_for(build, {"x": X, "y": Y}, mean, 4)  # before the first step
    whole = session_for(build, {"x": X, "y": Y}, mean, 11)
    with torch.no_grad():
        wanted = float(values(whole.state.model.eval(), {"x": X, "y": Y}).mean())
    assert whole.evaluate()["eval_loss"] == pytest.approx(wanted, rel=1e-6)


def test_a_mean_with_its_weight_is_exact(build) -> None:
    def mean(model: nn.Module, batch: dict, training: bool) -> Tensor:
        return values(model, batch).mean()

    stated = {"loss_weight": lambda batch: torch.tensor(float(len(batch["y"])))}
    session = session_for(build, {"x": X, "y": Y}, mean, 4, methods=stated)
    with torch.no_grad():
        wanted = float(values(session.state.model.eval(), {"x": X, "y": Y}).mean())
    assert session.evaluate()["eval_loss"] == pytest.approx(wanted, rel=1e-6)


def test_nothing_is_left_behind(build) -> None:
    def noisy(model: nn.Module, batch: dict, training: bool) -> Tensor:
        torch.rand(3)
        return values(model, batch)

    session = session_for(build, {"x": X, "y": Y}, noisy)
    model = session.state.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    assert model.training
    session.evaluate()
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_loss_is_told_that_it_is_not_training(build) -> None:
    told = []

    def telling(model: nn.Module, batch: dict, training: bool) -> Tensor:
        told.append((training, model.training, torch.is_grad_enabled()))
        return values(model, batch)

    session = session_for(build, {"x": X, "y": Y}, telling)
    told.clear()
    session.evaluate()
    assert set(told) == {(False, False, False)}


def test_a_long_evaluation_keeps_its_digits(build) -> None:
    """A running float32 sum of many equal values drifts: here by 4e-5, over 50,000 batches by 5e-4."""
    many = torch.full((6000, 1), 0.7)

    def given(model: nn.Module, batch: dict, training: bool) -> Tensor:
        return model(batch["x"])[:, 0] * 0 + batch["x"][:, 0]

    session = build(lambda: nn.Linear(1, 1), {"x": many}, given, val={"x": many}, batch_size=4, eval_batch_size=1)
    assert session.evaluate()["eval_loss"] == pytest.approx(0.7, rel=1e-6)


def test_tallies_add_up() -> None:
    total = Tally.of(torch.tensor([1.0, 2.0])) + Tally.of(torch.tensor([5.0, 9.0]), torch.tensor([1.0, 0.0]))
    assert (float(total.sum), float(total.weight)) == (8.0, 3.0)
    spread = Tally.of(torch.ones(2, 3), torch.tensor([1.0, 0.5]))
    assert (float(spread.sum), float(spread.weight)) == (4.5, 4.5)
    counted = Tally.of(torch.tensor([True, False, True]), torch.tensor([True, True, False]))
    assert (float(counted.sum), float(counted.weight)) == (1.0, 2.0)
