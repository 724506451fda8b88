"""What a replay shows: gathered once, drawn for people, printed for programs."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.builders import NOW
from tests.unit.replay.test_spending import ANSWERS

from sluice.metering.prices import default_book
from sluice.replay import command
from sluice.replay.ledger import Ledger
from sluice.replay.proof import Proof, Totals
from sluice.replay.report import Report, first_decisions, gather
from sluice.replay.run import Progress, Replay
from sluice.replay.screen import Live, progress_line, show
from sluice.replay.spending import QUERIES
from sluice.replay.traces import Trace
from sluice.settings import Settings

LAG = {"decisions": "2", "applied": "6", "p50_us": "12000", "p95_us": "40000", "p99_us": "51500",
       "max_us": "51500"}  # fmt: skip
DECISIONS = [
    {"tenant_id": "a", "at": str(NOW + 9_000_000), "action": "block", "reason": "a has spent all"},
    {"tenant_id": "a", "at": str(NOW + 4_000_000), "action": "rate_limit", "reason": "a slows [x]"},
]
SPENT = {"events": 3, "input_tokens": 101234, "output_tokens": 100056, "cost_pusd": 789}


def answers(query: str) -> list[dict[str, Any]]:
    """What ClickHouse would say about decisions, spending and lags."""
    for name, rows in (("decisions_log", DECISIONS), ("applied_lag_us", [LAG])):
        if name in query:
            return rows
    asked = {text.format(project="replay-r1"): name for name, text in QUERIES.items()}
    return ANSWERS[asked[query]]


def report(folder: Path, *, differences: list[str]) -> Report:
    """The report of a run in which `a` was served and slowed down, `b` only refused."""
    with Ledger(folder / "ledger-0.jsonl") as ledger:
        ledger.refuse(4, {"tenant_id": "a"})
        ledger.refuse(5, {"tenant_id": "b"})
    totals = Totals()
    totals.add("a", SPENT)
    end = Progress(5, emitted=3, refused=2, seconds=12.34)
    proof = Proof(totals, {"usage_events": totals, "usage_windows": totals}, differences)
    return gather(Replay("r1", folder, NOW, end), proof, answers, ["a note"])


def drawn(shown: Report) -> str:
    """The report as it stands on a terminal of 80 columns."""
    out = io.StringIO()
    show(shown, Console(file=out, width=80))
    return out.getvalue()


def test_the_first_decision_of_a_tenant_is_the_earliest() -> None:
    """Order of rows does not matter; the first restriction in time is shown."""
    first = first_decisions(answers, NOW)
    assert first["a"].action == "rate_limit"


def test_tenants_are_listed_with_spend_refusals_and_decision(tmp_path: Path) -> None:
    """Who only was refused is listed too; the largest spender comes first."""
    spender, refused = report(tmp_path, differences=[]).tenants
    assert (spender.tenant_id, spender.admitted, spender.refused) == ("a", 3, 1)
    assert (spender.first_action, spender.first_decision_s) == ("rate_limit", 4.0)
    assert (refused.tenant_id, refused.admitted, refused.refused) == ("b", 0, 1)
    assert refused.first_decision_s is None


def test_a_person_sees_tables_sentences_lag_and_proof(tmp_path: Path) -> None:
    """Nothing is cut at 80 columns, and markup in a reason is text."""
    text = drawn(report(tmp_path, differences=[]))
    for part in ("5 requests in 12.3 s: 3 served, 2 refused", "101,234", "rate_limit at 4.0 s",
                 "a slows [x]", "p99 ms", "51.5", "Note: a note.", "PROOF: equal. 3 events",
                 "0.000000000789 USD = usage_events 0.000000000789",
                 "36.3 % of spend = 0.000930 above 0.000070 a call", "retry 6.2 %, loop 3.1 %",
                 "p50 0.000600, p95 0.001000", "difference of totals"):  # fmt: skip
        assert part in text
    assert "…" not in text


def test_a_failed_proof_names_its_differences(tmp_path: Path) -> None:
    """Twenty differences are shown and the others are counted; no word of equality."""
    text = drawn(report(tmp_path, differences=[f"difference {n}." for n in range(23)]))
    assert "PROOF FAILED" in text
    assert "PROOF: equal" not in text
    assert "difference 19." in text
    assert "difference 20." not in text
    assert "and 3 more" in text


def test_what_was_not_recounted_is_said_and_left_out(tmp_path: Path) -> None:
    """Cost that only the meter priced shows with its tenant, not in the equality."""
    counted, stored = Totals(), Totals()
    for tenant, cost_pusd in (("a", 789), ("b", 0)):
        counted.add(tenant, SPENT | {"cost_pusd": cost_pusd})
        stored.add(tenant, SPENT | {"cost_pusd": cost_pusd or 4000})
    counted.uncounted.add("b")
    proof = Proof(counted, {"usage_events": stored, "usage_windows": stored}, [])
    shown = gather(Replay("r1", tmp_path, NOW, Progress(6)), proof, answers, [])
    assert [(t.tenant_id, t.cost_pusd) for t in shown.tenants] == [("b", 4000), ("a", 789)]
    assert shown.counted_pusd == 789
    assert set(shown.stored_pusd.values()) == {789}
    assert "Except the cost of b:" in drawn(shown)


@pytest.mark.parametrize(("differences", "code"), [([], 0), (["a events: 1, 2"], 1)])
def test_a_mismatch_exits_non_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, differences: list[str], code: int
) -> None:
    """The exit code is 0 only where nothing differs."""
    result = report(tmp_path, differences=differences)
    monkeypatch.setattr(command, "replayed", lambda *_: result)
    trace, book = Trace([], [], []), default_book()
    assert command.replay_trace(Settings(), trace, book, speed=1, gateways=1, as_json=True) == code


def test_a_program_gets_the_same_as_json(tmp_path: Path) -> None:
    """The JSON has integers of pico-USD and microseconds, and the verdict."""
    said = json.loads(report(tmp_path, differences=[]).to_json())
    assert said["counted_pusd"] == 789
    assert said["difference_pusd"] == 0
    assert said["spend"]["tasks"]["per_good_pusd"] == 1_600_000_000
    assert said["applied_lag"]["p99_us"] == 51_500
    assert said["equal"] is True
    assert said["tenants"][0]["tenant_id"] == "a"


def test_no_decision_gives_no_lag(tmp_path: Path) -> None:
    """A run without decisions says so instead of drawing zeros."""
    shown = replace(report(tmp_path, differences=[]), applied_lag=None)
    assert "No decision reached a gateway" in drawn(shown)


@pytest.mark.parametrize("restarts", [0, 2])
def test_progress_shows_every_state_of_a_request(restarts: int) -> None:
    """Arrived, served, running, refused, not acknowledged; restarts only where there were any."""
    now = Progress(10, emitted=3, refused=2, in_flight=1, pending=4, restarts=restarts, seconds=7)
    line = progress_line(now)
    for part in ("7.0 s", "6 of 10 arrived", "3 served", "1 running", "2 refused", "4 not ack"):
        assert part in line
    assert ("2 restarts" in line) == bool(restarts)


def test_progress_into_a_file_is_a_line_now_and_then() -> None:
    """Without a terminal the first line is printed at once and the next only after a while."""
    out = io.StringIO()
    with Live(Console(file=out)) as live:
        live.tell("first")
        live.tell("second")
    assert out.getvalue() == "first\n"
