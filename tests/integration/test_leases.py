"""Leases through the running system: asked for on usage, granted on control, kept over a crash."""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import Producer
from tests.builders import usage
from tests.integration.conftest import Stack, until

from sluice.enforcement.leases import LeaseKey, lease_key_bytes
from sluice.periods import period_of
from sluice.wire.codec import decode, encode
from sluice.wire.kafka import producer_config, topics
from sluice.wire.scan import committed_records

POLICY = """
policy_id: lease-test
budgets:
  - budget_id: day
    scope: [tenant_id]
    where: {project_id: leased}
    unit: tokens
    limit: 1000
    period: day
    hard: true
"""


class Holder:
    """A process that asks for leases and emits usage under them."""

    def __init__(
        self, stack: Stack, tenant_id: str = "leaser", project_id: str = "leased",
        policy_id: str = "lease-test",
    ) -> None:  # fmt: skip
        self.settings = stack.settings
        self.tenant_id, self.project_id, self.policy_id = tenant_id, project_id, policy_id
        self.producer = Producer(producer_config(stack.settings))
        self.period = period_of("day", "UTC", time.time_ns() // 1000).period_id

    def send(self, name: str, fields: dict[str, Any]) -> None:
        """One record under the tenant's key."""
        topic = topics(self.settings).usage
        self.producer.produce(topic, encode(name, fields), self.tenant_id.encode())
        assert self.producer.flush(30) == 0

    def report(self, wants: int, **over: Any) -> None:
        """What it has and wants."""
        fields = {
            "holder": "gw", "holder_slot": "gw", "source_epoch": "e1", "tenant_id": self.tenant_id,
            "policy_id": self.policy_id, "budget_ids": ["day"],
            "scope": f"tenant_id={self.tenant_id}", "period": self.period, "unit": "tokens",
            "wants": wants, "in_flight_reserved": 0, "interim_spend": 0, "last_seq": 0,
        }  # fmt: skip
        self.send("HolderReport", fields | over)

    def use(self, number: int, tokens: int) -> None:
        """Usage of so many tokens."""
        self.send("UsageEvent", self.event(number, tokens))

    def event(self, number: int, tokens: int, age_us: int = 0) -> dict[str, Any]:
        """Usage of so many tokens that is so old."""
        at = time.time_ns() // 1000 - age_us
        return usage(
            number, occurred_at=at, started_at=at, tenant_id=self.tenant_id,
            project_id=self.project_id, input_tokens=tokens, output_tokens=0,
        )  # fmt: skip

    def granted(self) -> list[int]:
        """Every grant so far, oldest first; -1 = the lease ended."""
        scope = f"tenant_id={self.tenant_id}"
        lease = LeaseKey(self.policy_id, "day", scope, self.period, "gw", "e1")
        key = lease_key_bytes(lease)
        records = committed_records(self.settings, topics(self.settings).control)
        values = [record.value for record in records if record.key == key]
        return [decode(value)[1]["granted_total"] if value else -1 for value in values]


def test_a_lease_is_granted_in_a_round_trip_and_survives_a_crash(
    own_stack: Stack, tmp_path: Any
) -> None:
    """Grant, usage, a killed meter, a grant on top of what was settled, and an end."""
    stack, policy = own_stack, tmp_path / "p.yaml"
    policy.write_text(POLICY)
    assert stack.sluice("policy", "apply", str(policy)).returncode == 0
    holder = Holder(stack)
    holder.report(wants=400)
    until(lambda: holder.granted() == [400], what="the first grant")
    holder.use(1, 150)
    query = (
        "SELECT settled_amount AS s, reserved_amount AS r, remaining_amount AS m, unit "
        "FROM budget_state WHERE tenant_id = 'leaser'"
    )
    whole = [{"s": "150", "r": "250", "m": "600", "unit": "tokens"}]
    until(lambda: _texts(stack.rows(query)) == whole, what="settled and reserved in SQL")
    stack.kill("meter-0")
    holder.report(wants=700, last_seq=1)
    until(lambda: holder.granted()[-1:] == [850], what="a grant of the next owner")
    holder.report(wants=0, last_seq=1, closing=True)
    until(lambda: holder.granted()[-1:] == [-1], what="the end of the lease")
    ended = [{"s": "150", "r": "0", "m": "850", "unit": "tokens"}]
    until(lambda: _texts(stack.rows(query)) == ended, what="nothing reserved in SQL")
    assert stack.sluice("policy", "withdraw", "lease-test").returncode == 0


def _texts(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [{name: str(value) for name, value in row.items()} for row in rows]
