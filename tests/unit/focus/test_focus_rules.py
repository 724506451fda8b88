"""The checker finds every kind of broken rule, and rows made from charges break none."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from sluice.focus.cells import text_of
from sluice.focus.columns import COLUMNS
from sluice.focus.focus_rules import RULES, check_file
from sluice.focus.rows import Charge, focus_row, unit_of

NAMES = [column.name for column in COLUMNS]
HOUR = 3_600_000_000
OCTOBER = 1_790_812_800_000_000
NOVEMBER = OCTOBER + 31 * 24 * HOUR


def charge(**over: Any) -> Charge:
    """An hour's input tokens of one model."""
    fields: dict[str, Any] = {
        "tenant_id": "acme", "project_id": "chat", "provider_name": "openai",
        "operation_name": "chat", "model": "m", "tool": "", "region": "eu", "service_tier": "",
        "cost_source": "estimate", "price_book_version": "v", "kind": "usage",
        "period_start": OCTOBER, "period_end": OCTOBER + HOUR, "billing_start": OCTOBER,
        "key": "input", "unit_price_pusd": 250_000, "quantity": 1000, "cost_pusd": 250_000_000,
        "events": 3,
    }  # fmt: skip
    return Charge(**(fields | over))


def cells(made: Charge, **over: str) -> dict[str, str]:
    """The row of a charge as cells."""
    row = focus_row(made, "Sluice")
    return {name: text_of(row[name]) for name in NAMES} | over


def broken(*rows: dict[str, str], names: list[str] | None = None) -> set[str]:
    """Ids of the rules that rows break."""
    return {violation.rule for violation in check_file(names or NAMES, rows)}


USAGE = charge()
CORRECTION = charge(kind="correction", billing_start=NOVEMBER, quantity=-5, cost_pusd=-7,
                    unit_price_pusd=None)  # fmt: skip
ADJUSTMENT = charge(kind="correction", quantity=0, cost_pusd=-7, unit_price_pusd=None)


@pytest.mark.parametrize("made", [
    USAGE, CORRECTION, ADJUSTMENT,
    charge(unit_price_pusd=None, cost_pusd=1, quantity=3),
    charge(key="kv_byte_ms", unit_price_pusd=None, cost_pusd=10**18 + 1, quantity=10**27 + 7),
    charge(key="gpu_us", unit_price_pusd=None, cost_pusd=12_345, quantity=1_234_567),
    charge(cost_pusd=-1, unit_price_pusd=None), charge(quantity=0, unit_price_pusd=None),
    charge(billing_start=NOVEMBER), charge(project_id="", region="", model="", tool="search"),
])  # fmt: skip
def test_rows_break_no_rule(made: Charge) -> None:
    """Whatever the charge, its row keeps the rules and its exact cost."""
    row = cells(made)
    assert list(check_file(NAMES, [row])) == []
    assert Decimal(row["BilledCost"]) == Decimal(made.cost_pusd).scaleb(-12)


