"""Memory that tensors gave back stays with the process: fewer pages are fetched, and nothing else changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hotloop import assemble, memory
from hotloop.config.load import load
from hotloop.config.schema import MemorySection, OptimizationSection
from hotloop.engine.budgeting import resolve_memory
from hotloop.saved import make_task
from hotloop.tasks import options_of
from hotloop.tune.bench import trial_config

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
glibc = pytest.mark.skipif(not memory.can_keep_freed(), reason="malloc is not glibc's")

# Steps of a network whose activations are large; page faults a step and the sum of its results, for each order given.
STEPS = """
import json, resource, sys
import torch
from hotloop import memory

def steps(count):
    torch.manual_seed(0)
    weight, total = torch.randn(64, 64), 0.0
    for _ in range(count):
        rows = torch.randn(200_000, 64)
        total += (rows @ weight).relu().sum().item()
    return total

found = []
for on in json.loads(sys.argv[1]):
    memory.keep_freed(on)
    steps(3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    total = steps(10)
    found.append([(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10, total])
    resident = memory.own(torch.device("cpu"))
    memory.trim()
    found[-1].append(resident - memory.own(torch.device("cpu")))
print(json.dumps(found))
"""


def _steps(orders: list[bool]) -> list[list[float]]:
    done = subprocess.run([sys.executable, "-c", STEPS, json.dumps(orders)], capture_output=True, text=True, check=True)
    found: list[list[float]] = json.loads(done.stdout)
    return found


@glibc
def test_a_step_fetches_no_pages_and_computes_the_same_to_the_bit() -> None:
    (usual, expected, _), (kept, total, held), (_, last, _) = _steps([False, True, False])
    assert usual > 10_000  # blocks of 51 MB, which glibc takes from the system and gives back each time
    assert kept < 0.3 * usual  # one growth of the heap among ten steps at most
    assert total == last == expected
    assert held > 40e6  # what is kept can still be given back where memory runs short


@pytest.mark.parametrize(
    ("said", "device", "keeps"),
    [
        ({}, CPU, True),
        ({"keep_freed": "off"}, CPU, False),
        ({"budget": "2GB"}, CPU, False),
        ({"budget": "2GB", "keep_freed": "on"}, CPU, True),
        ({"keep_freed": "on"}, CUDA, False),
        ({}, CUDA, False),
    ],
)
@glibc
def test_auto_keeps_on_a_cpu_without_a_budget(said: dict[str, Any], device: torch.device, keeps: bool) -> None:
    fields, remarks = resolve_memory(OptimizationSection(), MemorySection(**said), device)
    assert fields["keep_freed"] is keeps
    assert bool(remarks) is (said.get("keep_freed") == "on" and not keeps)


@pytest.mark.parametrize(
    ("said", "trial"), [({"budget": "2GB"}, "off"), ({"budget": "2GB", "keep_freed": "on"}, "on"), ({}, "auto")]
)
def test_trials_of_a_budget_keep_what_the_run_will_keep(said: dict[str, Any], trial: str) -> None:
    config = load(options_of("gpt")).config
    asked = config.model_copy(update={"memory": MemorySection(**said)})
    assert trial_config(asked, whole=True).memory.keep_freed == trial


@glibc
def test_blocks_of_a_run_before_are_not_the_process_as_it_is(tmp_path: Path) -> None:
    loaded = load(options_of("gpt"), overrides={"max_steps": 2, "experiment.dir": str(tmp_path)})
    first = assemble.build(loaded, make_task(loaded.config)).state.guard.baseline
    blocks = [torch.ones(1 << 20) for _ in range(60)]  # 240 MB
    del blocks
    assert assemble.build(loaded, make_task(loaded.config)).state.guard.baseline < first + 120e6


def test_another_malloc_is_left_alone_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    monkeypatch.setattr(memory, "_keeps", [False])
    fields, remarks = resolve_memory(OptimizationSection(), MemorySection(keep_freed="on"), CPU)
    assert not fields["keep_freed"] and "left out" in remarks[0]
    assert not resolve_memory(OptimizationSection(), MemorySection(), CPU)[1]
    memory.keep_freed(True)
    assert not memory._keeps[0]
