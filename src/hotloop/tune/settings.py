"""Configurations with some knobs set: the plain way to train, and a candidate on top of another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hotloop.config import idle
from hotloop.config.load import Loaded
from hotloop.config.schema import Config

TUNED = "measured"
"""Where a value comes from that a measurement has set."""

# What anyone writes down first: float32, eager, batches from the host. Keys that a version does not know are left out.
PLAIN: dict[str, Any] = {
    "training.precision": "fp32",
    "training.compile": "off",
    "training.compile_region": "auto",
    "training.channels_last": "off",
    "training.capture": "off",
    "training.attention": "auto",
    "training.tune": "off",
    "data.resident": "off",
    "data.num_workers": 0,
    "data.pin_memory": "off",
    "memory.keep_freed": "off",
    "training.fast_dropout": "off",
}

SEARCHED = frozenset({*PLAIN, "training.threads"})
"""Every knob that a search may set without changing what is learned."""


def is_open(origins: Mapping[str, str], key: str) -> bool:
    """Whether nobody stated a key by hand: it is the default's, a template's, or was measured."""
    origin = origins.get(key, "default")
    return origin in ("default", TUNED) or (origin.startswith("template ") and " line " not in origin)


def with_knobs(loaded: Loaded, knobs: Mapping[str, Any], origin: str = TUNED) -> Loaded:
    """The same configuration with `knobs` (dotted key -> value) in place of what it says."""
    config, origins = loaded.config, dict(loaded.origins)
    for key, value in knobs.items():
        section, _, name = key.partition(".")
        part = getattr(config, section)
        if name in type(part).model_fields:
            changed = type(part).model_validate({**part.model_dump(), name: value})
            config, origins[key] = config.model_copy(update={section: changed}), origin
    return replace(loaded, config=config, origins=origins)


def without_idle(loaded: Loaded) -> Loaded:
    """The same without values that have no effect beside the others, such as workers for resident data."""
    idle_keys = {need.key: idle.default_of(loaded.config, need.key) for need in idle.found(loaded.config)}
    return with_knobs(loaded, idle_keys, "default") if idle_keys else loaded


def resolved(plan: Mapping[str, Any], loaded: Loaded) -> dict[str, Any]:
    """What `auto` came to in a plan, as knobs that nobody stated otherwise."""
    found: dict[str, Any] = {
        "training.precision": plan["precision"],
        "training.compile": plan["compile"],
        "training.threads": plan["threads"],
        "data.resident": "on" if plan["resident"] else "off",
        "memory.keep_freed": "on" if plan["keep_freed"] else "off",
        "training.fast_dropout": "on" if plan["fast_dropout"] else "off",
    }
    if not plan["resident"]:
        found["data.num_workers"] = plan["num_workers"]
    return {key: value for key, value in found.items() if is_open(loaded.origins, key)}


def value_of(config: Config, key: str) -> Any:
    """The value of a dotted key; None where there is no such key."""
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name, None)
