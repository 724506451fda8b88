"""A replay drawn for people: its progress, its tables, its proof."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.status import Status
from rich.table import Table

from sluice.money import format_usd
from sluice.replay.report import AppliedLag, Report, TenantResult
from sluice.replay.run import Progress
from sluice.replay.spending import Bands, Spend, TaskSpend, ppm, top

MAX_SHOWN_DIFFERENCES = 20
_LINE_EVERY_S = 5.0


class Live:
    """A line that changes in place on a terminal, and one line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = Status("", console=console)
        self._printed = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self._status.stop()

    def tell(self, text: str) -> None:
        """Show a line in place of the one before."""
        if self._console.is_terminal:
            self._status.update(text)
        elif time.monotonic() - self._printed > _LINE_EVERY_S:
            self._printed = time.monotonic()
            say(self._console, text)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a sentence as it is, wrapped by the terminal only."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def progress_line(now: Progress) -> str:
    """One line while a replay runs."""
    parts = (
        f"{now.seconds:5.1f} s", f"{now.admitted + now.refused:,} of {now.requests:,} arrived",
        f"{now.emitted:,} served", f"{now.in_flight:,} running", f"{now.refused:,} refused",
        f"{now.pending:,} not acknowledged yet", *[f"{now.restarts} restarts"] * bool(now.restarts),
    )  # fmt: skip
    return "  ".join(parts)


def show(report: Report, console: Console) -> None:
    """Draw a report; the proof comes last."""
    console.print(_tenant_table(report))
    for tenant in report.tenants:
        if tenant.first_action:
            say(console, f"{_decision(tenant)}: {tenant.first_reason}")
    lag = report.applied_lag
    if lag is None:
        say(console, "No decision reached a gateway during this replay.")
    else:
        console.print(_lag_table(lag))
    console.print(spend_table(report.spend, report.difference_pusd))
    for note in report.notes:
        say(console, f"Note: {note}.")
    _show_proof(report, console)


