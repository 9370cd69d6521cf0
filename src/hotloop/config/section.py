"""What every section of the configuration shares: frozen, strict, closed to unknown keys.

Sections are data. A section may refuse a combination of its own knobs through `problems`; rules that need more than
one section are in `guards`.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hotloop.config import kinds
from hotloop.config.kinds import Kind

Auto = Literal["auto"]
Switch = Literal["auto", "on", "off"]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """Base of all sections, and through `ModelSection` and `DataSection` of the options of a task."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        defer_build=True,  # the table of knobs needs no validators, and a command line should start at once
    )

    @model_validator(mode="before")
    @classmethod
    def _read_notation(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        known = kinds_of(cls)
        return {key: kinds.read_notation(value, known[key]) if key in known else value for key, value in values.items()}

    def problems(self) -> list[tuple[str, str, str]]:
        """Combinations of this section's own knobs that cannot work.

        Returns:
            For each: the key inside this section, why it cannot work, how to mend it.
        """
        return []


@cache
def kinds_of(section: type[Section]) -> dict[str, Kind]:
    """What each knob of a section accepts."""
    return {name: kinds.of_field(field) for name, field in section.model_fields.items()}


def knob(default: Any, meaning: str, *, unit: str = "", **limits: Any) -> Any:
    """Declare a knob.

    Args:
        default: its value when nobody sets it.
        meaning: one sentence for people, shown by `hotloop knobs` and in the files that are written.
        unit: what a number counts ("steps", "s"); empty where it counts nothing.
        **limits: ge, gt, le, lt, pattern, as in pydantic's Field.
    """
    return Field(default, description=meaning, json_schema_extra={"unit": unit} if unit else None, **limits)
