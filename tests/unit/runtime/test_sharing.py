"""Shares of budgets that span tenants: counted by a partition, told at checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import (
    NOW,
    TOPICS,
    FakeReferences,
    Fed,
    activate,
    partition,
    record,
    usage,
)

from sluice.enforcement.shares import ShareKey, read_share
from sluice.metering.prices import default_book
from sluice.money import INT64_MAX
from sluice.runtime.outputs import OutRecord
from sluice.runtime.partition import Partition
from sluice.wire.codec import decode

SECOND = 1_000_000
HOUR, DAY_US = 3600 * SECOND, 86_400 * SECOND
DAY = "2027-01-15"
PARTITION = 2
BEGIN = NOW // DAY_US * DAY_US

SOFT = """
policy_id: all
budgets:
  - budget_id: b
    scope: []
    unit: tokens
    limit: 1000
    period: day
    rules:
      - {rule_id: stop, at: 100%, action: block}
"""
HARD = SOFT.replace("period: day", "period: day\n    hard: true")
ROLLING = SOFT.replace("period: day", "period: rolling\n    rolling: 1h")
OF_TENANT = SOFT.replace("scope: []", "scope: []\n    where: {tenant_id: acme}")


class Meter(Fed):
    """A partition under one policy, fed event by event."""

    def __init__(self, text: str, generation: int = 0) -> None:
        references = FakeReferences()
        part = partition(references, PARTITION)
        if generation:
            part = Partition(
                TOPICS, PARTITION, part.state, references, epoch=1, generation=generation
            )
        super().__init__(references, part, offset=10)
        self.put(activate(self.offset, self.references.put(default_book())))
        self.switch(text)
        self.stored: dict[bytes, bytes | None] = {}

    def use(self, tokens: int, **over: Any) -> None:
        """Usage of so many tokens now."""
        event = usage(self.offset, occurred_at=self.at, started_at=self.at, input_tokens=tokens,
                      output_tokens=0) | over  # fmt: skip
        self.put(record(self.offset, event, at=self.at))

    def ask(self, key: str = "", **over: Any) -> None:
        """The rollup asks what a process that is over has used."""
        fields = {
            "holder": "gw", "holder_slot": "gw", "source_epoch": "e1", "tenant_id": "",
            "policy_id": "all", "budget_ids": ["b"], "scope": "", "period": DAY, "unit": "tokens",
            "wants": 0, "in_flight_reserved": 0, "interim_spend": 0, "last_seq": 3,
            "closing": True,
        }  # fmt: skip
        self.put(record(self.offset, fields | over, at=self.at, key=key, name="HolderReport"))

    def take(self) -> list[OutRecord]:
        """A checkpoint."""
        outs = self.part.take()
        self.stored |= {out.key: out.value for out in outs if out.topic == TOPICS.meter_state}
        return [out for out in outs if out.topic != TOPICS.meter_state]

    def told(self) -> list[dict[str, Any]]:
        """Shares told since the last call."""
        return [decode(out.value or b"")[1] for out in self.take() if out.topic == TOPICS.leases]

    def restart(self) -> None:
        """Another process goes on from what is stored."""
        self.part = partition(self.references, PARTITION, stored=self.stored)


def spent(rows: list[dict[str, Any]]) -> dict[tuple[str, str | None], tuple[int, bool]]:
    """What was settled, and whether nothing more comes, by scope and source."""
    return {(row["scope"], row["source"]): (row["settled"], row["closing"]) for row in rows}


def test_usage_of_all_tenants_is_one_share() -> None:
    """It is told whole: sums, period, unit, and the input that it covers; nothing is judged."""
    meter = Meter(SOFT, generation=3)
    meter.take()
    meter.use(600)
    meter.use(700, tenant_id="beta")
    meter.use(-100, event_type="correction", corrects_event_id="x", cost_pusd=-5,
              cost_source="provider", original_cost_pusd=9)  # fmt: skip
    (out,) = meter.take()
    assert (out.topic, out.partition, out.key) == (TOPICS.leases, 0, b"b")
    assert decode(out.value or b"")[1] == {
        "policy_id": "all", "budget_id": "b", "period": DAY, "source_partition": PARTITION,
        "settled": 1200, "unit": "tokens", "version": (3 << 48) + meter.offset, "scope": "",
        "period_start": BEGIN, "period_end": BEGIN + DAY_US, "begun_at": NOW, "source": None,
        "source_epoch": None, "corrected": -100, "events": 2, "unpriced": 0, "closing": False,
    }  # fmt: skip
    assert not meter.part.state.ledgers


def test_only_what_changed_is_told_and_waits() -> None:
    """Usage waits until a checkpoint tells it; a checkpoint without usage tells nothing."""
    meter = Meter(SOFT.replace("[]", "[project_id]"))
    assert not meter.part.share_waits
    meter.use(1)
    meter.use(2, project_id="other")
    assert (meter.part.share_waits, meter.part.urgent) == (True, False)
    assert [row["settled"] for row in meter.told()] == [1, 2]
    meter.use(5, project_id="other")
    assert meter.part.share_waits
    assert [(row["scope"], row["settled"]) for row in meter.told()] == [("project_id=other", 7)]
    assert not meter.part.share_waits
    meter.wait(SECOND)
    assert meter.told() == []


def test_admission_points_hear_of_these_budgets_from_the_rollup_alone() -> None:
    """A partition says no rule of a budget that spans tenants."""
    meter = Meter(SOFT + OF_TENANT.split("budgets:\n")[1].replace("budget_id: b", "budget_id: t"))
    keys = [out.key for out in meter.take() if out.topic == TOPICS.control]
    assert keys == [b"budget|all|t|2"]


def test_shares_and_their_versions_are_stored() -> None:
    """A new owner goes on from the sums, and knows what was told."""
    meter = Meter(SOFT)
    meter.use(5)
    (before,) = meter.told()
    meter.restart()
    (share,) = meter.part.state.shares.items()
    assert share == read_share(before)
    meter.use(6)
    (after,) = meter.told()
    assert (after["settled"], after["begun_at"]) == (11, NOW)
    assert after["version"] > before["version"]


def test_usage_under_leases_is_told_by_process() -> None:
    """Of a hard budget, what holders report is told one by one; all else is nobody's."""
    meter = Meter(HARD)
    meter.use(1)
    meter.use(2, tenant_id="beta")
    meter.use(4, source="other", source_epoch="e7")
    meter.use(8, source_seq=None)
    meter.use(-1, event_type="correction", corrects_event_id="x", cost_pusd=-1,
              cost_source="provider")  # fmt: skip
    rows = meter.told()
    assert spent(rows) == {
        ("", "gw"): (3, False),
        ("", "other"): (4, False),
        ("", None): (7, False),
    }
    assert [row["source_epoch"] for row in rows] == ["e1", "e7", None]


