"""Reservations on hard budgets: all or nothing, exactly once, and settled whatever happens."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.admission.granting import TTL_US, Grantor, at_noon, reserving
from tests.unit.admission.messages import MINUTE_US, NOW, Clock, budget_rule, decision, key_of

from sluice.admission.desk_options import DeskOptions
from sluice.admission.point import AdmissionPoint, ColdStart
from sluice.admission.reservation import Reservation
from sluice.admission.verdict import AdmissionRequest, Refused, Verdict
from sluice.errors import OutsideError, SluiceError
from sluice.periods import period_of

CHAT = AdmissionRequest("acme", "chat", "m1", estimated_cost_pusd=10, input_tokens=5,
                        max_output_tokens=20)  # fmt: skip
OF_TOKENS = budget_rule(unit="output_tokens")


def refusal(made: AdmissionPoint, request: AdmissionRequest = CHAT) -> Verdict:
    """What a refused request is told."""
    with pytest.raises(Refused) as caught:
        made.reserve(request)
    return caught.value.verdict


def account(made: AdmissionPoint, budget: str = "b") -> tuple[int | None, ...]:
    """Granted, committed and reserved on the only account of a budget."""
    (standing,) = (s for s in made.snapshot()["budgets"] if s.rule.budget_id == budget)
    return standing.granted, standing.committed, standing.reserved


def test_a_request_reserves_and_charges() -> None:
    """The estimate is held while it runs, the cost is charged, and the event names the lease."""
    grantor = at_noon(b=1000)
    made = reserving(grantor)
    with made.reserve(CHAT) as reservation:
        assert account(made)[1:] == (0, 10)
        reservation.commit(cost_pusd=7, input_tokens=5, output_tokens=9)
    assert account(made)[1:] == (7, 0)
    (event,) = grantor.events
    assert {name: event[name] for name in (
        "reservation_id", "lease_id", "estimated_cost_pusd", "outcome", "started_at", "event_id"
    )} == {
        "reservation_id": reservation.reservation_id, "lease_id": "lease-b",
        "estimated_cost_pusd": 10, "outcome": "ok", "started_at": reservation.started_at,
        "event_id": reservation.event_id,
    }  # fmt: skip


def test_without_hard_budgets_nothing_is_reserved_or_reported() -> None:
    """Soft and shadow budgets let a request in without a lease, and its usage is still emitted."""
    grantor = at_noon()
    made = reserving(grantor, budget_rule(hard=False), budget_rule(budget_id="s", mode="shadow"))
    with made.reserve(CHAT):
        pass
    assert grantor.reports == []
    assert grantor.events[0]["reservation_id"] is None


def test_every_matching_budget_must_have_room_and_the_one_without_is_named() -> None:
    """All or nothing over parents and children; nothing stays held on the others."""
    grantor = at_noon(parent=15, b=1000)
    parent = budget_rule(budget_id="parent", limit=15)
    child = budget_rule(scope=["tenant_id", "project_id"], parent="parent")
    made = reserving(grantor, parent, child)
    first = made.reserve(CHAT)
    verdict = refusal(made)
    assert (verdict.reason_code, [v.budget_id for v in verdict.violated]) == (
        "LEASE_EXHAUSTED", ["parent"]
    )  # fmt: skip
    (violated,) = verdict.violated
    assert (violated.scope, violated.needed, violated.left, violated.limit) == (
        "tenant_id=acme", 10, 5, 15
    )  # fmt: skip
    assert "budget parent of policy p for tenant_id=acme has 5 left" in verdict.reason
    assert account(made)[2] == account(made, "parent")[2] == 10
    first.release()
    made.reserve(CHAT).release()


def test_one_request_gets_the_last_of_a_lease() -> None:
    """64 threads at once against room for one: exactly one is let in, and no more is charged."""
    grantor = at_noon(b=10)
    made = reserving(grantor)
    barrier, admitted = threading.Barrier(64), list[Reservation]()
    refused = list[str | None]()

    def work() -> None:
        barrier.wait()
        try:
            admitted.append(made.reserve(CHAT))
        except Refused as error:
            refused.append(error.verdict.reason_code)

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(admitted), refused) == (1, ["LEASE_EXHAUSTED"] * 63)
    assert account(made) == (10, 0, 10)


def test_many_threads_never_pass_the_limit() -> None:
    """Under contention the sum of what is charged stays within the limit."""
    grantor = at_noon(b=300)
    made = reserving(grantor, budget_rule(limit=300, lease_wait_ms=500))
    done = list[int]()

    def work() -> None:
        for _ in range(20):
            try:
                with made.reserve(CHAT) as reservation:
                    reservation.commit(cost_pusd=10)
                done.append(10)
            except Refused:
                return

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(done) == sum(e["cost_pusd"] for e in grantor.events) == account(made)[1] == 300


def test_a_cancelled_stream_is_charged_exactly_what_was_streamed() -> None:
    """Neither nothing nor the estimate: the tokens that went by, and their event says cancelled."""
    grantor = at_noon(b=1000)
    made = reserving(grantor, OF_TOKENS)

    def stream() -> Any:
        with made.reserve(CHAT) as reservation:
            for tokens in range(1, 20):
                reservation.progress(output_tokens=tokens)
                yield tokens

    running = stream()
    assert [next(running) for _ in range(7)][-1] == 7
    running.close()
    assert account(made)[1:] == (7, 0)
    (event,) = grantor.events
    assert (event["outcome"], event["output_tokens"], event["input_tokens"]) == ("cancelled", 7, 5)


def test_a_price_makes_what_was_streamed_money() -> None:
    """With the price book's function a budget of money is charged what the tokens cost."""
    price = DeskOptions(price=lambda event: event["output_tokens"] * 3)
    made = reserving(at_noon(b=1000), leases=price)
    with pytest.raises(KeyboardInterrupt), made.reserve(CHAT) as reservation:
        reservation.progress(output_tokens=2)
        raise KeyboardInterrupt
    assert account(made)[1:] == (6, 0)


