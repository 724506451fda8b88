"""Commands about corrections: re-rate usage under another price book, correct one event."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluice.cli.common import (
    Dir,
    Json,
    console,
    instant,
    print_json,
    settings_of,
    table,
    tell,
    text_of,
)
from sluice.errors import ConfigError
from sluice.money import format_usd, pusd, usd
from sluice.settings import Settings

if TYPE_CHECKING:
    from sluice.feedback.rerate import Line, Summary
    from sluice.metering.prices import PriceBook
    from sluice.warehouse.usage_rows import Range

Tokens = Annotated[int | None, typer.Option(help="What the count shall be.", min=0)]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("rerate")(rerate)
    app.command("correct")(correct)


def rerate(
    book: Annotated[
        Path | None, typer.Option(help="Price book file.", exists=True, dir_okay=False)
    ] = None,
    version: Annotated[str | None, typer.Option(help="A published price book instead.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="First instant (default: 35 days ago).")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="End, excluded (default: now).")] = None,
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant; repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Preview only.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dir: Dir = None,
    as_json: Json = False,
) -> None:
    """Price stored usage by another book and publish the differences as corrections.

    Originals stay as they are. What a provider billed or a person set is left out, and so is usage
    of more than 35 days ago. A second run finds nothing to do.

    Example: sluice rerate --book prices.json --from 2026-10-01 --dry-run
    """
    from sluice.runtime import correcting

    settings = settings_of(dir)
    chosen = _book(settings, book, version)
    wanted = _range(since, until, tenant or [])
    if dry_run or not yes:
        summary = correcting.preview(settings, chosen, wanted, tell)
        _show(summary, chosen.version, None, as_json=as_json)
        if dry_run or not summary.total().changed or not _agreed(summary):
            return
    done = correcting.rerate(settings, chosen, wanted, tell)
    _show(done.summary, chosen.version, done.emitted, as_json=as_json)


def correct(
    event_id: str,
    reason: Annotated[str, typer.Option(help="Why; kept with the correction.")],
    input_tokens: Tokens = None,
    cache_read_tokens: Tokens = None,
    cache_write_tokens: Tokens = None,
    output_tokens: Tokens = None,
    reasoning_tokens: Tokens = None,
    cost: Annotated[str | None, typer.Option(help="What it shall cost, USD.")] = None,
    void: Annotated[bool, typer.Option("--void", help="It counts for nothing.")] = False,
    dir: Dir = None,
    as_json: Json = False,
) -> None:
    """Correct one event: say what shall hold, the signed difference is published.

    Example: sluice correct 01920000-0000-7000-8000-000000000001 --cost 0.02 --reason "refund 17"
    """
    from sluice.feedback.by_hand import Wanted
    from sluice.runtime.correcting import correct_event

    counts = {
        "input_tokens": input_tokens, "cache_read_input_tokens": cache_read_tokens,
        "cache_write_input_tokens": cache_write_tokens, "output_tokens": output_tokens,
        "reasoning_output_tokens": reasoning_tokens,
    }  # fmt: skip
    tokens = {name: count for name, count in counts.items() if count is not None}
    wanted = Wanted(reason, tokens, _amount(cost), void)
    made = correct_event(settings_of(dir), event_id, wanted)
    if as_json:
        print_json(made)
        return
    before, delta = made["original_cost_pusd"] or 0, made["cost_pusd"] or 0
    console.print(f"corrected: {format_usd(before, 12)} {'+' if delta >= 0 else '-'} "
                  f"{format_usd(abs(delta), 12)} = {format_usd(before + delta, 12)} USD "
                  f"({made['event_id']})", markup=False, highlight=False)  # fmt: skip


def _amount(cost: str | None) -> int | None:
    try:
        return None if cost is None else pusd(cost)
    except ValueError as error:
        raise ConfigError(f"--cost {error}") from error


def _book(settings: Settings, file: Path | None, version: str | None) -> PriceBook:
    from sluice.metering.prices import load_book
    from sluice.runtime.correcting import published_book

    if (file is None) == (version is None):
        raise ConfigError("say which prices: --book FILE or --version V")
    return load_book(text_of(file)) if file else published_book(settings, version or "")


def _range(since: str | None, until: str | None, tenants: list[str]) -> Range:
    from sluice.metering.validate import MAX_AGE_US
    from sluice.warehouse.usage_rows import Range

    now = time.time_ns() // 1000
    start = now - MAX_AGE_US if since is None else instant(since, "--from")
    end = now if until is None else instant(until, "--to")
    if start >= end:
        raise ConfigError("--from lies before --to")
    return Range(start, end, tenants)


def _agreed(summary: Summary) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("nothing published: add --yes to publish these corrections")
    return typer.confirm(f"publish {summary.total().changed:,} corrections?")


def _show(summary: Summary, version: str, emitted: int | None, *, as_json: bool) -> None:
    if as_json:
        print_json(_report(summary, version, emitted))
        return
    changed = [(key, line) for key, line in sorted(summary.lines.items()) if line.changed]
    if changed:
        columns = ("tenant", "model", "events", "changed", "before USD", "after USD", "delta USD")
        table(f"Under price book {version}", columns, [_row(*key, line) for key, line in changed])
    total = summary.total()
    console.print(f"{total.events:,} events looked at, {total.changed:,} change, "
                  f"{total.newly_priced:,} of them had no price: "
                  f"{format_usd(total.before_pusd, 12)} → {format_usd(total.after_pusd, 12)} USD",
                  markup=False, highlight=False)  # fmt: skip
    for reason, count in summary.left_out.most_common():
        console.print(f"left out: {count:,} {reason}", markup=False, highlight=False)
    if emitted is not None:
        console.print(f"{emitted:,} corrections published and stored", highlight=False)


def _row(tenant: str, model: str, line: Line) -> tuple[Any, ...]:
    amounts = (line.before_pusd, line.after_pusd, line.delta_pusd)
    return (tenant, model, line.events, line.changed, *(format_usd(a, 12) for a in amounts))


def _report(summary: Summary, version: str, emitted: int | None) -> dict[str, Any]:
    lines = [{"tenant_id": tenant, "model": model, **_fields(line)}
             for (tenant, model), line in sorted(summary.lines.items())]  # fmt: skip
    return {"price_book_version": version, "total": _fields(summary.total()), "lines": lines,
            "left_out": dict(summary.left_out), "emitted": emitted}  # fmt: skip


def _fields(line: Line) -> dict[str, Any]:
    amounts = {"before": line.before_pusd, "after": line.after_pusd, "delta": line.delta_pusd}
    return {
        "events": line.events, "changed": line.changed, "newly_priced": line.newly_priced,
        **{f"{name}_pusd": amount for name, amount in amounts.items()},
        **{f"{name}_usd": str(usd(amount)) for name, amount in amounts.items()},
    }  # fmt: skip
