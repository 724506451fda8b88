"""The analysts' cookbook: queries in sql/queries, found by number or name, and what they read."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from sluice.errors import ConfigError
from sluice.resources import resource_dir
from sluice.warehouse.statement import tokens

_FILE = re.compile(r"(?P<number>\d\d)_(?P<name>[a-z0-9_]+)\.sql")


class Recipe(NamedTuple):
    """One query; `question` is its first line, `reading` the comment lines that follow."""

    number: int
    name: str
    question: str
    reading: str
    sql: str

    def __str__(self) -> str:
        return f"{self.number:02}_{self.name}"


def recipes(folder: Path | None = None) -> list[Recipe]:
    """All queries in order; ConfigError for a wrong name, a number used twice, or no question."""
    folder = folder or resource_dir("sql") / "queries"
    found = [_read(path) for path in sorted(folder.glob("*.sql"))]
    if len({recipe.number for recipe in found}) < len(found):
        raise ConfigError(f"{folder}: a number is used twice")
    return found


def recipe(wanted: str) -> Recipe:
    """The query of that number ("08"), name ("tail_by_cause") or both; ConfigError for none."""
    for found in recipes():
        if wanted in (f"{found.number:02}", str(found.number), found.name, str(found)):
            return found
    raise ConfigError(f"there is no query {wanted!r}; `sluice queries` lists them")


def sources(sql: str) -> frozenset[str]:
    """Tables and views that `sql` reads, those behind the views included."""
    named = _read_from(sql)
    seen: set[str] = set()
    waiting = [name for name in named if name in views()]
    while waiting:
        view = waiting.pop()
        if view not in seen:
            seen.add(view)
            behind = _read_from(views()[view])
            named |= behind
            waiting += [name for name in behind if name in views()]
    return frozenset(named & (views().keys() | tables()))


@cache
def views() -> dict[str, str]:
    """The text behind each view: its SELECT, by name."""
    folder = resource_dir("sql") / "views"
    return {path.stem: path.read_text().partition(" AS\n")[2] for path in folder.glob("*.sql")}


@cache
def tables() -> frozenset[str]:
    """Names of the tables that the migrations create."""
    folder = resource_dir("sql") / "migrations"
    created = re.compile(r"CREATE TABLE IF NOT EXISTS \$\{database\}\.(\w+)")
    return frozenset(name for path in folder.glob("*.sql")
                     for name in created.findall(path.read_text()))  # fmt: skip


def _read(path: Path) -> Recipe:
    match = _FILE.fullmatch(path.name)
    if match is None:
        raise ConfigError(f"{path} is not named NN_name.sql")
    text = path.read_text().strip()
    lines = text.splitlines()
    comment = [line.removeprefix("--").strip() for line in lines if line.startswith("--")]
    if not comment or not comment[0].endswith("?"):
        raise ConfigError(f"{path} does not begin with its question")
    question, reading = comment[0], " ".join(comment[1:])
    return Recipe(int(match["number"]), match["name"], question, reading, text.rstrip(";"))


def _read_from(sql: str) -> set[str]:
    """Names that follow FROM or JOIN, outside of comments and texts."""
    found = tokens(sql.replace("${database}.", "").encode())
    return {name.text.decode() for word, name in pairwise(found)
            if name.kind == "word" and word.upper in (b"FROM", b"JOIN")}  # fmt: skip