def test_an_exception_commits_what_is_known_and_else_releases() -> None:
    """A failed request is charged what it is known to have used, and nothing where nothing is."""
    grantor = at_noon(b=1000)
    made = reserving(grantor, OF_TOKENS)
    with pytest.raises(RuntimeError), made.reserve(CHAT) as reservation:
        reservation.progress(output_tokens=4)
        raise RuntimeError
    with pytest.raises(RuntimeError), made.reserve(CHAT):
        raise RuntimeError
    assert account(made)[1:] == (4, 0)
    assert [(e["outcome"], e["error_type"]) for e in grantor.events] == [("error", "RuntimeError")]


def test_an_end_without_a_word_costs_the_estimate() -> None:
    """Where nobody tells what was used, all that was reserved is charged, and said to be so."""
    grantor = at_noon(b=1000)
    made = reserving(grantor, OF_TOKENS)
    with made.reserve(CHAT):
        pass
    assert account(made)[1:] == (20, 0)
    assert grantor.events[0]["usage_source"] == "estimated"


def test_a_reservation_that_is_dropped_is_charged() -> None:
    """Forgotten by its owner, it does not hold its amount for ever, nor is it free."""
    made = reserving(at_noon(b=1000))
    made.reserve(CHAT)
    assert account(made)[1:] == (0, 10)
    made.report()
    assert account(made)[1:] == (10, 0)


def test_it_settles_once() -> None:
    """Commit after commit or release changes nothing and emits nothing."""
    grantor = at_noon(b=1000)
    made = reserving(grantor)
    first, second = made.reserve(CHAT), made.reserve(CHAT)
    assert (first.commit(cost_pusd=3), first.commit(cost_pusd=5), first.release()) == (
        True, False, False
    )  # fmt: skip
    assert (second.release(), second.release(), second.commit(cost_pusd=5)) == (True, False, False)
    assert account(made)[1:] == (3, 0)
    assert len(grantor.events) == 1


def test_a_named_request_is_reserved_and_charged_once() -> None:
    """The same (request_id, attempt) is the same reservation, another attempt is another one."""
    grantor = at_noon(b=1000)
    made = reserving(grantor)
    named = AdmissionRequest("acme", "chat", "m1", estimated_cost_pusd=10, request_id="r")
    first, again = made.reserve(named), made.reserve(named)
    assert again is first
    first.commit(cost_pusd=4)
    assert made.reserve(named).commit(cost_pusd=4) is False
    other = AdmissionRequest("acme", "chat", "m1", estimated_cost_pusd=10, request_id="r",
                             attempt=2)  # fmt: skip
    made.reserve(other).commit(cost_pusd=5)
    assert account(made)[1:] == (9, 0)
    assert [event["attempt"] for event in grantor.events] == [1, 2]


