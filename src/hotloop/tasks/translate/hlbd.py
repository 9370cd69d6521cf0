"""HLBD files as they are: concepts described on eight levels, from a sign to a whole Chinese sentence. Torch-free.

A text file holds prose and then `samples = [...]`; a JSON file {"samples": [...]}. Six levels become a source each, and
level 6 is the target of all. What a file spells otherwise, or leaves out, is counted and told, never lost unseen.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from hotloop.data.records import read_lines
from hotloop.errors import HotloopError
from hotloop.tasks.translate.pairs import Pairs

_SAMPLES = re.compile(r"^\s*samples\s*=\s*(?=\[)", re.MULTILINE)
_BEGIN, _LIST = re.compile(r"\s*samples\s*="), re.compile(r'"samples"\s*:\s*\[')
_LOOKED_AT = 200  # lines of a JSON file, in which its list of samples begins
_TARGET = ("level_6", ("中文",))
_SOURCES = {
    "[EMOJI]": ("level_1", ("emoji",)),
    "[PHRASE]": ("level_2", ("短语",)),
    "[EN]": ("level_5", ("英文",)),
    "[PY]": ("level_4", ("拼音",)),
    "[JP]": ("level_7", ("日文",)),
    "[KR]": ("level_8", ("韩文", "韩문")),  # both spellings occur
}


def is_hlbd(path: Path) -> bool:
    """Whether a .txt or .json file is one of these: by what stands in it."""
    if path.suffix.lower() == ".json":
        start = "".join(_first(path, _LOOKED_AT)).lstrip()
        return start.startswith("{") and _LIST.search(start) is not None
    return path.suffix.lower() == ".txt" and any(_BEGIN.match(line) for line in read_lines(path))


def _first(path: Path, count: int) -> list[str]:
    return [line for line, _ in zip(read_lines(path), range(count), strict=False)]


def read_hlbd(path: Path) -> Pairs:
    """The pairs of an HLBD file, concept by concept, each with its level's tag and the concept as its group.

    Raises:
        HotloopError: no samples, or JSON that is broken; with the line.
    """
    told = _Count()
    src: list[str] = []
    tgt: list[str] = []
    tags: list[str] = []
    groups: list[str] = []
    samples = _samples(path)
    for number, sample in enumerate(samples, start=1):
        concept, where = str(sample.get("concept") or f"number {number}"), f"sample {number}"
        target = told.text(sample, *_TARGET, where)
        for tag, (level, keys) in _SOURCES.items():
            source = told.text(sample, level, keys, where)
            if source and target:
                src.append(source)
                tgt.append(target)
                tags.append(tag)
                groups.append(concept)
                told.pairs[tag] += 1
        told.others(sample)
    if not src:
        what = "the file holds no pair: level_6 with 中文 and one of the other levels make one"
        raise HotloopError(what, where=str(path), fix="look at its samples; 'concept', 'level_1' to 'level_8'")
    return Pairs(str(path), src, tgt, tags, groups, told.lines(str(path), len(samples)))


class _Count:
    """What was taken, under which spelling, and what was not."""

    def __init__(self) -> None:
        self.pairs: Counter[str] = Counter()
        self.keys: Counter[str] = Counter()
        self.unused: Counter[str] = Counter()
        self.nested: list[str] = []
        self.missing: dict[str, list[str]] = {}

    def text(self, sample: dict[str, Any], level: str, keys: tuple[str, ...], where: str) -> str:
        """The text of a level, empty where there is none; a value one level too deep is taken from there."""
        found = sample.get(level)
        key = next((key for key in keys if isinstance(found, dict) and found.get(key)), None)
        value = None if key is None else found[key]  # type: ignore[index]
        if isinstance(value, dict) and len(value) == 1:
            (value,) = value.values()
            self.nested.append(f"{where} {level}")
        if not isinstance(value, str) or not value.strip():
            self.missing.setdefault(f"{level}.{keys[0]}", []).append(where)
            return ""
        self.keys[f"{level}.{key}"] += 1
        return value.strip()

    def others(self, sample: dict[str, Any]) -> None:
        """Count the keys that no pair is made of."""
        used = dict([_TARGET, *_SOURCES.values()])
        for level, values in sample.items():
            if isinstance(values, dict):
                taken = next((key for key in used.get(level, ()) if values.get(key)), None)
                self.unused.update(f"{level}.{key}" for key in values if key != taken)

    def lines(self, name: str, samples: int) -> list[str]:
        """What is told before training."""
        counts = ", ".join(f"{tag} {count:,}" for tag, count in self.pairs.items())
        lines = [f"{name}: {samples:,} samples, {self.pairs.total():,} pairs: {counts}"]
        for level, keys in _SOURCES.values():
            spelled = [f"{key} {self.keys[f'{level}.{key}']:,}" for key in keys if self.keys[f"{level}.{key}"]]
            if len(spelled) > 1:
                lines.append(f"{level} is spelled in more than one way, all are read: {', '.join(spelled)}")
        if self.nested:
            lines.append(f"text found one level deeper than elsewhere, read from there: {_few(self.nested)}")
        for key, places in self.missing.items():
            lines.append(f"{key} is missing in {len(places):,} samples, so no such pair is made: {_few(places)}")
        if self.unused:
            lines.append("not used: " + ", ".join(f"{key} {count:,}" for key, count in self.unused.items()))
        return lines


def _few(places: list[str]) -> str:
    return ", ".join(places[:5]) + (", ..." if len(places) > 5 else "")


def _samples(path: Path) -> list[dict[str, Any]]:
    text = "".join(read_lines(path))
    found = _SAMPLES.search(text)
    start = found.end() if found else 0
    try:
        value, end = json.JSONDecoder().raw_decode(text.lstrip() if not found else text, start)
    except ValueError as error:
        line = text.count("\n", 0, getattr(error, "pos", 0)) + 1
        what = f"the samples cannot be read as JSON: {getattr(error, 'msg', error)}"
        raise HotloopError(what, where=f"{path}, line {line}", fix="mend the file there") from None
    samples = value.get("samples") if isinstance(value, dict) else value
    if not isinstance(samples, list) or not samples or not all(isinstance(sample, dict) for sample in samples):
        fix = "write samples as a list of objects with concept and level_1 to level_8"
        raise HotloopError("the file holds no list of samples", where=str(path), fix=fix)
    if found and text[end:].strip():
        line = text.count("\n", 0, end) + 1
        what = f"something follows the samples: {text[end:].strip()[:20]!r}"
        raise HotloopError(what, where=f"{path}, line {line}", fix="mend the file there")
    return samples
