"""The configuration of a run: every knob with its meaning, read from templates, files and the command line.

The parts: `section` (what every section shares), `schema` (the knobs), `kinds` (what a knob accepts), `names` (which
key is meant), `aliases` (other spellings), `yaml_reader` and `arguments` (the two notations), `recipes` (templates),
`layers` (who wins), `load` (the assembly), `guards` (rules across knobs), `knobs`, `starter` and `show` (what people
read). Nothing here imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotloop.config.schema import Config as Config
    from hotloop.config.schema import TaskOptions as TaskOptions
    from hotloop.config.schema import to_plain as to_plain
    from hotloop.config.writing import to_yaml as to_yaml

_SCHEMA = ("Config", "TaskOptions", "to_plain")
_WRITING = ("to_yaml",)


def __getattr__(name: str) -> Any:
    """Give the public names without loading pydantic before somebody needs it."""
    if name in _SCHEMA:
        from hotloop.config import schema

        return getattr(schema, name)
    if name in _WRITING:
        from hotloop.config import writing

        return getattr(writing, name)
    raise AttributeError(f"module 'hotloop.config' has no attribute {name!r}")
