"""Rows of a file as people keep them: a JSON list, JSON lines, comma- or tab-separated values.

Rows come one by one with the line they begin on, so a fault is told by file and line; only a JSON list is held in
memory whole. A file that is damaged anywhere raises where the damage is: no row is skipped, mended or made up.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotloop.errors import HotloopError

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
_ENCODINGS = ("gb18030", "big5")  # what Chinese text comes in where it is not UTF-8
_LOOKED_AT = 1 << 22  # bytes that are tried in another encoding
_SHOWN = 60  # characters of a broken line


@dataclass(frozen=True, slots=True)
class Record:
    """One row.

    Args:
        values: column -> value; text where the file is a table, what JSON says elsewhere.
        line: on which it begins, from 1.
    """

    values: dict[str, Any]
    line: int


def present(name: str, key: str, *more: str) -> Path:
    """The path of a file of rows that an option names.

    Args:
        name: as the person wrote it.
        key: of the option.
        more: suffixes that are read beside SUFFIXES.

    Raises:
        HotloopError: there is no such file.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        what = f"'{path}' is a folder" if path.is_dir() else f"there is no file '{path}'"
        raise HotloopError(what, where=key, fix=f"give a file of one of {', '.join((*more, *SUFFIXES))}")
    return path


def require_whole(text: str, column: str, where: str) -> None:
    """Refuse a text with half of a character, which JSON can hold (\\ud83d) and neither a file nor a tokenizer can.

    Raises:
        HotloopError: it has one; with the place.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"{column} holds half of a character ({ascii(text[error.start])[1:-1]}), which is no text"
        raise HotloopError(what, where=where, fix="cut texts between characters, or remove the half") from None


def read_records(path: Path, columns: Sequence[str] | None = None, kind: str | None = None) -> Iterator[Record]:
    """The rows of a file, by its suffix: .json, .jsonl or .ndjson, .csv, .tsv (without quotes).

    Args:
        path: UTF-8, a byte order mark allowed.
        columns: names for a table whose first line is a row already; None takes the names from the first line.
        kind: the suffix to go by, where the file is called otherwise.

    Raises:
        HotloopError: missing, empty, of an unknown kind or encoding, or broken; with the line.
    """
    suffix = kind or path.suffix.lower()
    if suffix not in SUFFIXES:
        fix = f"use one of {', '.join(SUFFIXES)}"
        raise HotloopError(f"'{suffix or path.name}' is no kind of file that is read here", where=str(path), fix=fix)
    lines = read_lines(path)
    if suffix == ".json":
        return _json(path, lines)
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(path, lines)
    return _table(path, lines, "\t" if suffix == ".tsv" else ",", columns)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file with their line ends, one by one.

    Raises:
        HotloopError: missing, empty, or not UTF-8; the first before any line is asked for.
    """
    if not path.is_file():
        what = f"'{path}' is a folder" if path.is_dir() else f"there is no file '{path}'"
        raise HotloopError(what, fix="give the path of a file; ~ and paths from the current folder are read")
    return _decoded(path)


def _decoded(path: Path) -> Iterator[str]:
    empty = True
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(path, number, raw[error.start]) from None
            empty = empty and not line.strip()
            yield line
    if empty:
        raise HotloopError("the file is empty", where=str(path), fix="give a file with at least one row")


def _not_utf8(path: Path, line: int, byte: int) -> HotloopError:
    fits = _fitting(path)
    shown = f"; as {' or '.join(fits)} it can be read" if fits else ""
    source = fits[0] if fits else "ITS_ENCODING"
    fix = f"save it as UTF-8: iconv -f {source} -t utf-8 {path.name} > NEW_FILE"
    return HotloopError(f"byte 0x{byte:02x} is not UTF-8{shown}", where=f"{path}, line {line}", fix=fix)


def _fitting(path: Path) -> list[str]:
    """Other encodings in which the file, or its first few megabytes, decodes without a fault."""
    with path.open("rb") as file:
        start = file.read(_LOOKED_AT)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return ["utf-16"]
    found = []
    for name in _ENCODINGS:
        try:
            codecs.getincrementaldecoder(name)().decode(start, final=len(start) < _LOOKED_AT)
        except UnicodeDecodeError:
            continue
        found.append(name)
    return found


def _json(path: Path, lines: Iterator[str]) -> Iterator[Record]:
    text = "".join(lines)
    place = _skip(text, 0)
    if text[place] == "{" and _is_lines(text):
        yield from _json_lines(path, iter(text.split("\n")))  # splitlines() cuts at signs that a text may hold
        return
    if text[place] != "[":
        raise HotloopError(
            "the file is no list of rows",
            where=f"{path}, line {_line(text, place)}",
            fix='write [{"text": ...}, ...], or one object a line in a .jsonl file',
        )
    yield from _items(path, text, _skip(text, place + 1))


