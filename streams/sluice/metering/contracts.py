"""What a tenant pays of list prices: a multiplier per tenant, provider and model."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal

# At most a thousandfold, in billionths: a discount is never finer.
MULTIPLIER = re.compile(r"(?:0|[1-9]\d{0,2})(?:\.\d{1,9})?")


@dataclass(frozen=True)
class Contract:
    """Multiplies the list price of a tenant's usage, of one provider and model or of any.

    `ratio` is the multiplier as numerator and denominator. Of several contracts the most specific
    one counts; prices that a book states for the tenant alone are final.

    Raises ValueError for a multiplier that a book file could not hold.
    """

    tenant_id: str
    multiplier: Decimal
    provider: str | None = None
    model: str | None = None
    effective_from: int | None = None
    effective_to: int | None = None
    ratio: tuple[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not MULTIPLIER.fullmatch(self.text):
            raise ValueError(f"{self.multiplier} is no multiplier of a contract")
        object.__setattr__(self, "ratio", self.multiplier.as_integer_ratio())

    @property
    def text(self) -> str:
        """The multiplier as a book file has it: equal multipliers have equal texts."""
        digits = f"{self.multiplier:f}"
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
