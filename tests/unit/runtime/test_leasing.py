"""Leases of a partition: grants, what rows show of them, silence, successors, and their ends."""

from __future__ import annotations

from typing import Any

from tests.builders import (
    NOW,
    TOPICS,
    FakeReferences,
    Fed,
    activate,
    partition,
    policy,
    record,
    usage,
)

from sluice.enforcement.leases import TTL_US
from sluice.metering.prices import default_book
from sluice.wire.codec import decode

SECOND = 1_000_000
DAY = "2027-01-15"
HARD = """
policy_id: hard
budgets:
  - budget_id: b
    scope: [tenant_id]
    unit: tokens
    limit: 1000
    period: day
    hard: true
    refresh_after_ms: 4000
"""
NESTED = (
    HARD
    + """
  - budget_id: p
    scope: [tenant_id, project_id]
    unit: tokens
    limit: 800
    period: day
    hard: true
    parent: b
"""
)


class Meter(Fed):
    """A partition under one policy and the leases that it grants."""

    def __init__(self, text: str = HARD) -> None:
        references = FakeReferences()
        super().__init__(references, partition(references))
        self.put(activate(0, self.references.put(default_book())))
        self.switch(text)
        self.outs()

    def report(self, holder: str = "gw", wants: int = 0, **over: Any) -> None:
        """A holder says what it has and wants."""
        fields = {
            "holder": holder, "holder_slot": holder, "source_epoch": "e1", "tenant_id": "acme",
            "policy_id": "hard", "budget_ids": ["b"], "scope": "tenant_id=acme", "period": DAY,
            "unit": "tokens", "wants": wants, "in_flight_reserved": 0, "interim_spend": 0,
            "last_seq": 0, "closing": False,
        }  # fmt: skip
        self.put(record(self.offset, fields | over, at=self.at, name="HolderReport"))

    def use(self, number: int, tokens: int, **over: Any) -> None:
        """Usage of a holder arrives."""
        event = usage(number, occurred_at=self.at, started_at=self.at, input_tokens=tokens,
                      output_tokens=0, event_id=str(self.offset)) | over  # fmt: skip
        self.put(record(self.offset, event, at=self.at))

    def outs(self) -> list[Any]:
        """Everything since the last call but state and rules."""
        taken = [out for out in self.part.take() if out.topic != TOPICS.meter_state]
        return [out for out in taken if not out.key.startswith(b"budget|")]

    def grants(self) -> list[tuple[str, int]]:
        """Who was granted what since the last call; a lease that ended has -1."""
        found = []
        for out in self.outs():
            if out.topic == TOPICS.control and out.key.startswith(b"lease|"):
                total = decode(out.value)[1]["granted_total"] if out.value else -1
                found.append((out.key.decode().split("|")[5], total))
        return found

    def row(self, budget_id: str = "b") -> dict[str, Any]:
        """The next row of the budget."""
        self.wait(5 * SECOND)
        rows = [decode(out.value)[1] for out in self.outs() if out.topic == TOPICS.budgets]
        return [row for row in rows if row["budget_id"] == budget_id][-1]


def shown(row: dict[str, Any]) -> tuple[int, int, int, int]:
    """Settled, reserved, presumed, remaining."""
    return row["settled"], row["reserved"], row["presumed"], row["remaining"]


def test_a_grant_says_all_that_a_holder_needs() -> None:
    """Amount, period, expiry and order; the key names ledger, holder and process."""
    meter = Meter()
    meter.report(wants=300)
    assert meter.part.urgent
    (out,) = meter.outs()
    assert out.key == f"lease|hard|b|tenant_id=acme|{DAY}|gw|e1".encode()
    grant = decode(out.value)[1]
    assert grant | {"lease_id": ""} == {
        "lease_id": "", "policy_id": "hard", "budget_id": "b", "holder": "gw",
        "scope": grant["scope"], "period": DAY, "granted_total": 300, "unit": "tokens",
        "refresh_after_ms": 4000, "issued_at": NOW, "expires_at": NOW + TTL_US, "epoch": 1,
        "sequence": 2, "source_epoch": "e1", "limited_by": None,
        "policy_version": policy(HARD).version,
    }  # fmt: skip
    assert {k: v for k, v in grant["scope"].items() if v} == {"tenant_id": "acme"}


def test_rows_tell_settled_from_reserved() -> None:
    """What is granted and not settled is reserved; usage under a lease moves it over."""
    meter = Meter()
    meter.report(wants=300)
    assert shown(meter.row()) == (0, 300, 0, 700)
    meter.use(1, 120)
    assert shown(meter.row()) == (120, 180, 0, 700)
    meter.use(1, 50, source="foreign", source_seq=None)
    assert shown(meter.row()) == (170, 180, 0, 650)


