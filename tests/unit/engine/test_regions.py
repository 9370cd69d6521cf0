"""Compiling block by block: one program for equal blocks, the same results, and no trace afterwards."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotloop.engine import recompute, regions
from hotloop.errors import HotloopError

X = torch.randn(60, 16, generator=torch.Generator().manual_seed(0))
DATA = {"x": X, "y": (X[:, 0] > 0).long()}
RUN = {"max_steps": 12, "batch_size": 16, "log_every": 4, "eval_every": 6}


class Block(nn.Module):
    """Norm, two layers, and the way around them; plain arithmetic that any backend can build."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.two(F.gelu(self.one(self.norm(x))))
        return result


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(16, 16), nn.Linear(16, 2)
        self.layers = nn.ModuleList(Block() for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        result: Tensor = self.head(x)
        return result


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def losses(run: Any) -> list[float]:
    return [record["train_loss"] for record in run.history if "train_loss" in record]


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that torch.compile made, by their number of nodes, without building any of them."""
    import torch._dynamo

    made: list[int] = []

    def backend(graph, inputs):
        made.append(len(graph.graph.nodes))
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, mode=None, dynamic=None: real(f, backend=backend, dynamic=dynamic))
    monkeypatch.setattr("shutil.which", lambda name: "here")
    torch._dynamo.reset()
    regions._program.cache_clear()
    yield made
    torch._dynamo.reset()
    regions._program.cache_clear()


def is_clean(model: nn.Module) -> bool:
    return not any("forward" in part.__dict__ for part in model.modules())


@pytest.mark.parametrize("how", [False, True, ["layers.1", "layers.3"], ["layers.0.one"]])
def test_one_program_serves_all_blocks(quick, graphs, how):
    keys = {"config": {"optimization.gradient_checkpointing": how}} if how else {}
    plain, model, during = quick(net(), DATA, loss=loss, val=DATA, **RUN), net(), []
    assert graphs == []
    settings = {**RUN, **keys, "compile": "default", "compile_region": "blocks"}
    names = list(model.state_dict())
    run = quick(model, DATA, loss=loss, val=DATA, callbacks=[lambda i: during.append(is_clean(model))], **settings)
    # 60 rows in batches of 16 are padded, evaluation is not compiled; blocks that recompute are another program
    expected = {"False": 1, "True": 1, "['layers.1', 'layers.3']": 2}
    assert len(graphs) == expected.get(str(how), len(graphs)) and 1 <= len(graphs) <= 3
    assert losses(run) == pytest.approx(losses(plain), rel=1e-5)
    assert run.summary["eval_loss"] == pytest.approx(plain.summary["eval_loss"], rel=1e-5)
    assert run.summary["recompiles"] == 0
    assert during and not any(during)
    assert is_clean(model) and list(model.state_dict()) == names
    pickle.dumps(model)


def test_the_plan_says_so_and_is_kept(build, graphs):
    session = build(net, DATA, lambda m, b, t: loss(m, b), compile="default", compile_region="blocks")
    assert (session.plan.compile, session.plan.compile_region, session.plan.pad_ragged) == ("default", "blocks", True)
    assert "compile default block by block" in session.plan.lines()[0]
    assert [line for line in session.remarks if "one program for 5 blocks (layers.0, layers.1, ... layers.4)" in line]
    again = build(net, DATA, lambda m, b, t: loss(m, b), changes={"compile": "default", "compile_region": "blocks"})
    assert not is_clean(again.state.model)


def test_a_model_without_blocks_is_refused_with_a_way_on(build, graphs):
    with pytest.raises(HotloopError) as caught:
        build(lambda: nn.Linear(16, 2), DATA, lambda m, b, t: loss(m, b), compile="default", compile_region="blocks")
    assert caught.value.where == "training.compile_region"
    assert "no repeated blocks" in caught.value.what and "compile_region=model" in caught.value.fix


def test_auto_compiles_the_whole_loss(build, graphs):
    session = build(net, DATA, lambda m, b, t: loss(m, b), compile="default")
    assert session.plan.compile_region == "model" and is_clean(session.state.model)


def test_a_copy_and_a_pickle_are_whole(graphs):
    model = net()
    regions.apply(model)
    twin = copy.deepcopy(model)
    [one, other] = [part.layers[0].__dict__["forward"].args[0] for part in (model, twin)]
    assert one is model.layers[0] and other is twin.layers[0]
    third = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(third(X[:4]), model(X[:4]))


def test_only_training_is_compiled(graphs):
    model = net()
    regions.apply(model)
    with torch.no_grad():
        model(X[:4])
    model.eval()
    model(X[:4])
    assert graphs == []
    model.train()
    with regions.resting(model):
        model(X[:5]).sum().backward()
    assert graphs == []
    model(X[:4]).sum().backward()
    assert len(graphs) == 1


def test_a_forward_of_the_instances_own_is_left_and_told(graphs):
    model = net()
    special = model.layers[2].forward
    model.layers[2].forward = lambda x: special(x) * 2
    told = regions.apply(model)
    assert "4 blocks" in told[0] and "not compiled: layers.2;" in told[1]
    regions.remove(model)
    assert "forward" in model.layers[2].__dict__ and "forward" not in model.layers[1].__dict__


def test_wrappers_come_off_in_the_order_they_went_on(graphs):
    model = net()
    recompute.apply(model, True, compiled=True)
    regions.apply(model)
    recompute.remove(model)
    assert is_clean(model)


@pytest.mark.slow
def test_built_by_the_real_compiler(quick, tmp_path):
    """Close to eager training, and ready sooner than the whole loss."""
    torch._dynamo.reset()
    regions._program.cache_clear()
    plain = quick(net(), DATA, loss=loss, val=DATA, **RUN)
    run = quick(net(), DATA, loss=loss, val=DATA, compile="default", compile_region="blocks", **RUN)
    assert losses(run) == pytest.approx(losses(plain), rel=1e-5)
    assert run.summary["seconds"]["compile"] > 0
