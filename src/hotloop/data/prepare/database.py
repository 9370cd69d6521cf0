"""Bars out of a SQL database: the only place that knows SQLAlchemy.

Invariants: only SELECTs are sent; a password is never shown; a file that is not there is not created. Columns are read
off an empty answer, not from the database's catalogue: that works the same everywhere (DuckDB's catalogue lacks what
SQLAlchemy asks PostgreSQL's for). Shapes: N bars of one symbol.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hotloop.data.prepare.bars import ADJUSTED, KNOWN, NEEDED
from hotloop.errors import HotloopError

ALIASES = {
    "symbol": ("symbol", "ticker", "stock_id", "code", "stock_code", "ts_code", "instrument", "stock"),
    "time": ("time", "date", "datetime", "timestamp", "trade_date", "trading_date", "trade_time", "day", "dt"),
    "open": ("open", "open_price", "o"),
    "high": ("high", "high_price", "h"),
    "low": ("low", "low_price", "l"),
    "close": ("close", "close_price", "c"),
    "volume": ("volume", "vol", "v"),
    ADJUSTED: (ADJUSTED, "adjusted_close", "adjclose", "close_adj"),
}
PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
PACKAGES |= {"pymysql": "PyMySQL", "duckdb_engine": "duckdb-engine", "oracledb": "oracledb", "pyodbc": "pyodbc"}
IN_FILES = ("sqlite", "duckdb")
NO_SYMBOL = "(no symbol)"  # rows whose symbol is NULL


class Database:
    """A table of bars that can be asked for its symbols and for the rows of one.

    Args:
        url: SQLAlchemy URL.
        table: "table" or "schema.table".
        named: the table's name of a column where the user gives it.

    Raises:
        HotloopError: wrong URL, driver missing, no connection, no such table, a column missing or not clear.
    """

    def __init__(self, url: str, table: str, named: Mapping[str, str]) -> None:
        self._url = _parse(url)
        self._engine = _engine(self._url)
        self.shown = shown_url(url)
        self._schema, _, self.table = table.rpartition(".")
        with self._telling("connect to"):
            self._engine.connect().close()
        self._columns = self._find_columns(named)

    @property
    def adjusted(self) -> bool:
        """Whether the table has adjusted closes."""
        return ADJUSTED in self._columns

    @property
    def columns(self) -> tuple[str, ...]:
        """What `rows` gives of each bar, in this order."""
        return tuple(name for name in KNOWN if name in self._columns and name != "symbol")

    def symbols(self) -> dict[str, Any]:
        """Every symbol as text, with the value that the table holds, by name."""
        import sqlalchemy

        column: Any = sqlalchemy.column(self._columns["symbol"])
        with self._telling("read the symbols of"), self._engine.connect() as connection:
            query = sqlalchemy.select(column).select_from(self._source()).distinct()
            values = [row[0] for row in connection.execute(query)]
        names: dict[str, Any] = {}
        for value in values:
            name = NO_SYMBOL if value is None else str(value)
            if name in names:
                raise HotloopError(f"two values of the symbol column read '{name}'", where=self._place())
            names[name] = value
        return dict(sorted(names.items()))

    def rows(self, symbol: Any) -> Sequence[Sequence[Any]]:
        """The bars of one symbol in no order, each as `columns` says, as the driver gives them.

        Args:
            symbol: the value that the table holds.
        """
        import sqlalchemy

        chosen: list[Any] = [sqlalchemy.column(self._columns[name]) for name in self.columns]
        key: Any = sqlalchemy.column(self._columns["symbol"])
        query = sqlalchemy.select(*chosen).select_from(self._source()).where(key == symbol)
        with self._telling("read"), self._engine.connect() as connection:
            found: Sequence[Sequence[Any]] = connection.execute(query).fetchall()
            return found

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def _source(self) -> Any:
        import sqlalchemy

        return sqlalchemy.table(self.table, schema=self._schema or None)

    def _place(self) -> str:
        return f"table '{self.table}' of {self.shown}"

    def _find_columns(self, named: Mapping[str, str]) -> dict[str, str]:
        import sqlalchemy

        self._find_table()
        everything = sqlalchemy.select(sqlalchemy.text("*")).select_from(self._source()).where(sqlalchemy.false())
        with self._telling("read"), self._engine.connect() as connection:
            present = list(connection.execute(everything).keys())
        return match_columns(present, named, self._place())

    def _find_table(self) -> None:
        import sqlalchemy

        with self._telling("list the tables of"):
            inspector, schema = sqlalchemy.inspect(self._engine), self._schema or None
            present = [*inspector.get_table_names(schema), *inspector.get_view_names(schema)]
        same = [name for name in present if name.lower() == self.table.lower()]
        if self.table not in present and len(same) != 1:
            listed = f"--table is one of {', '.join(sorted(present)[:20])}" if present else "it has no table at all"
            raise HotloopError(f"the database has no table '{self.table}'", where=self.shown, fix=listed)
        self.table = self.table if self.table in present else same[0]

    @contextmanager
    def _telling(self, doing: str) -> Iterator[None]:
        """Turn what the database or its driver says into words, without the password."""
        import sqlalchemy.exc

        try:
            yield
        except (sqlalchemy.exc.SQLAlchemyError, ModuleNotFoundError, OSError) as error:
            said = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
            if self._url.password:
                said = said.replace(str(self._url.password), "***")
            raise HotloopError(
                f"cannot {doing} the database: {said}",
                where=self.shown,
                fix="check that it runs, and the URL: driver, user, password, host, port and name",
            ) from None


def match_columns(present: Sequence[str], named: Mapping[str, str], place: str) -> dict[str, str]:
    """Which column of the table is which: as the user says, else by its name, whatever its case.

    Args:
        present: the table's columns.
        named: as in {"time": "day"}.
        place: the table, for messages.

    Raises:
        HotloopError: a column is missing, or several could be meant.
    """
    found: dict[str, str] = {}
    for name in KNOWN:
        plain = {column: column.strip().lower().replace(" ", "_") for column in present}
        fitting = [column for column in present if plain[column] in ALIASES[name]]
        if name in named:
            fitting = [column for column in present if column == named[name]]
            if not fitting:
                raise HotloopError(
                    f"there is no column '{named[name]}'", where=place, fix=f"it has {', '.join(present)}"
                )
        if len(fitting) > 1:
            raise HotloopError(
                f"several columns could be the {name}: {', '.join(fitting)}",
                where=place,
                fix=f"say which one with --column {name}={fitting[0]}",
            )
        found.update({name: fitting[0]} if fitting else {})
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise HotloopError(
            f"the table has no column for {', '.join(missing)}",
            where=place,
            fix=f"it has {', '.join(present)}; name it with --column {missing[0]}=NAME",
        )
    return found


def shown_url(url: str) -> str:
    """The URL without its password."""
    parsed = _parse(url)
    secret = [key for key in parsed.query if any(word in key.lower() for word in ("pass", "secret", "token", "key"))]
    shown: str = parsed._replace(password=None).difference_update_query(secret).render_as_string(hide_password=False)
    return shown


def file_url(kind: str, path: Path) -> str:
    """The URL of a database in a file.

    Args:
        kind: "duckdb" or "sqlite".
        path: the file.
    """
    from sqlalchemy.engine import URL

    return str(URL.create(kind, database=str(path)))


def _parse(url: str) -> Any:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # the text is not repeated: it may hold a password
        raise HotloopError(
            "the database URL cannot be read",
            where="--database",
            fix="write it as postgresql://user:password@host/name or sqlite:///file.db or duckdb:///file.duckdb",
        ) from None


def _engine(url: Any) -> Any:
    import sqlalchemy
    from sqlalchemy.exc import NoSuchModuleError

    kind = url.get_backend_name()
    if kind in IN_FILES and not (url.database and Path(url.database).is_file()):
        what = f"there is no file '{url.database}'" if url.database else "the URL names no file"
        raise HotloopError(what, where="--database", fix=f"a file is named as in {kind}:///folder/bars.db")
    # several processes may read a DuckDB file at once, but only one may write it
    arguments = {"read_only": True} if kind == "duckdb" else {}
    try:
        return sqlalchemy.create_engine(url, connect_args=arguments)
    except NoSuchModuleError:
        fix = "write postgresql://" if kind == "postgres" else "SQLAlchemy lists what there is; some need a package"
        raise HotloopError(f"no database is called '{url.drivername}'", where="--database", fix=fix) from None
    except ModuleNotFoundError as error:
        name = error.name or url.get_driver_name()
        raise HotloopError(
            f"the database driver '{name}' is not installed",
            where="--database",
            fix=f"pip install '{PACKAGES.get(name, name)}'",
        ) from None