def _is_lines(text: str) -> bool:
    """Whether the first line is a whole object and more follow: JSON lines in a file called .json."""
    first, _, rest = text.lstrip().partition("\n")
    try:
        return isinstance(json.loads(first), dict) and rest.lstrip().startswith("{")
    except ValueError:
        return False


def _items(path: Path, text: str, place: int) -> Iterator[Record]:
    """The objects of a list, from the first one on."""
    decoder, line, counted = json.JSONDecoder(object_pairs_hook=_pairs), 1, 0
    closed = text[place : place + 1] == "]"
    if closed:
        raise HotloopError("the list holds no rows", where=f"{path}, line {_line(text, place)}")
    while not closed:
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, place = decoder.raw_decode(text, place)
        except ValueError as error:
            raise _broken(path, _fault_line(text, error, line), error, text[counted:]) from None
        yield _record(path, line, value)
        place = _skip(text, place)
        sign = text[place : place + 1]
        if sign not in (",", "]") or not sign:
            what = f"a comma or ] is missing before {text[place : place + 20]!r}" if sign else "the list is not closed"
            raise HotloopError(what, where=f"{path}, line {_line(text, place)}", fix="mend the file there")
        closed, place = sign == "]", _skip(text, place + 1)
    if place < len(text):
        what = f"something follows the list: {text[place : place + 20]!r}"
        raise HotloopError(what, where=f"{path}, line {_line(text, place)}", fix="mend the file there")


def _json_lines(path: Path, lines: Iterator[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                value = json.loads(line, object_pairs_hook=_pairs)
            except ValueError as error:
                raise _broken(path, number, error, line) from None
            yield _record(path, number, value)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key '{next(name for name in names if names.count(name) > 1)}' stands twice in one row")
    return found


def _record(path: Path, line: int, value: Any) -> Record:
    if not isinstance(value, dict):
        kinds = {list: "a list", str: "text", int: "a number", float: "a number", bool: "a truth value"}
        kind = kinds.get(type(value), "null")
        raise HotloopError(
            f"the row is {kind}, not an object", where=f"{path}, line {line}", fix='write a row as {"text": ..., ...}'
        )
    return Record(value, line)


def _broken(path: Path, line: int, error: ValueError, text: str) -> HotloopError:
    what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    start = text.strip().split("\n", 1)[0]
    shown = start[:_SHOWN] + ("..." if len(start) > _SHOWN else "")
    return HotloopError(
        f"the row cannot be read as JSON: {what[:1].lower()}{what[1:]}",
        where=f"{path}, line {line}",
        fix=f"mend or remove it; it begins {shown}",
    )


def _fault_line(text: str, error: ValueError, line: int) -> int:
    return _line(text, error.pos) if isinstance(error, json.JSONDecodeError) else line


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, min(place, len(text.rstrip()))) + 1


def _skip(text: str, place: int) -> int:
    """The next place that is no white space."""
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _table(path: Path, lines: Iterator[str], sign: str, columns: Sequence[str] | None) -> Iterator[Record]:
    plain = sign == "\t"  # tab-separated values know no quotes
    reader = csv.reader(lines, delimiter=sign, quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL, strict=not plain)
    names, line = None if columns is None else list(columns), 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            what = f"the row that begins here cannot be read: {error}"
            raise HotloopError(what, where=f"{path}, line {line}", fix="look for a quote that is not closed") from None
        if cells is None:
            break
        begin, line = line, reader.line_num + 1
        if cells and names is None:
            names = _names(path, begin, cells)
        elif cells and names is not None:
            yield _row(path, begin, names, cells)


def _names(path: Path, line: int, cells: list[str]) -> list[str]:
    twice = sorted({name for name in cells if cells.count(name) > 1})
    if twice:
        what = f"the column '{twice[0]}' stands twice"
        raise HotloopError(what, where=f"{path}, line {line}", fix="give each column a name of its own")
    return cells


def _row(path: Path, line: int, names: list[str], cells: list[str]) -> Record:
    if len(cells) != len(names):
        what = f"the row has {len(cells)} cells, and there are {len(names)} columns ({', '.join(names)})"
        fix = "mend the row; text with a separator in it is written in quotes (.csv)"
        raise HotloopError(what, where=f"{path}, line {line}", fix=fix)
    return Record(dict(zip(names, cells, strict=True)), line)
