"""The commented YAML that `hotloop init TASK` writes: the task's default recipe with every key and what it means."""

from __future__ import annotations

from hotloop.config import knobs, writing
from hotloop.config.load import load
from hotloop.config.schema import TaskOptions, sections, to_plain

_WIDTH = 30


def init_yaml(options: TaskOptions, device_kind: str = "cpu") -> str:
    """Write the default recipe of a task as a commented YAML file.

    Args:
        options: the task's option classes.
        device_kind: "cpu" or "cuda", which default recipe is meant.

    Returns:
        YAML text with every key, its meaning, range and unit; it loads back to the same configuration.
    """
    plain = to_plain(load(options, device_kind=device_kind).config)
    table = {row["key"]: row for row in knobs.rows(options)}
    lines = [
        f"# hotloop train {options.name} --config THIS_FILE",
        "# The task's own recipe. What you delete keeps this value; the command line goes before this file.",
        f"task: {options.name}",
    ]
    for section, model in sections(options).items():
        if not model.model_fields:
            continue
        lines += ["", f"# {(model.__doc__ or section).strip().splitlines()[0]}", f"{section}:"]
        for name in model.model_fields:
            lines += _knob(f"{name}: {writing.scalar(plain[section][name])}", table[f"{section}.{name}"])
    return "\n".join(lines) + "\n"


def _knob(written: str, row: dict[str, str]) -> list[str]:
    meaning = row["meaning"]
    details = ", ".join(part for part in (row["type"], row["range"], row["unit"]) if part)
    return [f"  # {meaning}", f"  {written.ljust(_WIDTH)} # {details}"]
