"""The machine's ceilings: measured once, kept by machine, threads and torch, and measured anew where that is no use."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hotloop import ceilings as module
from hotloop import device as machine
from hotloop.ceilings import Ceilings, ceilings, known, measure
from hotloop.disk import cache_folder

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and small things to measure."""
    monkeypatch.setenv("HOTLOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_SIZES", {"cpu": (256,)})
    monkeypatch.setattr(module, "_ROUNDS", 3)
    monkeypatch.setattr(module, "_STREAMED", {"cpu": 2**23})
    monkeypatch.setattr(module.Others, "took", lambda self: 0.0)
    return tmp_path / "cache"


@pytest.fixture
def threads() -> Iterator[None]:
    """The number of threads as it was, afterwards."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, a measurement fails the test."""
    return lambda: monkeypatch.setattr(module, "measure", lambda device: pytest.fail("measured again"))


def kept(cache: Path) -> Path:
    [file] = (cache / "ceilings").iterdir()
    return file


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [("own/x", "y", "own/x"), ("", "y", "y/hotloop"), (None, None, "~/.cache/hotloop"), ("~/d", None, "~/d")],
)
def test_where_the_cache_is(own, shared, expected, monkeypatch) -> None:
    for name, value in (("HOTLOOP_CACHE", own), ("XDG_CACHE_HOME", shared)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected).expanduser()


def test_they_are_measured_once(cache: Path, no_measuring) -> None:
    said: list[str] = []
    assert known(CPU) is None
    first = ceilings(CPU, tell=said.append)
    assert len(said) == 1
    no_measuring()
    assert ceilings(CPU, tell=said.append) == first == known(CPU)
    assert len(said) == 1
    assert (first.threads, first.torch) == (torch.get_num_threads(), torch.__version__)
    assert kept(cache).suffix == ".json"


def test_they_are_measured_again_when_asked(monkeypatch) -> None:
    first = ceilings(CPU)
    other = Ceilings(first.device, first.threads, first.torch, {"fp32": 1e9}, 2e9, 1e-6)
    monkeypatch.setattr(module, "measure", lambda device: other)
    assert ceilings(CPU) == first
    assert ceilings(CPU, again=True) == other
    assert ceilings(CPU) == other


def test_beside_other_programs_they_are_measured_again_and_the_better_kept(monkeypatch) -> None:
    key = (machine.cpu_name(), torch.get_num_threads(), str(torch.__version__))
    low = Ceilings(*key, {"fp32": 4e9, "bf16": 9e9}, 8e9, 9e-6, others=1.5)
    mixed = Ceilings(*key, {"fp32": 6e9, "bf16": 7e9}, 7e9, 4e-6)
    said: list[str] = []
    monkeypatch.setattr(module, "measure", lambda device: low)
    assert ceilings(CPU, tell=said.append) == low == known(CPU)
    assert "other programs took 1.5 processors" in said[-1]
    monkeypatch.setattr(module, "measure", lambda device: mixed)
    best = Ceilings(*key, {"fp32": 6e9, "bf16": 9e9}, 8e9, 4e-6)
    assert ceilings(CPU) == best == known(CPU)
    monkeypatch.setattr(module, "measure", lambda device: pytest.fail("measured though nothing was in the way"))
    assert ceilings(CPU) == best


def test_another_number_of_threads_is_another_machine(threads) -> None:
    torch.set_num_threads(1)
    one = ceilings(CPU)
    torch.set_num_threads(2)
    assert known(CPU) is None
    assert ceilings(CPU).threads == 2
    torch.set_num_threads(1)
    assert known(CPU) == one


def changed(stored: dict, **changes) -> str:
    return json.dumps({**stored, **changes})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda stored: "",
        lambda stored: "{",
        lambda stored: "[1]",
        lambda stored: "null",
        lambda stored: json.dumps({"matrix": stored["matrix"]}),
        lambda stored: changed(stored, matrix={}),
        lambda stored: changed(stored, matrix=[1.0]),
        lambda stored: changed(stored, matrix={"fp32": -1.0}),
        lambda stored: changed(stored, bandwidth="fast"),
        lambda stored: changed(stored, bandwidth=0.0),
        lambda stored: changed(stored, operation=float("nan")),
        lambda stored: changed(stored, device="another processor"),
        lambda stored: changed(stored, torch="0.1"),
    ],
    ids=range(13),
)
def test_a_damaged_file_is_measured_anew(spoil, cache: Path) -> None:
    ceilings(CPU)
    kept(cache).write_text(spoil(json.loads(kept(cache).read_text())))
    assert known(CPU) is None
    again = ceilings(CPU)
    assert known(CPU) == again


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOTLOOP_CACHE", str(tmp_path / "file" / "cache"))
    said: list[str] = []
    assert ceilings(CPU, tell=said.append).matrix["fp32"] > 0
    assert "are not kept" in said[-1]
    assert "HOTLOOP_CACHE" in said[-1]


def test_the_units_are_right() -> None:
    """Beside a product and a copy timed here: within a factor that noise cannot make, and a wrong unit would."""
    found = measure(CPU)
    a, b = torch.randn(256, 256), torch.randn(256, 256)
    long = torch.ones(2**21)

    def least(work: Callable[[], object]) -> float:
        times = []
        for _ in range(30):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        return min(times)

    assert 0.2 < found.matrix["fp32"] / (2 * 256**3 / least(lambda: a @ b)) < 5
    assert 0.1 < found.bandwidth / (2 * 4 * 2**21 / least(lambda: long.copy_(long.clone()))) < 20
    assert 1e-8 < found.operation < 1e-3
    assert set(found.matrix) == {"fp32", "bf16"}
    assert found.copies == {}


def test_nothing_else_is_changed() -> None:
    before, tf32 = torch.get_rng_state(), machine.tf32_read_back()
    measure(CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert machine.tf32_read_back() == tf32


def test_the_line_has_every_ceiling() -> None:
    line = Ceilings("GPU", 0, "2", {"fp32": 20e12, "bf16": 3e14}, 9e11, 4e-6, {"pinned": 25e9}).line()
    for part in ("fp32 20,000", "bf16 300,000 GFLOP/s", "900.0 GB/s", "copy from pinned memory 25.0", "4.0 us"):
        assert part in line


def test_other_programs_are_seen(monkeypatch) -> None:
    """In numbers as psutil gives them: two processors, none idle, of which this process had half of one."""
    from collections import namedtuple
    from types import SimpleNamespace

    kind = namedtuple("kind", "user nice system idle iowait irq softirq steal guest")
    at, busy, own = [100.0], [1000.0], [50.0]

    class Process:
        def children(self, recursive: bool) -> list:
            return []

        def cpu_times(self) -> SimpleNamespace:
            return SimpleNamespace(user=own[0], system=0.0)

    monkeypatch.undo()  # the real `took`
    fake = SimpleNamespace(
        cpu_times=lambda: kind(busy[0], 0, 0, 7 + at[0] * 2 - busy[0], 0, 0, 0, 0, 99),
        Process=Process,
        cpu_count=lambda: 2,
        Error=OSError,
    )
    monkeypatch.setattr(module, "psutil", fake)
    monkeypatch.setattr(module.time, "perf_counter", lambda: at[0])
    watched = module.Others()
    at[0], busy[0], own[0] = 110.0, 1020.0, 55.0
    assert watched.took() == pytest.approx(1.5)
    quiet = module.Others()
    at[0], busy[0], own[0] = 120.0, 1030.0, 55.0  # one of two processors was idle
    assert quiet.took() == 0.0