def test_grants_are_cumulative_and_unused_ones_flow_back() -> None:
    """A grant is what is settled, in flight and wanted; what is lowered is free a report later."""
    meter = Meter()
    meter.report(wants=900)
    meter.use(1, 100)
    meter.report(wants=0, last_seq=1, in_flight_reserved=50)
    assert meter.grants() == [("gw", 900), ("gw", 150)]
    assert shown(meter.row()) == (100, 800, 0, 100)
    meter.report(wants=0, last_seq=1, in_flight_reserved=50)
    assert shown(meter.row()) == (100, 50, 0, 850)


def test_scarce_room_is_shared_and_the_waiting_get_what_is_given_back() -> None:
    """A second holder gets what is free, and its share as soon as the first gives back."""
    meter = Meter()
    meter.report("a", wants=900)
    meter.report("b", wants=900)
    assert meter.grants() == [("a", 900), ("b", 100)]
    meter.wait(5 * SECOND)
    meter.report("a", wants=900)
    meter.wait(5 * SECOND)
    meter.report("a", wants=900)
    assert meter.grants() == [("a", 500), ("a", 500), ("b", 500)]


def test_weights_divide_what_is_scarce() -> None:
    """A place with three times the weight gets three times as much."""
    meter = Meter(HARD + "    weights: {a: 3}\n")
    for _ in range(3):
        meter.report("a", wants=1000)
        meter.report("b", wants=1000)
        meter.wait(5 * SECOND)
    assert dict(meter.grants()) == {"a": 750, "b": 250}


def test_the_last_unit_is_not_stranded() -> None:
    """With little left, one holder gets all of it; a foreign one takes nothing by being silent."""
    meter = Meter()
    meter.use(1, 990, source="foreign", source_seq=None)
    meter.report("a", wants=200)
    assert meter.grants() == [("a", 10)]
    meter.use(1, 10, source="a")
    meter.report("a", wants=200, last_seq=1)
    assert meter.grants() == [("a", 10)]


def test_a_silent_holder_is_presumed_to_have_spent_all() -> None:
    """Beyond its expiry what it was granted stays taken; late usage replaces it, never adds."""
    meter = Meter()
    meter.report(wants=300)
    meter.wait(TTL_US)
    assert shown(meter.row()) == (0, 0, 300, 700)
    meter.use(1, 200)
    assert shown(meter.row()) == (200, 0, 100, 700)
    meter.use(2, 200)
    assert shown(meter.row()) == (400, 0, 0, 600)


def test_a_holder_that_speaks_again_goes_on() -> None:
    """A report after the expiry renews the lease with what is true."""
    meter = Meter()
    meter.report(wants=300)
    meter.wait(TTL_US)
    meter.use(1, 100)
    meter.report(wants=50, last_seq=1)
    meter.wait(5 * SECOND)
    meter.report(wants=50, last_seq=1)
    assert meter.grants()[-1] == ("gw", 150)
    assert shown(meter.row()) == (100, 50, 0, 850)


def test_a_successor_releases_what_was_presumed() -> None:
    """Its closing report ends the old process; usage before it has come, so nothing is held."""
    meter = Meter()
    meter.report(wants=300)
    meter.use(1, 100)
    meter.report(closing=True, last_seq=1)
    assert meter.grants() == [("gw", 300), ("gw", -1)]
    assert shown(meter.row()) == (100, 0, 0, 900)
    meter.report(wants=300, last_seq=1)
    assert meter.grants() == []


def test_nothing_is_released_before_all_usage_has_come() -> None:
    """A closing report that names a number not seen yet waits for it."""
    meter = Meter()
    meter.report(wants=300)
    meter.use(1, 100)
    meter.report(closing=True, last_seq=3)
    meter.use(3, 10)
    assert shown(meter.row()) == (110, 0, 190, 700)
    assert ("gw", -1) not in meter.grants()
    meter.use(2, 20)
    assert shown(meter.row()) == (130, 0, 0, 870)


def test_requests_that_end_with_their_process_are_held_until_their_usage_comes() -> None:
    """A process that closes with requests in flight leaves them reserved."""
    meter = Meter()
    meter.report(wants=300)
    meter.report(closing=True, in_flight_reserved=80)
    assert shown(meter.row()) == (0, 80, 0, 920)
    meter.use(1, 70)
    assert shown(meter.row()) == (70, 10, 0, 920)


