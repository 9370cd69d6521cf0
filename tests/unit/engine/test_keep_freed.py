"""Memory that tensors gave back stays with the process: fewer pages are fetched, and nothing else changes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from hotloop import memory
from hotloop.config.schema import MemorySection, OptimizationSection
from hotloop.engine.budgeting import resolve_memory

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
    (usual, expected, _), (kept, total, held), (again, last, _) = _steps([False, True, False])
    assert usual > 10_000  # blocks of 51 MB, which glibc takes from the system and gives back each time
    assert kept < 0.01 * usual < 0.01 * 1.2 * again
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


def test_another_malloc_is_left_alone_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    monkeypatch.setattr(memory, "_keeps", [False])
    fields, remarks = resolve_memory(OptimizationSection(), MemorySection(keep_freed="on"), CPU)
    assert not fields["keep_freed"] and "left out" in remarks[0]
    assert not resolve_memory(OptimizationSection(), MemorySection(), CPU)[1]
    memory.keep_freed(True)
    assert not memory._keeps[0]
