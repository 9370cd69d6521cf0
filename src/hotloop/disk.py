"""Files that are whole or absent: atomic writes, single-call appends, and disk faults told in plain words.

Invariants: a file written here is never seen half written (temporary file, fsync, rename, fsync of the folder); an
append is one write call, and one that the disk cut short is taken back. Every OSError leaves as a HotloopError that
names the file and what to do.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hotloop.errors import HotloopError

_FIXES = {
    errno.ENOSPC: ("the disk is full", "free some space, or choose another disk with experiment.dir; then resume"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or choose another disk with experiment.dir"),
    errno.EACCES: ("permission denied", "make the folder writable, or choose another one with experiment.dir"),
    errno.EPERM: ("permission denied", "make the folder writable, or choose another one with experiment.dir"),
    errno.EROFS: ("the file system is read-only", "choose a writable folder with experiment.dir"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another folder with experiment.dir"),
    errno.EEXIST: ("a file of that name is in the way", "move it away, or choose another name"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter experiment.name"),
    errno.ENOENT: ("no such file or folder", "check the path"),
    errno.EIO: ("the disk reported an input/output error", "check the disk; the run can be resumed from elsewhere"),
}


def cache_folder() -> Path:
    """Where what was measured or downloaded once is kept for this user; not made here.

    Returns:
        $HOTLOOP_CACHE, else $XDG_CACHE_HOME/hotloop, else ~/.cache/hotloop.
    """
    own, shared = os.environ.get("HOTLOOP_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    return (Path(shared) if shared else Path("~/.cache").expanduser()) / "hotloop"


def disk_error(error: OSError, doing: str, path: Path) -> HotloopError:
    """Tell an OSError as a fault that a user can mend.

    Args:
        error: what the system raised.
        doing: what was tried, as in "write".
        path: the file or folder concerned.
    Returns:
        The error to raise instead.
    """
    reason, fix = _FIXES.get(error.errno or 0, (error.strerror or str(error), "check the disk and the path"))
    return HotloopError(f"cannot {doing} {path.name or path}: {reason}", where=str(path), fix=fix)


@contextmanager
def telling(doing: str, path: Path) -> Iterator[None]:
    """Turn every OSError of the block into a HotloopError about `path`."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, doing, path) from error


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, or leave it exactly as it was.

    Raises:
        HotloopError: disk full, folder not writable or gone.
    """
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write (and read back) that takes the place of `path` when the block ends well, and never before.

    Raises:
        HotloopError: disk full, folder not writable or gone; `path` is then exactly as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with telling("write", path):
        try:
            with open(temporary, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def append(descriptor: int, line: bytes, path: Path) -> None:
    """Append one line in one write call; a line that does not fit is taken back whole.

    Raises:
        HotloopError: disk full or file no longer writable.
    """
    with telling("append to", path):
        written = os.write(descriptor, line)
        if written != len(line):  # the disk filled up in the middle of the line: leave no torn record behind
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def open_appending(path: Path) -> int:
    """Open for appending; a last line torn by a crash is cut off first, so that the next one starts clean.

    Returns:
        The file descriptor; the caller closes it.
    """
    with telling("open", path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o666)
        size = os.fstat(descriptor).st_size
        if size:
            os.ftruncate(descriptor, _end_of_whole_lines(descriptor, size))
        return descriptor


def _end_of_whole_lines(descriptor: int, size: int) -> int:
    position = size
    while position > 0:
        start = max(0, position - 65536)
        os.lseek(descriptor, start, os.SEEK_SET)
        newline = os.read(descriptor, position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there, and rename is durable enough
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)