@pytest.mark.parametrize(("rule", "made", "change"), [
    ("NumericFormat", USAGE, {"BilledCost": "+1"}),
    ("NumericFormat", USAGE, {"BilledCost": "1,000"}),
    ("DateTimeFormat", USAGE, {"ChargePeriodStart": "2026-10-01 00:00:00"}),
    ("KeyValueFormat", USAGE, {"Tags": '{"a":[1]}'}),
    ("KeyValueFormat", USAGE, {"Tags": '{"a":1,"a":2}'}),
    ("KeyValueFormat", USAGE, {"Tags": "[]"}),
    ("StringHandling", USAGE, {"ServiceName": "  "}),
    ("NullHandling", USAGE, {"ProviderName": ""}),
    ("AllowedValues", USAGE, {"ServiceSubcategory": "Generative"}),
    ("AllowedValues", USAGE, {"BillingCurrency": "usd"}),
    ("ListUnitPrice-C-005-C", USAGE, {"ListUnitPrice": ""}),
    ("ListUnitPrice-C-008-M", CORRECTION, {"ListUnitPrice": "-1"}),
    ("ListUnitPrice-C-010-C", USAGE, {"ListCost": "0.000250000001"}),
    ("ContractedUnitPrice-C-011-C", USAGE, {"ContractedUnitPrice": "0.00000026"}),
    ("ListCost-C-008-C", ADJUSTMENT, {"ListCost": "1"}),
    ("EffectiveCost-C-010-C", ADJUSTMENT, {"EffectiveCost": "1"}),
    ("PricingQuantity-C-005-C", USAGE, {"PricingQuantity": "", "PricingUnit": ""}),
    ("PricingUnit-C-005-C", ADJUSTMENT, {"PricingQuantity": ""}),
    ("PricingUnit-C-006-C", USAGE, {"PricingUnit": ""}),
    ("PricingCategory-C-004-C", USAGE, {"PricingCategory": ""}),
    ("ConsumedQuantity-C-004-C", ADJUSTMENT, {"ConsumedQuantity": "1", "ConsumedUnit": "Tokens"}),
    ("ConsumedQuantity-C-006-C", USAGE, {"ConsumedQuantity": "", "ConsumedUnit": ""}),
    ("ConsumedUnit-C-006-C", USAGE, {"ConsumedUnit": ""}),
    ("SkuId-C-005-C", USAGE, {"SkuId": "", "SkuMeter": ""}),
    ("SkuMeter-C-004-C", CORRECTION, {"SkuId": ""}),
    ("SkuPriceId-C-005-C", USAGE, {"SkuPriceId": "", "SkuPriceDetails": ""}),
    ("SkuPriceDetails-C-004-C", CORRECTION, {"SkuPriceId": ""}),
    ("SkuPriceDetails-C-017-C", USAGE, {"SkuPriceDetails": '{"Own":1}'}),
    ("SubAccountName-C-005-C", USAGE, {"SubAccountName": ""}),
    ("SubAccountType-C-004-C", USAGE, {"SubAccountId": "", "SubAccountName": ""}),
    ("RegionName-C-004-C", USAGE, {"RegionId": ""}),
    ("BilledCost-C-005-C", USAGE, {"InvoiceIssuerName": "Another"}),
    ("BillingPeriodEnd-C-004-M", USAGE, {"BillingPeriodEnd": "2026-11-02T00:00:00Z"}),
    ("ChargePeriodEnd-C-004-M", USAGE, {"ChargePeriodEnd": "2026-10-01T00:00:00Z"}),
    ("ChargeClass-C-003-C", USAGE, {"ChargeClass": "Correction"}),
    ("ChargeClass-C-004-C", CORRECTION, {"ChargeClass": ""}),
    ("ListUnitPrice-C-004-C", USAGE, {"ChargeCategory": "Tax"}),
    ("ChargeFrequency-C-004-C", USAGE, {"ChargeCategory": "Purchase"}),
    ("CommitmentDiscountName-C-004-C", USAGE, {"CommitmentDiscountName": "x"}),
    ("CapacityReservationStatus-C-003-C", USAGE, {"CapacityReservationStatus": "Used"}),
])  # fmt: skip
def test_a_broken_rule_is_found(rule: str, made: Charge, change: dict[str, str]) -> None:
    """One changed cell is enough to be named with the specification's rule."""
    assert rule in broken(cells(made, **change))


def test_one_sku_price_has_one_sku() -> None:
    """A SKU price that names two SKUs, or a service of two kinds, is found across rows."""
    first, second = cells(USAGE), cells(USAGE, SkuId="other")
    assert broken(first, second) == {"SkuPriceId-C-008-M"}
    assert broken(first, cells(USAGE, ServiceSubcategory="Bots")) == {"ServiceName-C-008-C"}


def test_the_header_is_checked() -> None:
    """Missing, unknown, misplaced and repeated columns are found."""
    without = [name for name in NAMES if name != "ListCost"]
    assert broken(names=without) == {"CostAndUsage-D-000-M"}
    assert broken(names=[*NAMES, "Extra"]) == {"ColumnHandling"}
    assert broken(names=[*NAMES, "Tags"]) == {"ColumnHandling"}


def test_rule_ids_are_distinct() -> None:
    """No rule is listed twice."""
    ids = [rule.id for rule in RULES]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("key", "unit"), [
    ("input", "Tokens"), ("cache_write_3600", "Tokens"), ("input_image", "Tokens"),
    ("input_images", "Images"), ("images_512", "Images"), ("output_characters", "Characters"),
    ("annotated_pages", "Pages"), ("request", "Requests"), ("web_search", "Requests"),
    ("unclassified", "Requests"), ("gpu_us", "Seconds"), ("kv_byte_ms", "B-Seconds"),
    ("video_seconds_milli_480p", "Seconds"), ("input_audio_seconds_milli", "Seconds"),
])  # fmt: skip
def test_classes_have_units(key: str, unit: str) -> None:
    """Every kind of class is counted in a unit of the specification's format."""
    assert unit_of(key).name == unit