def test_a_named_request_that_was_released_may_come_again() -> None:
    """What used nothing was not charged, so the same name is reserved anew."""
    made = reserving(at_noon(b=1000))
    named = AdmissionRequest("acme", "chat", "m1", estimated_cost_pusd=10, request_id="r")
    first = made.reserve(named)
    first.release()
    again = made.reserve(named)
    assert again is not first
    assert again.commit(cost_pusd=4)


def test_threads_that_name_one_request_share_it() -> None:
    """Asked for by many threads at once, a named request is held once."""
    made = reserving(at_noon(b=1000))
    named = AdmissionRequest("acme", "chat", "m1", estimated_cost_pusd=10, request_id="r")
    found, barrier = list[Reservation](), threading.Barrier(16)

    def work() -> None:
        barrier.wait()
        found.append(made.reserve(named))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.append(made.reserve(named))
    assert len({id(one) for one in found}) == 1
    assert account(made)[1:] == (0, 10)


def test_extending_needs_room_too() -> None:
    """A longer answer holds more, all or nothing; what it has stays held."""
    made = reserving(at_noon(b=50), budget_rule(unit="output_tokens", limit=50))
    reservation = made.reserve(CHAT)
    assert refusal(made, AdmissionRequest("acme", "chat", "m1", max_output_tokens=31))
    reservation.extend(output_tokens=30)
    with pytest.raises(Refused):
        reservation.extend(output_tokens=1)
    assert account(made)[1:] == (0, 50)
    reservation.commit(output_tokens=45)
    assert account(made)[1:] == (45, 0)


def test_concurrency_is_given_back() -> None:
    """A budget of concurrency holds while a request runs and is never spent."""
    made = reserving(at_noon(b=2), budget_rule(unit="concurrency", limit=2))
    first, second = made.reserve(CHAT), made.reserve(CHAT)
    assert refusal(made).violated[0].unit == "concurrency"
    first.commit()
    third = made.reserve(CHAT)
    assert account(made)[1:] == (0, 2)
    second.release()
    third.release()


@pytest.mark.parametrize(
    ("unit", "request_", "amount"),
    [
        ("pusd", CHAT, 10), ("tokens", CHAT, 25), ("input_tokens", CHAT, 5),
        ("output_tokens", CHAT, 20), ("requests", CHAT, 1), ("concurrency", CHAT, 1),
        ("steps", AdmissionRequest("acme", task_id="t"), 1),
        ("tool_calls", AdmissionRequest("acme", tool_name="search"), 1),
        ("gpu_us", AdmissionRequest("acme", estimates={"gpu_us": 7}), 7),
        ("pusd", AdmissionRequest("acme", tool_name="search"), 0),
    ],
)  # fmt: skip
def test_estimates_are_held_in_the_budgets_unit(
    unit: str, request_: AdmissionRequest, amount: int
) -> None:
    """Each unit has its own estimate of a request."""
    made = reserving(at_noon(b=1000), budget_rule(unit=unit))
    reservation = made.reserve(request_)
    assert [hold.amount for hold in reservation.holds] == [amount]
    reservation.release()


@pytest.mark.parametrize("unit", ["pusd", "tokens", "requests", "steps", "gpu_us", "concurrency"])
def test_nothing_is_in_flight_any_more_after_its_end(unit: str) -> None:
    """In every unit, whether anything was told on the way or not; the meter takes each report."""
    grantor = at_noon(b=1000)
    made = reserving(grantor, budget_rule(unit=unit, refresh_after_ms=0))
    request = replace(CHAT, task_id="t", estimates={"gpu_us": 7})
    for told in ({}, {"output_tokens": 3}):
        held, ended = made.reserve(request), made.reserve(request)
        held.progress(**told)
        held.commit(cost_pusd=7, gpu_us=7, output_tokens=9)
        ended.release()
        grantor.clock.now += MINUTE_US // 60
        made.report()
        report = grantor.reports[-1]
        assert (report["interim_spend"], report["in_flight_reserved"]) == (0, 0)


@pytest.mark.parametrize(
    ("unit", "request_"),
    [
        ("tool_calls", CHAT), ("steps", AdmissionRequest("acme", "chat", "m1", attempt=2)),
        ("steps", AdmissionRequest("acme", tool_name="search")),
        ("requests", AdmissionRequest("acme", tool_name="search")),
    ],
)  # fmt: skip
def test_budgets_of_other_kinds_of_requests_hold_nothing(
    unit: str, request_: AdmissionRequest
) -> None:
    """A model call is no tool call, a tool call no request and a retry no step."""
    made = reserving(at_noon(b=0), budget_rule(unit=unit))
    assert made.reserve(request_).holds == []


