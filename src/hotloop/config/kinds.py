"""What a knob accepts, read from its type annotation, in a form that people and the readers of text can use.

A `Kind` is derived from the annotation and its constraints alone, so that messages, the table of knobs and the
command line cannot drift from what pydantic checks.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic.fields import FieldInfo

EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
WORDS = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
_SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class Kind:
    """What one knob accepts.

    Args:
        scalars: the plain types among bool, int, float, str.
        choices: the words it accepts.
        low, high: bounds of a number, None where open ended.
        low_open, high_open: whether the bound itself is excluded.
        items: what a list holds; None for a knob that is no list.
        mapping: whether it is a mapping of names to values.
        nullable: whether null (nothing) is allowed.
    """

    scalars: tuple[type, ...] = ()
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False
    items: Kind | None = None
    length: int | None = None
    mapping: bool = False
    nullable: bool = False

    @property
    def switch(self) -> bool:
        """Whether the knob may stand alone on the command line, meaning "on"."""
        return bool in self.scalars or "on" in self.choices


def of_field(field: FieldInfo) -> Kind:
    """The kind of one pydantic field."""
    return _bounded(_of(field.annotation), field.metadata)


def _of(annotation: Any) -> Kind:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _bounded(_of(arguments[0]), arguments[1:])
    if origin in (typing.Union, types.UnionType):
        return _merge(_of(part) for part in arguments)
    if origin is Literal:
        return Kind(choices=tuple(str(choice) for choice in arguments))
    if annotation is type(None):
        return Kind(nullable=True)
    if origin in (list, tuple, set, frozenset):
        inner = [part for part in arguments if part is not Ellipsis]
        length = len(arguments) if origin is tuple and Ellipsis not in arguments else None
        return Kind(items=_of(inner[0]) if inner else Kind(), length=length)
    if annotation is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return Kind(mapping=True)
    return Kind(scalars=(annotation,)) if annotation in _SCALARS else Kind()


def _bounded(kind: Kind, metadata: Iterable[Any]) -> Kind:
    for mark in metadata:
        if isinstance(mark, FieldInfo):
            kind = _bounded(kind, mark.metadata)
            continue
        for name in ("ge", "gt"):
            if (bound := getattr(mark, name, None)) is not None:
                kind = replace(kind, low=bound, low_open=name == "gt")
        for name in ("le", "lt"):
            if (bound := getattr(mark, name, None)) is not None:
                kind = replace(kind, high=bound, high_open=name == "lt")
    return kind


def _merge(kinds: Iterable[Kind]) -> Kind:
    whole = Kind()
    for kind in kinds:
        whole = Kind(
            scalars=whole.scalars + kind.scalars,
            choices=whole.choices + kind.choices,
            low=kind.low if whole.low is None else whole.low,
            high=kind.high if whole.high is None else whole.high,
            low_open=whole.low_open or kind.low_open,
            high_open=whole.high_open or kind.high_open,
            items=whole.items or kind.items,
            length=whole.length or kind.length,
            mapping=whole.mapping or kind.mapping,
            nullable=whole.nullable or kind.nullable,
        )
    return whole


def bounds(kind: Kind) -> str:
    """The range of a number as people write it: `>= 1`, `0 to 1`, `>= 0, < 1`; empty where there is none."""
    inner = kind.items if kind.items is not None else kind
    low, high = inner.low, inner.high
    if low is not None and high is not None and not inner.low_open and not inner.high_open:
        return f"{low} to {high}"
    parts = [] if low is None else [f"{'>' if inner.low_open else '>='} {low}"]
    parts += [] if high is None else [f"{'<' if inner.high_open else '<='} {high}"]
    return ", ".join(parts)


def expected(kind: Kind) -> str:
    """What the knob accepts, as the end of the sentence "must be ..."."""
    parts = [", ".join(kind.choices)] if kind.choices else []
    if kind.items is not None:
        count = "" if kind.length is None else f"{kind.length} "
        parts.append(f"a list of {count}values, each {expected(kind.items)}")
    if kind.mapping:
        parts.append("a mapping of names to values")
    for scalar in kind.scalars:
        limit = bounds(kind) if scalar in (int, float) else ""
        parts.append(_SCALARS[scalar] + (f" ({limit})" if limit else ""))
    if kind.nullable:
        parts.append("null")
    if len(kind.choices) > 1 and len(parts) == 1:
        return f"one of {parts[0]}"
    return " or ".join(parts) or "a value of its own type"


def read_notation(value: Any, kind: Kind) -> Any:
    """Undo the differences of notation that carry no meaning, and nothing else.

    `2e-5` is text to many YAML readers and a number to people; `on` and `off` are truth values to some YAML readers
    and words to others; a list and a tuple are written alike. Whatever is not one of these is returned as it came.
    """
    if isinstance(value, bool) and bool not in kind.scalars:
        word = "on" if value else "off"
        return word if word in kind.choices else value
    if isinstance(value, str) and value not in kind.choices:
        if float in kind.scalars and str not in kind.scalars and EXPONENT.fullmatch(value):
            return float(value)
        if bool in kind.scalars and str not in kind.scalars:
            return WORDS.get(value.lower(), value)
        if value.lower() in kind.choices:  # INFO for info, AdamW for adamw
            return value.lower()
    if isinstance(value, list | tuple) and kind.items is not None:
        return tuple(read_notation(item, kind.items) for item in value)
    return value
