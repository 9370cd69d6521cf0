"""`hotloop generate`: text from a run's trained model."""

from __future__ import annotations

from pathlib import Path

import click

from hotloop.errors import HotloopError


@click.command("generate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--prompt", default="", help="Text to go on from; without it the model starts on a new line.")
@click.option("--length", default=500, show_default=True, help="Tokens to write.")
@click.option("--temperature", default=0.8, show_default=True, help="Below 1 safer, above 1 wilder, 0 likeliest.")
@click.option("--top-k", type=int, default=None, help="Draw from this many likeliest tokens only.  [default: all]")
@click.option("--seed", default=1337, show_default=True, help="The same seed writes the same text.")
@click.option("--checkpoint", type=click.Choice(["best", "last"]), default="best", show_default=True, help="Weights.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda or cuda:N.")
def command(
    run: Path, prompt: str, length: int, temperature: float, top_k: int | None, seed: int, checkpoint: str, device: str
) -> None:
    """Write text with the model of RUN, a run folder of the gpt task."""
    from hotloop.device import pick_device
    from hotloop.runs.store import RunFolder
    from hotloop.saved import saved_model, weights_file
    from hotloop.tasks.gpt.generate import generate
    from hotloop.tasks.gpt.task import Gpt

    folder = RunFolder.open(run)
    weights = weights_file(folder, checkpoint)
    if checkpoint == "best" and weights is not None and weights.name != "best_model.pt":
        click.echo(f"note: the run kept no best checkpoint; {weights.name} is used", err=True)
    task, model = saved_model(folder, checkpoint)
    if not isinstance(task, Gpt) or task.vocabulary is None:
        raise HotloopError("text comes from runs of the task gpt, and this is another task's run", where=str(run))
    text = generate(
        model,  # type: ignore[arg-type]
        task.vocabulary,
        prompt,
        length=length,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        device=pick_device(device),
    )
    click.echo(text)
