"""Runs that recompute: the same results, the plan that is kept, and a model that comes back as it was given."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotloop
from hotloop.cli.main import main
from hotloop.engine.plan import Plan
from hotloop.errors import HotloopError, Interrupted
from hotloop.saved import load_run

KEY = "optimization.gradient_checkpointing"
STILL = {"precision": "fp32", "compile": "off"}
X = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
DATA = {"x": X, "y": (X[:, 0] > X[:, 1]).long()}
GPT = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "batch_size": 8, "max_steps": 6, "eval_every": 6}


class Net(nn.Module):
    """Three blocks with dropout and statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 8))
            for _ in range(3)
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        result: Tensor = self.head(x)
        return result


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def is_clean(model: nn.Module) -> bool:
    return not any("forward" in part.__dict__ for part in model.modules())


def same(one: nn.Module, other: nn.Module) -> bool:
    values = other.state_dict()
    return all(torch.equal(value, values[name]) for name, value in one.state_dict().items())


@pytest.fixture
def fit(experiments: Path) -> Callable[..., Any]:
    common: dict[str, Any] = {"loss": loss, "batch_size": 15, "max_steps": 8, "seed": 7, "val_fraction": 0.25}
    return partial(hotloop.fit, progress=False, trackers=(), dir=str(experiments), **{**common, **STILL})


@pytest.mark.parametrize("how", [True, 0.5, ["layers.1", "head"]])
def test_fit_gives_the_same_and_the_model_back_clean(fit, how):
    plain, model, during = fit(net(), DATA), net(), []
    run = fit(model, DATA, callbacks=[lambda info: during.append(is_clean(model))], config={KEY: how})
    assert run.model is model and is_clean(model)
    assert during and not any(during)
    assert same(model, plain.model)
    assert run.summary["eval_loss"] == plain.summary["eval_loss"]
    pickle.dumps(model)


def test_a_call_that_fails_gives_the_model_back_clean_too(fit):
    def failing(info: Any) -> None:
        raise RuntimeError("mine")

    model = net()
    with pytest.raises((RuntimeError, HotloopError)):
        fit(model, DATA, callbacks=[failing], config={KEY: True})
    assert is_clean(model)
    with pytest.raises(HotloopError, match=r"no part of the model is called 'layer.\*'(.|\n)*did you mean layers.\d"):
        fit(model, DATA, config={KEY: ["layer.*"]})
    assert is_clean(model)


def test_steps_wrap_the_model_while_they_go(experiments):
    model = net()
    stepping = hotloop.steps(model, DATA, loss=loss, max_steps=4, batch_size=15, config={KEY: True}, **STILL)
    next(stepping)
    assert not is_clean(model)
    stepping.close()
    assert is_clean(model)


@pytest.mark.parametrize("how", [True, 0.34, ["layers.0", "layers.2"]])
def test_what_was_recomputed_is_in_the_plan_and_resumed(fit, how):
    def stopping(info: Any) -> hotloop.Ask | None:
        return hotloop.Ask(stop="interrupted", save=True) if info.step == 4 else None

    whole, model = fit(net(), DATA, config={KEY: how}), net()
    with pytest.raises(Interrupted) as stopped:
        fit(model, DATA, callbacks=[stopping], config={KEY: how})
    assert is_clean(model)
    folder = Path(stopped.value.fix.split()[-1])
    stored = json.loads((folder / "plan.json").read_text())
    assert stored["recompute"] == how
    assert Plan.from_dict(stored).recompute == (tuple(how) if isinstance(how, list) else how)
    resumed = hotloop.fit(net(), DATA, loss=loss, resume_from_checkpoint=folder, progress=False)
    assert same(resumed.model, whole.model)
    assert resumed.summary["eval_loss"] == whole.summary["eval_loss"]


def test_a_model_without_blocks_is_refused_before_it_trains(fit):
    with pytest.raises(HotloopError, match=r"Linear has no repeated blocks(.|\n)*nn.ModuleList of blocks"):
        fit(nn.Linear(8, 2), DATA, config={KEY: True})


@pytest.mark.parametrize("how", ["true", "0.5", "[blocks.1]"])
def test_later_commands_do_not_notice(how, experiments, capsys):
    found = []
    for value in ("false", how):
        words = [f"{name}={value}" for name, value in {**GPT, **STILL, "device": "cpu"}.items()]
        assert main(["train", "gpt", *words, "experiment.trackers=[]", f"{KEY}={value}"]) == 0
        found.append(max(experiments.iterdir(), key=lambda run: run.stat().st_mtime_ns))
    assert capsys.readouterr().out.count("activations are recomputed in the backward pass") == 1
    plain, run = (load_run(folder) for folder in found)
    assert same(plain.model, run.model) and is_clean(run.model)
    assert main(["generate", str(found[1]), "--prompt", "The", "--length", "5"]) == 0
    assert main(["export", str(found[1]), "--format", "torch-export"]) == 0


@pytest.mark.slow
def test_compiled_blocks_and_the_compilers_budget_give_nearly_the_same(fit, monkeypatch):
    import torch._functorch.config as compiler

    before, runs = compiler.activation_memory_budget, []
    for compile_mode, how in (("off", False), ("default", True)):
        model = net()
        runs.append(fit(model, DATA, compile=compile_mode, max_steps=3, config={KEY: how}))
        assert is_clean(model)
    assert runs[1].summary["eval_loss"] == pytest.approx(runs[0].summary["eval_loss"], rel=0.2)  # other dropout masks
    flat = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
    seen: list[float] = []
    watching = [lambda info: seen.append(compiler.activation_memory_budget)]
    fit(flat, DATA, compile="default", max_steps=3, callbacks=watching, config={KEY: 0.75})
    assert set(seen) == {0.25}
    assert compiler.activation_memory_budget == before
