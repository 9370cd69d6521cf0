"""Files of pairs: tables with named columns or without, JSON, and HLBD files. Torch-free.

Every fault of a text is told by file and line; a pair without a source or a target is refused, never made up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from hotloop.data.records import Record, present, read_lines, read_records, require_whole
from hotloop.errors import HotloopError
from hotloop.tasks.translate.hlbd import is_hlbd, read_hlbd
from hotloop.tasks.translate.options import TranslateData
from hotloop.tasks.translate.pairs import Pairs
from hotloop.tasks.translate.tokens import parted

_SOURCE, _TARGET = ("src", "source", "input"), ("tgt", "target", "output", "translation")
_GROUP = ("group", "concept")
_TAG = "tag"


def read_pairs(path: Path, data: TranslateData) -> Pairs:
    """All pairs of a file.

    Raises:
        HotloopError: missing, broken, without the columns, or a pair that lacks a text; with the line.
    """
    if is_hlbd(path):
        return read_hlbd(path)
    records = list(_records(path, data))
    if not records:
        raise HotloopError("the file holds no pairs", where=str(path), fix="give a file with at least one pair")
    columns = list(dict.fromkeys(name for record in records for name in record.values))  # a row of JSON may lack some
    source = _column(columns, data.source_column, _SOURCE, path, "source")
    target = _column(columns, data.target_column, _TARGET, path, "target")
    group = _optional(columns, data.group_column, path)
    src, tgt, tags, groups = [], [], [], []
    for record in records:
        src.append(_text(record, source, path))
        tgt.append(_text(record, target, path))
        tags.append(str(record.values.get(_TAG) or ""))
        groups.append(_named(record, group, path) if group is not None else "")
    how = f"{source} to {target}"
    if _headerless(path, data):
        how = "no line of names, so column 1 is the source and column 2 the target"
    pairs = Pairs(str(path), src, tgt, notes=[f"{path}: {len(src):,} pairs ({how})"])
    return replace(pairs, tags=tags if _TAG in columns else None, groups=groups if group is not None else None)


def read_pieces(
    path: Path, rows: int, data: TranslateData, specials: Sequence[str]
) -> Iterator[tuple[list[str], list[str], list[str], list[Any]]]:
    """Sources of a file, their tags, where they stand, and what else is in their rows, `rows` at a time.

    A .txt file holds a source a line, and one of the `specials`, such as [EN], may stand before it.

    Raises:
        HotloopError: missing, empty, broken, a row without a source.
    """
    plain = path.suffix.lower() == ".txt"
    records: Iterator[Record]
    if plain:
        lines = enumerate(read_lines(path), start=1)
        records = (Record({_SOURCE[0]: line.rstrip("\r\n")}, number) for number, line in lines)
    else:
        records = _records(path, data)
    while chunk := list(islice(records, rows)):
        columns = list(dict.fromkeys(name for record in chunk for name in record.values))
        source = _SOURCE[0] if plain else _column(columns, data.source_column, _SOURCE, path, "source")
        texts = [_text(record, source, path) for record in chunk]
        tags = [str(record.values.get(_TAG) or "") for record in chunk]
        if plain:
            tags, texts = map(list, zip(*(parted(text, specials) for text in texts), strict=True))
        places = [f"{path}, line {record.line}" for record in chunk]
        yield texts, tags, places, [record.values for record in chunk]


def find_files(data: TranslateData) -> dict[str, Path]:
    """The file of each part: train, and val and test where there are some.

    Raises:
        HotloopError: a file that is not there.
    """
    if data.train_path is None:
        assert data.path is not None
        return {"train": present(data.path, "data.path", ".txt")}
    given = {"train": data.train_path, "val": data.val_path, "test": data.test_path}
    return {part: present(name, f"data.{part}_path", ".txt") for part, name in given.items() if name is not None}


def _records(path: Path, data: TranslateData) -> Iterator[Record]:
    names = _headerless(path, data)
    if path.suffix.lower() == ".txt":
        if "\t" not in next(iter(read_lines(path)), ""):
            fix = "write one pair a line, source and target with a tab between; or use .tsv, .csv, .jsonl"
            raise HotloopError("the first line holds no tab, so it is no pair", where=f"{path}, line 1", fix=fix)
        return read_records(path, names, kind=".tsv")
    return read_records(path, names)


def _headerless(path: Path, data: TranslateData) -> Sequence[str] | None:
    """Names for a table of two or three columns whose first line names none that is known."""
    if path.suffix.lower() not in (".txt", ".tsv") or data.source_column or data.target_column:
        return None
    cells = next(iter(read_lines(path)), "").rstrip("\r\n").split("\t")
    known = {*_SOURCE, *_TARGET, *_GROUP, _TAG}
    if known & set(cells) or len(cells) not in (2, 3):
        return None
    return (_SOURCE[0], _TARGET[0], "attribution")[: len(cells)]


def _column(columns: Sequence[str], wanted: str | None, known: Sequence[str], path: Path, what: str) -> str:
    found = [name for name in ((wanted,) if wanted is not None else known) if name in columns]
    if found:
        return found[0]
    missing = f"there is no column '{wanted}'" if wanted is not None else f"no column of the {what} is found"
    fix = f"name it: data.{what}_column=COLUMN"
    raise HotloopError(f"{missing}; there are {', '.join(columns) or 'none'}", where=str(path), fix=fix)


def _optional(columns: Sequence[str], wanted: str | None, path: Path) -> str | None:
    if wanted is not None and wanted not in columns:
        what = f"there is no column '{wanted}'; there are {', '.join(columns)}"
        raise HotloopError(what, where=str(path), fix="name one of these: data.group_column=COLUMN, or leave it out")
    return wanted or next((name for name in _GROUP if name in columns), None)


def _text(record: Record, column: str, path: Path) -> str:
    value = record.values.get(column)
    where = f"{path}, line {record.line}"
    if not isinstance(value, str):
        what = f"the row has no {column}" if value is None else f"{column} is {value!r}, not a text"
        fix = f"give every row a {column}" if value is None else f'write it as text: {{"{column}": "..."}}'
        raise HotloopError(what, where=where, fix=fix)
    if not value.strip():
        raise HotloopError(f"{column} is empty", where=where, fix="give it a text, or remove the row")
    require_whole(value, column, where)
    return value.strip()


def _named(record: Record, column: str, path: Path) -> str:
    value: Any = record.values.get(column)
    if value is None or value == "" or isinstance(value, Mapping | list):
        fix = f"give every row a {column}: pairs of one {column} are never split up"
        raise HotloopError(f"the row has no {column}", where=f"{path}, line {record.line}", fix=fix)
    return str(value)
