"""Views and cookbook as files: named, explained, and about tables that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sluice.errors import ConfigError
from sluice.resources import resource_dir
from sluice.warehouse.cookbook import Recipe, recipe, recipes, sources, tables, views

VIEWS = sorted((resource_dir("sql") / "views").glob("*.sql"))


@pytest.mark.parametrize("path", VIEWS, ids=lambda path: path.stem)
def test_a_view_says_what_it_answers(path: Path) -> None:
    """A view begins with a comment and is called like its file."""
    text = path.read_text()
    assert re.match(r"-- \w.*\n", text)
    assert re.findall(r"VIEW \$\{database\}\.(\w+) ", text) == [path.stem]


@pytest.mark.parametrize("path", VIEWS, ids=lambda path: path.stem)
def test_a_view_reads_current_rows(path: Path) -> None:
    """Views read tables with FINAL; only the newest instant may be taken from all versions."""
    text = path.read_text()
    read = re.findall(r"FROM \$\{database\}\.(\w+)( AS \w+)?( FINAL)?", text)
    assert read
    for name, _, final in read:
        assert final or name in views() or path.stem == "data_freshness"


@pytest.mark.parametrize("found", recipes(), ids=str)
def test_a_query_reads_what_exists(found: Recipe) -> None:
    """Each query explains its result and names a table or view."""
    assert found.reading
    assert sources(found.sql)
    behind = re.findall(r"(?:FROM|JOIN) (\w+)", re.sub(r"--[^\n]*", "", found.sql))
    assert set(behind) <= views().keys() | tables()


@pytest.mark.parametrize("name", sorted(views()))
def test_a_view_comes_after_those_it_reads(name: str) -> None:
    """Views are created in the order of their names, so a view reads only earlier ones."""
    assert all(behind < name for behind in sources(views()[name]) & views().keys())


def test_every_view_has_a_query() -> None:
    """The cookbook shows each view in use."""
    used = frozenset[str]().union(*(sources(found.sql) for found in recipes()))
    assert views().keys() <= used


def test_sources_look_behind_views() -> None:
    """What a view reads is read by who asks the view; comments name nothing."""
    assert sources("-- usage_events\nSELECT * FROM tasks_by_agent") == {
        "tasks_by_agent", "tasks", "usage_tasks",
    }  # fmt: skip
    assert sources("SELECT 'spend'") == frozenset()


def test_a_query_is_found_by_number_or_name() -> None:
    """Number, padded number, name and file name all lead to the query; others are refused."""
    names = {recipe(wanted) for wanted in ("8", "08", "tail_by_cause", "08_tail_by_cause")}
    assert len(names) == 1
    with pytest.raises(ConfigError, match="sluice queries"):
        recipe("tail")


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"1_a.sql": "-- Why?\nSELECT 1"}, "NN_name"),
        ({"01_a.sql": "SELECT 1"}, "question"),
        ({"01_a.sql": "-- Why?\nSELECT 1", "01_b.sql": "-- Why?\nSELECT 1"}, "twice"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, files: dict[str, str], fault: str) -> None:
    """A misspelt name, a query without its question and a number used twice are named."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=fault):
        recipes(tmp_path)
