"""A run's model for other programs: safetensors, a Hugging Face folder, a torch.export program, ONNX.

Invariants: float32, on the CPU, dropout off. Whatever is written is loaded back and run beside the run's model on the
example inputs, on one row, on one row more, and on shorter rows where their length may change; only what agrees takes
its place, and what does not leaves nothing behind. Shapes: those of the task's `exportable`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.agreement import Disagreement, Outputs, Run, Shapes, compare, in_tuple, line_of
from hotloop.config.load import read_saved
from hotloop.disk import telling
from hotloop.engine.blame import telling_whose
from hotloop.errors import HotloopError
from hotloop.initial import fresh, read_weights, write_safetensors
from hotloop.runs.store import RunFolder
from hotloop.saved import ASSETS, CONFIG, find_task, make_task, read_json, saved_model
from hotloop.task import Exportable, Task

FORMATS = {
    "safetensors": "safetensors",
    "huggingface": "huggingface",
    "torch-export": "model.pt2",
    "onnx": "model.onnx",
}
"""Format -> what its file, or its folder, is called in the run's folder `export`."""
WEIGHTS, REST = "model.safetensors", "heads.safetensors"
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file or folder.
        difference: the largest one to the run's model, as a share of the outputs' scale (of 1 where that is smaller).
        checked: shapes of the inputs that both were run on.
    """

    path: Path
    difference: float
    checked: list[Shapes]


@dataclass(frozen=True)
class _Model:
    """A run's model as it is to be written."""

    folder: RunFolder
    which: str
    task: Task
    model: nn.Module
    form: Exportable

    def facts(self) -> dict[str, Any]:
        """What the file says of itself."""
        classes = {head: list(names) for head, names in self.task.heads().items()} or list(self.task.class_names())
        return {
            "task": Path(read_json(self.folder.dir / CONFIG).get("task", "")).name,
            "weights": self.which,
            "inputs": {name: list(value.shape) for name, value in self.form.inputs.items()},
            "outputs": list(self.form.outputs),
            "classes": classes,
        }

    def texts(self) -> dict[str, str]:
        """The same as text alone, for a file's metadata."""
        facts = self.facts().items()
        return {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for name, value in facts
        }


def export(place: Path | str, kind: str, output: Path | None = None, which: str = "best") -> Exported:
    """Write the model of a run in one of `FORMATS`, checked against the run's model.

    Args:
        place: the run's folder.
        kind: of FORMATS.
        output: file (torch-export, onnx) or folder (safetensors, huggingface); by default in the run's folder export.
        which: weights, "best" or "last".

    Raises:
        HotloopError: the task or the model has no such form, a package is missing, or the outputs differ.
    """
    folder = RunFolder.open(place)
    task, model = saved_model(folder, which)
    model = model.float().eval()
    target = output if output is not None else folder.dir / "export" / FORMATS[kind]
    _check_target(target, kind, replace=output is None)
    with telling_whose("the export"), torch.no_grad():
        found = _Model(folder, which, task, model, task.exportable(model))
        with _beside(target) as draft, _quiet():
            run = _WRITERS[kind](found, draft)
            difference, checked = _checked(found, run, kind)
    return Exported(target, difference, checked)


