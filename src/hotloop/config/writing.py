"""YAML that hotloop and every other reader understand alike: plain values, no tags, words in quotes where needed."""

from __future__ import annotations

import re
from typing import Any

import yaml

from hotloop.config.schema import Config, to_plain


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper that also quotes text which other readers take for a number (`1e5`)."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def to_yaml(config: Config) -> str:
    """The configuration as YAML text that loads back to the same configuration."""
    lines: list[str] = []
    for section, values in to_plain(config).items():
        if not isinstance(values, dict):
            lines.append(f"{section}: {scalar(values)}")
        elif values:
            lines += ["", f"{section}:", *(f"  {key}: {scalar(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def scalar(value: Any) -> str:
    """One value on one line of YAML; lists and mappings in brackets."""
    escaped = isinstance(value, str) and not value.isprintable()  # double quotes keep a line break on one line
    written: str = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        default_style='"' if escaped else None,
        allow_unicode=not escaped,
        width=10**9,
    )
    return written.removesuffix("...\n").strip()
