"""F56: a ragged last batch makes a dimension dynamic and recompiles. Here it is padded, or a second static shape.

Compiled with a backend that only counts graphs, so that no compiler is needed.
"""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

from hotloop import assemble


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that torch.compile made, each with the shapes of its inputs."""
    import torch._dynamo

    made: list[list[tuple]] = []

    def backend(graph, inputs):
        values = [node.meta["example_value"] for node in graph.graph.nodes if node.op == "placeholder"]
        made.append([tuple(value.shape) for value in values if isinstance(value, torch.Tensor)])
        return graph.forward

    real = torch.compile
    which = shutil.which
    monkeypatch.setattr(
        assemble.torch, "compile", lambda f, mode=None, dynamic=None: real(f, backend=backend, dynamic=dynamic)
    )
    monkeypatch.setattr(shutil, "which", lambda name: "here" if name == "g++" else which(name))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield made
    torch._dynamo.reset()


def dynamic(shapes) -> bool:
    return any(not isinstance(size, int) for graph in shapes for shape in graph for size in shape)


def squared(net, batch):
    return (net(batch["x"]) - batch["y"]).square()


def losses(run):
    return [record["train_loss"] for record in run.history if "train_loss" in record]


def test_a_plain_model_is_padded_into_one_graph(graphs, tiny):
    plain = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    eager, compiled = copy.deepcopy(plain), copy.deepcopy(plain)
    whole = tiny.fit(eager, loss=squared, max_steps=24)
    assert graphs == []
    run = tiny.fit(compiled, loss=squared, max_steps=24, compile="default")
    assert len(graphs) == 1, graphs
    assert not dynamic(graphs)
    assert losses(run) == pytest.approx(losses(whole), rel=1e-4)
    for one, other in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_model_with_batchnorm_has_a_second_static_graph(graphs, tiny):
    coupled = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
    eager, compiled = copy.deepcopy(coupled), copy.deepcopy(coupled)
    whole = tiny.fit(eager, loss=squared, max_steps=24)
    run = tiny.fit(compiled, loss=squared, max_steps=24, compile="default")
    assert len(graphs) == 2, graphs
    assert not dynamic(graphs)
    assert losses(run) == pytest.approx(losses(whole), rel=1e-4)
    for one, other in zip(eager.buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_fault_is_real(graphs, tiny):
    """A plain loop over the same batches, compiled as torch does by itself."""
    net = torch.nn.Linear(3, 1)
    step = torch.compile(lambda batch: squared(net, batch).mean())
    for rows in (8, 8, 4, 8, 6):
        step({name: value[:rows] for name, value in tiny.data.items()})
    assert dynamic(graphs)
