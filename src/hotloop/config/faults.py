"""Checks every section and turns what pydantic finds into problems that people can act on.

A section with faults still yields an object, with defaults in place of the faulty values, so that the rules across
knobs can be checked in the same pass and all problems come at once.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hotloop.config import kinds
from hotloop.config.kinds import Kind
from hotloop.config.layers import Given
from hotloop.config.names import PLANNED_VALUES
from hotloop.config.schema import Config, TaskOptions, sections
from hotloop.config.section import Section, kinds_of
from hotloop.errors import Problem


def build(options: TaskOptions, given: Mapping[str, Given]) -> tuple[Config, list[Problem]]:
    """Build the configuration from dotted keys.

    Args:
        options: the task's option classes.
        given: every value that somebody set; all keys exist in the schema.

    Returns:
        The configuration (with defaults in place of faulty values) and one problem per faulty key.
    """
    problems: list[Problem] = []
    parts: dict[str, Section] = {}
    for name, section in sections(options).items():
        values = {key.partition(".")[2]: entry for key, entry in given.items() if key.startswith(f"{name}.")}
        parts[name], found = _section(name, section, values)
        problems += found
    return Config.model_validate({"task": options.name, **parts}), problems


def _section(name: str, section: type[Section], values: Mapping[str, Given]) -> tuple[Section, list[Problem]]:
    plain = {key: entry.value for key, entry in values.items()}
    try:
        made = section.model_validate(plain)
    except ValidationError as error:
        problems = _problems(name, section, values, error)
        faulty = {problem.key.partition(".")[2] for problem in problems}
        try:
            made = section.model_validate({key: value for key, value in plain.items() if key not in faulty})
        except ValidationError:
            made = section.model_construct()
        return made, problems
    return made, [_own_problem(name, made, values, *fault) for fault in made.problems()]


def _own_problem(name: str, made: Section, values: Mapping[str, Given], key: str, why: str, fix: str) -> Problem:
    bare = key.removeprefix(f"{name}.")
    origin = values[bare].origin if bare in values else "default"
    return Problem(f"{name}.{bare}", getattr(made, bare, None), origin, why, fix)


def _problems(name: str, section: type[Section], values: Mapping[str, Given], error: ValidationError) -> list[Problem]:
    by_key: dict[str, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_key.setdefault(str(detail["loc"][0]) if detail["loc"] else "", []).append(detail)
    return [_problem(name, section, values, key, details) for key, details in by_key.items()]


def _problem(
    name: str, section: type[Section], values: Mapping[str, Given], key: str, details: list[ErrorDetails]
) -> Problem:
    if key == "":
        why = details[0]["msg"].removeprefix("Value error, ")
        blamed = next((known for known in section.model_fields if known in why and known in values), None)
        key = blamed or next((known for known in section.model_fields if known in why), "")
        if not key:
            return Problem(name, None, "default", why)
        entry = values.get(key)
        return Problem(f"{name}.{key}", entry.value if entry else None, entry.origin if entry else "default", why)
    dotted = f"{name}.{key}"
    if key not in values:
        return Problem(dotted, None, "not set", "is required", f"set {dotted}")
    value, origin = values[key].value, values[key].origin
    if value in PLANNED_VALUES.get(dotted, ()) or _holds_planned(dotted, value):
        return Problem(dotted, value, origin, "is not available in this version", _choices(kinds_of(section)[key]))
    kind = kinds_of(section)[key]
    message = _message(details)
    meaning = section.model_fields[key].description or ""
    why = f"must be {kinds.expected(kind)}" if message is None else message
    if any(detail["type"] == "string_pattern_mismatch" for detail in details):
        why = f"is not of the right form. {meaning}"
    return Problem(dotted, value, origin, why, _fix(value, kind))


def _message(details: list[ErrorDetails]) -> str | None:
    """The message of a knob's own check; None where the knob's type says it better."""
    own = [detail["msg"].removeprefix("Value error, ") for detail in details if detail["type"] == "value_error"]
    return own[0] if own else None


def _holds_planned(dotted: str, value: Any) -> bool:
    return isinstance(value, list | tuple) and any(item in PLANNED_VALUES.get(dotted, ()) for item in value)


def _choices(kind: Kind) -> str:
    inner = kind.items if kind.items is not None else kind
    return f"use {' or '.join(inner.choices)}" if len(inner.choices) <= 2 else f"use one of {', '.join(inner.choices)}"


def _fix(value: Any, kind: Kind) -> str:
    if isinstance(value, str) and kind.choices and str not in kind.scalars:
        near = difflib.get_close_matches(value.lower(), kind.choices, n=1, cutoff=0.5)
        if near:
            return f"did you mean {near[0]}?"
    whole = int in kind.scalars and float not in kind.scalars
    if whole and isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return f"write {int(value)}"
    numeric = bool(set(kind.scalars) & {int, float})
    if isinstance(value, str) and numeric and str not in kind.scalars and _is_number(value):
        return f"write {float(value):g} without quotes" if not whole else f"write {value} without quotes"
    if str in kind.scalars and not numeric and not isinstance(value, str | list | dict | None):
        return f'write it in quotes: "{value}"'
    if kind.items is not None and not isinstance(value, list | tuple | dict | None):
        return f"write [{value}]" if kind.length is None else ""
    return ""


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
