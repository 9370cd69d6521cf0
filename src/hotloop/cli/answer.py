"""How a command answers: JSON for programs, nothing else on standard output then."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def print_json(value: Any) -> None:
    """Print `value` on standard output: paths become text, and what is no finite number null, as in a run's files."""
    click.echo(json.dumps(plain_values(value), indent=2, ensure_ascii=False, default=str))


def plain_values(value: Any) -> Any:
    """`value` with what is no finite number as null, as JSON has no word for it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: plain_values(item) for name, item in value.items()}
    return [plain_values(item) for item in value] if isinstance(value, list | tuple) else value
