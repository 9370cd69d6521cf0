"""What a model begins with: the weights of another run or of a file, and the parameters that stay as they are.

Weights are taken by name and shape. What fits is taken, what does not fit begins as it would without, and both are
told; where nothing fits, the run does not start.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.config.schema import ModelSection
from hotloop.engine import checkpoint
from hotloop.errors import HotloopError
from hotloop.runs.store import RunFolder
from hotloop.task import Task

ASSETS, CONFIG, FINAL = "assets.json", "config.json", "final_model.pt"
WEIGHTS = {
    "best": (f"checkpoints/{checkpoint.BEST}", FINAL, f"checkpoints/{checkpoint.LAST}"),
    "last": (FINAL, f"checkpoints/{checkpoint.LAST}"),
}
"""Which weights of a run are meant: the first of these files that it has."""
_INIT, _FREEZE = "model.init_from", "model.freeze"
_NORMS = (nn.modules.batchnorm._BatchNorm,)


def weights_file(folder: RunFolder, which: str) -> Path | None:
    """The file with the weights asked for, "best" or "last"; None where the run has saved none."""
    return next((folder.dir / name for name in WEIGHTS[which] if (folder.dir / name).is_file()), None)


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict: of a checkpoint (its averaged weights where it has some), of a file of weights, of safetensors.

    Raises:
        HotloopError: missing, damaged, or not weights.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    stored = checkpoint.load(path)
    found = checkpoint.weights_of(stored) if "model" in stored else stored
    if not found or not all(isinstance(value, Tensor) for value in found.values()):
        fix = "give a run folder, a checkpoint of it, or a file with a state dict"
        raise HotloopError(f"{path.name} holds no weights by name", where=str(path), fix=fix)
    return found


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors by name; what two names share is written for each."""
    from safetensors.torch import save_file

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(plain, path, metadata)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise HotloopError(f"{path.name} cannot be read: {error}", where=str(path)) from error


def inherited(init_from: str | None) -> dict[str, Any] | None:
    """The assets of the run that `model.init_from` names; None where it names none, or a file of weights."""
    folder = _folder(init_from) if init_from is not None else None
    return None if folder is None else read_json(folder.dir / ASSETS)


def _folder(init_from: str) -> RunFolder | None:
    """The run folder meant; None where a file is meant that lies in none."""
    path = _there(init_from)
    if path.is_dir():
        return RunFolder.open(path)
    holder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return RunFolder.open(holder) if (holder / CONFIG).is_file() and (holder / ASSETS).is_file() else None


def _there(init_from: str) -> Path:
    path = Path(init_from).expanduser()
    if not path.exists():
        raise HotloopError(
            f"there is no file or folder {path}", where=_INIT, fix="name a run's folder, or a file of weights"
        )
    return path


def begin(task: Task, options: ModelSection, device: torch.device, begun: bool) -> tuple[nn.Module, list[str]]:
    """The model as training begins with it, and remarks on where its weights come from.

    Args:
        task: builds it.
        options: which weights it starts from, and what stays frozen.
        device: where it goes.
        begun: a checkpoint will bring the weights, so none are loaded.
    """
    model = fresh(task).to(device)
    model = model if model.training else model.train()  # layers that a person set to eval() stay there
    remarks = [] if options.init_from is None or begun else start_from(model, options.init_from)
    return model, [*remarks, *_asleep(model), *freeze(model, options.freeze)]


def _asleep(model: nn.Module) -> list[str]:
    """A line where parts of the model came in evaluation mode, as `from_pretrained` gives them."""
    parts = [name for name, part in model.named_modules() if not part.training]
    what = f"in evaluation mode, as the model was built with it: no dropout there ({parts[0]}" if parts else ""
    more = f" and {len(parts) - 1:,} more" if len(parts) > 1 else ""
    return [f"{what}{more}); PART.train() where the model is built changes that"] if parts else []


def fresh(task: Task) -> nn.Module:
    """The model as the task builds it.

    Raises:
        HotloopError: the task gave something else.
    """
    model: Any = task.model()
    if isinstance(model, nn.Module):
        return model
    given = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
    raise HotloopError(
        f"{type(task).__name__}.model() gave {'nothing' if model is None else given}",
        where="the task's model",
        fix="return a torch.nn.Module, built",
    )


def start_from(model: nn.Module, init_from: str) -> list[str]:
    """Load weights of another run or file into a model, as far as names and shapes agree; lines that say what came.

    Raises:
        HotloopError: nothing there, or nothing fits.
    """
    path = _there(init_from)
    if path.is_dir():
        found = weights_file(RunFolder.open(path), "best")
        if found is None:
            raise HotloopError("the run has saved no weights yet", where=f"{_INIT}={init_from}", fix="train it first")
        path = found
    given, own = read_weights(path), model.state_dict()
    fits = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    if not fits:
        shown = f"there: {', '.join(list(given)[:3])}, ...; here: {', '.join(list(own)[:3])}, ..."
        fix = "use the task and the model options of that run (its config.yaml)"
        raise HotloopError(
            f"none of its {len(given)} tensors fits this model ({shown})", where=f"{_INIT}={path}", fix=fix
        )
    model.load_state_dict(fits, strict=False)
    lines = [f"starts from {path}: {len(fits)} of the model's {len(own)} tensors"]
    shapes = [
        f"{name} {tuple(given[name].shape)} there, {tuple(own[name].shape)} here"
        for name in own
        if name in given and name not in fits
    ]
    fresh = [name for name in own if name not in given]
    for what, names in (("of another shape, begun anew", shapes), ("not there, begun anew", fresh)):
        if names:
            lines.append(f"{what}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}")
    return lines


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Keep parameters as they are: those whose name, or whose module's name, matches a pattern (encoder, layers.*).

    BatchNorm of a part that is wholly frozen keeps its statistics too.

    Raises:
        HotloopError: a pattern matches nothing.
    """
    if not patterns:
        return []
    named = dict(model.named_parameters())
    for pattern in patterns:
        hits = [name for name in named if _matches(name, pattern)]
        if not hits:
            places = sorted({name.rpartition(".")[0] for name in named} | {name.partition(".")[0] for name in named})
            near = get_close_matches(pattern, [*places, *named], n=1, cutoff=0.3)
            meant = f"did you mean {near[0]}?" if near else f"the model's parts are {', '.join(places[:8])}"
            raise HotloopError(f"no parameter is called '{pattern}'", where=_FREEZE, fix=meant)
        for name in hits:
            named[name].requires_grad_(False)
    for module in model.modules():
        if isinstance(module, _NORMS) and not any(p.requires_grad for p in module.parameters()):
            module.eval()
    kept = [p for p in named.values() if not p.requires_grad]
    share = sum(p.numel() for p in kept) / max(1, sum(p.numel() for p in named.values()))
    return [f"frozen: {len(kept)} of {len(named)} tensors, {share:.1%} of the parameters"]


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(f"{pattern}.") or fnmatch.fnmatchcase(name, pattern)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a run folder; a missing or damaged file is told by its name."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HotloopError(f"the run has no {path.name}", where=str(path.parent)) from error
    except (OSError, ValueError) as error:
        raise HotloopError(f"{path.name} cannot be read: {error}", where=str(path.parent)) from error
    if not isinstance(value, dict):
        raise HotloopError(f"{path.name} is not a JSON object", where=str(path))
    return value
