"""Watchers: what has to happen until a ladder moves, and what is published then."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from tests.builders import POLICY
from tests.laws.one_by_one_tasks import TaskSums
from tests.watching import (
    DAY_US,
    LADDERS,
    MOVING,
    SECOND_US,
    START,
    Books,
    published,
    request,
    watchers,
    watching,
)

from sluice.enforcement.budgets import charged_period, ledger_key, open_ledger
from sluice.enforcement.ladder_decisions import Published
from sluice.enforcement.signals.burn import Term
from sluice.enforcement.watch import Watchers
from sluice.enforcement.watch_signals import term_of
from sluice.money import pusd
from sluice.wire.codec import decode, encode

BURNING = pusd("0.3")  # of 1 USD a day: four of these within an hour burn at 28.8


class Seen(NamedTuple):
    """A change, with what stood and what was published at that time."""

    second: int
    section: str
    rung: str
    scope: tuple[tuple[str, str], ...]
    messages: list[Published]

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """The published decisions by priority."""
        found = [m.record for m in self.messages if m.record is not None]
        return {record["scope"]["priority"]: record for record in found}


def look(held: Watchers, second: int) -> list[Seen]:
    """Changes at this second after START, published by a record at this offset."""
    time, found = START + second * SECOND_US, []
    for change in held.at(time):
        level, rungs = change.moved.after, change.moved.steps.rungs
        messages = published([change], time, second)
        found.append(Seen(second, change.moved.section.name, rungs[level - 1].action if level
                          else "ok", change.moved.scope, messages))  # fmt: skip
    return found


def spend(
    held: Watchers, seconds: range, cost_pusd: int | None = BURNING, **over: Any
) -> list[Seen]:
    """One event at each of these seconds after START."""
    found = []
    for second in seconds:
        found += look(held, second)
        held.observe(request(**over), cost_pusd, START + second * SECOND_US)
    return found


def rungs(found: list[Seen], section: str = "ladder") -> list[tuple[int, str]]:
    """(second, action of the rung) for one section."""
    return [(seen.second, seen.rung) for seen in found if seen.section == section]


def test_a_burning_budget_is_acted_on_after_it_persisted() -> None:
    """Seen at second 5, in force at 15, the first look at which 10 s have passed."""
    held = watchers(Books())
    found = spend(held, range(1, 17))
    assert rungs(found) == [(15, "rate_limit")]
    messages = found[0].records
    assert {p: m["action"] for p, m in messages.items()} == {
        "guaranteed": "rate_limit", "standard": "rate_limit", "batch": "rate_limit"
    }  # fmt: skip
    assert messages["batch"]["reason"] == (
        "tenant_id acme: a budget is spent 100.80 times as fast as its period allows over 5m/1h "
        "(threshold 14.40); batch requests are limited to 60 a minute per admission point until "
        "2027-01-15 08:10:15 UTC or later"
    )


def test_a_decision_has_its_numbers_and_fits_its_schema() -> None:
    """Evidence, reason code, expiry and params survive the wire."""
    held = watchers(Books())
    message = spend(held, range(1, 17))[0].messages[0]
    assert message.record is not None
    record = decode(encode("Decision", message.record))[1]
    time = START + 15 * SECOND_US
    assert record["evidence"] == {
        "window": "5m/1h", "observed": 100_800_000, "limit": 14_400_000, "unit": "ppm",
        "offsets": [{"partition": 0, "offset": 15}],
    }  # fmt: skip
    assert record["reason_code"] == "BUDGET_BURN_RATE"
    assert (record["expires_at"], record["on_expiry"]) == (time + 600 * SECOND_US, "open")
    assert (record["params"]["rate_per_minute"], record["retry_after_ms"]) == (60, 1000)
    assert message.key == (b"decision|test|ladder|enforce|priority=guaranteed,tenant_id=acme|")


def test_a_ladder_is_left_one_rung_at_a_time() -> None:
    """Once nothing burns for 60 s, a rung every 20 s; at the end requests are admitted again."""
    held = watchers(Books())
    spend(held, range(1, 17))
    found = spend(held, range(17, 30_000, 25), 0)
    moved = [seen for seen in found if seen.records["batch"]["supersedes"]]
    assert [seen.rung for seen in moved] == ["degrade", "rate_limit", "allow_with_caps", "ok"]
    messages = found[-1].records
    assert {m["action"] for m in messages.values()} == {"allow"}
    assert messages["batch"]["reason_code"] == "SIGNAL_EASED"
    assert messages["batch"]["reason"].endswith("batch requests are admitted again")


def test_a_decision_is_renewed_under_its_id_while_its_rung_stands() -> None:
    """After half of ten minutes it is published again, with a later end."""
    held = watchers(Books())
    before = spend(held, range(1, 26))[-1].records
    (again,) = spend(held, range(26, 340))
    assert again.second == 325
    after = again.records
    assert after["batch"]["decision_id"] == before["batch"]["decision_id"]
    assert after["batch"]["expires_at"] - before["batch"]["expires_at"] == 300 * SECOND_US


def test_a_forecast_degrades_before_the_money_is_gone() -> None:
    """0.05 USD a minute with 0.4 left for nearly a day: far more than is left."""
    held = watchers(Books(limit=pusd("1000"), committed=pusd("999.6")))
    found = spend(held, range(1, 200, 5), pusd("0.005"))
    assert rungs(found) == [(71, "degrade")]
    assert found[0].records["batch"]["reason_code"] == "BUDGET_FORECAST"


def test_a_rate_follows_the_pressure_on_its_budget() -> None:
    """Once a minute down to 0.7 while more is to come than is left, but not below its floor."""
    text = POLICY + MOVING[: MOVING.index("    - {rule_id: slow")]
    books = Books()
    held = watchers(books, watching(text))
    found = spend(held, range(1, 300))
    rates = [(seen.second, seen.records["batch"]["params"]["rate_per_minute"]) for seen in found]
    assert rates == [(15, 60), (60, 42), (120, 29), (180, 25)]
    assert len({seen.records["batch"]["decision_id"] for seen in found}) == 1
    assert "limited to 25 a minute" in found[-1].records["batch"]["reason"]
    books.known = books.known._replace(limit=10**18)
    held.forget_terms()
    (calm, *_) = spend(held, range(300, 302))
    assert calm.records["batch"]["params"]["rate_per_minute"] == 28


def test_money_for_nothing_burns() -> None:
    """Nine of ten requests fail where one may: a burn of 9, and what each priority can meet."""
    held = watchers(Books(limit=pusd("1000000")))
    found = []
    for second in range(1, 40):
        bad = "failed" if second % 10 else "good"
        found += spend(held, range(second, second + 1), 1000, slo_outcome=bad)
    assert [action for _, action in rungs(found)] == ["queue"]
    messages = found[0].records
    assert {p: m["action"] for p, m in messages.items()} == {
        "guaranteed": "rate_limit", "standard": "queue", "batch": "queue"
    }  # fmt: skip


def test_what_is_left_of_nothing_is_no_number() -> None:
    """Spending on without anything left is pressure without bound, and said in words."""
    held = watchers(Books(limit=pusd("1000"), committed=pusd("1001")))
    (seen, *_) = spend(held, range(1, 200, 5), pusd("0.005"))
    assert seen.records["batch"]["reason"].startswith(
        "tenant_id acme: what a budget is due until its period ends is over 1,000,000 times what is"
    )


def test_retries_feed_a_storm() -> None:
    """Half of the attempts are second ones; what is not measured is no retry."""
    held = watchers(Books(limit=pusd("1000000")))
    found = []
    for second in range(1, 12):
        found += spend(held, range(second, second + 1), 1, attempt=1 + second % 2)
    assert rungs(found, "risk") == [(10, "rate_limit")]


def test_a_looping_task_is_blocked_at_the_next_look() -> None:
    """Only that task; when it is over, its decision ends."""
    books = Books()
    held = watchers(books)
    books.held["acme", "t1"] = TaskSums(0, "chat", None, None, 0, 0, START + 1, looping=True)
    books.held["acme", "t2"] = TaskSums(0, "chat", None, None, 0, 0, START + 1)
    (seen,) = look(held, 5)
    messages = seen.records
    assert messages["batch"]["scope"] == {
        "task_id": "t1", "tenant_id": "acme", "priority": "batch"
    }  # fmt: skip
    assert messages["batch"]["params"] == {"boundary": "task"}
    assert messages["batch"]["action"] == "block"
    assert messages["guaranteed"]["action"] == "allow_with_caps"
    del books.held["acme", "t1"]
    ends = [seen.rung for second in range(10, 120, 5) for seen in look(held, second)]
    assert ends == ["allow_with_caps", "ok"]


def test_a_neighbour_is_isolated_while_others_wait() -> None:
    """One takes most of the pool; once others wait twice as long as usual, it is moved."""
    held = watchers(Books(limit=pusd("1000000")))
    pool = {"pool": "a100"}
    found = []
    for second in range(1, 1200, 2):
        wait = 20_000 if second < 1000 else 900_000
        at = range(second, second + 1)
        found += spend(held, at, 1, tenant_id="hog", output_tokens=2_000, queue_us=wait, **pool)
        found += spend(held, at, 1, tenant_id="mouse", output_tokens=10, queue_us=wait, **pool)
    seen = found[0]
    assert 1000 < seen.second < 1100
    assert {seen.scope for seen in found} == {(("pool", "a100"), ("tenant_id", "hog"))}
    record = seen.records["standard"]
    assert (record["action"], record["params"]) == ("isolate", {"pool": "overflow"})
    assert record["reason_code"] == "NOISY_NEIGHBOUR"


def test_jitter_of_a_place_queues_batch_work() -> None:
    """First tokens of one request in twenty come twenty times as late as in the windows before."""
    held = watchers(Books(limit=pusd("1000000")))
    found = []
    for second in range(1, 1000):
        slow = 2_000_000 if second > 600 and not second % 20 else 100_000
        at = range(second, second + 1)
        found += spend(held, at, 1, pool="a100", region="eu", ttft_us=slow)
    assert rungs(found, "risk")[0][1] == "queue"
    messages = found[0].records
    assert set(messages) == {"batch"}
    assert messages["batch"]["scope"] == {"pool": "a100", "region": "eu", "priority": "batch"}


def test_dearer_requests_are_capped() -> None:
    """Costs that alternate by 4 % for 200 requests, and then lie 30 % higher."""
    held = watchers(Books(limit=pusd("1000000")))
    usual = [spend(held, range(s, s + 1), 10_000 + 400 * (s % 2)) for s in range(1, 220)]
    assert not any(usual)
    found = spend(held, range(220, 240), 13_000)
    assert [action for _, action in rungs(found, "risk")] == ["allow_with_caps"]


def test_corrections_and_refusals_are_not_watched() -> None:
    """They say nothing about what is going on now."""
    held = watchers(Books())
    for kind in ("correction", "gpu_adjustment", "admission"):
        assert spend(held, range(1, 30), event_type=kind) == []
    assert list(held.take_changes())[1:] == []


def test_nothing_is_observed_without_ladders() -> None:
    """A policy of budgets only costs nothing here."""
    held = watchers(Books(), watching(POLICY))
    assert held.idle
    assert spend(held, range(1, 30)) == []
    assert list(held.take_changes()) == []


@pytest.mark.parametrize(
    ("after", "ended"),
    [
        (None, True),
        (POLICY, True),
        (POLICY + LADDERS.replace("14.4", "15"), True),
        (POLICY.replace("policy_id: test", "policy_id: test\nmode: shadow") + LADDERS, True),
        (POLICY.replace("0.001", "0.002") + LADDERS, False),
        (POLICY + LADDERS.replace("40%", "50%"), False),
    ],
)
def test_a_switch_ends_what_the_new_version_does_not_have(after: str | None, ended: bool) -> None:
    """A ladder that stays as it was keeps its decisions; any other is taken away."""
    held = watchers(Books())
    keys = [message.key for message in spend(held, range(1, 17))[0].messages]
    messages = held.switch(watching(), None if after is None else watching(after))
    assert sorted(m.key for m in messages) == (sorted(keys) if ended else [])
    assert all(message.record is None for message in messages)
    held.use([] if after is None else [watching(after)])
    assert (held.next_due() is None) is ended


def test_work_that_waits_is_due() -> None:
    """A rung that was asked for is due when it persisted; a decision when it has to be renewed."""
    held = watchers(Books())
    spend(held, range(1, 5))
    assert held.next_due() is None
    spend(held, range(5, 6))
    assert held.next_due() == START + 15 * SECOND_US


def test_idle_tenants_are_dropped_from_the_changelog() -> None:
    """After six hours without usage the tenant's row is removed."""
    held = watchers(Books(limit=pusd("1000000")))
    spend(held, range(1, 3), 1)
    rows = dict(held.take_changes())
    held.at(START + 6 * 3600 * SECOND_US + 120 * SECOND_US)
    removed = [key for key, value in held.take_changes() if value is None]
    assert removed == [key for key in rows if key[:1] == b"t"]


