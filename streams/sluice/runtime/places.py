"""Where partitions are read, and where their state and their outputs go."""

from __future__ import annotations

from typing import NamedTuple

from sluice.wire.topics import Topics


class Place(NamedTuple):
    """One partition of input and changelog, and the partition `number` of its outputs.

    `app` names the transactions of its owners.
    """

    app: str
    source: str
    partition: int
    changelog: str
    number: int

    @property
    def of_tenants(self) -> bool:
        """Whether tenants have their usage there; else what spans tenants is kept there."""
        return self.app == "meter"


def usage_place(topics: Topics, number: int) -> Place:
    """A partition of usage."""
    return Place("meter", topics.usage, number, topics.meter_state, number)


def across_place(topics: Topics, partition: int = 0) -> Place:
    """The only partition of what budgets that span tenants are told."""
    return Place("rollup", topics.leases, partition, topics.rollup_state, topics.across)
