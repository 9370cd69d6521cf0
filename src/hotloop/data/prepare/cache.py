"""The prepared cache on disk: a manifest and one Parquet file per symbol. The only place that knows polars.

Invariants: a file's bytes depend on its content alone, so its checksum does too; what is read is compared with the
checksum that the manifest holds. Shapes: N rows of a symbol, C columns without the time.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hotloop.data.prepare.bars import STORED, Bars, Floats, Times
from hotloop.disk import telling
from hotloop.errors import HotloopError

VERSION = 1
MANIFEST, UNFINISHED, BARS = "manifest.json", "done.jsonl", "bars"
_TAKEN = {"CON", "PRN", "AUX", "NUL"} | {f"{port}{number}" for port in ("COM", "LPT") for number in range(10)}
_LONGEST = 80
Values = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Cache:
    """A prepared cache, of which each symbol is read when it is asked for.

    Attributes:
        folder: where it lies.
        manifest: what `hotloop prepare forecast` wrote about it.
    """

    folder: Path
    manifest: dict[str, Any]

    @property
    def symbols(self) -> tuple[str, ...]:
        """The prepared symbols, by name."""
        return tuple(self.manifest["symbols"])

    def read(self, symbol: str) -> tuple[Times, Values]:
        """The rows of a symbol.

        Returns:
            times (N,) in nanoseconds since 1970, strictly rising; values (N, C), a column for each of the manifest's
            `columns` but the time.
        Raises:
            HotloopError: no such symbol; its file is missing or not as it was written.
        """
        if symbol not in self.manifest["symbols"]:
            raise HotloopError(f"the cache holds no symbol '{symbol}'", where=str(self.folder))
        entry = self.manifest["symbols"][symbol]
        path = self.folder / entry["file"]
        with telling("read", path):
            content = path.read_bytes()
        if checksum(content) != entry["sha256"]:
            raise HotloopError(
                f"the file of {symbol} is not as it was written",
                where=str(path),
                fix="`hotloop prepare forecast` with --resume writes it again",
            )
        return _decode(content, [name for name in self.manifest["columns"] if name != "time"])


def read_cache(folder: Path) -> Cache:
    """Open a prepared cache.

    Raises:
        HotloopError: there is none, it is unfinished, or another version of hotloop wrote it.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        if (folder / UNFINISHED).exists():
            what, fix = "the cache is not finished", "go on with `hotloop prepare forecast` and --resume"
        else:
            what, fix = "the folder holds no prepared bars", "`hotloop prepare forecast` makes such a folder"
        raise HotloopError(what, where=str(folder), fix=fix)
    return Cache(folder, manifest)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished cache, or None.

    Raises:
        HotloopError: it cannot be read, or another version of hotloop wrote it.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        with telling("read", path):
            manifest = json.loads(path.read_bytes())
        version = manifest["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise HotloopError("the manifest cannot be read", where=str(path), fix="prepare into another folder") from error
    if version != VERSION:
        raise HotloopError(
            f"the cache has version {version}, and this hotloop reads version {VERSION}",
            where=str(path),
            fix="prepare it again, into another folder",
        )
    assert isinstance(manifest, dict)
    return manifest


def checksum(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def file_name(symbol: str) -> str:
    """A file for a symbol: its own name where every file system takes that, else made so and kept apart by a hash."""
    safe = re.sub(r"[^A-Z0-9._-]", "_", symbol.upper())[:_LONGEST]
    if safe != symbol or safe.startswith((".", "-")) or safe.endswith(".") or safe.partition(".")[0] in _TAKEN:
        safe = f"{safe.strip('.-')}-{checksum(symbol.encode())[:12]}"
    return f"{BARS}/{safe}.parquet"


def encode(bars: Bars, features: Mapping[str, Floats]) -> bytes:
    """Bars and features as a Parquet file: prices and volume in float64, features in float32."""
    import polars

    columns = {"time": polars.Series("time", bars.times).cast(polars.Datetime("us"))}
    columns |= {name: polars.Series(name, bars.columns[name]) for name in STORED}
    columns |= {name: polars.Series(name, values.astype(np.float32)) for name, values in features.items()}
    content = io.BytesIO()
    polars.DataFrame(columns).write_parquet(content, compression="zstd", compression_level=3, statistics=True)
    return content.getvalue()


def _decode(content: bytes, names: list[str]) -> tuple[Times, Values]:
    import polars

    frame = polars.read_parquet(io.BytesIO(content), columns=["time", *names])
    times = frame["time"].cast(polars.Datetime("ns")).to_physical().to_numpy()
    values = frame.select(polars.col(names).cast(polars.Float32)).to_numpy()
    return times.astype(np.int64, copy=False), np.ascontiguousarray(values)
