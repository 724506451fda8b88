"""Budgets that span tenants: shares charged once, leases over all partitions, questions asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.builders import (
    NOW,
    TOPICS,
    FakeReferences,
    Fed,
    across,
    record,
)

from sluice.enforcement.budgets import LedgerKey
from sluice.enforcement.shares import Share, ShareKey, share_record
from sluice.runtime import questions as questions_module
from sluice.runtime.across import Across
from sluice.runtime.outputs import OutRecord
from sluice.runtime.questions import Questions
from sluice.wire.codec import decode

SECOND, DAY_US = 1_000_000, 86_400_000_000
DAY = "2027-01-15"
BEGIN = NOW - NOW % DAY_US
SOFT = """
policy_id: all
budgets:
  - budget_id: b
    scope: []
    unit: tokens
    limit: 1000
    period: day
    rules: [{rule_id: stop, at: 100%, action: block}]
"""
HARD = SOFT.replace("rules: [{rule_id: stop, at: 100%, action: block}]", "hard: true")


class Rollup(Fed):
    """The partition of budgets that span tenants under one policy, and what was stored of it."""

    def __init__(self, *texts: str) -> None:
        references = FakeReferences()
        self.part: Across
        super().__init__(references, across(references))
        self.stored: dict[bytes, bytes | None] = {}
        for text in texts:
            self.switch(text)
        self.outs()

    def tell(self, partition: int, settled: int, version: int, **over: Any) -> None:
        """A partition tells its share."""
        key = ShareKey(
            partition, "all", "b", over.pop("scope", ""), over.pop("period", DAY),
            over.pop("source", ""), over.pop("source_epoch", ""),
        )  # fmt: skip
        share = Share(over.pop("unit", "tokens"), BEGIN, BEGIN + DAY_US, over.pop("begun_at", NOW),
                      settled, version=version, events=over.pop("events", 1))  # fmt: skip
        fields = share_record(key, share) | over
        self.put(record(self.offset, fields, at=self.at, key="b", name="PartialRow"))

    def report(self, holder: str = "gw", **over: Any) -> None:
        """A holder says what it has and wants."""
        fields = {
            "holder": holder, "holder_slot": holder, "source_epoch": "e1", "tenant_id": "",
            "policy_id": "all", "budget_ids": ["b"], "scope": "", "period": DAY, "unit": "tokens",
            "wants": 0, "in_flight_reserved": 0, "interim_spend": 0, "last_seq": 0,
            "closing": False,
        }  # fmt: skip
        self.put(record(self.offset, fields | over, at=self.at, name="HolderReport"))

    def outs(self) -> list[OutRecord]:
        """Outputs since the last call; state goes to the store."""
        taken = self.part.take()
        self.stored |= {o.key: o.value for o in taken if o.topic == TOPICS.rollup_state}
        assert {o.partition for o in taken if o.topic == TOPICS.rollup_state} <= {0}
        return [out for out in taken if out.topic != TOPICS.rollup_state]

    def restart(self) -> None:
        """A successor takes over what was stored."""
        self.outs()
        self.part = across(self.references, epoch=2, stored=self.stored)

    def settled(self) -> int:
        """What the ledger of all has used today."""
        return self.part.state.ledgers[LedgerKey("all", "b", "", DAY)].settled

    def control(self, kind: str) -> list[dict[str, Any] | None]:
        """Messages of one kind on the control topic since the last call; None = one ended."""
        outs = [o for o in self.outs() if o.topic == TOPICS.control]
        assert {out.partition for out in outs} <= {TOPICS.across}
        return [decode(o.value)[1] if o.value else None
                for o in outs if o.key.startswith(kind.encode() + b"|")]  # fmt: skip


def test_a_share_is_charged_by_what_is_new_in_it() -> None:
    """Absolute shares of two partitions add up; a repeated or older word changes nothing."""
    rollup = Rollup(SOFT)
    rollup.tell(0, 100, version=10)
    rollup.tell(3, 50, version=7)
    rollup.tell(0, 130, version=20, events=3)
    rollup.tell(0, 130, version=20)
    rollup.tell(0, 100, version=10)
    assert rollup.settled() == 180
    ledger = rollup.part.state.ledgers[LedgerKey("all", "b", "", DAY)]
    assert (ledger.events, ledger.tenant_id) == (4, "")
    assert rollup.part.state.header.counters == {"shares": 3, "shares_ignored": 2}


def test_a_share_that_begins_anew_counts_from_nothing() -> None:
    """Its partition forgot what it had told, so what it tells now is on top."""
    rollup = Rollup(SOFT)
    rollup.tell(0, 100, version=10)
    rollup.tell(0, 30, version=20, begun_at=NOW + 1)
    assert rollup.settled() == 130


def test_a_decision_stands_at_the_share_that_crosses_the_limit() -> None:
    """It has no tenant, is urgent, and its row of no tenant goes out with it."""
    rollup = Rollup(SOFT)
    rollup.tell(0, 600, version=1)
    assert not rollup.part.urgent
    rollup.tell(1, 400, version=1)
    assert rollup.part.urgent
    outs = rollup.outs()
    (said,) = [decode(o.value or b"")[1] for o in outs if o.topic == TOPICS.control]
    assert said["action"] == "block"
    assert said["sequence"] == rollup.offset - 1
    assert said["evidence"]["offsets"] == [
        {"partition": TOPICS.across, "offset": rollup.offset - 1}
    ]
    assert not any(said["scope"].values())
    (row,) = [o for o in outs if o.topic == TOPICS.budgets]
    assert row.partition == TOPICS.across
    fields = decode(row.value or b"")[1]
    assert (fields["tenant_id"], fields["settled"], fields["state"]) == ("", 1000, "block")


def test_shares_wait_for_their_policy() -> None:
    """What came before the policy is charged once when the policy is there."""
    rollup = Rollup()
    rollup.tell(0, 100, version=1)
    rollup.tell(0, 150, version=2)
    assert not rollup.part.state.ledgers
    rollup.restart()
    rollup.switch(SOFT)
    assert rollup.settled() == 150
    rollup.switch(SOFT)
    rollup.tell(0, 160, version=3)
    assert rollup.settled() == 160


def test_shares_in_another_unit_wait_for_it() -> None:
    """A partition may change over to a new version before or after the budget's owner does."""
    rollup = Rollup(SOFT)
    rollup.tell(0, 100, version=1)
    rollup.tell(1, 11, version=1)
    rollup.tell(0, 3, version=2, begun_at=NOW + 1, unit="requests")
    assert rollup.settled() == 111
    rollup.switch(SOFT.replace("tokens", "requests"))
    assert rollup.settled() == 3
    rollup.tell(1, 20, version=2)
    assert rollup.settled() == 3
    rollup.tell(1, 1, version=3, begun_at=NOW + 2, unit="requests")
    assert rollup.settled() == 4


