"""YAML as hotloop reads it: data only, with the line of every value, and no surprise of YAML 1.1.

Only text, numbers, true, false, null, lists and mappings are read. `2e-5` is a number; `on`, `off`, `yes`, `no` stay
words; `010` is ten; `1:30` is text. Tags that name a type of another program, duplicate keys, and more nesting than
the configuration has are refused, each with its line. Nothing is ever executed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hotloop.errors import Problem

_PREFIX = "tag:yaml.org,2002:"
_PLAIN = {_PREFIX + kind for kind in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}
_DEEPEST = 4
SOURCE = "configuration file"  # origin of a problem with a file as a whole
_PATTERNS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
)


class _Resolver(yaml.SafeLoader):
    """PyYAML's safe loader, used for its parser only, with the scalar rules above."""


_Resolver.yaml_implicit_resolvers = {}

for _kind, _pattern, _first in _PATTERNS:
    _Resolver.add_implicit_resolver(_PREFIX + _kind, re.compile(rf"(?:{_pattern})$"), list(_first))


@dataclass(frozen=True)
class Item:
    """A value and the line on which it stands; the value of a section is a dict of Items."""

    value: Any
    line: int


class Fault(Exception):
    """What is wrong on one line, before it is turned into a Problem."""

    def __init__(self, line: int, why: str, fix: str = "", key: str = "") -> None:
        super().__init__(why)
        self.line, self.why, self.fix, self.key = line, why, fix, key


def read_file(path: str | Path) -> tuple[dict[str, Item], list[Problem]]:
    """Read a YAML file of sections.

    Args:
        path: the file; named in problems as the caller writes it.

    Returns:
        What could be read, by top-level key, and what is wrong with the file.
    """
    name = str(path)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return {}, [Problem(name, None, SOURCE, "there is no such file", _similar_file(Path(path)))]
    except IsADirectoryError:
        return {}, [Problem(name, None, SOURCE, "is a folder, not a file", "name a YAML file in it")]
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        why = f"is not UTF-8 text (byte {error.object[error.start]:#04x})"
        return {}, [Problem(name, None, f"{name} line {line}", why, "save the file as UTF-8")]
    except OSError as error:
        return {}, [Problem(name, None, SOURCE, f"cannot be read: {error.strerror}")]
    return read_text(text, name)


def read_text(text: str, name: str) -> tuple[dict[str, Item], list[Problem]]:
    """Read YAML text of sections; `name` says in problems where it comes from."""
    problems: list[Problem] = []
    try:
        root = _compose(text)
        if root is None:
            return {}, [Problem(name, None, SOURCE, "is empty", "`hotloop init TASK` writes a full one")]
        if not isinstance(root, yaml.MappingNode):
            raise Fault(_line(root), "is no configuration: expected sections such as `training:`")
        top = _mapping(root, "", problems, name)
    except Fault as fault:
        return {}, [*problems, Problem(fault.key or name, None, f"{name} line {fault.line}", fault.why, fault.fix)]
    return top, problems


def read_scalar(text: str) -> Any:
    """Read one value as YAML (a scalar, or a list or mapping in brackets); text that is no YAML is text."""
    try:
        node = _compose(text)
        return None if node is None else _value(node, 1)
    except Fault:
        return text


def _compose(text: str) -> yaml.Node | None:
    try:
        loader = _Resolver(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = f"is no valid YAML: {error.problem or error.context}"
        hint = "indent with spaces, never with tabs" if "\\t" in why else ""
        raise Fault(1 if mark is None else mark.line + 1, why, hint) from None
    except yaml.YAMLError as error:
        raise Fault(1, f"is no valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise Fault(1, "is nested too deeply") from None


def _mapping(node: yaml.MappingNode, inside: str, problems: list[Problem], name: str) -> dict[str, Item]:
    """One level of sections or knobs; a section's own mapping is read one level further."""
    found: dict[str, Item] = {}
    for key, line, value_node in _entries(node):
        dotted = f"{inside}.{key}" if inside else key
        try:
            if key in found:
                raise Fault(line, f"stands twice: on line {found[key].line} and on line {line}", "keep one of them")
            if not inside and isinstance(value_node, yaml.MappingNode) and value_node.tag in _PLAIN:
                value: Any = _mapping(value_node, key, problems, name)
            else:
                value = _value(value_node, 2)
            found[key] = Item(value, line)
        except Fault as fault:
            problems.append(Problem(dotted, None, f"{name} line {fault.line}", fault.why, fault.fix))
    return found


def _entries(node: yaml.MappingNode) -> Iterator[tuple[str, int, yaml.Node]]:
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise Fault(_line(key_node), "a key must be a plain name")
        yield key_node.value, _line(key_node), value_node


def _value(node: yaml.Node, depth: int) -> Any:
    if node.tag not in _PLAIN:
        tag = node.tag.replace(_PREFIX, "!!")
        why = f"carries the tag {tag}; a configuration holds plain values and never runs code"
        raise Fault(_line(node), why, "write the plain value without a tag")
    if depth > _DEEPEST:
        raise Fault(_line(node), "is nested more deeply than any key of the configuration")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, depth + 1) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, line, value_node in _entries(node):
            if key in found:
                raise Fault(line, f"holds {key} twice", "keep one of them")
            found[key] = _value(value_node, depth + 1)
        return found
    return _scalar(node.tag.removeprefix(_PREFIX), str(node.value), node)


def _scalar(kind: str, text: str, node: yaml.Node) -> Any:
    try:
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        if kind == "int":
            return int(text.replace("_", ""))
        if kind == "float":
            return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    except (KeyError, ValueError):
        raise Fault(_line(node), f"{text!r} is not a value of the type {kind} that its tag names") from None
    return None if kind == "null" else text


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _similar_file(path: Path) -> str:
    import difflib

    folder = path.parent if path.parent.is_dir() else Path()
    near = difflib.get_close_matches(path.name, [entry.name for entry in folder.glob("*.y*ml")], n=1, cutoff=0.5)
    return f"did you mean {folder / near[0]}?" if near else "check the path; it is taken from the current folder"
