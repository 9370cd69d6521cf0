"""From the sources to layers: each key is placed as a knob, moved as another spelling, or named as a problem."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hotloop.config import aliases, recipes, yaml_reader
from hotloop.config.layers import Given, Layer
from hotloop.config.names import SHORT, Names
from hotloop.config.yaml_reader import Item
from hotloop.errors import Problem

MICRO_BATCH = "micro_batch_at_most"  # only in templates


@dataclass
class Gathered:
    """Collects the problems and notes of all sources while their layers are made."""

    names: Names
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def from_template(self, name: str, device_kind: str, origin: str, *, first: bool = True) -> list[Layer]:
        """The layers of a template and, where it stands first, of those it extends, the most general first."""
        found, problems = recipes.chain(name, self.names.task, device_kind, origin)
        found = found if first else found[-1:]
        self.problems += problems
        return [
            self.from_tree(tree, lambda line, stem=stem: f"template {stem}", template=True)  # type: ignore[misc]
            for stem, tree in found
        ]

    def from_file(self, path: str) -> Layer:
        """The layer of a user's YAML file."""
        tree, problems = yaml_reader.read_file(path)
        self.problems += problems
        return self.from_tree(tree, lambda line: f"{path} line {line}", template=False)

    def from_tree(self, tree: Mapping[str, Item], origin: Callable[[int], str], *, template: bool) -> Layer:
        """The layer of sections that were read with the line of each value."""
        entries: list[tuple[str, Any, str]] = []
        micro_batch: Given | None = None
        for name, item in tree.items():
            if name == MICRO_BATCH and template:
                micro_batch = Given(item.value, origin(item.line))
            elif name == "task":
                self._check_task(item, origin(item.line))
            elif name not in self.names.sections:
                self.problems.append(self._stray(name, item, origin(item.line)))
            elif isinstance(item.value, dict):
                entries += [(f"{name}.{key}", inner.value, origin(inner.line)) for key, inner in item.value.items()]
            elif item.value is not None:
                why = "is a section and needs keys below it"
                self.problems.append(Problem(name, item.value, origin(item.line), why, "indent its keys below it"))
        layer = self._layer(entries, template)
        layer.micro_batch = micro_batch
        return layer

    def from_pairs(self, pairs: Iterable[tuple[str, Any]], origin: str) -> Layer:
        """The layer of keys that may be short: the command line, or a Python call."""
        entries: list[tuple[str, Any, str]] = []
        for key, value in pairs:
            full = SHORT.get(key, key)
            placed = self.names.placed(full)
            if len(placed) > 1:
                why = f"can mean {' or '.join(placed)}"
                self.problems.append(Problem(key, value, origin, why, "write the one that is meant"))
            else:
                known = placed[0] if placed else full if key in SHORT or aliases.is_alias(full) else _alias(full) or key
                entries.append((known, value, origin))
        return self._layer(entries, template=False)

    def _layer(self, entries: Iterable[tuple[str, Any, str]], template: bool) -> Layer:
        layer = Layer(template)
        others: dict[str, Given] = {}
        for key, value, origin in entries:
            if key in self.names.kinds:
                problem = layer.put(key, value, origin)
            elif self._is_alias(key):
                problem = _put_alias(others, key, value, origin)
            else:
                problem = self._refused(key, value, origin)
            self.problems += [problem] if problem else []
        notes, problems = aliases.apply(layer, others)
        self.notes += notes
        self.problems += problems
        return layer

    def _is_alias(self, key: str) -> bool:
        return aliases.is_alias(key) and aliases.ALIASES.get(key, aliases.PRECISION) in self.names.kinds

    def _refused(self, key: str, value: Any, origin: str) -> Problem:
        planned = self.names.planned(aliases.ALIASES.get(key, key))
        if planned is not None:
            task_owned = planned.startswith(("model.", "data."))
            why = f"is not available in this version{f' for the task {self.names.task}' if task_owned else ''}"
            return Problem(planned, value, origin, why, "leave it out")
        nearest = self.names.nearest(key)
        misplaced = nearest.startswith("write ")
        section = key.partition(".")[0]
        place = f"no key of {section}" if section in self.names.sections and "." in key else "no key"
        return Problem(key, value, origin, f"is {place}" if misplaced else "is no key that hotloop knows", nearest)

    def _stray(self, name: str, item: Item, origin: str) -> Problem:
        value = None if isinstance(item.value, dict) else item.value
        if name == "extends":
            return Problem(name, value, origin, "only templates extend others", f"use --template {value}")
        nearest = self.names.nearest(name)
        if nearest.startswith("write "):
            dotted = nearest.removeprefix("write ")
            fix = f"move it into its section: {dotted}"
            return Problem(name, value, origin, "stands outside of any section", fix)
        return Problem(name, value, origin, "is no section that hotloop knows", self._near_section(name, nearest))

    def _near_section(self, name: str, otherwise: str) -> str:
        import difflib

        near = difflib.get_close_matches(name, self.names.sections, n=1, cutoff=0.5)
        return f"did you mean {near[0]}?" if near else otherwise

    def _check_task(self, item: Item, origin: str) -> None:
        if item.value != self.names.task:
            fix = f"run `hotloop train {item.value}`, or change the line"
            why = f"the task to train is {self.names.task}"
            self.problems.append(Problem("task", item.value, origin, why, fix))


def _alias(key: str) -> str | None:
    """The alias that a `section_key` spelling means, if any."""
    section, _, rest = key.partition("_")
    return f"{section}.{rest}" if aliases.is_alias(f"{section}.{rest}") else None


def _put_alias(others: dict[str, Given], key: str, value: Any, origin: str) -> Problem | None:
    before = others.setdefault(key, Given(value, origin))
    if before.value == value:
        return None
    return Problem(key, value, origin, f"is set twice, to {before.value!r} and to {value!r}", "keep one of them")
