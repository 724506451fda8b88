"""Budgets that span tenants through the running system: shares, one owner, crashes in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Producer
from tests.builders import usage
from tests.integration.conftest import Stack, until

from sluice.enforcement.leases import LeaseKey, lease_key_bytes
from sluice.periods import period_of
from sluice.wire.codec import decode, encode
from sluice.wire.emitter import UsageEmitter
from sluice.wire.kafka import producer_config, topics
from sluice.wire.scan import committed_records

SOFT = """
policy_id: everyone
budgets:
  - budget_id: day
    scope: []
    unit: tokens
    limit: 1000
    period: day
    rules: [{rule_id: stop, at: 100%, action: block}]
"""
HARD = SOFT.replace("everyone", "pool").replace(
    "rules: [{rule_id: stop, at: 100%, action: block}]", "hard: true"
)
TENANTS = [f"tenant-{number}" for number in range(12)]


class Holder:
    """A process that asks for leases of a budget of all tenants and emits their usage."""

    def __init__(self, stack: Stack) -> None:
        self.topics = topics(stack.settings)
        self.settings = stack.settings
        self.producer = Producer(producer_config(stack.settings))
        self.period = period_of("day", "UTC", time.time_ns() // 1000)

    def use(self, tenant_id: str, tokens: int, source: str = "gw") -> None:
        """The only call of a tenant."""
        now = time.time_ns() // 1000
        event = usage(
            occurred_at=now, started_at=now, tenant_id=tenant_id, input_tokens=tokens,
            output_tokens=0, source=source, event_id=tenant_id,
        )  # fmt: skip
        self.send(self.topics.usage, "UsageEvent", event, tenant_id.encode())

    def report(self, wants: int, **over: Any) -> None:
        """What a holder has and wants."""
        fields = {
            "holder": "gw", "holder_slot": "gw", "source_epoch": "e1", "tenant_id": "",
            "policy_id": "pool", "budget_ids": ["day"], "scope": "",
            "period": self.period.period_id, "unit": "tokens", "wants": wants,
            "in_flight_reserved": 0, "interim_spend": 0, "last_seq": 0,
        }  # fmt: skip
        self.send(self.topics.leases, "HolderReport", fields | over, b"")

    def send(self, topic: str, name: str, fields: dict[str, Any], key: bytes) -> None:
        """One record."""
        self.producer.produce(topic, encode(name, fields), key)
        assert self.producer.flush(30) == 0

    def granted(self) -> list[int]:
        """Every grant so far, oldest first; -1 = the lease ended."""
        key = lease_key_bytes(LeaseKey("pool", "day", "", self.period.period_id, "gw", "e1"))
        found = [r for r in committed_records(self.settings, self.topics.control) if r.key == key]
        assert {record.partition for record in found} <= {self.topics.across}
        return [decode(r.value)[1]["granted_total"] if r.value else -1 for r in found]

    def asked(self) -> set[int]:
        """Usage partitions that were asked whether they hold more usage of the process."""
        found = set()
        for record in committed_records(self.settings, self.topics.usage):
            name, fields = decode(record.value or b"")
            if name == "HolderReport" and fields["closing"] and not fields["tenant_id"]:
                found.add(record.partition)
        return found


def test_leases_of_a_budget_that_spans_tenants_survive_a_crash(
    own_stack: Stack, tmp_path: Path
) -> None:
    """A grant, usage, a killed rollup, a grant on top, and an end that waits for the meter."""
    stack, holder = own_stack, Holder(own_stack)
    apply(stack, tmp_path, HARD)
    holder.report(wants=400)
    until(lambda: holder.granted() == [400], what="the first grant")
    holder.use("a", 60)
    holder.use("b", 40)
    holder.use("c", 300, source="other")
    budget = (
        "SELECT toInt64(settled_amount) AS s, toInt64(reserved_amount) AS r, "
        "toInt64(remaining_amount) AS m FROM budget_state "
        "WHERE tenant_id = '' AND policy_id = 'pool'"
    )
    held = [400, 300, 300]
    until(lambda: numbers(stack, budget) == held, what="settled and reserved in SQL")
    stack.kill("rollup")
    holder.report(wants=500, last_seq=2)
    until(lambda: holder.granted()[-1:] == [600], what="a grant of the next owner")
    meter = stack.pid("meter-0")
    os.kill(meter, signal.SIGSTOP)
    try:
        holder.report(wants=0, last_seq=2, closing=True)
        every = set(range(stack.settings.partitions))
        until(lambda: holder.asked() == every, timeout_s=5, what="all partitions are asked")
        assert holder.granted()[-1] == 600
    finally:
        os.kill(meter, signal.SIGCONT)
    until(lambda: holder.granted()[-1:] == [-1], what="the end of the lease")
    ended = [400, 0, 600]
    until(lambda: numbers(stack, budget) == ended, what="nothing reserved in SQL")
    assert "Budgets that span tenants" in stack.sluice("status").stdout


def test_usage_of_many_tenants_meets_one_limit(own_stack: Stack, tmp_path: Path) -> None:
    """A block without a tenant, rows of no tenant, and a killed rollup that changes nothing."""
    stack = own_stack
    apply(stack, tmp_path, SOFT)
    names = topics(stack.settings)
    budget = (
        "SELECT toInt64(settled_amount) AS s, toInt64(events) AS e, toInt64(limit_amount) AS l "
        "FROM budget_state WHERE tenant_id = '' AND policy_id = 'everyone'"
    )
    config = producer_config(stack.settings)
    with UsageEmitter(config, names.usage, "gw", tmp_path / "gw.wal") as emitter:
        emit(emitter, 40)
        until(lambda: numbers(stack, budget) == [480, 12, 1000], what="the first sum in SQL")
        assert not blocks(stack)
        stack.kill("rollup")
        emit(emitter, 50)
        until(lambda: bool(blocks(stack)), what="the limit of all is met")
        stack.kill("meter-0")
        stack.kill("rollup")
        emit(emitter, 10)
        until(lambda: numbers(stack, budget) == [1200, 36, 1000], what="the last sum in SQL")
    (said,) = {block["decision_id"]: block for block in blocks(stack)}.values()
    assert not any(said["scope"].values())


def test_a_second_rollup_takes_over(own_stack: Stack, tmp_path: Path) -> None:
    """It stands by until the first falls silent; what the first says afterwards counts nothing."""
    stack = own_stack
    apply(stack, tmp_path, HARD)
    holder = Holder(stack)
    holder.report(wants=100)
    until(lambda: holder.granted() == [100], what="a grant of the first")
    argv = [sys.executable, "-m", "sluice.cli", "rollup", "--slot", "1", "--dir", str(stack.folder)]
    with (tmp_path / "second.log").open("ab") as log:
        second = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        until(lambda: (stack.folder / "status" / "rollup-1.json").exists(), what="the second")
        first = stack.pid("rollup")
        os.kill(first, signal.SIGSTOP)
        holder.report(wants=300)
        until(lambda: holder.granted()[-1] == 300, what="a grant of the second")
        os.kill(first, signal.SIGCONT)
        until(lambda: not psutil.pid_exists(first), what="the first is fenced")
        holder.report(wants=400)
        until(lambda: holder.granted() == [100, 300, 400], what="a grant after all")
    finally:
        second.terminate()
        second.wait(30)


def apply(stack: Stack, folder: Path, text: str) -> None:
    """Put a policy in force."""
    file = folder / "policy.yaml"
    file.write_text(text)
    done = stack.sluice("policy", "apply", str(file))
    assert done.returncode == 0, done.stderr


def emit(emitter: UsageEmitter, tokens: int) -> None:
    """One call of each tenant."""
    now = time.time_ns() // 1000
    for tenant in TENANTS:
        event = usage(occurred_at=now, started_at=now, tenant_id=tenant, input_tokens=tokens,
                      output_tokens=0)  # fmt: skip
        for name in ("event_id", "source", "source_epoch", "source_seq"):
            del event[name]
        emitter.emit(event)
    emitter.flush(30)


def blocks(stack: Stack) -> list[dict[str, Any]]:
    """Decisions of the budget that spans tenants."""
    names, found = topics(stack.settings), []
    for record in committed_records(stack.settings, names.control):
        if record.partition == names.across and record.value:
            name, fields = decode(record.value)
            if name == "Decision" and fields["action"] == "block":
                found.append(fields)
    return found


def numbers(stack: Stack, query: str) -> list[int]:
    """The only row of a query, or nothing."""
    found = [[int(value) for value in row.values()] for row in stack.rows_when_up(query)]
    return found[0] if len(found) == 1 else []