def test_a_sweep_looks_at_whoever_was_active_since_the_last_one() -> None:
    """One that fell silent before the sweep, whom no other rule lets through, is seen by it."""
    held = watchers(Books(limit=pusd("1000"), committed=pusd("999.9")))
    assert spend(held, range(1, 20), pusd("0.002")) == []
    assert [seen for second in range(20, 60, 5) for seen in look(held, second)] == []
    assert held.next_due() is None
    look(held, 60)
    assert held.next_due() == START + 70 * SECOND_US


def test_the_term_of_a_budget_is_its_ledger_now() -> None:
    """The calendar period that holds now; a rolling one ends now; nothing without a ledger."""
    for text, start, end in (
        (POLICY, START - START % DAY_US, START - START % DAY_US + DAY_US),
        (
            POLICY.replace("period: day", "period: rolling\n    rolling: 6h"),
            START - DAY_US // 4,
            START,
        ),
    ):
        found = watching(text)
        (budget,) = found.budgets
        period = charged_period(budget, START)
        ledger = open_ledger(budget, "acme", "tenant_id=acme", period, START)
        ledger.settled = 7
        ledgers = {ledger_key(found, budget, "tenant_id=acme", period): ledger}
        assert term_of(ledgers, found, budget, "acme", START) == (
            "pusd", Term(pusd("0.001"), 7, start, end)
        )  # fmt: skip
        assert term_of(ledgers, found, budget, "other", START) is None
