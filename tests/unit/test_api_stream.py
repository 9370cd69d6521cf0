"""Streams and tables through `fit`, as a person hands them over: trained, told about, refused where they cannot do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

import hotloop
from hotloop import assemble
from hotloop.errors import HotloopError

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


class Stream(IterableDataset):
    """Rows in their order, 64 a pass."""

    def __iter__(self):
        yield from zip(X, Y, strict=True)


def loss(net, batch):
    return F.cross_entropy(net(batch["x"]), batch["y"], reduction="none")


def fit(folder, data, model=None, **settings):
    settings = {"max_steps": 20, "batch_size": 16, "device": "cpu", "precision": "fp32", "compile": "off", **settings}
    settings = {key: value for key, value in settings.items() if value is not None}
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 2) if model is None else model
    return hotloop.fit(net, data, loss=loss, dir=str(folder), progress=False, **settings)


def test_a_stream_trains_on_its_items_in_their_order(experiments):
    seen = []

    def watch(net, batch):
        seen.append(batch["x"])
        return loss(net, batch)

    torch.manual_seed(0)
    common = {"max_steps": 5, "batch_size": 16, "dir": str(experiments), "device": "cpu", "progress": False}
    hotloop.fit(torch.nn.Linear(4, 2), Stream(), loss=watch, precision="fp32", compile="off", **common)
    assert torch.equal(torch.cat(seen[-5:]), torch.cat([X, X[:16]])), "a pass that ends begins again"


def test_a_resumed_stream_says_that_it_is_not_exact(experiments, monkeypatch):
    sessions = []
    build = assemble.build
    monkeypatch.setattr(assemble, "build", lambda *a, **k: sessions.append(build(*a, **k)) or sessions[-1])

    class Cut(Exception):
        pass

    def power(info):
        if info.step == 12:
            raise Cut

    with pytest.raises(Cut):
        fit(experiments, Stream(), callbacks=[power], checkpoint_every=10)
    [run] = experiments.iterdir()
    done = fit(experiments, Stream(), resume_from_checkpoint=run, checkpoint_every=10)
    assert done.summary["steps"] == 20
    assert all(any("resuming is not exact" in line for line in session.remarks) for session in sessions)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"num_epochs": 2, "max_steps": None}, "epochs cannot be counted"),
        ({"num_workers": 2}, "each read from its start"),
        ({"val_fraction": 0.2}, "has no length"),
        ({"balance_sampler": True}, "needs the class of each training row"),
        ({"folds": 3, "fold": 1}, "has no length"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(experiments, settings, why):
    with pytest.raises(HotloopError, match=why):
        fit(experiments, Stream(), **settings)
    assert not list(experiments.iterdir())


def test_a_stream_does_not_validate(experiments):
    torch.manual_seed(0)
    with pytest.raises(HotloopError, match="must count each item once"):
        hotloop.fit(torch.nn.Linear(4, 2), (X, Y), val=Stream(), loss=loss, max_steps=2, dir=str(experiments))


def test_a_loader_with_an_order_of_its_own_is_used_as_it_comes(experiments):
    heavy = torch.where(torch.arange(64) == 5, 1.0, 0.0)
    loader = DataLoader(TensorDataset(X, Y), batch_size=8, sampler=WeightedRandomSampler(heavy, 64))
    seen = []

    def watch(net, batch):
        seen.append(batch["x"])
        return loss(net, batch)

    run = hotloop.fit(
        torch.nn.Linear(4, 2), loader, loss=watch, max_steps=3, device="cpu", dir=str(experiments), progress=False
    )
    assert run.summary["effective_batch"] == 8
    assert torch.equal(seen[-1], X[5].expand(8, 4))


def test_a_table_names_the_classes_of_the_ledger(experiments):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "d": X[:, 3], "label": ["no", "yes"] * 32})
    run = fit(experiments, hotloop.from_table(frame, y="label"), balance_sampler=True)
    assert run.summary["status"] == "completed"
    assert '"name": "yes"' in (run.dir / "ledger.json").read_text()
