"""Small files of pairs for the tests of the task translate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
SIGNS = ("一", "二", "三", "四", "五", "六", "七", "八", "九", "十", "十一", "十二")


NAMES = ("tag", "src", "tgt", "concept")


def tsv(path: Path, rows: list[tuple[str, ...]], names: tuple[str, ...] | None = NAMES) -> Path:
    """Rows as tab-separated values."""
    lines = (["\t".join(names)] if names else []) + ["\t".join(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def concepts(count: int = 12) -> list[tuple[str, ...]]:
    """Two pairs, [EN] and [UP], for each of `count` concepts."""
    rows = []
    for word, sign in list(zip(WORDS, SIGNS, strict=True))[:count]:
        rows += [("[EN]", word, sign, word), ("[UP]", word.upper(), sign, word)]
    return rows


def sample(number: int, **changes: Any) -> dict[str, Any]:
    """A sample as HLBD has them."""
    made = {
        "concept": f"概念{number}",
        "level_1": {"字卡": "字", "emoji": "🌧️"},
        "level_2": {"短语": f"短语{number}"},
        "level_3": {"数学": "S = VP"},
        "level_4": {"拼音": f"pīn yīn {number}"},
        "level_5": {"英文": f"English {number}"},
        "level_6": {"中文": f"中文第{number}句。"},
        "level_7": {"日文": f"日本語{number}"},
        "level_8": {"韩文": f"한국어{number}"},
    }
    return {**made, **changes}


def hlbd(path: Path, samples: list[Any], prose: str = "说明文字\n\n") -> Path:
    """A text file with prose and samples."""
    path.write_text(f"{prose}samples = {json.dumps(samples, ensure_ascii=False, indent=2)}\n", encoding="utf-8")
    return path
