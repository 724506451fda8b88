"""Tables and views of the warehouse, brought up to date in numbered steps.

Every statement of a migration may run twice, so migrators that run at once do not harm each other.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

from clickhouse_connect.driver.client import Client

from sluice.errors import ConfigError
from sluice.resources import resource_dir
from sluice.settings import Settings
from sluice.warehouse.client import (
    UNKNOWN_DATABASE,
    UNKNOWN_TABLE,
    WarehouseError,
    connect,
    translated,
)
from sluice.warehouse.statement import split

_FILE = re.compile(r"(?P<number>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_JOURNAL = """
CREATE TABLE IF NOT EXISTS ${database}.schema_migrations ${on_cluster}
(number UInt32, name String, sha256 String, applied_at DateTime64(6, 'UTC'))
ENGINE = ${replicated}ReplacingMergeTree ORDER BY number
COMMENT 'which of sql/migrations was applied'
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of sql/migrations; `sha256` is of its text before placeholders are filled in."""

    number: int
    name: str
    sha256: str
    sql: str

    def __str__(self) -> str:
        return f"{self.number:04}_{self.name}"


def load(folder: Path | None = None) -> list[Migration]:
    """All migrations in order; ConfigError for a wrong name, a gap or a number used twice."""
    folder = folder or resource_dir("sql") / "migrations"
    found = [_read(path) for path in sorted(folder.glob("*.sql"))]
    for expected, migration in enumerate(found, start=1):
        if migration.number != expected:
            raise ConfigError(f"{folder}: migration {expected:04} is missing or there twice")
    return found


def _read(path: Path) -> Migration:
    match = _FILE.fullmatch(path.name)
    if match is None:
        raise ConfigError(f"{path} is not named NNNN_name.sql")
    sql = path.read_text()
    digest = hashlib.sha256(sql.encode()).hexdigest()
    return Migration(int(match["number"]), match["name"], digest, sql)


def migrate(settings: Settings, folder: Path | None = None) -> list[str]:
    """Apply what is missing, create the views again, and return what was applied.

    Raises ConfigError when an applied migration was changed since, or is unknown to this program.
    """
    migrations = load(folder)
    client = connect(settings, database=None)
    try:
        with translated(settings):
            _run(client, settings, "CREATE DATABASE IF NOT EXISTS ${database} ${on_cluster}")
            _run(client, settings, _JOURNAL)
            missing = _missing(migrations, _applied(client, settings))
            for migration in missing:
                _apply(client, settings, migration)
            _create_views(client, settings)
    finally:
        client.close()
    return [str(migration) for migration in missing]


def pending(settings: Settings, folder: Path | None = None) -> list[str]:
    """Migrations that `migrate` would apply."""
    migrations = load(folder)
    client = connect(settings, database=None)
    try:
        with translated(settings):
            applied = _applied(client, settings)
    except WarehouseError as error:
        if error.code not in (UNKNOWN_TABLE, UNKNOWN_DATABASE):
            raise
        applied = {}
    finally:
        client.close()
    return [str(migration) for migration in _missing(migrations, applied)]


def _missing(migrations: list[Migration], applied: dict[int, tuple[str, str]]) -> list[Migration]:
    for number, (name, _) in applied.items():
        if number > len(migrations):
            raise ConfigError(
                f"ClickHouse has migration {number:04}_{name}, which this version of sluice does "
                "not know; use the newer version"
            )
    for migration in migrations:
        if migration.number in applied and applied[migration.number][1] != migration.sha256:
            raise ConfigError(
                f"migration {migration} was changed after it was applied; restore the file and "
                "put the change into a new migration"
            )
    return [migration for migration in migrations if migration.number not in applied]


def _applied(client: Client, settings: Settings) -> dict[int, tuple[str, str]]:
    sql = filled("SELECT number, name, sha256 FROM ${database}.schema_migrations FINAL", settings)
    return {number: (name, sha256) for number, name, sha256 in client.query(sql).result_rows}


def _apply(client: Client, settings: Settings, migration: Migration) -> None:
    for statement in split(migration.sql.encode()):
        _run(client, settings, statement.decode())
    _run(
        client, settings,
        "INSERT INTO ${database}.schema_migrations SELECT "
        f"{migration.number}, '{migration.name}', '{migration.sha256}', now64(6, 'UTC')",
    )  # fmt: skip


def _create_views(client: Client, settings: Settings) -> None:
    for path in sorted((resource_dir("sql") / "views").glob("*.sql")):
        for statement in split(path.read_text().encode()):
            _run(client, settings, statement.decode())


def _run(client: Client, settings: Settings, sql: str) -> None:
    client.command(filled(sql, settings))


def filled(sql: str, settings: Settings) -> str:
    """`sql` with its placeholders filled in."""
    replicated = settings.clickhouse_replicated
    return Template(sql).substitute(
        database=f"`{settings.clickhouse_database}`",
        replicated="Replicated" if replicated else "",
        on_cluster="ON CLUSTER '{cluster}'" if replicated else "",
    )
