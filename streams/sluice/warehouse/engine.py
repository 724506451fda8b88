"""The embedded engine (chDB) of one folder: started once, asked from a few threads.

Every request gets a connection of its own (0.2 ms). It carries the request's database, settings and
parameters away with it, and a slow question of an analyst does not hold up the sink's inserts.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sluice.errors import ConfigError, OutsideError
from sluice.settings import Settings
from sluice.warehouse.engine_config import write_config
from sluice.warehouse.statement import Statement, StatementError, parse

_CODE = re.compile(r"Code: (\d+)\. ")
_NAMED = re.compile(r"[A-Za-z_]\w*")
_TWICE = re.compile(r"^(Code: \d+\. DB::Exception: )\1")
_INSERT_CHUNK_BYTES = 2**20
_UNKNOWN = 1002


class EngineError(Exception):
    """The engine's refusal; `code` is ClickHouse's error number."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Query:
    """One request: SQL with the data of an INSERT behind it, and what it runs under."""

    sql: bytes
    query_id: str
    database: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    default_format: str = "TabSeparated"
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Result bytes in `format` (None: the statement has no result) and the engine's counts."""

    body: bytes
    format: str | None
    counts: Mapping[str, int]


class Engine:
    """chDB on `folder`; `run` may be called from several threads."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self._settings = settings
        self._lock: IO[str] | None = None
        self._base: Any = None
        self._connect: Any = None
        self._address = ""
        self.version = ""

    def start(self) -> None:
        """Open the folder; ConfigError where another process holds it or it cannot be read."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = _hold(self._folder)
        # The engine takes its time zone from the process.
        os.environ["TZ"] = "UTC"
        time.tzset()
        import chdb  # noqa: PLC0415  (a second of start-up that other commands must not pay)

        config = write_config(self._folder, self._settings)
        self._address = f"{self._folder / 'data'}?config-file={config}"
        self._connect = chdb.connect
        try:
            self._base = self._connect(self._address)
            self._create_database()
        except RuntimeError as error:
            raise ConfigError(f"the engine does not open {self._folder}: {error}") from error

    def _create_database(self) -> None:
        name = self._settings.clickhouse_database
        self._base.query(f"CREATE DATABASE IF NOT EXISTS `{name}` ENGINE = Atomic")
        answer = self._base.query("SELECT version()", "TabSeparated")
        self.version = bytes(answer.bytes()).decode().strip()

    def close(self) -> None:
        """Let the folder go; what was acknowledged is in it."""
        if self._base is not None:
            self._base.close()
            self._base = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def run(self, query: Query) -> Answer:
        """Execute one statement; EngineError carries ClickHouse's code and text."""
        try:
            statement = parse(query.sql)
            connection = self._connect(self._address)
            try:
                self._prepare(connection, query)
                if statement.data_format is not None:
                    return _insert(connection, statement, query)
                return _ask(connection, statement, query)
            finally:
                connection.close()
        except StatementError as error:
            raise EngineError(error.code, f"{error} (version {self.version})") from error
        except (RuntimeError, ValueError) as error:
            raise self._named(str(error)) from error

    def kill(self, query_id: str) -> None:
        """Stop the statement that runs under `query_id`, if one does."""
        connection = self._connect(self._address)
        try:
            where = f"Settings['log_comment'] = {_quoted(query_id)}"
            connection.query(f"KILL QUERY WHERE {where} ASYNC FORMAT Null")
        finally:
            connection.close()

    def _prepare(self, connection: Any, query: Query) -> None:
        self._use(connection, query.database)
        # log_comment is how kill() finds the query: chDB lets no one choose the query's own id.
        settings = {"log_comment": query.query_id, **query.settings}
        if query.read_only:
            settings["readonly"] = "2"
        values = [f"{_named(name)} = {_quoted(value)}" for name, value in settings.items()]
        connection.query(f"SET {', '.join(values)}")

    def _use(self, connection: Any, database: str | None) -> None:
        """The request's database; chDB's own `default` shows files, so the pipeline's stands in."""
        named = database not in (None, "", "default")
        chosen = database if named and database else self._settings.clickhouse_database
        try:
            connection.query(f"USE {_quoted_name(chosen)}")
        except RuntimeError:
            if named:
                raise

    def _named(self, text: str) -> EngineError:
        found = _CODE.search(text)
        code = int(found.group(1)) if found else _UNKNOWN
        if found is None:
            text = f"Code: {code}. DB::Exception: {text}. (UNKNOWN_EXCEPTION)"
        else:
            text = _TWICE.sub(r"\1", text[found.start() :].strip())
        version = f"(version {self.version})"
        return EngineError(code, text if version in text else f"{text} {version}")


def _hold(folder: Path) -> IO[str]:
    """A lock that ends with the process, however it ends."""
    lock = (folder / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise OutsideError(
            f"another ClickHouse server (process {holder}) holds {folder}; "
            "stop it, or choose another folder with --dir"
        ) from error
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _ask(connection: Any, statement: Statement, query: Query) -> Answer:
    result = connection.query(statement.sql, query.default_format, params=dict(query.parameters))
    name = statement.output_format or query.default_format
    counts = {
        "read_rows": result.rows_read(),
        "read_bytes": result.bytes_read(),
        "written_rows": result.rows_written(),
        "written_bytes": result.bytes_written(),
    }
    return Answer(bytes(result.bytes()), name if statement.has_result else None, counts)


def _insert(connection: Any, statement: Statement, query: Query) -> Answer:
    """INSERT with data: pushed as bytes, because the engine cuts data that stands in the text."""
    for name, value in query.parameters.items():
        connection.query(f"SET param_{_named(name)} = {_quoted(value)}")
    inserter = connection.send_insert(statement.sql.decode(), statement.data_format)
    with inserter:
        data = memoryview(statement.data)
        for start in range(0, len(data), _INSERT_CHUNK_BYTES):
            inserter.append(data[start : start + _INSERT_CHUNK_BYTES])
        result = inserter.finish()
    counts = {"written_rows": result.rows_written, "written_bytes": result.bytes_written}
    return Answer(b"", None, {"read_rows": 0, "read_bytes": 0, **counts})


def _named(name: str) -> str:
    if not _NAMED.fullmatch(name):
        raise ValueError(f"Code: 115. DB::Exception: Unknown setting {name!r}. (UNKNOWN_SETTING)")
    return name


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _quoted_name(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"
