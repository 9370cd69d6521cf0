"""`hotloop env`: what a result on this machine was measured with."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from hotloop import __version__
from hotloop.cli.answer import json_option, print_json

_PACKAGES = ("torch", "numpy", "pydantic", "safetensors", "tensorboard", "torchmetrics", "tokenizers", "transformers")


@click.command()
@json_option
def env(as_json: bool) -> None:
    """Show versions, processor, memory and GPUs."""
    from hotloop.ceilings import known
    from hotloop.device import describe, pick_device

    facts = {"hotloop": __version__, **describe()}
    limits = known(pick_device("auto"))
    facts["ceilings"] = None if limits is None else asdict(limits)
    facts["packages"] = {name: found for name in _PACKAGES if (found := _version(name))}
    if as_json:
        print_json(facts)
        return
    facts["ceilings"] = "not measured yet; `hotloop profile TASK` does" if limits is None else limits.line()
    for name, value in facts.items():
        click.echo(f"{name.removesuffix('_bytes').replace('_', ' '):<16}{_text(name, value)}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _text(name: str, value: Any) -> str:
    if name == "gpus":
        return ", ".join(f"{gpu['name']} ({gpu['memory_bytes'] / 2**30:.1f} GB)" for gpu in value) or "none"
    if name.endswith("_bytes"):
        return f"{value / 2**30:.1f} GB"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
