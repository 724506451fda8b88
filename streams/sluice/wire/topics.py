"""Topics: names, partition counts and clean-up of everything that crosses Kafka."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_DAY_MS = 86_400_000
_USAGE, _LEASES = "usage.v1", "leases.v1"
_COMPACT = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1",
            "max.compaction.lag.ms": "60000"}  # fmt: skip
# A value above the wire limit must still reach the dead-letter topic whole.
_LARGE = {"max.message.bytes": str(16 * 2**20)}
# The dead-letter topic adds headers to the largest value that usage takes.
_LARGER = {"max.message.bytes": str(17 * 2**20)}
_BROKER_TIME = {"message.timestamp.type": "LogAppendTime"}


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic as it must exist on the broker."""

    name: str
    partitions: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Topics:
    """Names of all topics under one prefix.

    `partitions` holds for usage, windows, tasks, sources and the meter's state: a row, a decision
    and a state record keep the partition number of the usage they come from. Budgets, outcomes and
    control have one more, number `across`, for budgets that span tenants.
    """

    prefix: str
    partitions: int
    replication: int = 1

    def _name(self, stem: str) -> str:
        return f"{self.prefix}{stem}"

    @property
    def across(self) -> int:
        """Partition of budgets, outcomes and control for what spans tenants."""
        return self.partitions

    @property
    def usage(self) -> str:
        """Usage events, holder reports, activations and ticks, keyed by tenant."""
        return self._name(_USAGE)

    @property
    def policy(self) -> str:
        """Published policy versions."""
        return self._name("policy.v1")

    @property
    def reference(self) -> str:
        """Published price books, baselines and estimates."""
        return self._name("reference.v1")

    @property
    def windows(self) -> str:
        """Absolute window rows."""
        return self._name("windows.v1")

    @property
    def budgets(self) -> str:
        """Absolute budget rows."""
        return self._name("budgets.v1")

    @property
    def tasks(self) -> str:
        """Absolute rows of agent tasks."""
        return self._name("tasks.v1")

    @property
    def sources(self) -> str:
        """Absolute rows of how complete each producer's usage is."""
        return self._name("sources.v1")

    @property
    def outcomes(self) -> str:
        """What decisions did, once they have ended, keyed by decision."""
        return self._name("outcomes.v1")

    @property
    def partials(self) -> str:
        """Absolute shares of sums that span tenants, such as what a cohort cost in an hour."""
        return self._name("partials.v1")

    @property
    def leases(self) -> str:
        """What budgets that span tenants are told: shares of usage partitions, holder reports."""
        return self._name(_LEASES)

    @property
    def rollup_state(self) -> str:
        """The checkpointed state of budgets that span tenants."""
        return self._name("rollup-state.v1")

    @property
    def control(self) -> str:
        """Decisions, lease grants, heartbeats; what admission points follow."""
        return self._name("control.v1")

    @property
    def dlq(self) -> str:
        """Values that break their contract, as they came, with reason and position."""
        return self._name("dlq.v1")

    @property
    def meter_state(self) -> str:
        """The meter's checkpointed state, one partition per usage partition."""
        return self._name("meter-state.v1")

    def specs(self) -> list[TopicSpec]:
        """Every topic that the running system needs, with its configuration."""
        many, one = self.partitions, 1
        return [
            TopicSpec(self.usage, many, _delete(7) | _LARGE | _BROKER_TIME),
            TopicSpec(self.policy, one, _COMPACT),
            TopicSpec(self.reference, one, _COMPACT | _LARGE),
            TopicSpec(self.windows, many, _delete(3)),
            TopicSpec(self.tasks, many, _delete(3)),
            TopicSpec(self.sources, many, _delete(3)),
            TopicSpec(self.budgets, many + one, _delete(3)),
            TopicSpec(self.outcomes, many + one, _delete(3)),
            # One partition: its reader needs the shares of all usage partitions.
            TopicSpec(self.partials, one, _COMPACT | _delete(9, "compact,delete")),
            # One partition: shares and reports on them have one order.
            TopicSpec(self.leases, one, _delete(7) | _BROKER_TIME),
            TopicSpec(self.control, many + one, _COMPACT),
            TopicSpec(self.dlq, one, _delete(14) | _LARGER),
            TopicSpec(self.meter_state, many, _COMPACT | _LARGE),
            TopicSpec(self.rollup_state, one, _COMPACT | _LARGE),
        ]


def leases_beside(usage: str) -> str:
    """The leases topic that belongs to a usage topic."""
    return usage.removesuffix(_USAGE) + _LEASES


def _delete(days: int, policy: str = "delete") -> dict[str, str]:
    return {"cleanup.policy": policy, "retention.ms": str(days * _DAY_MS)}
