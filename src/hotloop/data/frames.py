"""Tables in hand: pandas and polars frames, Arrow tables, Parquet files, each column as numbers or as what it holds.

Frames are read through their own methods, so neither pandas nor polars is imported here. A missing or infinite value
is never filled in: it is told with its column and rows. Rows are numbered from 0. Shapes: N rows; a column is (N,).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hotloop.errors import HotloopError

Array = np.ndarray[Any, Any]
Kind = Literal["float", "whole", "bool", "text", "other"]
_KINDS: dict[str, Kind] = {"f": "float", "i": "whole", "u": "whole", "b": "bool"}
_SHOWN = 5


@dataclass(frozen=True)
class Column:
    """One column of a table, not yet read.

    Attributes:
        name: as a string.
        kind: float, whole (numbers), bool, text (categories too), other (dates, lists, objects).
        dtype: as its library calls it, for messages.
        missing: (N,) bool, where there is no value.
        values: gives (N,) numbers, or objects for text and other; only asked where nothing is missing.
        order: of the categories, where the column has one.
    """

    name: str
    kind: Kind
    dtype: str
    missing: Array
    values: Callable[[], Array]
    order: tuple[str, ...] = ()


def is_frame(data: Any) -> bool:
    """Whether this is a pandas or polars frame or an Arrow table, found out by its type's name."""
    return _library(data) in _READERS and type(data).__name__ in ("DataFrame", "LazyFrame", "Table", "GeoDataFrame")


def is_series(data: Any) -> bool:
    """Whether this is a single column of pandas or polars."""
    return _library(data) in ("pandas", "polars") and type(data).__name__ == "Series"


def _library(data: Any) -> str:
    return type(data).__module__.partition(".")[0]


