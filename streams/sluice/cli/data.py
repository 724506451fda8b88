"""Commands about data: emit, replay, demo, sql, queries, migrate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sluice.cli.common import (
    EXIT_NO,
    Dir,
    Json,
    console,
    print_json,
    settings_of,
    table,
    tell,
)
from sluice.errors import ConfigError
from sluice.settings import load_settings

FORMATS = "vtc, azure, mooncake, vllm-bench, servegen, tau-bench, usage-jsonl"


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (demo, replay, emit, sql, queries, migrate):
        app.command(command.__name__)(command)


def sql(
    statement: Annotated[
        str | None, typer.Argument(help="The statement; '-' reads it from standard input.")
    ] = None,
    dir: Dir = None,
    query: Annotated[
        str | None, typer.Option(help="A query of the cookbook, by number or name.")
    ] = None,
    format: Annotated[str, typer.Option(help="Any ClickHouse format name.")] = "PrettyCompact",
    as_json: Json = False,
) -> None:
    """Ask ClickHouse.

    Example: sluice sql "SELECT * FROM spend_by_tenant" --format JSONEachRow

    Example: sluice sql --query tail_by_cause
    """
    from sluice.warehouse.client import query_text
    from sluice.warehouse.cookbook import recipe

    if (statement is None) == (query is None):
        raise ConfigError("give either a statement or --query NAME; `sluice queries` lists them")
    text = recipe(query).sql if query else statement or ""
    if text == "-":
        text = sys.stdin.read()
    answer = query_text(settings_of(dir), text, "JSON" if as_json else format)
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()


def queries(
    name: Annotated[str | None, typer.Argument(help="Show this query, by number or name.")] = None,
    as_json: Json = False,
) -> None:
    """List the cookbook of queries, or show one with how to read its result.

    Example: sluice queries 15
    """
    from sluice.warehouse.cookbook import recipe, recipes

    found = [recipe(name)] if name else recipes()
    if as_json:
        print_json([entry._asdict() for entry in found])
    elif name:
        print(found[0].sql)
    else:
        rows = [(f"{entry.number:02}", entry.name, entry.question) for entry in found]
        table("Queries: sluice sql --query NAME", ("no", "name", "question"), rows)


def migrate(dir: Dir = None, as_json: Json = False) -> None:
    """Bring ClickHouse's tables and views up to date.

    Example: sluice migrate
    """
    from sluice.warehouse.migrations import migrate as apply

    applied = apply(settings_of(dir))
    if as_json:
        print_json({"applied": applied})
    else:
        console.print(f"applied: {', '.join(map(str, applied)) or 'nothing, all up to date'}")


def emit(
    dir: Dir = None,
    source: Annotated[str, typer.Option(help="Name of the emitting process.")] = "sluice-emit",
    format: Annotated[
        str,
        typer.Option(
            help="usage; openai-chat, openai-responses, anthropic-messages: {context, response}; "
            "litellm, otel: a payload, a span."
        ),
    ] = "usage",
    tenant_attribute: Annotated[
        str | None, typer.Option(help="litellm, otel: attribute that holds the tenant.")
    ] = None,
    project_attribute: Annotated[
        str | None, typer.Option(help="litellm, otel: attribute that holds the project.")
    ] = None,
    salt: Annotated[
        str | None,
        typer.Option(
            envvar="SLUICE_HASH_SALT", help="Secret under which people and arguments are hashed."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Publish usage, one JSON object per line on standard input: events, or what makes one.

    Lines with faults are named and left out; exit code 1 if there were any. Text of prompts and
    answers in responses, logs and spans is never published.

    Example: sluice emit --format litellm < standard_logging_payloads.jsonl
    """
    from sluice.runtime.emitting import adapter_of, emit_stream

    adapt = adapter_of(format, tenant_attribute, project_attribute, salt)
    report = emit_stream(settings_of(dir), source, sys.stdin, adapt)
    if as_json:
        print_json(report)
    else:
        for fault in report["faults"]:
            tell(fault)
        console.print(f"{report['emitted']} emitted, {len(report['faults'])} refused")
    if report["faults"]:
        raise typer.Exit(EXIT_NO)


def demo(
    dir: Dir = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up afterwards.")] = False,
    speed: Annotated[float, typer.Option(help="How much faster than the trace.", min=0.1)] = 20.0,
    gateways: Annotated[int, typer.Option(help="Gateway processes.", min=1, max=64)] = 3,
    as_json: Json = False,
) -> None:
    """Replay a real trace through real admission points and prove the totals.

    Exit code 1 when a total differs.

    Example: sluice demo --keep
    """
    from sluice.replay.demo import demo as run

    settings = load_settings(dir, running=False)
    code = run(settings, keep=keep, speed=speed, gateways=gateways, as_json=as_json)
    raise typer.Exit(code)


def replay(
    file: Annotated[Path, typer.Argument(help="The trace.", exists=True)],
    format: Annotated[str, typer.Option(help=FORMATS)],
    dir: Dir = None,
    speed: Annotated[float, typer.Option(help="How much faster than the trace.", min=0.1)] = 1.0,
    gateways: Annotated[int, typer.Option(help="Gateway processes.", min=1, max=64)] = 1,
    limit: Annotated[int | None, typer.Option(help="Only the first requests.", min=1)] = None,
    duration: Annotated[
        float | None, typer.Option(help="Only the trace's first seconds.", min=0.001)
    ] = None,
    seed: Annotated[int, typer.Option(help="What servegen draws.")] = 0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out malformed lines.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Play a trace through real admission points into the running stack; times become now.

    Example: sluice replay trace.csv --format azure --speed 10
    """
    from sluice.replay.command import replay_file
    from sluice.replay.rows import Extent

    wanted = Extent(limit, None if duration is None else round(duration * 1_000_000))
    report = replay_file(settings_of(dir), file, format, speed=speed, gateways=gateways,
                         wanted=wanted, seed=seed, skip_bad=skip_bad, as_json=as_json)  # fmt: skip
    raise typer.Exit(report)
