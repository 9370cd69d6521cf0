"""`hotloop prepare`: turn raw data into the form that a task reads fastest, one subcommand per task."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("prepare")
def command() -> None:
    """Prepare data for a task."""


@command.command("gpt")
@click.argument("text", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--val-fraction", default=0.1, show_default=True, help="Share at the end of the text kept for validation."
)
@click.option(
    "--vocabulary", type=click.Choice(["char", "bpe"]), default="char", show_default=True, help="Kind of tokens."
)
@click.option("--vocabulary-size", default=1024, show_default=True, help="Tokens of the bpe vocabulary.")
def gpt(text: Path, folder: Path, val_fraction: float, vocabulary: str, vocabulary_size: int) -> None:
    """Write TEXT as token files into FOLDER: train.bin, val.bin, meta.json, meta.pkl (nanoGPT's layout)."""
    from hotloop.tasks.gpt.binary import write_token_folder

    counts = write_token_folder(
        text, folder, val_fraction=val_fraction, kind=vocabulary, vocabulary_size=vocabulary_size
    )
    click.echo(
        f"{folder}: {counts['characters']:,} characters, vocabulary of {counts['vocabulary_size']:,}, "
        f"{counts['train_tokens']:,} tokens for training and {counts['val_tokens']:,} for validation\n"
        f"train on them: hotloop train gpt data.path={folder}"
    )
