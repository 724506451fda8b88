"""What decisions did: counted under the decision that was obeyed, published when it ends."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import NOW, arrived

from sluice.enforcement.outcomes import KEEP_US, Outcomes
from sluice.enforcement.watch_run import run_of, watched
from sluice.money import INT64_MAX
from sluice.wire.codec import decode, encode

SECOND_US = 1_000_000
END = NOW + 600 * SECOND_US


def decision(name: str = "d1", **over: Any) -> dict[str, Any]:
    """What of a Decision record outcomes look at."""
    scope = {"tenant_id": "acme", "priority": "batch"}
    return {"decision_id": name, "action": "rate_limit", "scope": scope, "expires_at": END,
            "supersedes": None} | over  # fmt: skip


def refusal(requests: int = 3, **over: Any) -> dict[str, Any]:
    """An admission event."""
    units = [{"key": "requests", "value": requests}]
    base = {"event_type": "admission", "decision_id": "d1", "outcome": "throttled",
            "estimated_cost_pusd": 700, "units": units}  # fmt: skip
    return arrived(1, **base | over)


def served(slo_outcome: str, **over: Any) -> dict[str, Any]:
    """A usage event that ran under no decision."""
    return arrived(1, slo_outcome=slo_outcome, **over)


def judge(held: Outcomes, time: int, slo_outcomes: list[str], **over: Any) -> None:
    """Usage events with these outcomes."""
    for slo_outcome in slo_outcomes:
        held.ran(served(slo_outcome, **over), time)


def following(**over: Any) -> Outcomes:
    """Outcomes that follow one decision."""
    held = Outcomes()
    held.begin(decision(**over), NOW)
    return held


def ended(held: Outcomes, version: int = 9) -> list[dict[str, Any]]:
    """Published rows, as they were read."""
    return [decode(encode("DecisionOutcome", row))[1] for row in held.take_ended(version)]


def test_an_expired_decision_says_what_it_did() -> None:
    """Refusals with their estimates, degraded requests, nothing else."""
    held = following()
    held.obeyed(refusal(3))
    held.obeyed(refusal(2, estimated_cost_pusd=None))
    held.obeyed(refusal(5, decision_id="other"))
    held.obeyed(refusal(5, decision_id=None))
    held.ran(arrived(1, decision_id="d1", outcome="degraded"), NOW)
    held.ran(arrived(1, decision_id="d1"), NOW)
    held.end_expired(END - 1)
    assert ended(held) == []
    held.end_expired(END + 5)
    assert ended(held) == [{
        "decision_id": "d1", "refused": 5, "delayed": 0, "degraded": 1, "averted_pusd": 700,
        "slo_effect_ppm": None, "ended_at": END, "ended_why": "expired", "version": 9,
    }]  # fmt: skip
    assert ended(held) == []


def test_requests_that_waited_count_as_delayed() -> None:
    """An admission event of action queue that ended well; a notice of arrival counts nothing."""
    held = following(action="queue")
    queue = [{"key": "action", "value": "queue"}]
    held.obeyed(refusal(4, outcome="ok", estimated_cost_pusd=None, attributes=queue))
    held.obeyed(refusal(4, outcome="ok", estimated_cost_pusd=None))
    held.obeyed(refusal(0, outcome="ok", estimated_cost_pusd=None, attributes=queue))
    held.end("d1", "lifted", NOW + 1)
    (row,) = ended(held)
    assert (row["refused"], row["delayed"], row["ended_why"]) == (0, 4, "lifted")


def test_a_decision_that_is_replaced_is_superseded() -> None:
    """By the next one, also by the news that requests are admitted again, which is not followed."""
    held = following()
    held.begin(decision("d2", supersedes="d1"), NOW + 1)
    held.begin(decision("d3", supersedes="d2", action="allow"), NOW + 2)
    rows = {row["decision_id"]: row for row in ended(held)}
    assert {name: (row["ended_at"], row["ended_why"]) for name, row in rows.items()} == {
        "d1": (NOW + 1, "superseded"), "d2": (NOW + 2, "superseded")
    }  # fmt: skip
    assert held.next_due() is None


def test_a_renewal_moves_the_end() -> None:
    """The same id with a later expiry is the same decision."""
    held = following()
    held.obeyed(refusal(1))
    held.begin(decision(expires_at=END + 7), NOW + 1)
    held.end_expired(END)
    assert ended(held) == []
    assert held.next_due() == END + 7
    held.end_expired(END + 7)
    assert [row["refused"] for row in ended(held)] == [1]


def test_what_arrives_after_the_end_is_published_again() -> None:
    """Rows are absolute; after ten minutes the decision is forgotten."""
    held = following()
    held.end("d1", "lifted", NOW)
    assert [row["refused"] for row in ended(held)] == [0]
    held.obeyed(refusal(2))
    held.evict(NOW + KEEP_US + 1)
    assert [row["refused"] for row in ended(held)] == [2]
    held.evict(NOW + KEEP_US + 1)
    held.obeyed(refusal(2))
    assert ended(held) == []


@pytest.mark.parametrize(
    ("before", "under", "effect"),
    [
        ((15, 20), (19, 20), 200_000),
        ((20, 20), (10, 20), -500_000),
        ((10, 19), (19, 20), None),
        ((15, 20), (10, 19), None),
    ],
)
def test_the_service_level_under_it_is_held_against_the_hour_before(
    before: tuple[int, int], under: tuple[int, int], effect: int | None
) -> None:
    """A difference of shares; too few judged requests on either side say nothing."""
    held = Outcomes()
    judge(held, NOW - 4_000 * SECOND_US, ["failed"] * 50)
    slos = ["good" if place < before[0] else "slow" for place in range(before[1])]
    held.judge(run_of([seen for slo in slos if (seen := watched(served(slo), 1, NOW - 1))]))
    judge(held, NOW - 1, ["failed"], tenant_id="other")
    held.begin(decision(), NOW)
    for place in range(under[1]):
        slo = "good" if place < under[0] else "slow"
        held.ran(arrived(1, decision_id="d1", slo_outcome=slo), NOW + 1)
    held.end("d1", "lifted", NOW + 2)
    assert [row["slo_effect_ppm"] for row in ended(held)] == [effect]


def test_a_part_of_a_tenant_has_no_service_level_before() -> None:
    """What is known is the tenant as a whole; a decision about one model is not held against it."""
    held = Outcomes()
    judge(held, NOW - 1, ["good"] * 30)
    held.begin(decision(scope={"tenant_id": "acme", "model": "m"}), NOW)
    assert held.rows["d1"].judged_before == 0


def test_estimates_beyond_64_bits_stand_still() -> None:
    """The sum is the largest number, not an error: it is an estimate."""
    held = following()
    for _ in range(3):
        held.obeyed(refusal(1, estimated_cost_pusd=9 * 10**18))
    assert held.rows["d1"].averted_pusd == INT64_MAX


def test_outcomes_survive_a_restart() -> None:
    """What was stored says the same as what went on."""
    held = Outcomes()
    judge(held, NOW - 1, ["good"] * 25)
    held.begin(decision(), NOW)
    held.obeyed(refusal(3))
    stored = dict(held.take_changes())
    again = Outcomes()
    for key, value in stored.items():
        again.load(key, value or b"")
    for each in (held, again):
        each.begin(decision("d2"), NOW + 1)
        each.end_expired(END)
    assert ended(again) == ended(held)
    assert again.rows == held.rows
    assert again.rows["d2"].judged_before == 25


def test_forgotten_decisions_leave_the_changelog() -> None:
    """A row is removed when its decision is forgotten."""
    held = following()
    held.end("d1", "lifted", NOW)
    ended(held)
    list(held.take_changes())
    held.evict(NOW + KEEP_US + 1)
    assert list(held.take_changes()) == [(b"dd1", None)]
