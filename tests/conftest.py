"""Shared by all tests: one thread, real data where present, runs in a temporary folder, GPU tests only with a GPU.

Imports nothing beyond pytest and the core packages, so that `python -m pytest tests/gpu` works on a bare GPU machine;
torch is imported only when a collected test needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


def pytest_configure() -> None:
    """Settle what every process of the tests inherits.

    One thread each: parallel processes do not fight for cores, and sums are added in one order. And the tree under test
    comes first, installed or not.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    paths = [str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` where torch sees no CUDA device, and say so."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch sees none"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("tinyshakespeare/input.txt")` is that file or folder of real data; skips where it is not."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"real data absent: ../shared/data/{name}")
        return path

    return find


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for runs. The working folder moves beside it, so that nothing lands in the source tree."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    return folder
