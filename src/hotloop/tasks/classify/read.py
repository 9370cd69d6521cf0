"""Files of texts: which files are which part, their rows, and the column of the text.

Torch-free. A row keeps the line it came from, so that every fault of a text or of a label can be told by file and line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from hotloop.data.records import SUFFIXES, Record, present, read_lines, read_records, require_whole
from hotloop.errors import HotloopError
from hotloop.tasks.classify.options import ClassifyData, listed

TEXT = ("text", "TEXT", "content", "sentence", "review")
_PARTS = {"train": ("train",), "val": ("dev", "val", "valid", "validation"), "test": ("test",)}
_NAMES = {str: "text", int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class Sheet:
    """The rows of one file.

    Args:
        name: of the file, as messages show it.
        records: its rows.
    """

    name: str
    records: Sequence[Record]

    @cached_property
    def columns(self) -> list[str]:
        """Every column that some row has, in the order in which they come."""
        return list(dict.fromkeys(name for record in self.records for name in record.values))

    def at(self, record: Record) -> str:
        """Where a row is, for messages."""
        return f"{self.name}, line {record.line}"

    def texts(self, column: str | None) -> list[str]:
        """The text of each row.

        Raises:
            HotloopError: no such column, a row without a text, or something else in its place.
        """
        name = text_column(self.columns, column, self.name)
        return [text_of(record, name, self.name) for record in self.records]


def text_column(columns: Sequence[str], wanted: str | None, file: str) -> str:
    """The column that holds the text.

    Raises:
        HotloopError: there is none of that name, or none that is known.
    """
    found = [name for name in ((wanted,) if wanted is not None else TEXT) if name in columns]
    if found:
        return found[0]
    what = "no column of the text is found" if wanted is None else f"there is no column '{wanted}'"
    raise HotloopError(
        f"{what}; there are {', '.join(columns) or 'none'}", where=file, fix="name it: data.text_column=COLUMN"
    )


def text_of(record: Record, column: str, file: str) -> str:
    """The text of a row.

    Raises:
        HotloopError: it has none, or something else in its place.
    """
    value = record.values.get(column)
    if isinstance(value, str):
        require_whole(value, column, f"{file}, line {record.line}")
        return value
    what = f"the row has no {column}" if value is None else f"{column} is {_NAMES.get(type(value), 'something else')}"
    fix = f'write it as text: {{"{column}": "..."}}' if value is not None else f"give every row a {column}"
    raise HotloopError(
        f"{what}, not a text" if value is not None else what, where=f"{file}, line {record.line}", fix=fix
    )


def read_sheet(path: Path) -> Sheet:
    """All rows of a file.

    Raises:
        HotloopError: missing, empty, broken.
    """
    records = list(read_records(path))
    if not records:
        raise HotloopError("the file holds no rows", where=str(path), fix="give a file with at least one row")
    return Sheet(str(path), records)


def read_pieces(path: Path, rows: int, column: str | None) -> Iterator[tuple[list[str], list[Mapping[str, Any]]]]:
    """Texts of a file and what else is in their rows, `rows` at a time; a .txt file holds a text a line.

    Raises:
        HotloopError: missing, empty, broken, a row without a text.
    """
    if path.suffix.lower() == ".txt":
        plain = (Record({"text": line.rstrip("\r\n")}, n) for n, line in enumerate(read_lines(path), start=1))
        records: Iterator[Record] = plain
        column = "text"
    else:
        records = read_records(path)
    while chunk := list(islice(records, rows)):
        sheet = Sheet(str(path), chunk)
        column = column if column in sheet.columns else text_column(sheet.columns, None, sheet.name)
        yield sheet.texts(column), [record.values for record in chunk]


def find_files(data: ClassifyData) -> dict[str, list[Path]]:
    """The files of each part: train, and val and test where there are some.

    Raises:
        HotloopError: a file that is not there, or a folder without a training file.
    """
    if data.train_path is None:
        names = listed(data.path)
        if len(names) == 1 and (folder := Path(names[0]).expanduser()).is_dir():
            return _in_folder(folder)
        return {"train": [present(name, "data.path") for name in names]}
    given = {"train": data.train_path, "val": data.val_path, "test": data.test_path}
    return {
        part: [present(name, f"data.{part}_path") for name in listed(names)] for part, names in given.items() if names
    }


def _in_folder(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for part, names in _PARTS.items():
        files = [folder / (name + suffix) for name in names for suffix in SUFFIXES]
        there = [path for path in files if path.is_file()]
        if len(there) > 1:
            what = f"both {there[0].name} and {there[1].name} could be the {part} part"
            raise HotloopError(what, where=str(folder), fix="name the files: data.train_path, data.val_path")
        if there:
            found[part] = there
    if "train" not in found:
        fix = f"call it train with one of {', '.join(SUFFIXES)}, or name the files: data.train_path, data.val_path"
        raise HotloopError("the folder holds no training file", where=str(folder), fix=fix)
    return found