def test_a_tool_call_is_a_reservation_of_its_own() -> None:
    """`admit_tool` asks decisions and budgets about the tool, and its event is a tool's."""
    grantor = at_noon(b=1)
    made = reserving(grantor, budget_rule(unit="tool_calls", limit=1))
    with made.admit_tool(CHAT, "search") as tool:
        tool.commit()
    with pytest.raises(Refused):
        made.admit_tool(CHAT, "search")
    (event,) = grantor.events
    assert (event["event_type"], event["tool_name"], event["request_model"]) == (
        "tool", "search", ""
    )  # fmt: skip


def test_the_charge_goes_to_the_period_of_its_start() -> None:
    """A request that runs over midnight is charged to the day in which it was let in."""
    clock_day_us = 24 * 60 * MINUTE_US
    grantor = at_noon(b=1000)
    made = reserving(grantor)
    running = made.reserve(CHAT)
    grantor.clock.now += clock_day_us
    later = made.reserve(CHAT)
    running.commit(cost_pusd=10)
    later.commit(cost_pusd=3)
    spent = {s.period: s.committed for s in made.snapshot()["budgets"]}
    assert spent == {"2027-01-15": 10, "2027-01-16": 3}
    assert [e["started_at"] for e in grantor.events] == [running.started_at, later.started_at]


def ending_in(grantor: Grantor, left_us: int) -> str:
    """Move the clock to so long before the end of a minute; the name of that minute."""
    grantor.clock.now += MINUTE_US - left_us - grantor.clock() % MINUTE_US
    return period_of("minute", "UTC", grantor.clock()).period_id


def test_a_request_that_waits_while_the_period_ends_gets_of_the_next_one() -> None:
    """What it waited for cannot come any more, and the next period has a limit of its own."""
    grantor = at_noon(b=1000)
    made = reserving(grantor, budget_rule(period="minute", lease_wait_ms=10_000))
    before, grants = ending_in(grantor, 50_000), grantor.grant

    def grant_later(report: Any) -> None:
        if report["period"] > before:
            grants(report)

    grantor.grant = grant_later  # type: ignore[assignment, method-assign]
    begun = time.monotonic()
    held = made.reserve(CHAT)
    assert time.monotonic() - begun < 5
    assert period_of("minute", "UTC", held.started_at).period_id > before
    assert [hold.account.key.period_id > before for hold in held.holds] == [True]
    assert [(s.period > before, s.reserved) for s in made.snapshot()["budgets"]] == [
        (False, 0), (True, 10)
    ]  # fmt: skip


def test_the_end_of_a_period_makes_no_wait_longer() -> None:
    """Who gets nothing of the next one either is refused when the wait is over."""
    grantor = at_noon(b=1000)
    grantor.silent = True
    made = reserving(grantor, budget_rule(period="minute", lease_wait_ms=400))
    ending_in(grantor, 350_000)
    begun = time.monotonic()
    assert refusal(made).reason_code == "LEASE_EXHAUSTED"
    assert 0.4 <= time.monotonic() - begun < 0.7


class Ticking(Clock):
    """A clock that goes on by a microsecond whenever it is asked."""

    def __call__(self) -> int:
        self.now += 1
        return self.now


@pytest.mark.parametrize("before_us", range(1, 12))
def test_a_request_begins_in_the_period_that_it_holds_of(before_us: int) -> None:
    """Wherever between asking and being let in the period ends."""
    clock = Ticking(NOW - NOW % MINUTE_US + MINUTE_US - 1_000_000)
    made = reserving(Grantor(clock, b=1000), budget_rule(period="minute"))
    made.reserve(CHAT).release()
    clock.now = NOW - NOW % MINUTE_US + MINUTE_US - before_us
    held = made.reserve(CHAT)
    (hold,) = held.holds
    assert period_of("minute", "UTC", held.started_at).period_id == hold.account.key.period_id


def test_an_expired_lease_lets_nothing_in() -> None:
    """Beyond its expiry nothing is spent under a lease, whatever was left of it."""
    grantor = at_noon(b=1000)
    made = reserving(grantor)
    made.reserve(CHAT).release()
    grantor.silent = True
    grantor.clock.now += TTL_US
    verdict = refusal(made)
    assert (verdict.reason_code, verdict.violated[0].left) == ("CONTROL_STALE", None)
    grantor.silent = False
    grantor.clock.now += MINUTE_US
    made.reserve(CHAT).release()


