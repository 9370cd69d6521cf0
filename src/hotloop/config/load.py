"""Puts the configuration of a run together: schema default < templates < file < command line or call.

Every fault of every source is collected and raised at once. Each key ends in one of three ways: it is a knob and is
used, it is another spelling and is moved with a note, or it is a problem. None is ever ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hotloop.config import arguments as command_line
from hotloop.config import faults, guards, idle, layers
from hotloop.config.arguments import Arguments
from hotloop.config.gather import Gathered
from hotloop.config.layers import Layer
from hotloop.config.names import Names, names_of
from hotloop.config.schema import Config, TaskOptions
from hotloop.config.yaml_reader import SOURCE, Item
from hotloop.errors import ConfigError, HotloopError

CALL = "Python call"


@dataclass(frozen=True)
class Loaded:
    """A resolved configuration.

    Args:
        config: every knob with its value.
        origins: dotted key -> who set it ("default", "template NAME", "FILE line N", "command line", "Python call").
        notes: lines that people should see once: other spellings that were read, rivals that were replaced.
        arguments: what else the command line said (switches, --resume-from-checkpoint).
    """

    config: Config
    origins: dict[str, str]
    notes: tuple[str, ...] = ()
    arguments: Arguments = field(default_factory=Arguments)


def load(
    options: TaskOptions,
    *,
    templates: Sequence[str] = (),
    file: str | Path | None = None,
    arguments: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    device_kind: str = "cpu",
) -> Loaded:
    """Resolve the configuration of a run.

    Args:
        options: the task's name and option classes.
        templates: recipes, applied left to right; none means `default`.
        file: a YAML file; `--config` among the arguments goes before it.
        arguments: tokens of the command line after the task; may name templates and a file too.
        overrides: keys of a Python call, dotted or short where unique, or sections as dicts.
        device_kind: "cpu" or "cuda", what `training.device: auto` will come to.

    Raises:
        ConfigError: with every fault of every source.
    """
    names = names_of(options)
    said = command_line.read(arguments, names)
    gathered = Gathered(names, list(said.problems))
    path = file if said.file is None else said.file
    upper = [] if path is None else [gathered.from_file(str(path))]
    upper.append(gathered.from_pairs(said.values, command_line.ORIGIN))
    upper.append(gathered.from_pairs(_flat(overrides or {}, names), CALL))
    kind = _device_kind(upper, device_kind)
    named = [(name, CALL) for name in templates] + [(name, command_line.ORIGIN) for name in said.templates]
    lower = [
        layer
        for place, (name, origin) in enumerate(named or [("default", "default")])
        for layer in gathered.from_template(name, kind, origin, first=place == 0)
    ]
    return _resolve(options, gathered, [*lower, *upper], said)


def read_saved(path: str | Path, options: TaskOptions) -> Config:
    """Read the config.json that a run wrote about itself; nothing is added but defaults of knobs it does not name.

    Raises:
        HotloopError: the file is missing or damaged.
        ConfigError: it holds what this version or this task does not know.
    """
    try:
        plain = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HotloopError("the run's configuration cannot be read", where=f"{path}: {error}") from None
    if not isinstance(plain, dict):
        raise HotloopError("the run's configuration cannot be read", where=f"{path}: not a mapping of sections")
    gathered = Gathered(names_of(options))
    tree = {key: Item(_items(value), 0) for key, value in plain.items()}
    layer = gathered.from_tree(tree, lambda line: str(path), template=True)
    config, problems = faults.build(options, layer.values)
    if gathered.problems or problems:
        raise ConfigError([*gathered.problems, *problems])
    return config


def _resolve(options: TaskOptions, gathered: Gathered, stack: Sequence[Layer], said: Arguments) -> Loaded:
    given, notes, problems = layers.merge(stack)
    ranks = {key: rank for rank, layer in enumerate(stack) if not layer.template for key in layer.values}
    config, unfit = faults.build(options, given)
    single = [*gathered.problems, *problems, *unfit]
    given, dropped = idle.drop(config, given, ranks)
    config = faults.build(options, given)[0]
    rules = guards.check(config, given, ranks, {problem.key for problem in single})
    unread = any(problem.origin == SOURCE or problem.key == "--template" for problem in single)
    if everything := single if unread else [*single, *rules]:
        raise ConfigError(everything)
    origins = {key: given[key].origin if key in given else "default" for key in gathered.names.kinds}
    return Loaded(config, origins, (*gathered.notes, *notes, *dropped), said)


def _items(value: Any) -> Any:
    return {key: Item(inner, 0) for key, inner in value.items()} if isinstance(value, dict) else value


def _device_kind(upper: Iterable[Layer], device_kind: str) -> str:
    """What the person says about the device goes before what the machine has: it decides which recipe is meant."""
    for layer in upper:
        stated = layer.values.get("training.device")
        if stated is not None and stated.value != "auto":
            device_kind = "cuda" if str(stated.value).startswith("cuda") else "cpu"
    return device_kind


def _flat(overrides: Mapping[str, Any], names: Names) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in overrides.items():
        if key in names.sections and isinstance(value, Mapping):
            pairs += [(f"{key}.{inner}", _plain(given)) for inner, given in value.items()]
        else:
            pairs.append((str(key), _plain(value)))
    return pairs


def _plain(value: Any) -> Any:
    """Numbers of other libraries as Python's own, paths as text; everything else as it is."""
    if isinstance(value, Path):
        return str(value)
    if value is not None and not isinstance(value, int | float | str | list | tuple | dict) and hasattr(value, "item"):
        return value.item()
    return value
