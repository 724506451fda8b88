"""From stored charges to FOCUS rows.

A tenant is the billing account, a project its sub account. One row is one priced class of a model
in one charge period at one unit price. How charges become rows:

| charge | ChargeCategory | ChargeClass | unit prices |
|---|---|---|---|
| usage | Usage | null | cost / quantity |
| usage that came after its month was closed | Usage | Correction | cost / quantity |
| correction of a closed month | Usage | Correction | null |
| correction within the open month | Adjustment | null | null |
| usage that no unit price explains (negative, or of no quantity) | Adjustment | null | null |

The specification keeps ChargeClass for corrections of periods that were already invoiced; what is
corrected earlier must have none. A closed month stays as it was: what comes later is billed in the
month in which it came.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import NamedTuple

from sluice.focus.columns import PRICE_PLACES, QUANTITY_PLACES, SERVICE_CATEGORY
from sluice.money import usd

Value = str | Decimal | datetime | None
FocusRow = dict[str, Value]

_EXACT = Context(prec=80, rounding=ROUND_HALF_EVEN)
_QUANTITY_STEP = Decimal(1).scaleb(-QUANTITY_PLACES)
_PRICE_STEP = Decimal(1).scaleb(-PRICE_PLACES)
# OTel gen_ai.operation.name -> ServiceName, ServiceSubcategory
_SERVICES = {
    "embeddings": ("Embeddings", "Machine Learning"),
    "execute_tool": ("Tool calls", "Other (AI and Machine Learning)"),
}
_INFERENCE = ("Model inference", "Generative AI")
# What classes count, where their names say it; input_image are tokens, input_images are images.
_NOUNS = frozenset({"images", "pixels", "characters", "pages", "queries", "messages", "credits"})
_TOKEN_CLASSES = ("input", "output", "cache_read", "cache_write", "reasoning")


class Unit(NamedTuple):
    """Unit of a priced class in the file, and how many stored units make one of it."""

    name: str
    stored: int


class Charge(NamedTuple):
    """A sum of stored charges: amounts in the unit of the class and pico-USD, instants µs UTC.

    `unit_price_pusd` is null where the charges have no whole price per stored unit.
    """

    tenant_id: str
    project_id: str
    provider_name: str
    operation_name: str
    model: str
    tool: str
    region: str
    service_tier: str
    cost_source: str
    price_book_version: str
    kind: str  # usage, correction
    period_start: int
    period_end: int
    billing_start: int
    key: str
    unit_price_pusd: int | None
    quantity: int
    cost_pusd: int
    events: int


def unit_of(key: str) -> Unit:
    """The unit of a class; time in seconds, bytes held over time in byte-seconds."""
    if key.endswith("byte_ms"):
        return Unit("B-Seconds", 1000)
    if key.endswith("_us"):
        return Unit("Seconds", 1_000_000)
    if "seconds_milli" in key:
        return Unit("Seconds", 1000)
    noun = next((word for word in key.split("_") if word in _NOUNS), None)
    if noun is not None:
        return Unit(noun.capitalize(), 1)
    return Unit("Tokens" if key.startswith(_TOKEN_CLASSES) else "Requests", 1)


def focus_row(charge: Charge, issuer: str) -> FocusRow:
    """The row of a charge, every column filled; `issuer` sells and invoices."""
    late = _month(charge.period_start)[0] != charge.billing_start
    priced = charge.kind == "usage" and charge.quantity > 0 and charge.cost_pusd >= 0
    category = "Usage" if late or priced else "Adjustment"
    return {
        **_who(charge, issuer),
        **_when(charge),
        "ChargeCategory": category,
        "ChargeClass": "Correction" if late else None,
        "ChargeDescription": _description(charge),
        "ChargeFrequency": "Usage-Based" if priced else "One-Time",
        **_amounts(charge, category, priced=priced),
        **_sku(charge),
        **_own(charge),
        **_ABSENT,
    }


# What Sluice has no notion of.
_ABSENT: FocusRow = dict.fromkeys((
    "AvailabilityZone", "CapacityReservationId", "CapacityReservationStatus",
    "CommitmentDiscountCategory", "CommitmentDiscountId", "CommitmentDiscountName",
    "CommitmentDiscountQuantity", "CommitmentDiscountStatus", "CommitmentDiscountType",
    "CommitmentDiscountUnit", "InvoiceId", "ResourceId", "ResourceName", "ResourceType",
))  # fmt: skip


def _who(charge: Charge, issuer: str) -> FocusRow:
    service, subcategory = _SERVICES.get(charge.operation_name, _INFERENCE)
    tags = {"project": charge.project_id} | ({"tool": charge.tool} if charge.tool else {})
    return {
        "BillingAccountId": charge.tenant_id,
        "BillingAccountName": charge.tenant_id,
        "BillingAccountType": "Tenant",
        "SubAccountId": charge.project_id or None,
        "SubAccountName": charge.project_id or None,
        "SubAccountType": "Project" if charge.project_id else None,
        "ProviderName": issuer,
        "InvoiceIssuerName": issuer,
        "PublisherName": charge.provider_name or issuer,
        "RegionId": charge.region or None,
        "RegionName": charge.region or None,
        "ServiceCategory": SERVICE_CATEGORY,
        "ServiceName": service,
        "ServiceSubcategory": subcategory,
        "Tags": _json({name: tag for name, tag in tags.items() if tag}),
    }


def _when(charge: Charge) -> FocusRow:
    billing_start, billing_end = _month(charge.billing_start)
    return {
        "BillingPeriodStart": _instant(billing_start),
        "BillingPeriodEnd": _instant(billing_end),
        "ChargePeriodStart": _instant(charge.period_start),
        "ChargePeriodEnd": _instant(charge.period_end),
    }


def _amounts(charge: Charge, category: str, *, priced: bool) -> FocusRow:
    unit = unit_of(charge.key)
    quantity = _EXACT.divide(Decimal(charge.quantity), unit.stored).quantize(
        _QUANTITY_STEP, context=_EXACT
    )
    cost = usd(charge.cost_pusd)
    price = _unit_price(charge, unit) if priced else None
    consumed = category == "Usage"
    return {
        **dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost",
                         "PricingCurrencyEffectiveCost"), cost),
        **dict.fromkeys(("ListUnitPrice", "ContractedUnitPrice", "PricingCurrencyListUnitPrice",
                         "PricingCurrencyContractedUnitPrice"), price),
        "BillingCurrency": "USD",
        "PricingCurrency": "USD",
        "PricingCategory": "Standard",
        "PricingQuantity": quantity,
        "PricingUnit": unit.name,
        "ConsumedQuantity": quantity if consumed else None,
        "ConsumedUnit": unit.name if consumed else None,
    }  # fmt: skip


def _unit_price(charge: Charge, unit: Unit) -> Decimal:
    """USD per unit: exact where the charges share one, else the mean to PRICE_PLACES decimals."""
    if charge.unit_price_pusd is not None:
        return usd(charge.unit_price_pusd * unit.stored)
    stored = _EXACT.divide(usd(charge.cost_pusd), charge.quantity)
    return _EXACT.multiply(stored, unit.stored).quantize(_PRICE_STEP, context=_EXACT)


def _sku(charge: Charge) -> FocusRow:
    tier = charge.service_tier or "standard"
    sku = f"{charge.provider_name}/{charge.model or charge.tool}/{charge.key}"
    billed = "/billed" if charge.cost_source == "provider" else ""
    details = {"x_Class": charge.key, "x_Offering": charge.model or charge.tool,
               "x_ServiceTier": tier}  # fmt: skip
    return {
        "SkuId": sku,
        "SkuMeter": f"{_words(charge.key)} {unit_of(charge.key).name}",
        "SkuPriceId": f"{sku}/{tier}{billed}",
        "SkuPriceDetails": _json(details),
    }


def _own(charge: Charge) -> FocusRow:
    return {
        "x_ChargeKind": charge.kind,
        "x_CostSource": charge.cost_source,
        "x_Events": Decimal(charge.events),
        "x_Model": charge.model or None,
        "x_OperationName": charge.operation_name,
        "x_PriceBookVersion": charge.price_book_version or None,
        "x_ServiceTier": charge.service_tier or None,
        "x_TokenClass": charge.key,
        "x_ToolName": charge.tool or None,
    }


def _description(charge: Charge) -> str:
    what = f"{charge.model or charge.tool}, {charge.key.replace('_', ' ')}"
    where = f" in tool {charge.tool}" if charge.tool and charge.model else ""
    return f"{'Correction of ' if charge.kind == 'correction' else ''}{what}{where}"


def _words(key: str) -> str:
    return key.replace("_", " ").title()


def _json(fields: dict[str, str]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def _instant(at: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)


def _month(at: int) -> tuple[int, int]:
    """Start and end of the calendar month (UTC) that an instant lies in, µs."""
    start = _instant(at).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = (start + timedelta(days=32)).replace(day=1)
    return int(start.timestamp()) * 1_000_000, int(end.timestamp()) * 1_000_000
