"""Corrections through the running system: previewed, published, stored, exported."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.builders import MODEL, usage
from tests.integration.conftest import Stack, until

from sluice.metering.prices import PriceBook, PriceEntry, default_book
from sluice.metering.rates import Tier
from sluice.money import pusd

pytestmark = pytest.mark.integration

DAY_US = 86_400_000_000
PACKAGED = {"input": 50_000, "output": 250_000}
RATES = {"input": 40_000, "output": 300_000}
TOKENS = (100, 70)


def emit(stack: Stack, tenant: str, ages: Sequence[int], **over: Any) -> None:
    """Emit one event per age in days and wait until all are stored."""
    now = time.time_ns() // 1000
    lines = []
    for number, age in enumerate(ages, 1):
        at = now - age * DAY_US
        event = usage(number, tenant_id=tenant, occurred_at=at, started_at=at,
                      input_tokens=TOKENS[0], output_tokens=TOKENS[1], **over)  # fmt: skip
        for name in ("source", "source_epoch", "source_seq", "event_id"):
            event.pop(name)
        lines.append(json.dumps(event))
    done = stack.sluice("emit", "--json", input="\n".join(lines))
    assert json.loads(done.stdout)["emitted"] == len(ages), done.stderr


def stored(stack: Stack, tenant: str, what: str = "count()") -> Any:
    """A number over a tenant's stored events."""
    query = f"SELECT {what} AS n FROM usage_events FINAL WHERE tenant_id = '{tenant}'"
    return stack.value(query)


def cost(stack: Stack, tenant: str) -> int:
    """What a tenant's events cost by now, corrections included."""
    return int(stored(stack, tenant, "sum(cost_pusd)"))


def window_cost(stack: Stack, tenant: str) -> int:
    """The same as the meter has it in its windows."""
    query = f"SELECT sum(cost_pusd) AS n FROM usage_windows FINAL WHERE tenant_id = '{tenant}'"
    return int(stack.value(query))


def of_one(rates: dict[str, int]) -> int:
    """What one event costs."""
    return TOKENS[0] * rates["input"] + TOKENS[1] * rates["output"]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A price book with other rates, and with a model that the packaged one lacks."""
    entries = tuple(PriceEntry(m, None, (Tier("", 0, RATES),)) for m in (MODEL, "brand-new"))
    path = tmp_path / "prices.json"
    path.write_text(PriceBook("new", "test", "none", entries).to_json())
    return path


def report(stack: Stack, *words: str) -> dict[str, Any]:
    """The JSON report of a command that must succeed."""
    done = stack.sluice(*words, "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_usage_is_rerated_once(stack: Stack, book: Path, tmp_path: Path) -> None:
    """Previewed, published once, nothing left for a second run, exported, and taken back."""
    tenant = "rerated"
    emit(stack, tenant, [0, 1, 33])
    emit(stack, tenant, [0], request_model="brand-new")
    until(lambda: int(stored(stack, tenant)) == 4, what="the usage in SQL")
    before, after = 3 * of_one(PACKAGED), 4 * of_one(RATES)
    assert cost(stack, tenant) == before
    words = ("rerate", "--book", str(book), "--tenant", tenant)

    preview = report(stack, *words, "--dry-run")
    total = preview["total"]
    assert (total["events"], total["changed"], total["newly_priced"]) == (4, 4, 1)
    assert (total["before_pusd"], total["after_pusd"]) == (before, after)
    assert preview["emitted"] is None
    assert int(stored(stack, tenant)) == 4

    done = report(stack, *words, "--yes")
    assert (done["total"], done["emitted"]) == (total, 4)
    assert int(stored(stack, tenant, "countIf(event_type = 'correction')")) == 4
    assert cost(stack, tenant) == after
    until(lambda: window_cost(stack, tenant) == after, what="the cost in the windows")
    assert report(stack, *words, "--yes")["emitted"] == 0

    out = tmp_path / "focus.csv"
    since = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 40 * 86400))
    exported = report(stack, "export", "focus", "--from", since, "--tenant", tenant,
                      "--out", str(out), "--check")  # fmt: skip
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(pusd(row["BilledCost"]) for row in rows) == after
    assert (exported["broken"], exported["unpriced"]) == ([], [])
    classes = {row["ChargeClass"] for row in rows if row["x_ChargeKind"] == "correction"}
    assert "Correction" in classes

    old = default_book().version
    report(stack, "rerate", "--version", old, "--tenant", tenant, "--yes")
    assert cost(stack, tenant) == before


def test_one_event_is_corrected_by_hand(stack: Stack, book: Path) -> None:
    """Tokens, cost and void are said as what shall hold; the differences are appended."""
    tenant = "by-hand"
    emit(stack, tenant, [0])
    until(lambda: int(stored(stack, tenant)) == 1, what="the usage in SQL")
    event_id = stored(stack, tenant, "any(event_id)")
    report(stack, "correct", event_id, "--output-tokens", "50", "--reason", "counted twice")
    assert int(stored(stack, tenant, "sum(output_tokens)")) == 50
    assert cost(stack, tenant) == 100 * 50_000 + 50 * 250_000
    report(stack, "correct", event_id, "--cost", "0.5", "--reason", "agreed")
    assert cost(stack, tenant) == pusd("0.5")
    rerated = report(stack, "rerate", "--book", str(book), "--tenant", tenant, "--yes")
    assert (rerated["emitted"], rerated["left_out"]) == (0, {"corrected by hand": 1})
    report(stack, "correct", event_id, "--void", "--reason", "test traffic")
    assert cost(stack, tenant) == 0
    assert int(stored(stack, tenant, "sum(input_tokens)")) == 0
    assert int(stored(stack, tenant)) == 4
    again = stack.sluice("correct", event_id, "--void", "--reason", "again")
    assert again.returncode == 2 and "stands at that already" in again.stderr
    lost = stack.sluice("correct", "no-such-event", "--void", "--reason", "x")
    assert lost.returncode == 2 and "not stored" in lost.stderr


def test_a_preview_is_readable(stack: Stack, book: Path) -> None:
    """Without --json the preview is a table in dollars; nothing is published unasked."""
    tenant = "table"
    emit(stack, tenant, [0])
    until(lambda: int(stored(stack, tenant)) == 1, what="the usage in SQL")
    done = stack.sluice("rerate", "--book", str(book), "--tenant", tenant, input="")
    assert "1 events looked at, 1 change" in done.stdout
    saved = Decimal(of_one(RATES) - of_one(PACKAGED)).scaleb(-12)
    assert f"{saved:f}" in done.stdout.replace("\n", "")
    assert done.returncode == 2 and "--yes" in done.stderr
    assert int(stored(stack, tenant)) == 1


def test_one_correction_run_at_a_time(stack: Stack, book: Path) -> None:
    """While another one holds the lock, a run ends at once with a sentence."""
    from sluice.wire import wal_lock

    folder = stack.settings.dir / "corrections"
    folder.mkdir(exist_ok=True)
    lock = wal_lock.hold(folder)
    assert lock is not None
    try:
        done = stack.sluice("rerate", "--book", str(book), "--yes")
    finally:
        wal_lock.release(lock)
    assert done.returncode == 75 and "another correction runs" in done.stderr