def test_a_request_waits_for_its_first_lease() -> None:
    """A grant that comes within lease_wait_ms lets it in; one that does not come refuses it."""
    grantor = at_noon(b=1000)
    grantor.silent = True
    made = reserving(grantor, budget_rule(lease_wait_ms=10_000))
    timer = threading.Timer(0.05, lambda: grantor.grant(grantor.reports[0]))
    timer.start()
    made.reserve(CHAT).release()
    timer.join()
    made = reserving(grantor, budget_rule(lease_wait_ms=30))
    begun = time.monotonic()
    assert refusal(made).reason_code == "LEASE_EXHAUSTED"
    assert 0.03 <= time.monotonic() - begun < 5


def test_what_another_request_gives_back_ends_the_wait() -> None:
    """Room that a release makes in the lease goes to whoever waits."""
    made = reserving(at_noon(b=10), budget_rule(limit=10, lease_wait_ms=10_000))
    running = made.reserve(CHAT)
    timer = threading.Timer(0.05, running.release)
    timer.start()
    made.reserve(CHAT).commit(cost_pusd=10)
    timer.join()


def test_waiting_does_not_hold_up_the_event_loop() -> None:
    """While a coroutine waits for its lease, others run; a cancelled one waits no more."""
    grantor = at_noon(b=1000)
    grantor.silent = True
    made = reserving(grantor, budget_rule(lease_wait_ms=10_000))

    async def run() -> int:
        first = asyncio.create_task(made.reserve_async(CHAT))
        second = asyncio.create_task(made.reserve_async(CHAT))
        ticks = 0
        while not grantor.reports or ticks < 10:
            await asyncio.sleep(0.001)
            ticks += 1
        second.cancel()
        await asyncio.wait([second])
        threading.Thread(target=grantor.grant, args=(grantor.reports[0],)).start()
        async with await first as reservation:
            reservation.commit(cost_pusd=2)
        return ticks

    assert asyncio.run(run()) >= 10
    (standing,) = made.snapshot()["budgets"]
    assert (standing.committed, standing.reserved) == (2, 0)
    assert made._desk.accounts[0].waiting == 0


def test_an_event_that_is_not_taken_can_be_committed_again() -> None:
    """While usage finds no way out the amount stays held; the same event goes later."""
    grantor = at_noon(b=1000)
    made = reserving(grantor)
    reservation = made.reserve(CHAT)
    grantor.away = True
    with pytest.raises(OutsideError):
        reservation.commit(cost_pusd=3)
    assert account(made)[1:] == (0, 10)
    grantor.away = False
    assert reservation.commit(cost_pusd=8)
    assert account(made)[1:] == (3, 0)
    assert [event["event_id"] for event in grantor.events] == [reservation.event_id]


def test_a_block_that_ends_without_a_way_out_is_charged_and_told_later() -> None:
    """The event of a block that ends while the spool is full goes with the next report."""
    grantor = at_noon(b=1000)
    made = reserving(grantor, OF_TOKENS)
    with pytest.raises(OutsideError), made.reserve(CHAT) as reservation:
        reservation.progress(output_tokens=3)
        grantor.away = True
    assert account(made)[1:] == (3, 0)
    grantor.away = False
    made.report()
    assert [event["output_tokens"] for event in grantor.events] == [3]


def test_a_cold_point_does_not_hold_up_the_event_loop() -> None:
    """A coroutine waits for the control topic as it waits for a lease."""
    grantor = at_noon(b=1000)
    cold = AdmissionPoint(None, grantor, clock=grantor.clock,
                          cold_start=ColdStart(10_000, "closed"))  # fmt: skip

    async def run() -> bool:
        waiting = asyncio.create_task(cold.reserve_async(CHAT))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        threading.Thread(target=cold.adopt, args=(cold.empty_state(),)).start()
        return (await waiting).release()

    begun = time.monotonic()
    assert asyncio.run(run())
    assert time.monotonic() - begun < 5


def test_a_limiting_parent_is_named() -> None:
    """Where the grantor says whose limit keeps a grant small, the refusal says so too."""
    grantor = at_noon(b=10)
    made = reserving(grantor, budget_rule(limit=10, lease_wait_ms=0))
    made.reserve(CHAT).commit(cost_pusd=10)
    (held,) = made._desk.accounts
    assert held.grant is not None
    told = {**held.grant, "limited_by": "parent"}
    made.state.leases[held.lease_key("gw", "e1")] = told
    assert refusal(made).reason.endswith("; budget parent has no more to give it")


