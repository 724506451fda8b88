"""What a holder reports of its leases, and when."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.admission.granting import TTL_US, Grantor, reserving
from tests.unit.admission.messages import MINUTE_US, Clock, budget_rule

from sluice.admission.accounts import Burn
from sluice.admission.desk_options import DeskOptions
from sluice.admission.verdict import AdmissionRequest, Refused
from sluice.errors import OutsideError

CHAT = AdmissionRequest("acme", "chat", "m1", estimated_cost_pusd=10)
SECOND_US = 1_000_000


def stepping(limit: int = 10_000) -> Grantor:
    """A grantor whose clock stands still until it is moved."""
    return Grantor(Clock(), b=limit)


def told(grantor: Grantor, *names: str) -> list[tuple[Any, ...]]:
    """Some fields of every report."""
    return [tuple(report[name] for name in names) for report in grantor.reports]


def test_the_first_need_is_reported_with_what_waits() -> None:
    """A request without a lease asks for what it needs, in the budget's unit and scope."""
    grantor = stepping()
    made = reserving(grantor, leases=DeskOptions(holder_slot="pod-7"))
    made.reserve(CHAT).release()
    assert told(grantor, "holder", "holder_slot", "policy_id", "budget_ids", "scope", "period",
                "unit", "wants", "in_flight_reserved", "closing") == [
        ("gw", "pod-7", "p", ["b"], "tenant_id=acme", "2027-01-15", "pusd", 10, 0, False)
    ]  # fmt: skip


def test_the_slot_is_the_source_unless_one_is_configured() -> None:
    """Without a slot of its own, a process is followed by one of the same source."""
    grantor = stepping()
    reserving(grantor).reserve(CHAT).release()
    assert told(grantor, "holder_slot") == [("gw",)]


def test_less_than_half_of_a_lease_asks_for_more() -> None:
    """More is asked for before the lease is used up, sized by the last minute's burn."""
    grantor = stepping()
    made = reserving(grantor)
    made.reserve(CHAT).commit(cost_pusd=10)
    grantor.clock.now += SECOND_US
    grantor.grant(grantor.reports[0] | {"wants": 90})
    wants = len(grantor.reports)
    for _ in range(4):
        made.reserve(CHAT).commit(cost_pusd=10)
        assert len(grantor.reports) == wants, "half of the lease is left"
    made.reserve(CHAT).commit(cost_pusd=10)
    assert len(grantor.reports) == wants + 1
    assert grantor.reports[-1]["wants"] == 60


def test_a_lease_in_use_is_renewed() -> None:
    """Every refresh_after_ms a report renews it, with what runs and what streams have spent."""
    grantor = stepping()
    made = reserving(grantor)
    reservation = made.reserve(CHAT)
    reservation.progress(cost_pusd=4)
    for _ in range(3):
        grantor.clock.now += 4 * SECOND_US
        made.report()
    grantor.clock.now += SECOND_US
    made.report()
    assert told(grantor, "in_flight_reserved", "interim_spend")[1:] == [(10, 4), (10, 4)]
    grantor.clock.now += TTL_US - SECOND_US
    reservation.extend(pusd=0)
    made.reserve(CHAT).release()


def test_an_unused_lease_flows_back_and_is_not_renewed() -> None:
    """A minute after the last use it says once that it wants nothing, and nothing more."""
    grantor = stepping()
    made = reserving(grantor)
    made.reserve(CHAT).commit(cost_pusd=7)
    for _ in range(30):
        grantor.clock.now += 5 * SECOND_US
        made.report()
    assert told(grantor, "wants")[-1] == (0,)
    assert told(grantor, "wants").count((0,)) == 1
    assert grantor.granted["b", "tenant_id=acme", "2027-01-15"] == 7


def test_an_idle_account_is_forgotten_and_its_spend_is_not() -> None:
    """Accounts of tasks do not pile up; who comes again goes on with what was spent before."""
    grantor = stepping(25)
    made = reserving(grantor, budget_rule(period="task", scope=["task_id", "tenant_id"], limit=25))
    task = AdmissionRequest("acme", "chat", "m1", task_id="t", estimated_cost_pusd=10)
    made.reserve(task).commit(cost_pusd=10)
    for _ in range(40):
        grantor.clock.now += 5 * SECOND_US
        made.report()
    assert made._desk.accounts == []
    assert not any(report["closing"] for report in grantor.reports)
    made.reserve(task).commit(cost_pusd=10)
    grantor.clock.now += SECOND_US
    with pytest.raises(Refused):
        made.reserve(task)
    assert [account.committed for account in made._desk.accounts] == [20]


def test_a_period_that_is_over_is_closed() -> None:
    """Its lease is closed as soon as nothing of it runs any more, and its account forgotten."""
    grantor = stepping()
    made = reserving(grantor)
    running = made.reserve(CHAT)
    grantor.clock.now += 24 * 60 * MINUTE_US
    made.report()
    assert told(grantor, "closing")[-1] == (False,)
    running.commit(cost_pusd=10)
    made.report()
    assert told(grantor, "closing", "period", "wants")[-1] == (True, "2027-01-15", 0)
    assert made._desk.accounts == []


def test_close_closes_every_lease_once() -> None:
    """The last reports say so, with what still runs; a second close says nothing."""
    grantor = stepping()
    made = reserving(grantor)
    other = AdmissionRequest("other", "chat", "m1", estimated_cost_pusd=10)
    running = made.reserve(CHAT)
    made.reserve(other).commit(cost_pusd=10)
    made.close()
    made.close()
    closing = [r for r in grantor.reports if r["closing"]]
    assert [(r["tenant_id"], r["in_flight_reserved"]) for r in closing] == [
        ("acme", 10), ("other", 0)
    ]  # fmt: skip
    assert running.commit(cost_pusd=3), "what ran on is charged by its event"


