"""Controllers that die, sleep and come back, on a real broker with real admission points."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from tests.builders import FakeReferences, policy, usage
from tests.integration.test_meter_exact import Meters, keep_every_decision

from sluice.admission.point import AdmissionPoint
from sluice.admission.subscriber import follow
from sluice.admission.verdict import AdmissionRequest, Refused
from sluice.local.kafka import KafkaNode
from sluice.local.ports import free_port
from sluice.metering.prices import default_book
from sluice.periods import period_of
from sluice.runtime.partition import Partition
from sluice.runtime.publish import publish_policy, publish_price_book
from sluice.runtime.state import State
from sluice.runtime.worker import EXIT_FENCED
from sluice.settings import Settings
from sluice.wire.codec import decode, encode
from sluice.wire.emitter import UsageEmitter
from sluice.wire.kafka import ensure_topics, producer_config, topics
from sluice.wire.scan import Scanned, committed_records

pytestmark = pytest.mark.integration

LIMIT_PUSD = 1_800_000_000
ESTIMATE_PUSD = 20_000_000
POLICY = """
policy_id: hard
budgets:
  - budget_id: day
    scope: [tenant_id]
    unit: usd
    limit: "0.0018"
    period: day
    hard: true
    lease_wait_ms: 3000
    refresh_after_ms: 500
    rules:
      - {rule_id: half, at: 50%, action: rate_limit, rate_per_minute: 600000}
"""
Said = tuple[Scanned, str, dict[str, Any]]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A broker of one's own with prices and the policy in force; nothing is compacted away."""
    with KafkaNode(tmp_path / "kafka", free_port(2)) as node:
        made = Settings(kafka_bootstrap=node.bootstrap, dir=tmp_path)
        ensure_topics(made)
        keep_every_decision(made)
        publish_price_book(made, default_book())
        publish_policy(made, policy(POLICY))
        yield made


class Controllers(Meters):
    """Meter processes whose ends are looked at."""

    def stop_dead(self, slot: str) -> None:
        """Stop a process where it is."""
        self._running[slot].send_signal(signal.SIGSTOP)

    def wake(self, slot: str) -> int:
        """Let it go on, until it ends; its exit code."""
        self._running[slot].send_signal(signal.SIGCONT)
        return self._running[slot].wait(60)


