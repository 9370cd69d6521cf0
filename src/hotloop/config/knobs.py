"""The table of knobs for people, and the JSON Schema for editors; both come from the schema alone."""

from __future__ import annotations

from typing import Any

from hotloop.config import kinds
from hotloop.config.kinds import Kind
from hotloop.config.names import names_of
from hotloop.config.schema import TaskOptions, sections
from hotloop.config.section import kinds_of

_TYPES: dict[type, str] = {bool: "true/false", int: "int", float: "float", str: "text"}


def rows(options: TaskOptions) -> list[dict[str, str]]:
    """Every knob of a task.

    Returns:
        For each knob, all as text: key, type (or choices), unit, range, default, meaning, flag.
    """
    names = names_of(options)
    table = []
    for section, model in sections(options).items():
        for name, field in model.model_fields.items():
            kind = kinds_of(model)[name]
            short = len(names.placed(name)) == 1
            default = "required" if field.is_required() else plain_text(field.get_default(call_default_factory=True))
            table.append(
                {
                    "key": f"{section}.{name}",
                    "type": type_text(kind),
                    "unit": unit(field.json_schema_extra),
                    "range": kinds.bounds(kind),
                    "default": default,
                    "meaning": field.description or "",
                    "flag": "--" + (name if short else f"{section}_{name}").replace("_", "-"),
                }
            )
    return table


def unit(extra: Any) -> str:
    """The unit that a knob declares; empty where it counts nothing."""
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def type_text(kind: Kind) -> str:
    """The type or the choices of a knob in a few words, such as `auto | int`."""
    parts = [*kind.choices, *(_TYPES[scalar] for scalar in kind.scalars)]
    if kind.items is not None:
        inner = type_text(kind.items)
        parts.append(f"[{', '.join([inner] * kind.length)}]" if kind.length else f"[{inner}, ...]")
    parts += ["{name: value}"] if kind.mapping else []
    return " | ".join([*parts, *(["null"] if kind.nullable else [])])


def plain_text(value: Any) -> str:
    """A value as one would write it in YAML."""
    if value is None:
        return "null"
    if value == "":
        return '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(plain_text(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {plain_text(item)}" for key, item in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def json_schema(options: TaskOptions) -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of a task's YAML file, for completion and checking in editors."""
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {"task": {"const": options.name, "description": "The task to train."}}
    for name, model in sections(options).items():
        section = model.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= section.pop("$defs", {})
        section.pop("title", None)
        properties[name] = {**section, "required": []}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"hotloop configuration of the task {options.name}",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"$defs": definitions} if definitions else {}),
    }
