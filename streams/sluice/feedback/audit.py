"""The audit: a recount, raw events, windows and ledgers must say the same to the last digit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sluice.feedback.recount import MEASURES, LedgerName, Sums


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored: sums per tenant by table, and what each ledger has settled."""

    tables: Mapping[str, Sums]
    ledgers: Mapping[LedgerName, int]


@dataclass(frozen=True, slots=True)
class Audit:
    """Sums by place where they were found, every difference as a sentence, producers with holes."""

    sums: Mapping[str, Sums]
    ledgers: int
    differences: list[str]
    holes: Sequence[Mapping[str, Any]]

    @property
    def equal(self) -> bool:
        """Whether all places agree."""
        return not self.differences

    def totals(self) -> dict[str, dict[str, int]]:
        """Sums over all tenants, by place and measure."""
        return {
            place: {m: sum(of[m] for of in sums.values()) for m in MEASURES}
            for place, sums in self.sums.items()
        }


def audit(
    counted: Sums, charged: Mapping[LedgerName, int], stored: Stored,
    holes: Sequence[Mapping[str, Any]],
) -> Audit:  # fmt: skip
    """Hold a recount against what is stored."""
    sums = {"recount": counted, **stored.tables}
    differences = [*_sums_differ(sums), *_ledgers_differ(charged, stored.ledgers)]
    return Audit(sums, len(charged), differences, holes)


def _sums_differ(sums: Mapping[str, Sums]) -> Iterator[str]:
    tenants = sorted({tenant for of in sums.values() for tenant in of})
    for tenant in tenants:
        for measure in MEASURES:
            found = {
                place: of[tenant][measure] if tenant in of else 0 for place, of in sums.items()
            }
            if len(set(found.values())) > 1:
                told = ", ".join(f"{place} {value}" for place, value in found.items())
                yield f"{tenant} {measure}: {told}"


def _ledgers_differ(
    charged: Mapping[LedgerName, int], stored: Mapping[LedgerName, int]
) -> Iterator[str]:
    for name in sorted(charged.keys() | stored.keys()):
        recount, ledger = charged.get(name), stored.get(name)
        if (recount or 0) != (ledger or 0):
            place = f"{name.scope} {name.policy_id}/{name.budget_id} {name.period}"
            yield f"{place} settled: recount {recount or 0}, ledger {ledger or 0}"