def test_a_report_that_finds_no_way_out_goes_later() -> None:
    """While the spool is full the report waits, and the next one tells the same."""
    grantor = stepping()
    made = reserving(grantor)
    running = made.reserve(CHAT)
    grantor.clock.now += 5 * SECOND_US
    grantor.away = True
    made.report()
    grantor.away = False
    made.report()
    assert told(grantor, "in_flight_reserved")[1:] == [(10,)]
    running.release()


def test_what_was_charged_by_estimate_leaves_room() -> None:
    """The grantor sees another amount than the estimate; the holder tells what it counts itself."""
    grantor = stepping(limit=10)
    made = reserving(grantor)
    for _ in range(3):
        made.reserve(CHAT).commit()
        grantor.clock.now += SECOND_US
    assert told(grantor, "committed") == [(0,), (10,), (20,)]
    assert told(grantor, "wants")[:2] == [(10,), (10,)], "it is not asked for besides"
    made.reserve(CHAT).commit(cost_pusd=10)
    grantor.clock.now += SECOND_US
    with pytest.raises(Refused):
        made.reserve(CHAT)


def test_what_was_dropped_is_told_as_spent() -> None:
    """A reservation that nobody ends is spent here, though no usage of it will come."""
    grantor = stepping()
    made = reserving(grantor)
    made.reserve(CHAT)
    gc.collect()
    made.report()
    grantor.clock.now += 5 * SECOND_US
    made.report()
    assert told(grantor, "committed", "in_flight_reserved") == [(0, 0), (10, 0)]


def test_what_is_spent_and_not_emitted_yet_is_in_flight() -> None:
    """It is told as spent only when its event has gone, however long that takes."""
    grantor = stepping()
    made = reserving(grantor)
    with pytest.raises(OutsideError), made.reserve(CHAT) as reservation:
        reservation.progress(cost_pusd=7)
        grantor.away = True
    (account,) = made._desk.accounts
    grantor.clock.now += 2 * TTL_US
    made.report()
    assert made._desk.accounts == [account], "it is not forgotten meanwhile"
    grantor.away = False
    made._desk.tell()
    assert told(grantor, "committed", "in_flight_reserved")[-1] == (0, 7)
    made.report()
    grantor.clock.now += SECOND_US
    running = made.reserve(CHAT)
    grantor.clock.now += 5 * SECOND_US
    made.report()
    assert told(grantor, "committed", "in_flight_reserved")[-1] == (7, 10)
    running.release()


def test_concurrency_wants_its_peak() -> None:
    """A budget of concurrency asks for as many as ran at once, beside those that run."""
    grantor = stepping()
    made = reserving(grantor, budget_rule(unit="concurrency", refresh_after_ms=1000))
    first = made.reserve(CHAT)
    grantor.clock.now += SECOND_US
    second = made.reserve(CHAT)
    second.release()
    grantor.clock.now += SECOND_US
    made.report()
    assert told(grantor, "wants", "in_flight_reserved")[-1] == (1, 1)
    first.release()


def test_burn_is_that_of_the_last_minute() -> None:
    """Amounts leave the burn a minute after they came, also after a long silence."""
    burn, now = Burn(), 1_800_000_000 * SECOND_US
    burn.add(5, now)
    burn.add(7, now + 30 * SECOND_US)
    burn.add(-2, now + 30 * SECOND_US)
    assert [burn.within_minute(now + s * SECOND_US) for s in (30, 59, 60, 89, 90)] == [
        10, 10, 5, 5, 0
    ]  # fmt: skip
    burn.add(3, now + 10_000 * SECOND_US)
    assert burn.within_minute(now + 10_000 * SECOND_US) == 3


def test_many_accounts_are_reported_without_holding_requests_up() -> None:
    """Every account is looked at, and the lock is free between any hundred of them."""
    grantor = stepping()
    made = reserving(grantor)
    tenants = [AdmissionRequest(f"t{n}", "chat", "m1", estimated_cost_pusd=10) for n in range(250)]
    running = [made.reserve(request) for request in tenants]
    grantor.clock.now += 5 * SECOND_US
    before, free = len(grantor.reports), list[bool]()
    told_at_once = grantor.report

    def report(record: Any) -> str:
        free.append(not made._waiters.lock.locked())
        return told_at_once(record)

    grantor.report = report  # type: ignore[method-assign]
    made.report()
    assert len(grantor.reports) == before + 250
    assert free == [True] * 250
    for reservation in running:
        reservation.release()


def test_a_report_tells_what_a_request_needs() -> None:
    """The largest amount held lately, or the least that waits where that is less; then nothing."""
    grantor = stepping(60)
    made = reserving(grantor, budget_rule(lease_wait_ms=0))
    for cost_pusd in (10, 30, 20):
        grantor.clock.now += SECOND_US
        made.reserve(replace(CHAT, estimated_cost_pusd=cost_pusd)).release()
    grantor.clock.now += SECOND_US
    with pytest.raises(Refused):
        made.reserve(replace(CHAT, estimated_cost_pusd=1000))
    assert grantor.reports[0]["per_request"] == 10
    assert grantor.reports[-1]["per_request"] == 30, "one that never fits starves nobody"
    made.reserve(CHAT).commit(cost_pusd=10)
    grantor.clock.now += 3 * MINUTE_US
    made.report()
    assert grantor.reports[-1]["per_request"] == 0
