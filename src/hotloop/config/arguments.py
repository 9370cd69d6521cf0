"""The command line after TASK: `key=value`, `--key-name value`, switches, templates and the file.

The only place that reads these tokens. A token that means nothing is a problem, and so is a value that is missing;
nothing is guessed and nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hotloop.config.kinds import WORDS, Kind
from hotloop.config.names import SHORT, Names
from hotloop.config.yaml_reader import read_scalar
from hotloop.errors import Problem

ORIGIN = "command line"
SWITCHES = ("show_config", "show_schedule", "json")
_MISSING = object()


@dataclass
class Arguments:
    """What the command line says.

    Args:
        values: (key as written, value) in order; keys are dotted or short, not yet checked.
        templates: names given with --template.
        file: path given with --config.
        resume_from: path given with --resume-from-checkpoint.
        switches: those of SWITCHES that were given, such as "show_config".
    """

    values: list[tuple[str, Any]] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    file: str | None = None
    resume_from: str | None = None
    switches: frozenset[str] = frozenset()
    problems: list[Problem] = field(default_factory=list)


def read(tokens: Sequence[str], names: Names) -> Arguments:
    """Read the tokens after TASK. Faults are collected in `problems`, never raised."""
    found = Arguments()
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if token.startswith("--") and len(token) > 2:
            _flag(token, rest, names, found)
        elif "=" in token and not token.startswith(("-", "=")):
            key, _, text = token.partition("=")
            _keep(key.replace("-", "_"), text, token, names, found)
        else:
            fix = "write key=value or --key value; `hotloop knobs` lists the keys"
            found.problems.append(Problem(token, None, ORIGIN, "is neither key=value nor a flag", fix))
    return found


def _flag(token: str, rest: list[str], names: Names, found: Arguments) -> None:
    flag, equals, text = token[2:].partition("=")
    key = flag.replace("-", "_")
    value: Any = text if equals else _MISSING
    if key in SWITCHES:
        if equals:
            found.problems.append(Problem(f"--{flag}", text, ORIGIN, "takes no value", f"write --{flag} alone"))
        found.switches |= {key}
    elif key == "gpu":
        _gpu(value, found)
    elif key in ("template", "config", "resume_from_checkpoint"):
        value = _next(value, rest)
        if value is _MISSING or value == "":
            found.problems.append(
                Problem(f"--{flag}", None, ORIGIN, "needs a value", f"write --{flag} {_EXAMPLE[key]}")
            )
        else:
            _name(key, value, found)
    else:
        _knob(flag, key, value, rest, names, found)


_EXAMPLE = {"template": "NAME", "config": "FILE", "resume_from_checkpoint": "RUN"}


def _name(key: str, value: str, found: Arguments) -> None:
    if key == "template":
        found.templates.append(value)
        return
    attribute = "file" if key == "config" else "resume_from"
    before = getattr(found, attribute)
    if before not in (None, value):
        flag = f"--{key.replace('_', '-')}"
        found.problems.append(Problem(flag, value, ORIGIN, f"is given twice, before as {before!r}", "keep one of them"))
    setattr(found, attribute, value)


def _gpu(value: Any, found: Arguments) -> None:
    if value is _MISSING:
        found.values.append(("training.device", "cuda"))
    elif str(value).isdecimal():
        found.values.append(("training.device", f"cuda:{value}"))
    else:
        found.problems.append(Problem("--gpu", value, ORIGIN, "takes no value, or the number of a GPU", "write --gpu"))


def _knob(flag: str, key: str, value: Any, rest: list[str], names: Names, found: Arguments) -> None:
    kind = _kind(key, names)
    alone = (kind is not None and kind.switch) or key in ("amp", "fp16", "bf16") or SHORT.get(key) in _SWITCH_ALIASES
    if value is _MISSING and alone:
        word = rest[0].lower() if rest else ""
        allowed = word in WORDS or (kind is not None and (word in kind.choices or _is_value(word, kind)))
        value = rest.pop(0) if allowed else "true"
    elif value is _MISSING and kind is None and key.startswith("no_") and _is_switch(key[3:], names):
        key, value = key[3:], "false"
    elif value is _MISSING:
        value = _next(value, rest)
    if value is _MISSING:
        if kind is None and not _known(key, names):
            found.values.append((key, None))
            return
        found.problems.append(Problem(f"--{flag}", None, ORIGIN, "needs a value", f"write --{flag} VALUE"))
        return
    _keep(key, value, f"--{flag}", names, found)


_SWITCH_ALIASES = ("optimization.memory_efficient_attention",)


def _is_switch(key: str, names: Names) -> bool:
    kind = _kind(key, names)
    return kind is not None and kind.switch


def _known(key: str, names: Names) -> bool:
    return key in SHORT or bool(names.placed(key)) or names.planned(key) is not None


def _next(value: Any, rest: list[str]) -> Any:
    """The value of a flag: given with `=`, or the next token unless that is a flag itself."""
    if value is _MISSING and rest and not rest[0].startswith("--"):
        return rest.pop(0)
    return value


def _kind(key: str, names: Names) -> Kind | None:
    placed = names.placed(SHORT.get(key, key))
    return names.kinds[placed[0]] if len(placed) == 1 else None


def _keep(key: str, text: str, shown: str, names: Names, found: Arguments) -> None:
    if text == "":
        fix = "write null for nothing" if _nullable(key, names) else "write a value after ="
        found.problems.append(Problem(shown, None, ORIGIN, "needs a value", fix))
        return
    section_key, _, inner = key.rpartition(".")
    owner = names.kinds.get(section_key)
    if owner is not None and owner.mapping:
        found.values.append((section_key, {inner: read_scalar(text)}))
        return
    found.values.append((key, read_value(text, _kind(key, names))))


def _nullable(key: str, names: Names) -> bool:
    kind = _kind(key, names)
    return kind is not None and kind.nullable


def read_value(text: str, kind: Kind | None) -> Any:
    """Read the text of a value as the knob wants it; what does not fit stays as it is, for the check that follows.

    Everything on a command line is text, so a knob that holds text takes it as it stands: `--experiment-name 7`.
    """
    if kind is None:
        return read_scalar(text)
    if kind.nullable and text in ("null", "none", "None", "~"):
        return None
    if text in kind.choices:
        return text
    if kind.mapping:
        return _pairs(text)
    if kind.items is not None:
        alone = _scalar_of(text, kind)  # a knob may hold a switch or a number where it holds no list
        if alone is not None:
            return alone
        inner = text[1:-1] if text[:1] + text[-1:] in ("[]", "()") else text
        return [read_value(part.strip().strip("'\""), kind.items) for part in inner.split(",") if part.strip()]
    if str in kind.scalars:
        return text
    alone = _scalar_of(text, kind)
    return read_scalar(text) if alone is None else alone


def _is_value(text: str, kind: Kind) -> bool:
    """Whether what follows a switch is its value: a number or a list in brackets, where the knob takes one."""
    return _scalar_of(text, kind) is not None or (kind.items is not None and text.startswith("["))


def _scalar_of(text: str, kind: Kind) -> bool | int | float | None:
    """The switch or the number that the text is, where the knob takes one."""
    if bool in kind.scalars and text.lower() in WORDS:
        return WORDS[text.lower()]
    number = read_scalar(text) if float in kind.scalars or int in kind.scalars else None
    return number if isinstance(number, int | float) and not isinstance(number, bool) else None


def _pairs(text: str) -> Any:
    """`{a: 1, b: [2, 3]}` as YAML has it, `a=1,b=2` or `a:1` as a mapping; anything else as text."""
    whole = read_scalar(text) if text.lstrip().startswith("{") else None
    if isinstance(whole, dict) and None not in whole.values():  # {a=1} is YAML too, for a key without a value
        return whole
    pairs: dict[str, Any] = {}
    for part in text.strip().removeprefix("{").removesuffix("}").split(","):
        name, sign, value = part.partition("=" if "=" in part else ":")
        if part.strip() and not (sign and name.strip()):
            return text
        if part.strip():
            pairs[name.strip().strip("'\"")] = read_scalar(value.strip())
    return pairs