def test_a_restart_of_the_holder_begins_at_nothing() -> None:
    """A new process has a grant of its own; the old one's stays taken until it is closed."""
    meter = Meter()
    meter.report(wants=600)
    meter.report(wants=600, source_epoch="e2")
    assert meter.grants() == [("gw", 600), ("gw", 400)]


def test_leases_end_with_their_period() -> None:
    """At midnight leases are told to be over and forgotten; the new day has its own."""
    meter = Meter()
    meter.report(wants=300)
    meter.outs()
    day_end = max(ledger.period_end for ledger in meter.part.state.ledgers.values())
    meter.wait(day_end - meter.at)
    assert ("gw", -1) in meter.grants()
    assert meter.part.state.leases == {}
    meter.report(wants=300, period="2027-01-16")
    assert meter.grants() == [("gw", 300)]


def test_a_clock_ahead_asks_for_the_next_period() -> None:
    """Seconds before midnight the next day is granted; another one is nobody's."""
    meter = Meter()
    meter.report(wants=1)
    day_end = max(ledger.period_end for ledger in meter.part.state.ledgers.values())
    meter.wait(day_end - meter.at - 2 * SECOND)
    meter.outs()
    meter.report(wants=300, period="2027-01-16")
    assert meter.grants() == [("gw", 300)]
    meter.report(wants=300, period="2027-01-18")
    assert meter.grants() == []
    assert meter.part.state.header.counters["reports_ignored"] == 1


def test_a_child_draws_on_its_parents_remainder() -> None:
    """A grant needs room in both; the one without it is named, and both rows show the grant."""
    meter = Meter(NESTED)
    meter.use(1, 600, source="foreign", source_seq=None, project_id="q")
    child = {"budget_ids": ["p"], "scope": "project_id=x,tenant_id=acme"}
    meter.report(wants=700, **child)
    (out,) = [o for o in meter.outs() if o.topic == TOPICS.control]
    grant = decode(out.value)[1]
    assert (grant["budget_id"], grant["granted_total"], grant["limited_by"]) == ("p", 400, "b")
    meter.wait(5 * SECOND)
    rows = {}
    for out in meter.outs():
        if out.topic == TOPICS.budgets:
            row = decode(out.value)[1]
            rows[row["budget_id"], row["scope"]] = shown(row)
    assert rows["b", "tenant_id=acme"] == (600, 400, 0, 0)
    assert rows["p", "project_id=x,tenant_id=acme"] == (0, 400, 0, 400)


def test_a_holders_own_lease_of_the_parent_is_not_taken_twice() -> None:
    """A request reserves in both ledgers; the parent counts the larger of the two leases."""
    meter = Meter(NESTED)
    meter.report(wants=700)
    meter.report(wants=700, budget_ids=["p"], scope="project_id=x,tenant_id=acme")
    assert meter.grants() == [("gw", 700), ("gw", 700)]
    assert shown(meter.row()) == (0, 700, 0, 300)


def test_concurrency_is_reserved_and_never_settled() -> None:
    """Requests in flight count; usage changes nothing; a process that ends frees its own."""
    meter = Meter(HARD.replace("unit: tokens", "unit: concurrency").replace("1000", "10"))
    over = {"unit": "concurrency"}
    meter.report("a", wants=3, in_flight_reserved=4, **over)
    meter.report("b", wants=9, **over)
    assert meter.grants() == [("a", 7), ("b", 3)]
    meter.use(1, 100, source="a")
    meter.report("a", closing=True, in_flight_reserved=4, last_seq=1, **over)
    assert shown(meter.row()) == (0, 3, 0, 7)


def test_reports_that_break_their_contract_go_to_the_dead_letter_topic() -> None:
    """Of another tenant, with amounts below nothing, or of nobody."""
    meter = Meter()
    meter.report(wants=-1)
    meter.report(holder="")
    meter.put(record(meter.offset, {
        "holder": "gw", "holder_slot": "gw", "source_epoch": "e1", "tenant_id": "acme",
        "period": DAY, "wants": 1, "in_flight_reserved": 0, "interim_spend": 0, "last_seq": 0,
    }, name="HolderReport", key="other"))  # fmt: skip
    outs = meter.outs()
    assert [out.topic for out in outs] == [TOPICS.dlq] * 3
    reasons = [dict(out.headers)["reason"] for out in outs]
    assert reasons == [b"bad_report", b"bad_report", b"wrong_key"]


