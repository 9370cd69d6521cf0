"""`hotloop generate`: text from a run's trained model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hotloop.errors import HotloopError

if TYPE_CHECKING:
    from hotloop.tasks.gpt.task import Gpt

WEIGHTS = {
    "best": ("checkpoints/best_model.pt", "final_model.pt", "checkpoints/last.pt"),
    "last": ("final_model.pt", "checkpoints/last.pt"),
}
"""What --checkpoint means: the first of these files that the run has."""


@click.command("generate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--prompt", default="", help="Text to go on from; without it the model starts on a new line.")
@click.option("--length", default=500, show_default=True, help="Tokens to write.")
@click.option("--temperature", default=0.8, show_default=True, help="Below 1 safer, above 1 wilder, 0 likeliest.")
@click.option("--top-k", type=int, default=None, help="Draw from this many likeliest tokens only.  [default: all]")
@click.option("--seed", default=1337, show_default=True, help="The same seed writes the same text.")
@click.option("--checkpoint", type=click.Choice(list(WEIGHTS)), default="best", show_default=True, help="Weights.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda or cuda:N.")
def command(
    run: Path, prompt: str, length: int, temperature: float, top_k: int | None, seed: int, checkpoint: str, device: str
) -> None:
    """Write text with the model of RUN, a run folder of the gpt task."""
    from hotloop.tasks.gpt.generate import generate

    task = saved_task(run)
    weights = weights_file(run, checkpoint)
    model = task.model()
    load_weights(model, weights)
    assert task.vocabulary is not None
    _check_device(device)
    text = generate(
        model, task.vocabulary, prompt, length=length, temperature=temperature, top_k=top_k, seed=seed, device=device
    )
    click.echo(text)


def saved_task(run: Path) -> Gpt:
    """The task of a run folder with its options and vocabulary, without its data.

    Raises:
        HotloopError: no run, another task's run, or damaged files.
    """
    from hotloop.config.load import read_saved
    from hotloop.runs.store import RunFolder
    from hotloop.tasks.gpt.options import OPTIONS

    folder = RunFolder.open(run).dir
    name = _read_json(folder / "config.json").get("task")
    if name != "gpt":
        raise HotloopError(f"this is a run of the task '{name}'; text comes from runs of gpt", where=str(run))
    config = read_saved(folder / "config.json", OPTIONS)

    from hotloop.tasks.gpt.task import Gpt

    task = Gpt(config.model, config.data, seed=config.experiment.seed)  # type: ignore[arg-type]
    task.use_assets(_read_json(folder / "assets.json"))
    return task


def weights_file(run: Path, checkpoint: str) -> Path:
    """The file with the weights asked for, "best" or "last".

    Raises:
        HotloopError: the run has saved none yet.
    """
    for name in WEIGHTS[checkpoint]:
        if (run / name).is_file():
            if checkpoint == "best" and name != WEIGHTS["best"][0]:
                click.echo(f"note: the run kept no best checkpoint; {name} is used", err=True)
            return run / name
    raise HotloopError("the run has saved no weights yet", where=str(run), fix="train until its first checkpoint")


def load_weights(model: Any, path: Path) -> None:
    """Load a state dict, or the "model" part of a checkpoint, without running any code that the file may carry.

    Raises:
        HotloopError: unreadable, damaged, or of another model.
    """
    import torch

    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything
        reason = str(error).strip().split("\n")[0]
        raise HotloopError(
            f"the weights cannot be read: {reason}", where=str(path), fix="try --checkpoint last or best"
        ) from error
    state = saved["model"] if isinstance(saved, dict) and isinstance(saved.get("model"), dict) else saved
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise HotloopError(f"the weights are not of this run's model: {error}", where=str(path)) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HotloopError(f"the run has no {path.name}", where=str(path.parent)) from error
    except (OSError, ValueError) as error:
        raise HotloopError(f"the file cannot be read: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise HotloopError("the file is not a JSON object", where=str(path))
    return value


def _check_device(device: str) -> None:
    """Refuse a device that torch does not know or that is not there."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise HotloopError(f"the device '{device}' cannot be used: {reason}", where="--device") from None