def _check_target(target: Path, kind: str, *, replace: bool) -> None:
    is_folder = kind in ("safetensors", "huggingface")
    if is_folder and target.exists() and not replace and (not target.is_dir() or any(target.iterdir())):
        what = "that is there already, and is no empty folder"
        raise HotloopError(what, where=str(target), fix="give --output the name of a new folder")
    if not is_folder and target.is_dir():
        raise HotloopError(
            "that is a folder", where=str(target), fix=f"give --output a file, as in {target / FORMATS[kind]}"
        )


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A path in a folder of its own beside `target`, which takes its place when the block ends well."""
    with telling("write", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        own = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            draft = own / target.name
            yield draft
            if draft.is_dir() and target.exists():
                shutil.rmtree(target)
            os.replace(draft, target)
        finally:
            shutil.rmtree(own, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Other packages' messages say nothing that a person here could act on; what matters is checked."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _checked(found: _Model, run: Run, kind: str) -> tuple[float, list[Shapes]]:
    try:
        worst, checked = compare(found.form, run)
    except Disagreement as error:
        raise _cannot(kind, str(error)) from error
    if not worst <= TOLERANCE:
        raise _cannot(kind, f"its outputs differ from the run's model by {worst:.2g}, and {TOLERANCE:g} is allowed")
    return worst, checked


def _cannot(kind: str, what: str) -> HotloopError:
    fix = "export it as safetensors, which holds the weights alone" if kind != "safetensors" else "report it"
    return HotloopError(f"the export as {kind} is not kept: {what}", fix=fix)


def _safetensors(found: _Model, folder: Path) -> Run:
    """Weights, with the run's configuration and assets beside them: enough to build the model again."""
    folder.mkdir()
    write_safetensors(folder / WEIGHTS, found.model.state_dict(), {"format": "pt", **found.texts()})
    for name in (CONFIG, ASSETS):
        shutil.copyfile(found.folder.dir / name, folder / name)
    options, _ = find_task(read_json(folder / CONFIG)["task"])
    task = make_task(read_saved(folder / CONFIG, options))
    task.use_assets(read_json(folder / ASSETS))
    model = fresh(task)
    model.load_state_dict(read_weights(folder / WEIGHTS))
    return _runner(task, model)


def _runner(task: Task, model: nn.Module) -> Run:
    module = task.exportable(model.float().eval()).module
    return lambda inputs: in_tuple(module(*inputs))


def _huggingface(found: _Model, folder: Path) -> Run:
    """What the task writes for `transformers`, and the tensors that are not the encoder's beside it."""
    save, load = (getattr(found.task, f"{verb}_huggingface", None) for verb in ("save", "load"))
    if save is None or load is None:
        name = type(found.task).__name__
        fix = "use --format safetensors or torch-export"
        raise HotloopError(f"the task {name} has no form that transformers knows", fix=fix)
    folder.mkdir()
    save(found.model, folder)
    rest = {name: value for name, value in found.model.state_dict().items() if not name.startswith("encoder.")}
    write_safetensors(folder / REST, rest, {"format": "pt", **found.texts()})
    again: Any = copy.deepcopy(found.model)
    again.encoder = load(folder)
    again.load_state_dict(read_weights(folder / REST), strict=False)
    return _runner(found.task, again)


def _torch_export(found: _Model, path: Path) -> Run:
    """A program that torch alone runs: torch.export.load(path).module()(*inputs)."""
    shapes = tuple(
        dict.fromkeys(found.form.dynamic.get(name, {}), torch.export.Dim.DYNAMIC) for name in found.form.inputs
    )
    program = _made("torch-export", lambda: torch.export.export(
        found.form.module, tuple(found.form.inputs.values()), dynamic_shapes=shapes
    ))  # fmt: skip
    torch.export.save(program, path, extra_files={"hotloop.json": json.dumps(found.facts(), ensure_ascii=False)})
    module = torch.export.load(path).module()
    return lambda inputs: in_tuple(module(*inputs))


def _onnx(found: _Model, path: Path) -> Run:
    """A graph in one file, with named inputs, outputs and axes."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it, and tells so in many more words)
    except ImportError as error:
        what = f"the format onnx needs the package {error.name}"
        raise HotloopError(what, fix="install it: pip install 'hotloop[export]'") from None
    form = found.form
    program: Any = _made("onnx", lambda: torch.onnx.export(
        form.module,
        tuple(form.inputs.values()),
        dynamo=True,
        input_names=list(form.inputs),
        output_names=list(form.outputs),
        dynamic_shapes=tuple(form.dynamic.get(name, {}) for name in form.inputs),
        verbose=False,
    ))  # fmt: skip
    program.model.metadata_props["hotloop"] = json.dumps(found.facts(), ensure_ascii=False)
    program.save(path, external_data=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Tensor]) -> Outputs:
        given = {name: value.numpy() for name, value in zip(form.inputs, inputs, strict=True)}
        return tuple(torch.from_numpy(value) for value in session.run(list(form.outputs), given))

    return run


def _made(kind: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:
        raise _cannot(kind, f"the model cannot be written so: {line_of(error)}") from error


_WRITERS: dict[str, Callable[[_Model, Path], Run]] = {
    "safetensors": _safetensors,
    "huggingface": _huggingface,
    "torch-export": _torch_export,
    "onnx": _onnx,
}