def test_reports_about_what_is_not_in_force_are_ignored() -> None:
    """An unknown budget, a foreign scope, another unit: nothing is granted, and it is counted."""
    meter = Meter()
    meter.report(wants=1, budget_ids=["x"])
    meter.report(wants=1, scope="tenant_id=other")
    meter.report(wants=1, unit="pusd")
    meter.report(wants=1, scope="model=m")
    assert meter.grants() == []
    assert meter.part.state.header.counters["reports_ignored"] == 4


def test_an_older_report_changes_nothing() -> None:
    """One that names a lower number than was heard of is left alone."""
    meter = Meter()
    meter.use(1, 10)
    meter.use(2, 10)
    meter.report(wants=100, last_seq=2)
    meter.report(wants=500, last_seq=1)
    assert meter.grants() == [("gw", 120)]


def test_a_policy_that_goes_takes_its_leases_along() -> None:
    """Withdrawn, soft or of other periods: holders are told that their leases are over."""
    for change in ("withdrawn", "soft", "monthly"):
        meter = Meter()
        meter.report(wants=300)
        if change == "withdrawn":
            meter.put(activate(meter.offset, ("policy", "hard", "")))
        elif change == "monthly":
            meter.switch(HARD.replace("day", "month"))
            meter.report(wants=300)
        else:
            rules = "    rules: [{rule_id: r, at: 1, action: block}]\n"
            meter.switch(HARD.replace("    hard: true\n", rules))
        assert meter.grants() == [("gw", 300), ("gw", -1)]
        assert meter.part.state.leases == {}


def test_amounts_at_the_end_of_64_bits_are_granted_whole() -> None:
    """The largest limit and wants are granted and shown; nothing overflows on the way."""
    most = 9 * 10**18
    meter = Meter(HARD.replace("1000", str(most)))
    meter.use(1, 10**9, source="gw")
    meter.report(wants=most, in_flight_reserved=most, last_seq=1)
    ((_, granted),) = meter.grants()
    assert granted == 10**9 + most
    assert shown(meter.row())[3] < 0


def test_a_holder_that_counts_otherwise_is_granted_in_its_own_count() -> None:
    """Where its prices differ from the meter's, it may still spend what is left, and no more."""
    meter = Meter()
    meter.report(wants=300, committed=0)
    meter.use(1, 100)
    meter.report(wants=50, last_seq=1, committed=160)
    assert meter.grants() == [("gw", 300), ("gw", 210)]
    meter.wait(5 * SECOND)
    meter.report(wants=50, last_seq=1, committed=160)
    assert shown(meter.row()) == (100, 50, 0, 850)


def test_what_has_not_arrived_is_no_difference_of_counting() -> None:
    """Usage on its way stays reserved until it comes, and is not granted once more."""
    meter = Meter()
    meter.report(wants=300, committed=0)
    meter.report(wants=50, last_seq=3, committed=200)
    assert meter.grants() == [("gw", 300), ("gw", 250)]
    meter.use(1, 90)
    assert shown(meter.row()) == (90, 210, 0, 700)


def test_a_grant_that_lets_no_request_in_is_not_made() -> None:
    """A rest too small for one holder's requests goes to another whose requests fit in."""
    meter = Meter()
    meter.report("big", wants=950, per_request=90)
    meter.report("bigger", wants=500, per_request=90)
    assert meter.grants() == [("big", 950), ("bigger", 0)]
    meter.report("small", wants=500, per_request=10)
    assert meter.grants() == [("small", 50)]


def test_a_raise_gives_room_at_once() -> None:
    """A new version with more room: the next report is granted from it."""
    meter = Meter()
    meter.report(wants=1500)
    raised = ("    raises: [{scope: acme, add: 400, until: 2027-01-16T00:00:00Z, by: k, "
              "reason: r}]\n")  # fmt: skip
    meter.switch(HARD + raised)
    meter.report(wants=1500)
    assert meter.grants() == [("gw", 1000), ("gw", 1400)]


def test_a_rolling_hard_budget_lets_go_of_old_usage() -> None:
    """What is longer ago than the period is free again; grants stay cumulative."""
    text = HARD.replace("period: day", "period: rolling\n    rolling: 1h")
    meter = Meter(text)
    meter.report(wants=900, period="rolling")
    meter.use(1, 900)
    meter.report(wants=900, period="rolling", last_seq=1)
    assert meter.grants() == [("gw", 900), ("gw", 1000)]
    meter.wait(62 * 60 * SECOND)
    meter.report(wants=900, period="rolling", last_seq=1)
    assert meter.grants()[-1] == ("gw", 1800)
