"""The columns of a FOCUS 1.2 cost and usage dataset, and ours behind them.

Source: FOCUS Specification 1.2 (29 May 2025, FinOps Open Cost and Usage Specification, Joint
Development Foundation), "Columns": data type, nullability and allowed values of each. All columns
are present, also those that describe what Sluice does not have (commitments, capacity
reservations); they are null.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

Kind = Literal["text", "decimal", "time", "json"]

COST_PLACES = 12  # a pico-dollar
PRICE_PLACES = 30
QUANTITY_PLACES = 6


class Column(NamedTuple):
    """One column; `places` are the decimals that a number of it has at most."""

    name: str
    kind: Kind = "text"
    nullable: bool = True
    allowed: frozenset[str] | None = None
    places: int = 0


def _text(name: str, *allowed: str, nullable: bool = True) -> Column:
    return Column(name, "text", nullable, frozenset(allowed) or None)


def _cost(name: str) -> Column:
    return Column(name, "decimal", nullable=False, places=COST_PLACES)


def _price(name: str) -> Column:
    return Column(name, "decimal", places=PRICE_PLACES)


def _quantity(name: str) -> Column:
    return Column(name, "decimal", places=QUANTITY_PLACES)


def _time(name: str) -> Column:
    return Column(name, "time", nullable=False)


# Of the specification's list, the subcategories that belong to our one category.
SERVICE_SUBCATEGORIES = frozenset({
    "AI Platforms", "Bots", "Generative AI", "Machine Learning", "Natural Language Processing",
    "Other (AI and Machine Learning)",
})  # fmt: skip
SERVICE_CATEGORY = "AI and Machine Learning"

FOCUS_COLUMNS: tuple[Column, ...] = (
    _text("AvailabilityZone"),
    _cost("BilledCost"),
    _text("BillingAccountId", nullable=False),
    _text("BillingAccountName"),
    _text("BillingAccountType"),
    _text("BillingCurrency", "USD", nullable=False),
    _time("BillingPeriodEnd"),
    _time("BillingPeriodStart"),
    _text("CapacityReservationId"),
    _text("CapacityReservationStatus", "Used", "Unused"),
    _text("ChargeCategory", "Usage", "Purchase", "Tax", "Credit", "Adjustment", nullable=False),
    _text("ChargeClass", "Correction"),
    _text("ChargeDescription"),
    _text("ChargeFrequency", "One-Time", "Recurring", "Usage-Based", nullable=False),
    _time("ChargePeriodEnd"),
    _time("ChargePeriodStart"),
    _text("CommitmentDiscountCategory", "Spend", "Usage"),
    _text("CommitmentDiscountId"),
    _text("CommitmentDiscountName"),
    _quantity("CommitmentDiscountQuantity"),
    _text("CommitmentDiscountStatus", "Used", "Unused"),
    _text("CommitmentDiscountType"),
    _text("CommitmentDiscountUnit"),
    _quantity("ConsumedQuantity"),
    _text("ConsumedUnit"),
    _cost("ContractedCost"),
    _price("ContractedUnitPrice"),
    _cost("EffectiveCost"),
    _text("InvoiceId"),
    _text("InvoiceIssuerName", nullable=False),
    _cost("ListCost"),
    _price("ListUnitPrice"),
    _text("PricingCategory", "Standard", "Dynamic", "Committed", "Other"),
    _text("PricingCurrency", "USD", nullable=False),
    _price("PricingCurrencyContractedUnitPrice"),
    _cost("PricingCurrencyEffectiveCost"),
    _price("PricingCurrencyListUnitPrice"),
    _quantity("PricingQuantity"),
    _text("PricingUnit"),
    _text("ProviderName", nullable=False),
    _text("PublisherName", nullable=False),
    _text("RegionId"),
    _text("RegionName"),
    _text("ResourceId"),
    _text("ResourceName"),
    _text("ResourceType"),
    _text("ServiceCategory", SERVICE_CATEGORY, nullable=False),
    _text("ServiceName", nullable=False),
    Column("ServiceSubcategory", "text", nullable=False, allowed=SERVICE_SUBCATEGORIES),
    _text("SkuId"),
    _text("SkuMeter"),
    Column("SkuPriceDetails", "json"),
    _text("SkuPriceId"),
    _text("SubAccountId"),
    _text("SubAccountName"),
    _text("SubAccountType"),
    Column("Tags", "json"),
)

OWN_COLUMNS: tuple[Column, ...] = (
    _text("x_ChargeKind", "usage", "correction", nullable=False),
    _text("x_CostSource", "provider", "contract", "estimate", nullable=False),
    Column("x_Events", "decimal", nullable=False),
    _text("x_Model"),
    _text("x_OperationName", nullable=False),
    _text("x_PriceBookVersion"),
    _text("x_ServiceTier"),
    _text("x_TokenClass", nullable=False),
    _text("x_ToolName"),
)

COLUMNS: tuple[Column, ...] = FOCUS_COLUMNS + OWN_COLUMNS
BY_NAME: Mapping[str, Column] = MappingProxyType({column.name: column for column in COLUMNS})