@pytest.mark.parametrize("over", [
    {"source_partition": 4}, {"source_partition": -1}, {"source": "gw", "source_epoch": None},
    {"period_start": 5, "period_end": 4}, {"period_end": 2**60},
])  # fmt: skip
def test_a_bad_share_is_a_dead_letter_of_its_topic(over: dict[str, Any]) -> None:
    """It names the input that it came from, and charges nothing."""
    rollup = Rollup(SOFT)
    rollup.tell(0, 100, 1, **over)
    (letter,) = [out for out in rollup.outs() if out.topic == TOPICS.dlq]
    told = dict(letter.headers or [])
    assert (told["reason"], told["topic"], told["partition"]) == (
        b"bad_share",
        b"t.leases.v1",
        b"0",
    )
    assert not rollup.part.state.ledgers


def test_a_share_that_no_ledger_can_take_is_a_dead_letter() -> None:
    """A sum beyond 64 bits is refused; the share's next word is charged whole."""
    rollup = Rollup(SOFT)
    rollup.tell(0, 2**62, version=1)
    rollup.tell(1, 2**62, version=1)
    assert rollup.part.state.header.counters["dead_letters.sum_overflow"] == 1
    rollup.tell(1, 5, version=2)
    assert rollup.settled() == 2**62 + 5