def test_soft_decisions_come_first() -> None:
    """A blocked request is refused by its decision and asks for no lease."""
    grantor = at_noon(b=1000)
    made = reserving(grantor)
    made.apply(0, key_of(), decision())
    assert refusal(made).decision_id == "id-block"
    assert grantor.reports == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_no_leases() -> None:
    """It reserves nothing under the parent's lease and settles nothing of the parent's."""
    grantor = at_noon(b=1000)
    made = reserving(grantor)
    running = made.reserve(CHAT)
    child = os.fork()
    if not child:
        grantor.source_epoch = "e2"
        grantor.silent = True
        held = made.snapshot()["budgets"]
        refused = refusal(made).reason_code == "LEASE_EXHAUSTED"
        mine = running.commit(cost_pusd=5)
        told = grantor.reports[-1]["source_epoch"] == "e2"
        os._exit(0 if refused and not mine and told and held[0].granted is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert running.commit(cost_pusd=5)
    assert account(made)[1:] == (5, 0)


def test_a_closed_point_reserves_nothing() -> None:
    """After close there is no lease to reserve under, and the point says so."""
    made = reserving(at_noon(b=1000))
    made.close()
    with pytest.raises(SluiceError, match="closed"):
        made.reserve(CHAT)


def test_a_storm_of_refusals_reaches_nobody() -> None:
    """A thousand refused retries cause no upstream call and a bounded number of reports."""
    grantor = at_noon(b=10)
    made = reserving(grantor, budget_rule(lease_wait_ms=0))
    upstream = 0
    for _ in range(1000):
        try:
            with made.reserve(CHAT) as reservation:
                upstream += 1
                reservation.commit(cost_pusd=10)
        except Refused:
            grantor.clock.now += 100
    assert upstream == 1
    assert len(grantor.reports) < 20
    made.report()
    refused = [e for e in grantor.events if e["event_type"] == "admission"]
    assert [item["value"] for e in refused for item in e["units"]] == [999]


def test_explaining_names_budgets_and_what_is_left() -> None:
    """A scope's budgets are told with the lease's remainder; other tenants' accounts are not."""
    made = reserving(at_noon(b=1000))
    made.reserve(CHAT).commit(cost_pusd=10)
    (standing,) = made.explain({"tenant_id": "acme"}).budgets
    assert "0 left of a lease of 10" in standing.sentence
    (other,) = made.explain({"tenant_id": "other"}).budgets
    assert "nothing was asked" in other.sentence


def test_grants_of_another_unit_or_epoch_are_void() -> None:
    """A lease in tokens is none on a budget of money; an earlier epoch's lease is none either."""
    grantor = at_noon(b=1000)
    grantor.silent = True
    made = reserving(grantor)
    refusal(made)
    grantor.grant(grantor.reports[0], unit="tokens")
    assert refusal(made).violated[0].left is None
    grantor.grant(grantor.reports[0], source_epoch="e0")
    assert refusal(made).violated[0].left is None
    grantor.grant(grantor.reports[0])
    made.reserve(CHAT).release()


def test_tenants_share_the_lease_of_a_budget_that_spans_them() -> None:
    """All or nothing with a tenant's own budget; the violated one is named, and nothing leaks."""
    grantor = at_noon(b=100, all=25)
    shared = budget_rule(budget_id="all", scope=[], source_partition=1)
    made = reserving(grantor, budget_rule(), shared)
    for tenant in ("acme", "other"):
        request = AdmissionRequest(tenant, "chat", "m", estimated_cost_pusd=10)
        made.reserve(request).commit(cost_pusd=10)
    asked = [report for report in grantor.reports if report["budget_ids"] == ["all"]]
    assert {(report["tenant_id"], report["scope"]) for report in asked} == {("", "")}
    with pytest.raises(Refused) as refused:
        made.reserve(AdmissionRequest("third", "chat", "m", estimated_cost_pusd=10))
    verdict = refused.value.verdict
    assert [(v.budget_id, v.scope, v.left) for v in verdict.violated] == [("all", "", 5)]
    assert "budget all of policy p for all tenants has 5 left" in verdict.reason
    held = {(b.rule.budget_id, b.scope): (b.committed, b.reserved)
            for b in made.explain({"tenant_id": "third"}).budgets}  # fmt: skip
    assert held == {("all", ""): (20, 0), ("b", "tenant_id=third"): (0, 0)}
    made.close()
    assert [r["tenant_id"] for r in grantor.reports if r["closing"]].count("") == 1
