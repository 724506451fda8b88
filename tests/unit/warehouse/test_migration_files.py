"""The SQL files that come with the program."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from sluice.errors import ConfigError
from sluice.resources import resource_dir
from sluice.settings import Settings
from sluice.warehouse.migrations import filled, load
from sluice.warehouse.statement import parse, split, tokens
from sluice.wire.schema import schema

TABLES = {
    "usage_events": "UsageEvent",
    "usage_windows": "WindowRow",
    "budget_ledgers": "BudgetRow",
    "usage_tasks": "TaskRow",
    "usage_sources": "SourceRow",
    "decisions": "Decision",
}
AGAIN = (
    "CREATE TABLE IF NOT EXISTS|CREATE OR REPLACE VIEW|ALTER TABLE|DROP TABLE IF EXISTS"
    # Into a ReplacingMergeTree, where a row that is taken over twice replaces itself.
    "|INSERT INTO `sluice`.budget_ledgers"
)
# A constant that guards the wire format.
NOT_STORED = {"end_mark"}


def statements() -> list[str]:
    """Every statement of every file, placeholders filled in."""
    paths = [*(resource_dir("sql") / "migrations").glob("*.sql")]
    paths += (resource_dir("sql") / "views").glob("*.sql")
    found = [part for path in paths for part in split(path.read_bytes())]
    return [filled(part.decode(), Settings()) for part in found]


def columns() -> dict[str, list[str]]:
    """Column names per table, as the migrations create them."""
    found = {}
    for sql in statements():
        table = re.search(r"CREATE TABLE IF NOT EXISTS `sluice`\.(\w+)", sql)
        if table:
            body = sql[: sql.index("ENGINE")].encode()
            names = [b for a, b in pairwise(tokens(body)) if a.text in (b"(", b",")]
            found[table[1]] = [name.text.decode() for name in names if name.depth == 1]
        altered = re.search(r"ALTER TABLE `sluice`\.(\w+)", sql)
        for name, place in re.findall(r"ADD COLUMN IF NOT EXISTS (\w+) .* AFTER (\w+)", sql):
            assert altered
            names_so_far = found[altered[1]]
            names_so_far.insert(names_so_far.index(place) + 1, name)
    return found


def test_numbers_are_unique_and_without_gaps() -> None:
    """Migrations count 1, 2, 3 and each carries the checksum of its text."""
    migrations = load()
    assert [migration.number for migration in migrations] == list(range(1, len(migrations) + 1))
    assert len({migration.sha256 for migration in migrations}) == len(migrations)


@pytest.mark.parametrize(
    "names",
    [["0002_a.sql"], ["0001_a.sql", "0001_b.sql"], ["0001_a.sql", "0003_b.sql"], ["1_a.sql"]],
)
def test_wrong_numbers_are_refused(tmp_path: Path, names: list[str]) -> None:
    """A gap, a number used twice or a misspelt name stops before anything is applied."""
    for name in names:
        (tmp_path / name).write_text("SELECT 1")
    with pytest.raises(ConfigError):
        load(tmp_path)


def test_checksum_follows_the_text(tmp_path: Path) -> None:
    """Any change of a migration's text changes its checksum."""
    path = tmp_path / "0001_a.sql"
    path.write_text("SELECT 1")
    before = load(tmp_path)[0].sha256
    path.write_text("SELECT 2")
    assert load(tmp_path)[0].sha256 != before


def test_every_statement_may_run_twice() -> None:
    """Migrators that run at once do not disturb each other."""
    for sql in statements():
        assert re.match(rf"(--[^\n]*\n)*({AGAIN}) ", sql)
        assert sql.count("ADD COLUMN") == sql.count("ADD COLUMN IF NOT EXISTS")
        parse(sql.encode())


@pytest.mark.parametrize(("table", "record"), TABLES.items())
def test_columns_are_the_fields(table: str, record: str) -> None:
    """Each field of the record has a column of the same name, in the same order."""
    fields = [f["name"] for f in schema(record)["fields"] if f["name"] not in NOT_STORED]
    stored = [name for name in columns()[table] if name in fields]
    assert stored == fields


def test_replicated_engines_come_by_a_setting() -> None:
    """One placeholder turns all tables into replicated ones."""
    sql = "CREATE TABLE ${database}.t ${on_cluster} (a Int8) ENGINE = ${replicated}MergeTree"
    alone = filled(sql, Settings())
    shared = filled(sql, Settings(clickhouse_replicated=True))
    assert alone == "CREATE TABLE `sluice`.t  (a Int8) ENGINE = MergeTree"
    assert "ON CLUSTER '{cluster}'" in shared
    assert shared.endswith("ENGINE = ReplicatedMergeTree")