def test_what_cannot_be_read_or_does_not_belong_is_a_dead_letter() -> None:
    """Garbage, usage, and reports on a tenant's budgets."""
    rollup = Rollup(SOFT)
    rollup.put(record(rollup.offset, b"garbage"))
    rollup.report(tenant_id="acme")
    counters = rollup.part.state.header.counters
    assert counters["dead_letters"] == 2
    assert counters["dead_letters.wrong_topic"] == 1


def test_a_share_of_other_scopes_is_not_charged() -> None:
    """Where the budget in force has other scopes, there is no ledger for it."""
    rollup = Rollup(SOFT)
    rollup.tell(0, 100, version=1, scope="model=x")
    assert not rollup.part.state.ledgers


def test_usage_in_a_rolling_period_counts_from_when_it_was_told() -> None:
    """It leaves a length of the period later, although its share stays."""
    text = SOFT.replace("period: day", "period: rolling\n    rolling: 1h")
    rollup = Rollup(text)
    key = LedgerKey("all", "b", "", "rolling")
    rollup.tell(0, 1000, version=1, period="rolling")
    assert rollup.control("decision") != []
    assert rollup.part.state.ledgers[key].settled == 1000
    rollup.wait(3_600 * SECOND + 61 * SECOND)
    assert rollup.part.state.ledgers[key].settled == 0


def test_a_hard_budget_grants_what_all_partitions_leave() -> None:
    """Usage under a lease is known by its process, whichever partitions it went to."""
    rollup = Rollup(HARD)
    rollup.report(wants=600)
    rollup.tell(0, 100, version=1, source="gw", source_epoch="e1")
    rollup.tell(1, 200, version=1, source="gw", source_epoch="e1")
    rollup.tell(1, 50, version=1)
    rollup.report("other", wants=1000)
    grants = [grant for grant in rollup.control("lease") if grant]
    assert [(g["holder"], g["granted_total"]) for g in grants] == [("gw", 600), ("other", 350)]
    row = rows(rollup)[-1]
    assert (row["settled"], row["reserved"], row["remaining"]) == (350, 650, 0)


def test_a_holder_that_counts_less_than_the_meter_ends_at_the_limit() -> None:
    """Half as much, by cheaper prices: what it has not counted is not granted again and again."""
    rollup, committed = Rollup(HARD), 0
    for number in range(1, 60):
        rollup.report(wants=100, committed=committed, last_seq=number)
        granted = [grant for grant in rollup.control("lease") if grant][-1]["granted_total"]
        committed += min(max(granted - committed, 0), 50)
        rollup.tell(0, 2 * committed, number, source="gw", source_epoch="e1")
    assert 1000 - 100 <= rollup.settled() <= 1000 + 100


def rows(rollup: Rollup) -> list[dict[str, Any]]:
    """Rows of the next round."""
    rollup.wait(5 * SECOND)
    return [decode(o.value or b"")[1] for o in rollup.outs() if o.topic == TOPICS.budgets]


def closing_answers(rollup: Rollup, *partitions: int) -> None:
    """These partitions have seen the process end."""
    for partition in partitions:
        rollup.tell(partition, 10, 9, source="gw", source_epoch="e1", closing=True)