def test_a_rolling_share_never_lets_usage_leave() -> None:
    """It grows for ever, and is kept until its latest usage has surely left."""
    meter = Meter(ROLLING)
    meter.use(5)
    meter.wait(3 * HOUR)
    meter.use(7)
    meter.use(9, started_at=meter.at - 2 * HOUR)
    (row,) = meter.told()
    assert (row["settled"], row["period"]) == (21, "rolling")
    assert (row["period_start"], row["period_end"]) == (NOW, NOW + 5 * HOUR)


def test_another_unit_begins_anew() -> None:
    """Sums of two units are never added, and the new one is known by when it was begun."""
    meter = Meter(SOFT)
    meter.use(5)
    meter.switch(SOFT.replace("tokens", "requests"))
    meter.use(5)
    (row,) = meter.told()
    assert (row["unit"], row["settled"], row["begun_at"]) == ("requests", 1, NOW + 1)


def test_a_budget_that_is_gone_is_counted_no_more() -> None:
    """Out of force, or of one tenant by now, its share stays as it is, and goes on afterwards."""
    meter = Meter(SOFT)
    meter.use(5)
    meter.told()
    meter.switch(OF_TENANT)
    meter.use(6)
    meter.put(activate(meter.offset, ("policy", "all", ""), at=meter.at))
    meter.use(7)
    assert meter.told() == []
    meter.switch(SOFT)
    meter.use(8)
    (row,) = meter.told()
    assert (row["settled"], row["begun_at"]) == (13, NOW)


def test_a_share_of_long_ago_is_forgotten() -> None:
    """36 days after its period no accepted usage can be part of it."""
    meter = Meter(SOFT)
    meter.use(5)
    meter.told()
    meter.wait(BEGIN + 37 * DAY_US - NOW)
    assert len(meter.part.state.shares) == 1
    meter.wait(60 * SECOND)
    meter.take()
    meter.restart()
    assert not meter.part.state.shares


def test_a_closing_question_is_answered() -> None:
    """The share of the process says that no more comes of it, and later words say so, too."""
    meter = Meter(HARD)
    meter.use(5)
    meter.told()
    meter.ask()
    assert meter.part.share_waits
    assert spent(meter.told()) == {("", "gw"): (5, True)}
    meter.restart()
    meter.use(6)
    assert spent(meter.told()) == {("", "gw"): (11, True)}


def test_of_an_unknown_process_zeros_are_told() -> None:
    """The answer covers the input up to the question, and nothing of it is kept."""
    meter = Meter(HARD)
    meter.take()
    meter.ask(holder="gone", scope="project_id=p")
    (row,) = meter.told()
    assert read_share(row)[0] == ShareKey(PARTITION, "all", "b", "project_id=p", DAY, "gone", "e1")
    assert (row["settled"], row["closing"], row["version"]) == (0, True, meter.offset)
    assert not meter.part.state.shares


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"closing": False}, "bad_report"),
        ({"budget_ids": ["b", "c"]}, "bad_report"),
        ({"policy_id": ""}, "bad_report"),
        ({"holder": ""}, "bad_report"),
        ({"key": "acme"}, "wrong_key"),
    ],
)
def test_a_wrong_question_is_dead_lettered(wrong: dict[str, Any], reason: str) -> None:
    """Nothing is told; the record is kept with the reason."""
    meter = Meter(HARD)
    meter.take()
    meter.ask(**wrong)
    (out,) = meter.take()
    assert out.topic == TOPICS.dlq
    assert dict(out.headers or [])["reason"] == reason.encode()


def test_an_event_without_room_in_a_share_counts_nowhere() -> None:
    """It is dead-lettered whole, and events beside it are counted."""
    meter = Meter(SOFT)
    meter.use(0)
    (share,) = meter.part.state.shares.values()
    share.settled = INT64_MAX - 10
    meter.take()
    meter.restart()
    events = [usage(n, input_tokens=tokens, output_tokens=0, occurred_at=NOW, started_at=NOW)
              for n, tokens in ((100, 7), (101, 4), (102, 3))]  # fmt: skip
    meter.part.apply([record(50 + n, event, at=NOW) for n, event in enumerate(events)])
    outs = meter.take()
    assert [dict(o.headers or [])["reason"] for o in outs if o.topic == TOPICS.dlq] == [
        b"sum_overflow"
    ]
    (row,) = [decode(o.value or b"")[1] for o in outs if o.topic == TOPICS.leases]
    assert (row["settled"], row["events"]) == (INT64_MAX, 3)
