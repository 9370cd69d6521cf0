"""How a command answers: JSON for programs, nothing else on standard output then."""

from __future__ import annotations

import json
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def print_json(value: Any) -> None:
    """Print `value` (JSON-ready; paths become text) on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
