"""Replaying into the running stack: what `sluice replay` and the demo share."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from sluice.errors import ConfigError
from sluice.metering.prices import PriceBook
from sluice.replay.proof import count, prove, usd_prices
from sluice.replay.report import Report, gather, rows_of
from sluice.replay.rows import Extent
from sluice.replay.run import new_run_id, replay
from sluice.replay.screen import Live, progress_line, show
from sluice.replay.traces import Trace, read_trace
from sluice.runtime.publish import price_book_in_force
from sluice.settings import Settings
from sluice.wire.kafka import wait_for_broker

EXIT_EQUAL, EXIT_DIFFERS = 0, 1


def replay_file(
    settings: Settings, path: Path, format: str, *, speed: float, gateways: int,
    wanted: Extent | None = None, seed: int = 0, skip_bad: bool = False, as_json: bool = False,
) -> int:  # fmt: skip
    """Replay a trace file and report; returns the exit code."""
    trace = read_trace(path, format, skip_bad=skip_bad, wanted=wanted, seed=seed)
    wait_for_broker(settings, timeout_s=10)
    book = price_book_in_force(settings)
    if book is None:
        raise ConfigError("no price book is in force; publish one with `sluice prices apply`")
    return replay_trace(settings, trace, book, speed=speed, gateways=gateways, as_json=as_json)


def replay_trace(
    settings: Settings, trace: Trace, book: PriceBook, *, speed: float, gateways: int,
    as_json: bool = False, run_id: str | None = None,
) -> int:  # fmt: skip
    """Replay, compare with ClickHouse, show the report; returns the exit code."""
    report = replayed(settings, trace, book, run_id or new_run_id(), speed, gateways)
    if as_json:
        print(report.to_json())
    else:
        show(report, Console())
    return EXIT_EQUAL if report.equal else EXIT_DIFFERS


def replayed(
    settings: Settings, trace: Trace, book: PriceBook, run_id: str, speed: float, gateways: int
) -> Report:
    """Replay a trace, wait for ClickHouse, compare; progress goes to standard error."""
    rows = partial(rows_of, settings)
    with Live(Console(stderr=True)) as live:
        done = replay(settings, trace, run_id=run_id, speed=speed, gateways=gateways, book=book,
                      watch=lambda now: live.tell(progress_line(now)))  # fmt: skip
        # The book as the gateways had it on file.
        counted = count(done.ledgers(), usd_prices((done.folder / "book.json").read_text()))
        live.tell("waiting until ClickHouse holds everything")
        proof = prove(counted, rows, done.project_id, watch=lambda left: live.tell(
            f"waiting for ClickHouse: {len(left)} sums to go, {left[0]}"))  # fmt: skip
        return gather(done, proof, rows, trace.notes)
