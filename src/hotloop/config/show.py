"""The resolved configuration for people: every value with who set it."""

from __future__ import annotations

from hotloop.config.idle import value_of
from hotloop.config.knobs import plain_text
from hotloop.config.load import Loaded


def config_rows(loaded: Loaded) -> list[dict[str, str]]:
    """Every knob as key, value and origin, in the order of the sections."""
    return [
        {"key": key, "value": plain_text(value_of(loaded.config, key)), "origin": origin}
        for key, origin in loaded.origins.items()
    ]


def config_lines(loaded: Loaded) -> list[str]:
    """The rows as aligned lines, one section after the other, and the notes at the end."""
    rows = config_rows(loaded)
    widths = [max((len(row[column]) for row in rows), default=0) for column in ("key", "value")]
    lines = [f"task: {loaded.config.task}"]
    section = ""
    for row in rows:
        if section != (section := row["key"].partition(".")[0]):
            lines.append("")
        lines.append(f"{row['key'].ljust(widths[0])}  {row['value'].ljust(min(widths[1], 40))}  {row['origin']}")
    return [*lines, *([""] if loaded.notes else []), *(f"note: {note}" for note in loaded.notes)]
