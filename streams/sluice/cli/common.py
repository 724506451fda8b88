"""What all commands share: options, output, how an error becomes a sentence and an exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sluice.errors import ConfigError
from sluice.settings import Settings, load_settings

Dir = Annotated[
    Path | None,
    typer.Option(
        "--dir", help="The stack's folder (default: SLUICE_DIR or .sluice).", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

# A file or a pipe takes any width: nothing is cut there.
_WIDE = None if sys.stdout.isatty() else 240

console = Console(width=_WIDE)
errors = Console(stderr=True)

_BROKER_S = 5.0

EXIT_NO = 1
EXIT_USAGE = 2
EXIT_AWAY = 75


def text_of(file: Path) -> str:
    """The text of a file; ConfigError where it is no UTF-8."""
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not a text in UTF-8: {error.reason}") from error


def settings_of(dir: Path | None) -> Settings:
    """Settings of the stack that the command is about."""
    return load_settings(dir)


def reachable(dir: Path | None) -> Settings:
    """Settings of a stack whose broker answers; OutsideError names its address otherwise."""
    from sluice.wire.kafka import wait_for_broker

    settings = settings_of(dir)
    wait_for_broker(settings, _BROKER_S)
    return settings


def tell(text: str) -> None:
    """Progress for people, on standard error so that results stay clean."""
    errors.print(text, style="dim", highlight=False, markup=False)


def say(text: str) -> None:
    """A sentence of the result, as it is: not coloured, not broken into lines."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, default=str))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table for people; numbers are right-aligned."""
    drawn = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        drawn.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        drawn.add_row(*(f"{v:,}" if isinstance(v, int) else str(v) for v in row))
    console.print(drawn)


def instant(text: str, option: str) -> int:
    """µs UTC of a date or an ISO 8601 instant; without an offset it is UTC."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{option} {text}: write 2026-10-01 or 2026-10-01T12:00:00Z") from error
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    whole = when.replace(microsecond=0)
    return int(whole.timestamp()) * 1_000_000 + when.microsecond