def _tenant_table(report: Report) -> Table:
    table = _table(f"{report.requests:,} requests in {report.seconds} s: "
                   f"{report.admitted:,} served, {report.refused:,} refused "
                   "(input, output: tokens)")  # fmt: skip
    table.add_column("tenant", no_wrap=True)
    for name in ("spend USD", "input", "output", "served", "refused"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("first decision", no_wrap=True)
    for tenant in report.tenants:
        table.add_row(
            tenant.tenant_id, *_sums([tenant]), _decision(tenant),
            style="yellow" if tenant.first_action else None,
        )  # fmt: skip
    table.add_section()
    table.add_row(f"all {len(report.tenants)}", *_sums(report.tenants), style="bold")
    return table


def _sums(tenants: Sequence[TenantResult]) -> tuple[str, ...]:
    counts = (sum(getattr(tenant, name) for tenant in tenants)
              for name in ("input_tokens", "output_tokens", "admitted", "refused"))  # fmt: skip
    spend = format_usd(sum(tenant.cost_pusd for tenant in tenants), 8)
    return (spend, *(f"{count:,}" for count in counts))


def _decision(tenant: TenantResult) -> str:
    return f"{tenant.first_action} at {tenant.first_decision_s} s" if tenant.first_action else ""


def _lag_table(lag: AppliedLag) -> Table:
    table = _table("From the event that crossed a budget to gateways that obey")
    cells = {
        "decisions": f"{lag.decisions:,}", "times applied": f"{lag.applied:,}",
        "p50 ms": _ms(lag.p50_us), "p95 ms": _ms(lag.p95_us), "p99 ms": _ms(lag.p99_us),
        "max ms": _ms(lag.max_us),
    }  # fmt: skip
    for name in cells:
        table.add_column(name, justify="right")
    table.add_row(*cells.values())
    return table


def spend_table(spend: Spend, difference_pusd: int) -> Table:
    """Spend with its tail, causes, tasks and good outcomes, and how far the totals are apart."""
    table = _table("Where the money went (USD)")
    table.add_column("measure", no_wrap=True)
    table.add_column("value")
    cells = {
        "spend": f"{_usd(spend.cost_pusd)} for {spend.events:,} events, "
                 f"{spend.unpriced:,} of them without a price",
        "above p95 of calls": f"{_share(spend.above_p95_ppm)} of spend = "
                              f"{_usd(spend.above_p95_pusd)} above {_usd(spend.p95_pusd)} a call",
        **_band_cells(spend.bands, spend.cost_pusd),
        "good outcomes": f"{spend.good:,} events, {_usd(spend.per_good_pusd)} each",
        **_task_cells(spend.tasks),
        "difference of totals": format_usd(difference_pusd, 12),
    }  # fmt: skip
    for row in cells.items():
        table.add_row(*row)
    return table


def _band_cells(bands: Bands | None, cost_pusd: int) -> dict[str, str]:
    if bands is None:
        return {"tail": "not labelled"}

    def causes(by_cause: Mapping[str, int]) -> str:
        return ", ".join(f"{cause} {_share(ppm(amount, cost_pusd))}"
                         for cause, amount in top(by_cause)) or "none"  # fmt: skip

    overhead = {cause: amount for cause, amount in bands.overhead_by_cause.items()
                if cause != "first_pass"}  # fmt: skip
    return {
        "tail": f"{_share(bands.tail_ppm)} of spend = {_usd(bands.tail_pusd)} above baselines, "
                f"{bands.packaged:,} events by the packaged one, {bands.unlabelled:,} by none",
        "tail by cause": causes(bands.tail_by_cause),
        "overhead by cause": causes(overhead),
    }  # fmt: skip


def _task_cells(tasks: TaskSpend | None) -> dict[str, str]:
    if tasks is None:
        return {}
    return {
        "tasks": f"{tasks.tasks:,}, {tasks.good:,} good; {tasks.calls:,} calls of models, "
                 f"{tasks.tool_calls:,} of tools",
        "cost per task": f"p50 {_usd(tasks.p50_pusd)}, p95 {_usd(tasks.p95_pusd)}, "
                         f"max {_usd(tasks.max_pusd)}; {_usd(tasks.per_good_pusd)} per good task",
        "task tail": f"{_usd(tasks.task_tail_pusd)}, in loops {_usd(tasks.loop_pusd)}; "
                     f"{tasks.metered:,} tasks metered",
    }  # fmt: skip


def _usd(amount_pusd: int | None) -> str:
    return "unknown" if amount_pusd is None else format_usd(amount_pusd)


def _share(share_ppm: int | None) -> str:
    return "unknown" if share_ppm is None else f"{share_ppm / 10_000:.1f} %"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", header_style="bold",
                 box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))  # fmt: skip


def _ms(lag_us: int) -> str:
    return f"{lag_us / 1000:,.1f}"


def _show_proof(report: Report, console: Console) -> None:
    counted = f"{format_usd(report.counted_pusd, 12)} USD"
    if report.equal:
        stored = " = ".join(f"{table} {format_usd(pusd, 12)}"
                            for table, pusd in report.stored_pusd.items())  # fmt: skip
        say(console, f"PROOF: equal. {report.events:,} events counted before the emitter and "
            f"priced apart from the meter with decimal = {counted} = {stored}: to the pico-USD, "
            f"for each of {len(report.tenants)} tenants.{_exceptions(report)}",
            "bold green")  # fmt: skip
        return
    say(console, f"PROOF FAILED: {report.events:,} events, {counted} counted, and ClickHouse "
        f"differs; the count is in {report.ledgers}", "bold red")  # fmt: skip
    for difference in report.differences[:MAX_SHOWN_DIFFERENCES]:
        say(console, f"- {difference}")
    more = len(report.differences) - MAX_SHOWN_DIFFERENCES
    if more > 0:
        say(console, f"- and {more} more")


def _exceptions(report: Report) -> str:
    if not report.uncounted:
        return ""
    tenants = ", ".join(report.uncounted)
    return (f" Except the cost of {tenants}: some of it takes price features that the recount "
            "leaves to the meter, so only raw events and windows were compared.")  # fmt: skip
