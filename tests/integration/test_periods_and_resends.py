"""Hard budgets where time and order are against them: a period that ends, usage that comes again.

Every proof prints what was measured beside the bound it must keep (pytest -s).
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.gateways import chat, gateway, ledgers, price, publish, spend
from tests.integration.conftest import Stack, until
from tests.integration.test_hard_budgets import told
from tests.integration.test_leases import Holder

from sluice.admission.point import AdmissionPoint
from sluice.admission.reservation import Reservation
from sluice.admission.verdict import Refused
from sluice.bench.overshoot import Ran, in_flight_excess
from sluice.periods import PeriodKind, period_of
from sluice.runtime.publish import withdraw_policy
from sluice.settings import Settings
from sluice.wire.codec import decode, encode
from sluice.wire.kafka import topics
from sluice.wire.scan import committed_records

pytestmark = pytest.mark.integration

LIMIT = 1000
_POLICY = """
policy_id: {name}
budgets:
  - {{budget_id: day, scope: [tenant_id], where: {{project_id: {name}}}, unit: tokens,
     limit: 1000, period: {period}, hard: true, lease_wait_ms: 1000, refresh_after_ms: 500}}
"""
_MINUTE_US = 60_000_000


def now_us() -> int:
    """The time, µs UTC."""
    return time.time_ns() // 1000


def period(kind: PeriodKind, instant: int) -> str:
    """Name of the period of an instant."""
    return period_of(kind, "UTC", instant).period_id


def amounts(settings: Settings, policy_id: str) -> dict[tuple[str, str], tuple[int, ...]]:
    """(settled, reserved, presumed, events) of each tenant and period."""
    views = ledgers(settings, policy_id)
    return {key: (v.settled, v.reserved, v.presumed, v.events) for key, v in views.items()}


# ---- a period that ends

LEAST, MOST = 10, 40
# How long before and after the end of a minute requests are made.
BEFORE_US, AFTER_US = 5_000_000, 4_000_000
# Who has so long to wait yet when it ends must be answered out of the next one.
ANSWERED_US = 500_000


class Customer(NamedTuple):
    """Whose requests a thread makes, and how long each runs, ms."""

    tenant_id: str
    lasts_ms: tuple[int, int]


# One asks for far more than its budget; of the other, requests run over the border.
GREEDY, MODEST = Customer("greedy", (10, 150)), Customer("modest", (500, 1500))
CUSTOMERS = (GREEDY, GREEDY, GREEDY, MODEST, MODEST)


class Crossed(NamedTuple):
    """What happened around a border: requests that ran, and when others asked and gave up."""

    border: int
    ran: list[Ran]
    refused: list[tuple[int, int]]

    @property
    def refused_over_it(self) -> int:
        """How many asked before the border and were refused long after it."""
        answered = self.border + ANSWERED_US
        return sum(asked_at < self.border and at >= answered for asked_at, at in self.refused)


@pytest.fixture(scope="module")
def crossing(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Crossed]]:
    """Two gateways at work around the end of a minute, while other tests run."""
    publish(stack.settings, "minutes", _POLICY.format(name="minutes", period="minute"))
    folder = tmp_path_factory.mktemp("minutes")
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(crossed, stack.settings, folder)
    withdraw_policy(stack.settings, "minutes")


def crossed(settings: Settings, folder: Path) -> Crossed:
    """Let customers ask from before the next border to some time after it."""
    border = period_of("minute", "UTC", now_us() + BEFORE_US).end
    found = Crossed(border, [], [])
    with (
        gateway(settings, "minute-0", folder / "0") as (first, _),
        gateway(settings, "minute-1", folder / "1") as (second, _),
    ):
        until(lambda: now_us() >= border - BEFORE_US, 70, "the end of the minute")
        held = [(n, begin(p, GREEDY.tenant_id, MOST)) for n, p in enumerate((first, second))]
        threads = [
            threading.Thread(target=ask, args=(point, number, customer, found))
            for number, point in enumerate((first, second)) for customer in CUSTOMERS
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        until(lambda: now_us() > border + AFTER_US // 4, what="the next minute")
        for number, reservation in held:
            end(reservation, number, MOST, MOST + 8, found)
        for thread in threads:
            thread.join(30)
    return found


def ask(point: AdmissionPoint, number: int, customer: Customer, found: Crossed) -> None:
    """Requests one after the other, some of which take more than they reserved."""
    rng, running = random.Random(f"{number} {customer.tenant_id}"), threading.Event()
    while (asked_at := now_us()) < found.border + AFTER_US:
        tokens = rng.randint(LEAST, MOST)
        try:
            held = begin(point, customer.tenant_id, tokens)
        except Refused:
            found.refused.append((asked_at, now_us()))
            continue
        running.wait(rng.randint(*customer.lasts_ms) / 1000)
        end(held, number, tokens, tokens * rng.randint(50, 120) // 100, found)


def begin(point: AdmissionPoint, tenant_id: str, tokens: int) -> Reservation:
    """A request that is let in."""
    return point.reserve(chat("minutes", tokens, tenant_id))


def end(held: Reservation, number: int, tokens: int, actual: int, found: Crossed) -> None:
    """It is over, and took so much."""
    held.commit(output_tokens=actual)
    tenant_id = held.request.tenant_id
    found.ran.append(Ran(tenant_id, number, held.started_at, now_us(), tokens, actual))


# ---- usage that comes again

TENANT, PROJECT, GATEWAY = "resent", "resends", "resent-gw"
EACH, TOKENS, LATE = 20, 8, 6
# Ages of the other holder's events: of this minute, of a closed window, of one that is final.
AGES = [0] * 28 + [20 * _MINUTE_US] * 6 + [120 * _MINUTE_US] * LATE


def test_usage_that_is_resent_late_and_in_disorder_counts_once(
    stack: Stack, crossing: Future[Crossed], tmp_path: Path
) -> None:
    """It changes no sum, and neither it nor reports that come again free anything of a lease."""
    settings = stack.settings
    publish(settings, PROJECT, _POLICY.format(name=PROJECT, period="day"))
    raw = Holder(stack, TENANT, PROJECT, PROJECT)
    events = [raw.event(number, TOKENS, age_us) for number, age_us in enumerate(AGES, 1)]
    today = sum(TOKENS for e in events if period("day", e["started_at"]) == raw.period)
    last = {"wants": 0, "last_seq": len(events)}
    with gateway(settings, GATEWAY, tmp_path / "wal") as (point, _):
        own = taken(point, 5)
        raw.report(wants=400)
        until(lambda: raw.granted() == [400], what="a lease of the other holder")
        disorder(raw, events, own_records(settings))
        until(lambda: settled(raw) == own + today, what="all usage, once")
        own += taken(point)
        assert (raw.granted()[-1], own) == (400, LIMIT - 400), "its lease was given away"
        for again in (last, last, {"wants": 400}, last):
            raw.report(**again)
        assert taken(point) == 0, "a report that came again freed something"
        own += freed(raw, point, last, LIMIT - own - today)
    raw.report(**last, closing=True)
    until(lambda: raw.granted()[-2:] == [today, -1], what="the end of the lease")
    disorder(raw, events[::-1], own_records(settings))
    raw.report(**last, closing=True)
    events.append(raw.event(len(events) + 1, 0))  # behind all of it, so that rows are of the end
    raw.send("UsageEvent", events[-1])
    used = [*events, *own_usage(settings)]
    until(lambda: amounts(settings, PROJECT) == by_period(used), what="the truth in the ledger")
    until(lambda: windows(stack) == by_window(used), what="the truth in windows")
    until(lambda: stored(stack) == len(used), what="the events, once")
    withdraw_policy(settings, PROJECT)
    print(f"\n{len(used)} events, most of them resent: difference of ledger, windows and leases 0")
    told("resent, late and in disorder", max(0, own + today - LIMIT), 0)


def taken(point: AdmissionPoint, most: int = 10**6) -> int:
    """Tokens that the gateway gets until it is refused."""
    return EACH * spend(point, PROJECT, EACH, EACH, most, TENANT)


def freed(raw: Holder, point: AdmissionPoint, last: Mapping[str, Any], most: int) -> int:
    """What the gateway gets of what the other holder has not used and gives back."""
    found = [0]

    def all_of_it() -> bool:
        raw.report(**last)
        found[0] += taken(point)
        return found[0] > most - EACH

    until(all_of_it, what="what the other holder leaves")
    return found[0]


def disorder(raw: Holder, events: list[dict[str, Any]], copies: list[bytes]) -> None:
    """Send events and copies of what a gateway sent, each up to three times, mixed up."""
    rng, first = random.Random(len(copies)), [encode("UsageEvent", event) for event in events]
    every = [value for value in first + copies for _ in range(rng.randint(1, 3))]
    rng.shuffle(every)
    for value in every:
        raw.producer.produce(topics(raw.settings).usage, value, TENANT.encode())
    assert raw.producer.flush(30) == 0


def own_records(settings: Settings) -> list[bytes]:
    """Everything that the gateway sent, reports too, as it stands in the topic."""
    records = committed_records(settings, topics(settings).usage)
    sent = [record.value or b"" for record in records if record.key == TENANT.encode()]
    return [v for v in sent if GATEWAY in (f := decode(v)[1]).get("source", f.get("holder", ""))]


def own_usage(settings: Settings) -> list[dict[str, Any]]:
    """Requests of the gateway, each once."""
    found = [f for name, f in map(decode, own_records(settings)) if name == "UsageEvent"]
    return list({e["event_id"]: e for e in found if e["event_type"] == "inference"}.values())


def tokens_of(event: Mapping[str, Any]) -> int:
    """What an event counts for."""
    return int(event["input_tokens"] + event["output_tokens"])


def settled(raw: Holder) -> int:
    """What the ledger has settled in the period of the lease."""
    return amounts(raw.settings, PROJECT).get((TENANT, raw.period), (0,))[0]


def by_period(used: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], tuple[int, ...]]:
    """What rows of the budget must say, as `amounts`."""
    tokens, count = Counter[str](), Counter[str]()
    for event in used:
        name = period("day", event["started_at"])
        tokens[name] += tokens_of(event)
        count[name] += 1
    return {(TENANT, name): (tokens[name], 0, 0, count[name]) for name in count}


def by_window(used: Iterable[Mapping[str, Any]]) -> dict[int, tuple[int, ...]]:
    """(events, tokens, cost) of every minute, and at -1 the events in lanes of late usage."""
    found: dict[int, tuple[int, ...]] = {-1: (LATE,)}
    for event in used:
        start = event["occurred_at"] // _MINUTE_US * _MINUTE_US
        one = (1, tokens_of(event), price(event) or 0)
        found[start] = tuple(map(sum, zip(found.get(start, (0, 0, 0)), one, strict=True)))
    return found


def windows(stack: Stack) -> dict[int, tuple[int, ...]]:
    """The same as it is stored."""
    rows = stack.rows(
        "SELECT toUnixTimestamp64Micro(window_start) AS start, sum(events) AS e, "
        "sum(input_tokens + output_tokens) AS t, sum(cost_pusd) AS c FROM usage_windows FINAL "
        f"WHERE tenant_id = '{TENANT}' AND project_id = '{PROJECT}' AND events > 0 GROUP BY start"
    )
    late = stack.value(f"SELECT sum(events) AS n FROM late_usage WHERE tenant_id = '{TENANT}'")
    found = {int(row["start"]): tuple(int(row[name]) for name in "etc") for row in rows}
    return {-1: (int(late),), **found}


def stored(stack: Stack) -> int:
    """How many events of requests are stored."""
    return int(stack.value(
        f"SELECT count() AS n FROM usage_events FINAL WHERE tenant_id = '{TENANT}' "
        "AND event_type = 'inference'"
    ))  # fmt: skip


def test_requests_over_a_border_are_charged_where_they_began(
    stack: Stack, crossing: Future[Crossed]
) -> None:
    """No minute is overspent by those of the one before, and each begins with its whole limit."""
    found = crossing.result(100)
    of: dict[tuple[str, str], list[Ran]] = {}
    for one in found.ran:
        of.setdefault((one.tenant_id, period("minute", one.begun_at)), []).append(one)
    spent = {key: sum(one.spent for one in own) for key, own in of.items()}
    whole = {key: (spent[key], 0, 0, len(own)) for key, own in of.items()}
    until(lambda: amounts(stack.settings, "minutes") == whole, what="all usage where it began")
    over = Counter(o.tenant_id for o in found.ran if o.begun_at < found.border <= o.ended_at)
    assert over[GREEDY.tenant_id] >= 2 and over[MODEST.tenant_id] >= 1
    print(f"\n{over.total()} requests ran over the border; {found.refused_over_it} that waited for "
          f"more than {ANSWERED_US // 1000} ms of the next minute were refused")  # fmt: skip
    for (tenant_id, name), own in sorted(of.items()):
        bound = in_flight_excess(own)
        told(f"{tenant_id} in {name}", max(0, spent[tenant_id, name] - LIMIT), bound)
    for instant in (found.border - 1, found.border):
        key = GREEDY.tenant_id, period("minute", instant)
        assert spent[key] > LIMIT - MOST, "not all of the limit was there"
    assert not found.refused_over_it, "the next minute has room for who waits at the border"