def until(holds: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Wait for something that must become true."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.1)


def control(settings: Settings) -> list[Said]:
    """What the control topic says that counts, partition by partition in order."""
    records = committed_records(settings, topics(settings).control)
    return [(r, *decode(r.value)) for r in records if r.value is not None]


class Crowd:
    """Holders that report and use by hand, so that what waits for a meter is known."""

    def __init__(self, settings: Settings) -> None:
        self._topic = topics(settings).usage
        self._producer = Producer(producer_config(settings))
        self._period = period_of("day", "UTC", time.time_ns() // 1000).period_id

    def send(self, name: str, fields: dict[str, Any]) -> None:
        self._producer.produce(self._topic, encode(name, fields), b"acme")
        assert self._producer.flush(30) == 0

    def report(self, holder: str, wants: int) -> None:
        """A holder without anything in flight wants some of the budget."""
        self.send("HolderReport", {
            "holder": holder, "holder_slot": holder, "source_epoch": "e1", "tenant_id": "acme",
            "policy_id": "hard", "budget_ids": ["day"], "scope": "tenant_id=acme",
            "period": self._period, "unit": "pusd", "wants": wants, "in_flight_reserved": 0,
            "interim_spend": 0, "last_seq": 0,
        })  # fmt: skip

    def use(self, number: int, cost_pusd: int) -> None:
        """Usage that no lease covers."""
        now = time.time_ns() // 1000
        self.send("UsageEvent", usage(
            number, source="crowd", occurred_at=now, started_at=now, cost_pusd=cost_pusd,
            cost_source="provider",
        ))  # fmt: skip


def owners(settings: Settings) -> dict[int, int]:
    """The epoch of who spoke last for each partition."""
    return {record.partition: fields["epoch"] for record, _, fields in control(settings)}


def granted(said: list[Said]) -> dict[str, tuple[int, int]]:
    """(amount, epoch) of the newest grant of each holder."""
    return {fields["holder"]: (fields["granted_total"], fields["epoch"])
            for _, name, fields in said if name == "LeaseGrant"}  # fmt: skip


def test_nothing_that_a_zombie_says_counts(settings: Settings, tmp_path: Path) -> None:
    """A meter that slept while a successor took over wakes with work in hand, and ends with 73.

    What came while it slept waits in its sockets: it would grant and decide too.
    """
    meters, crowd = Controllers(settings, tmp_path), Crowd(settings)
    meters.start("0")
    try:
        with follow(settings, "second") as point:
            crowd.report("first", LIMIT_PUSD // 3)
            until(lambda: "first" in granted(control(settings)), "the first grant")
            meters.stop_dead("0")
            crowd.use(1, LIMIT_PUSD // 2)
            crowd.report("first", LIMIT_PUSD // 3)
            crowd.report("second", LIMIT_PUSD)
            meters.start("1")
            until(lambda: bool(point.state.leases and point.state.decisions), "the successor")
            until(lambda: min(owners(settings).values()) == 2, "all partitions have it")
            before = standing(point)
            assert meters.wake("0") == EXIT_FENCED
            time.sleep(2.0)
            assert standing(point) == before
        said = control(settings)
    finally:
        meters.stop()
    for number in range(settings.partitions):
        heard = [fields["epoch"] for record, _, fields in said if record.partition == number]
        assert heard == sorted(heard), f"partition {number} was spoken for by the one before"
        assert heard[-1] == 2
    amounts = {holder: amount for holder, (amount, _) in granted(said).items()}
    assert amounts == {"first": LIMIT_PUSD // 3, "second": LIMIT_PUSD // 6}
    total = sum(amounts.values()) + budget_rows(settings)["acme"]["settled"]
    print(f"granted and settled {total} / limit {LIMIT_PUSD} pusd")
    assert total == LIMIT_PUSD
    assert len({fields["decision_id"] for _, name, fields in said if name == "Decision"}) == 1


def standing(point: AdmissionPoint) -> tuple[Any, ...]:
    """What a point obeys: decisions by id, grants by amount and epoch."""
    decisions = sorted((d.decision_id, d.version) for d in point.state.decisions.values())
    leases = [(g["granted_total"], g["epoch"], g["sequence"]) for g in point.state.leases.values()]
    return decisions, sorted(leases)


def budget_rows(settings: Settings) -> dict[str, dict[str, Any]]:
    """The newest budget row of each tenant."""
    rows: dict[str, dict[str, Any]] = {}
    for record in committed_records(settings, topics(settings).budgets):
        row = decode(record.value or b"")[1]
        if row["version"] >= rows.get(row["tenant_id"], row)["version"]:
            rows[row["tenant_id"]] = row
    return rows


TENANTS = ("acme", "beta", "gamma")


class Gateway(threading.Thread):
    """A real admission point with a log of its own, and what it truly spent.

    `over` adds up what requests took beyond their reservation: the bound of the overshoot.
    """

    def __init__(self, settings: Settings, name: str, folder: Path, seed: int) -> None:
        super().__init__(name=name)
        self._settings, self._folder, self._rng = settings, folder, random.Random(seed)
        self.spent, self.over, self.refused = Counter[str](), Counter[str](), Counter[str]()
        self.enough = threading.Event()

    def run(self) -> None:
        config, topic = producer_config(self._settings), topics(self._settings).usage
        with ExitStack() as stack:
            emitter = stack.enter_context(UsageEmitter(config, topic, self.name, self._folder))
            point = stack.enter_context(follow(self._settings, self.name, emitter))
            while not self.enough.is_set():
                self._once(point, self._rng.choice(TENANTS))

    def _once(self, point: AdmissionPoint, tenant: str) -> None:
        try:
            held = point.reserve(AdmissionRequest(
                tenant, "chat", "m", estimated_cost_pusd=ESTIMATE_PUSD
            ))  # fmt: skip
        except Refused as refused:
            self.refused[refused.verdict.reason_code] += 1
            time.sleep(0.05)
            return
        time.sleep(self._rng.uniform(0.0, 0.03))
        cost = self._rng.randint(ESTIMATE_PUSD // 2, ESTIMATE_PUSD * 11 // 10)
        held.commit(cost_pusd=cost, cost_source="provider")
        self.spent[tenant] += cost
        self.over[tenant] += max(0, cost - ESTIMATE_PUSD)


@pytest.mark.parametrize("seed", [7])
def test_hard_budgets_hold_over_killed_controllers(
    settings: Settings, tmp_path: Path, seed: int
) -> None:
    """Kill -9 at random points: no budget is overspent, ledgers and grants are those of calm."""
    rng, meters = random.Random(seed), Controllers(settings, tmp_path)
    gateways = [Gateway(settings, f"gw-{n}", tmp_path / f"wal-{n}", seed + n) for n in range(2)]
    for slot in "01":
        meters.start(slot)
    try:
        until(lambda: len(owners(settings)) == settings.partitions, "the budgets are known")
        for gateway in gateways:
            gateway.start()
        until(lambda: sum(sum(g.spent.values()) for g in gateways) > 0, "the first request")
        for _ in range(3):
            time.sleep(rng.uniform(0.5, 2.5))
            meters.kill(rng.choice("01"))
        until(lambda: _exhausted(gateways), "every budget is spent")
        for gateway in gateways:
            gateway.enough.set()
        for gateway in gateways:
            gateway.join(60)
        spent = sum((g.spent for g in gateways), Counter[str]())
        until(lambda: _settled(settings) == spent, "every request in a ledger")
        said, calm = control(settings), undisturbed(settings)
    finally:
        for gateway in gateways:
            gateway.enough.set()
        meters.stop()
    bounds = sum((g.over for g in gateways), Counter[str]())
    for tenant in TENANTS:
        over, bound = max(0, spent[tenant] - LIMIT_PUSD), bounds[tenant]
        print(f"{tenant}: overshoot {over} / bound {bound} pusd, spent {spent[tenant]}")
        assert over <= bound
        assert spent[tenant] > LIMIT_PUSD - 3 * ESTIMATE_PUSD, "the last cent is not stranded"
    assert by_key(said) == calm
    assert len({fields["epoch"] for _, name, fields in said if name == "LeaseGrant"}) > 1


def _exhausted(gateways: list[Gateway]) -> bool:
    spent = sum((g.spent for g in gateways), Counter[str]())
    return all(spent[tenant] > LIMIT_PUSD - 3 * ESTIMATE_PUSD for tenant in TENANTS)


def _settled(settings: Settings) -> Counter[str]:
    return Counter({t: row["settled"] for t, row in budget_rows(settings).items()})


Words = dict[bytes, list[dict[str, Any]]]


def by_key(said: list[Said]) -> Words:
    """Decisions and grants of each key in their order, without what names the owner."""
    found: Words = defaultdict(list)
    for record, name, fields in said:
        if name in ("Decision", "LeaseGrant"):
            found[record.key or b""].append({k: v for k, v in fields.items() if k != "epoch"})
    return dict(found)


def undisturbed(settings: Settings) -> Words:
    """What one owner says of the same input that nothing happens to."""
    references, names = FakeReferences(default_book(), policy(POLICY)), topics(settings)
    states = [State(3_600_000_000, 3_600_000_000) for _ in range(settings.partitions)]
    parts = [Partition(names, n, state, references, epoch=1) for n, state in enumerate(states)]
    for record in committed_records(settings, names.usage):
        parts[record.partition].apply([record])
    outs = [out for part in parts for out in part.take() if out.topic == names.control]
    said = [Scanned(out.topic, out.partition, 0, 0, out.key, out.value, []) for out in outs]
    return by_key([(record, *decode(record.value)) for record in said if record.value])