def test_a_lease_ends_when_every_partition_has_answered() -> None:
    """Until then it is presumed; who has not answered is asked, also by a successor."""
    rollup = Rollup(HARD)
    rollup.report(wants=600)
    rollup.report(wants=0, last_seq=4, closing=True)
    rollup.outs()
    assert [number for number, _ in rollup.part.closing_questions()] == [0, 1, 2, 3]
    closing_answers(rollup, 0, 3)
    rollup.restart()
    assert [number for number, _ in rollup.part.closing_questions()] == [1, 2]
    assert rows(rollup)[-1]["presumed"] == 580
    closing_answers(rollup, 1)
    assert rollup.control("lease") == []
    closing_answers(rollup, 2)
    assert rollup.control("lease") == [None]
    assert list(rollup.part.closing_questions()) == []
    row = rows(rollup)[-1]
    assert (row["settled"], row["presumed"], row["remaining"]) == (40, 0, 960)


def test_a_closed_lease_counts_its_usage_and_what_is_in_flight() -> None:
    """What the process counted beyond its usage is let go when all partitions have answered."""
    rollup = Rollup(HARD)
    rollup.report(wants=600)
    rollup.report(wants=0, last_seq=4, closing=True, committed=70, in_flight_reserved=30)
    closing_answers(rollup, 0, 1, 2)
    assert rows(rollup)[-1]["presumed"] == 570
    closing_answers(rollup, 3)
    row = rows(rollup)[-1]
    assert (row["settled"], row["reserved"], row["remaining"]) == (40, 30, 930)


def test_a_lease_without_usage_waits_for_answers_too() -> None:
    """Numbers of usage are not known here, not even that there was none."""
    rollup = Rollup(HARD)
    rollup.report(wants=600)
    rollup.report(wants=0, last_seq=0, closing=True)
    assert len(list(rollup.part.closing_questions())) == 4


def test_a_successor_sees_the_same() -> None:
    """Shares told and charged, ledgers and leases come back from the changelog."""
    rollup = Rollup(HARD)
    rollup.report(wants=300)
    rollup.tell(0, 100, version=5, source="gw", source_epoch="e1")
    before = rollup.part.state
    rollup.restart()
    after = rollup.part.state
    assert after is not before
    assert (after.ledgers, after.leases, after.told) == (before.ledgers, before.leases, before.told)
    rollup.tell(0, 100, version=5, source="gw", source_epoch="e1")
    assert rollup.settled() == 100


def test_shares_are_forgotten_long_after_their_period() -> None:
    """By then no partition tells of them any more."""
    rollup = Rollup(SOFT)
    rollup.tell(0, 100, version=1)
    rollup.wait(37 * DAY_US)
    assert rollup.part.state.told
    rollup.wait(3 * DAY_US)
    assert not rollup.part.state.told


class FakeProducer:
    """Keeps what it was given."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, bytes, int]] = []

    def produce(self, *sent: Any) -> None:
        self.sent.append(cast("tuple[str, bytes, bytes, int]", sent))

    def poll(self, _timeout: float) -> None:
        pass


def test_questions_are_repeated_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes to its own partition without a key, at once, then after 5, 10, 20 seconds."""
    seconds = [0.0]
    clock = SimpleNamespace(monotonic=lambda: seconds[0])
    monkeypatch.setattr(questions_module, "time", clock)
    rollup, producer = Rollup(HARD), FakeProducer()
    rollup.report(wants=600)
    rollup.report(wants=0, last_seq=4, closing=True)
    questions = Questions("t.usage.v1", cast("Any", producer))
    asked = []
    for second in range(40):
        seconds[0] = float(second)
        if questions.ask(rollup.part):
            asked.append(second)
    assert asked == [0, 5, 15, 35]
    topic, value, key, _ = producer.sent[0]
    assert [sent[3] for sent in producer.sent[:4]] == [0, 1, 2, 3]
    name, fields = decode(value)
    assert (topic, key, name) == ("t.usage.v1", b"", "HolderReport")
    assert (fields["tenant_id"], fields["closing"], fields["last_seq"]) == ("", True, 4)
    closing_answers(rollup, 0, 1, 2, 3)
    seconds[0] = 100.0
    assert questions.ask(rollup.part) == 0