def columns_of(frame: Any) -> dict[str, Column]:
    """The columns of a frame, in its order.

    Raises:
        HotloopError: a lazy frame, no rows, two columns of one name.
    """
    if type(frame).__name__ == "LazyFrame":
        raise HotloopError("a polars LazyFrame holds no rows yet", fix="pass frame.collect()")
    names = [str(name) for name in (frame.column_names if _library(frame) == "pyarrow" else frame.columns)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise HotloopError(f"the table has several columns called {_quoted(twice)}", fix="give each its own name")
    if not names or not len(frame):
        raise HotloopError("the table holds no rows" if names else "the table holds no columns")
    read = _READERS[_library(frame)]
    return {name: read(frame, place, name) for place, name in enumerate(names)}


def _of_pandas(frame: Any, place: int, name: str) -> Column:
    series = frame.iloc[:, place]
    dtype = series.dtype
    kind = _KINDS.get(getattr(dtype, "kind", "O"), "other")
    missing = series.isna().to_numpy()
    categories = getattr(dtype, "categories", None)
    texts = categories if categories is not None else series[~missing] if kind == "other" else ()
    if kind == "other" and str(dtype) in ("object", "category", "string", "str", "large_string[pyarrow]"):
        kind = _text_or(texts)
    order = tuple(str(c) for c in categories) if kind == "text" and categories is not None else ()
    wide = {"float": "float64", "bool": "bool"}.get(kind)
    return Column(name, kind, str(dtype), missing, lambda: series.to_numpy(dtype=wide), order)


def _text_or(values: Iterable[Any]) -> Kind:
    return "text" if all(isinstance(value, str) for value in values) else "other"


def _of_polars(frame: Any, place: int, name: str) -> Column:
    series = frame.to_series(place)
    dtype = series.dtype
    word = str(dtype).partition("(")[0]
    kind: Kind = "other"
    if dtype.is_integer() or dtype.is_float() or word == "Boolean":
        kind = "whole" if dtype.is_integer() else "bool" if word == "Boolean" else "float"
    elif word in ("String", "Categorical", "Enum"):
        kind = "text"
    order = tuple(dtype.categories) if word == "Enum" else ()
    missing = series.is_null().to_numpy()
    read: Callable[[], Array] = series.to_numpy if kind not in ("text", "other") else lambda: _objects(series.to_list())
    return Column(name, kind, str(dtype), missing, read, order)


def _of_arrow(table: Any, place: int, name: str) -> Column:
    column = table.column(place)
    word = str(column.type)
    inner = str(column.type.value_type) if word.startswith("dictionary") else word
    kind: Kind = "other"
    if inner in ("string", "large_string", "string_view"):
        kind = "text"
    elif inner.startswith(("int", "uint")) and not word.startswith("dictionary"):
        kind = "whole"
    elif inner in ("float", "double", "halffloat", "bool"):
        kind = "bool" if inner == "bool" else "float"
    missing = column.is_null().to_numpy(zero_copy_only=False) if hasattr(column, "is_null") else np.zeros(len(column))
    if kind in ("text", "other"):
        return Column(name, kind, word, missing, lambda: _objects(column.to_pylist()))
    return Column(name, kind, word, missing, lambda: np.asarray(column.to_numpy()))


def _objects(values: Sequence[Any]) -> Array:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


_READERS: dict[str, Callable[[Any, int, str], Column]] = {
    "pandas": _of_pandas,
    "geopandas": _of_pandas,
    "polars": _of_polars,
    "pyarrow": _of_arrow,
}


def complete(column: Column) -> Array:
    """The values of a column that lacks none.

    Raises:
        HotloopError: missing values, with the column, their number and the first rows.
    """
    values = None if column.missing.any() else column.values()
    missing = column.missing if values is None or column.kind != "float" else np.isnan(values.astype(np.float64))
    if values is None or missing.any():
        raise _told(column, np.flatnonzero(missing), "no value", "drop these rows, or fill them in yourself")
    return values


def numeric(column: Column) -> Array:
    """A column as training takes it: float32, int64 or bool.

    Raises:
        HotloopError: text, dates and the like; missing or infinite values; whole numbers beyond int64.
    """
    if column.kind in ("text", "other"):
        raise HotloopError(
            f"column '{column.name}' holds {'text' if column.kind == 'text' else column.dtype}, not numbers",
            where=f"column '{column.name}' ({column.dtype})",
            fix="drop it or turn it into numbers; text can be the label: hotloop.from_table(table, y=...)",
        )
    values = complete(column)
    if column.kind == "bool":
        return values.astype(bool)
    if column.kind == "whole":
        if values.dtype == np.uint64 and (values > np.iinfo(np.int64).max).any():
            rows = np.flatnonzero(values > np.iinfo(np.int64).max)
            raise _told(column, rows, "a whole number above 2^63 - 1", "convert the column to float64 or to text")
        return values.astype(np.int64)
    with np.errstate(over="ignore"):
        narrow: Array = values.astype(np.float32)
    if np.isinf(narrow).any():
        raise _told(
            column,
            np.flatnonzero(np.isinf(narrow)),
            "an infinite value (or one beyond float32)",
            "mend or drop these rows",
        )
    return narrow


def _told(column: Column, rows: Array, what: str, fix: str) -> HotloopError:
    shown = ", ".join(str(row) for row in rows[:_SHOWN].tolist()) + (", ..." if len(rows) > _SHOWN else "")
    count = f"{len(rows):,} of {len(column.missing):,} rows"
    where = f"column '{column.name}', row{'s' if len(rows) > 1 else ''} {shown} (the first row is 0)"
    return HotloopError(f"column '{column.name}' has {what} in {count}", where=where, fix=fix)


def pick(columns: Mapping[str, Column], name: str, what: str) -> Column:
    """The column of that name.

    Args:
        columns: of the table.
        name: asked for.
        what: which argument named it, for the message.
    """
    if name in columns:
        return columns[name]
    near = difflib.get_close_matches(name, columns, n=1)
    raise HotloopError(
        f"the table has no column '{name}'",
        where=f"{what}='{name}'",
        fix=f"did you mean '{near[0]}'?" if near else f"the columns are {_quoted(list(columns)[:20])}",
    )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def read_parquet(path: str | Path) -> dict[str, Column]:
    """The columns of a Parquet file, or of all Parquet files of a folder, one after another by name.

    Raises:
        HotloopError: no such file, another kind of file, a damaged one, files with different columns.
    """
    files = _parquet_files(Path(path).expanduser())
    try:
        import pyarrow  # type: ignore[import-untyped, unused-ignore]
        from pyarrow import parquet
    except ImportError as error:
        raise HotloopError(
            "reading Parquet needs pyarrow, which is not installed",
            where=str(path),
            fix="pip install 'hotloop[frames]'",
        ) from error
    tables: list[Any] = []
    for file in files:
        try:
            tables.append(parquet.ParquetFile(file).read())
        except (pyarrow.ArrowException, OSError) as error:
            first = str(error).splitlines()[0]
            raise HotloopError(f"the file cannot be read: {first}", where=str(file), fix="write it anew") from error
        if not tables[-1].schema.equals(tables[0].schema):
            raise HotloopError(
                f"{file.name} has other columns than {files[0].name}",
                where=str(file),
                fix=f"write both alike: {tables[-1].schema.names} against {tables[0].schema.names}, types included",
            )
    return columns_of(pyarrow.concat_tables(tables))


def _parquet_files(path: Path) -> list[Path]:
    if not path.exists():
        raise HotloopError("the path does not exist", where=str(path), fix="give the path of a .parquet file or folder")
    if not path.is_dir():
        if path.suffix == ".parquet":
            return [path]
        raise HotloopError(
            f"a path must lead to a .parquet file, and this is a {path.suffix or 'file without an ending'}",
            where=str(path),
            fix="read it with pandas or polars and pass the frame: hotloop.from_table(pandas.read_csv(path), ...)",
        )
    files = sorted(path.glob("*.parquet"))
    below = [file for file in path.rglob("*.parquet") if file not in files]
    if below or not files:
        raise HotloopError(
            f"{len(below)} Parquet files lie in folders below this one"
            if below
            else "the folder holds no .parquet file",
            where=str(path),
            fix="put all files of the table in one folder",
        )
    return files
