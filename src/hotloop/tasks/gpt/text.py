"""Reading the text: a UTF-8 file, or the manual that every CPython carries when no path was given.

Text is never made up: a path that leads nowhere is an error. The validation part is the end of the text, cut as
nanoGPT cuts it.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from hotloop.errors import HotloopError


@dataclass(frozen=True)
class Text:
    """A text and the name to show for it."""

    content: str
    name: str


def embedded_text() -> Text:
    """The language topics of Python's own manual, in the order of their names; about 465,000 characters.

    Raises:
        HotloopError: this Python was packaged without them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise HotloopError(
            "this Python carries no manual (pydoc_data.topics), which gpt reads when no text is named",
            fix="name a text: data.path=FILE.txt",
        ) from error
    content = "\n\n".join(topics[name] for name in sorted(topics))
    return Text(content, f"the manual of Python {platform.python_version()} (pydoc_data.topics; no data.path given)")


def read_text(path: Path) -> Text:
    """The text of a file, with line ends as in Python's text mode and without a byte order mark.

    Raises:
        HotloopError: missing, a folder, unreadable, not UTF-8 (with the place), or empty.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise HotloopError(
            f"the text '{path}' does not exist", where="data.path", fix="check the path; none is made up"
        ) from error
    except IsADirectoryError as error:
        raise _not_a_text(path) from error
    except OSError as error:
        raise HotloopError(f"the text '{path}' cannot be read: {error.strerror}", where="data.path") from error
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, raw, error) from error
    content = content.replace("\r\n", "\n").replace("\r", "\n")
    if not content:
        raise HotloopError(f"the text '{path}' is empty (0 characters)", where="data.path")
    return Text(content, str(path))


def split_at(length: int, val_fraction: float) -> int:
    """Where validation begins: the first int(length x (1 - val_fraction)) items are for training."""
    return int(length * (1.0 - val_fraction))


def check_long_enough(train: int, val: int, block_size: int, unit: str, name: str) -> None:
    """Refuse a split in which a part holds not even one window.

    Args:
        train: items of the training part; val: items of the validation part.
        block_size: tokens a window; a window needs one item more, its last target.
        unit: "characters" or "tokens".
        name: what was read, for the message.
    """
    if min(train, val) > block_size:
        return
    part, count = ("validation", val) if val <= train else ("training", train)
    fits = min(train, val) - 1
    longer = f"use a longer text (now {train + val:,} {unit}) or another data.val_fraction"
    raise HotloopError(
        f"the text is too short: its {part} part holds {count:,} of {train + val:,} {unit}, "
        f"and one window of block_size {block_size} needs {block_size + 1:,}",
        where=name,
        fix=f"set model.block_size={fits} or less, or {longer}" if fits >= 1 else longer,
    )


def _not_a_text(path: Path) -> HotloopError:
    texts = sorted(path.glob("*.txt"))
    named = f"name the file: data.path={texts[0]}" if texts else "name a text file"
    return HotloopError(
        f"the folder '{path}' holds no train.bin and val.bin",
        where="data.path",
        fix=f"{named}; or write the token files with `hotloop prepare gpt`",
    )


def _not_utf8(path: Path, raw: bytes, error: UnicodeDecodeError) -> HotloopError:
    line = raw.count(b"\n", 0, error.start) + 1
    binary = path.suffix == ".bin"
    return HotloopError(
        f"the text '{path}' is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start:,} (line {line:,})",
        where="data.path",
        fix="name the folder that holds train.bin and val.bin"
        if binary
        else f"convert it, e.g. iconv -f ITS_ENCODING -t UTF-8 {path.name} > utf8.txt",
    )
