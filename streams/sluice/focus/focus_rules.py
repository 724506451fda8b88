"""The rules of FOCUS 1.2 that a file can be checked against, and whether one keeps them.

Rule ids are those of the Foundation's rule model 1.2.0.1; the sentences are in the specification's
column chapters. Rules about what no file shows (whether an invoice exists) are left out. Where the
specification says that a product matches a cost, it matches here to half a pico-dollar, or to what
half a unit of the last place of the unit price amounts to, whichever is more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Context, Decimal
from typing import Any, NamedTuple

from sluice.focus.cells import CellError, value_of
from sluice.focus.columns import BY_NAME, COLUMNS, COST_PLACES, FOCUS_COLUMNS, PRICE_PLACES

_EXACT = Context(prec=100)
_HALF_PUSD = Decimal(5).scaleb(-COST_PLACES - 1)
_HALF_PRICE_STEP = Decimal(5).scaleb(-PRICE_PLACES - 1)

Row = Mapping[str, Any]


class Violation(NamedTuple):
    """A broken rule; `line` counts rows from 1, 0 is the file."""

    line: int
    rule: str
    detail: str

    def __str__(self) -> str:
        place = f"row {self.line}: " if self.line else ""
        return f"{place}{self.rule}: {self.detail}"


class Rule(NamedTuple):
    """A rule over the values of one row: it is kept unless `broken` says so."""

    id: str
    detail: str
    broken: Callable[[Row], bool]


def check_file(names: Sequence[str], rows: Iterable[Mapping[str, str]]) -> Iterator[Violation]:
    """Everything that breaks a rule, in the order of the file; `rows` hold cells as text."""
    yield from _check_header(names)
    if not {column.name for column in FOCUS_COLUMNS} <= set(names):
        return
    parents = {name: _Parents(*rule) for name, rule in _ONE_PARENT.items()}
    for line, cells in enumerate(rows, 1):
        faults, row = _values(line, cells)
        yield from faults
        if faults:
            continue
        yield from (Violation(line, r.id, r.detail) for r in RULES if r.broken(row))
        for name, seen in parents.items():
            yield from seen.check(line, name, row)


def _check_header(names: Sequence[str]) -> Iterator[Violation]:
    for column in FOCUS_COLUMNS:
        if column.name not in names:
            yield Violation(0, "CostAndUsage-D-000-M", f"{column.name} is missing")
    custom_seen = False
    for name in names:
        custom = name.startswith("x_")
        if not custom and name not in BY_NAME:
            yield Violation(0, "ColumnHandling", f"{name}: custom columns begin with x_")
        if custom_seen and not custom:
            yield Violation(0, "ColumnHandling", f"{name} stands behind a custom column")
        custom_seen |= custom
    for name in {name for name in names if names.count(name) > 1}:
        yield Violation(0, "ColumnHandling", f"{name} is there twice")


def _values(line: int, cells: Mapping[str, str]) -> tuple[list[Violation], dict[str, Any]]:
    faults, row = [], {}
    for column in COLUMNS:
        name = column.name
        try:
            value = row[name] = value_of(column, cells.get(name, ""))
        except CellError as error:
            faults.append(Violation(line, error.rule, f"{name}: {error}"))
            continue
        if value is None and not column.nullable:
            faults.append(Violation(line, "NullHandling", f"{name} is null"))
        elif value is not None and column.allowed is not None and value not in column.allowed:
            faults.append(Violation(line, "AllowedValues", f"{name}: {value}"))
    return faults, row


class _Parents:
    """Remembers the one value of another column that goes with each value of a column."""

    def __init__(self, rule: str, parent: str) -> None:
        self._rule = rule
        self._parent = parent
        self._seen: dict[str, Any] = {}

    def check(self, line: int, name: str, row: Row) -> Iterator[Violation]:
        """The violation, where this row gives a value a second parent."""
        value = row[name]
        if value is None:
            return
        if self._seen.setdefault(value, row[self._parent]) != row[self._parent]:
            yield Violation(line, self._rule, f"{name} {value} has more than one {self._parent}")


_ONE_PARENT = {
    "SkuPriceId": ("SkuPriceId-C-008-M", "SkuId"),
    "ServiceName": ("ServiceName-C-008-C", "ServiceSubcategory"),
    "SubAccountId": ("SubAccountName-C-005-C", "SubAccountName"),
    "BillingAccountId": ("BillingAccountName-C-003-C", "BillingAccountName"),
}


def _bought(row: Row) -> bool:
    return row["ChargeCategory"] in ("Usage", "Purchase") and row["ChargeClass"] != "Correction"


def _needed(name: str, rule: str) -> Rule:
    """Not null in usage and purchases that are no corrections."""
    return Rule(f"{name}-{rule}", f"{name} is null in usage",
                lambda row: row[name] is None and _bought(row))  # fmt: skip


def _not_in_tax(name: str, rule: str) -> Rule:
    return Rule(f"{name}-{rule}", f"{name} is given for a tax",
                lambda row: row[name] is not None and row["ChargeCategory"] == "Tax")  # fmt: skip


def _not_negative(name: str, rule: str) -> Rule:
    return Rule(f"{name}-{rule}", f"{name} is negative",
                lambda row: row[name] is not None and row[name] < 0)  # fmt: skip


def _together(name: str, other: str, null_rule: str, given_rule: str) -> tuple[Rule, Rule]:
    """`name` is null exactly where `other` is."""
    return (
        Rule(f"{name}-{null_rule}", f"{name} without {other}",
             lambda row: row[name] is not None and row[other] is None),
        Rule(f"{name}-{given_rule}", f"{other} without {name}",
             lambda row: row[name] is None and row[other] is not None),
    )  # fmt: skip


def _only_with(name: str, other: str, rule: str) -> Rule:
    return _together(name, other, rule, "")[0]


def _product(price: str, cost: str, rule: str) -> Rule:
    def broken(row: Row) -> bool:
        unit_price, quantity = row[price], row["PricingQuantity"]
        if unit_price is None or quantity is None or row["ChargeClass"] == "Correction":
            return False
        off = abs(_EXACT.multiply(unit_price, quantity) - row[cost])
        return bool(off > max(_HALF_PUSD, _EXACT.multiply(_HALF_PRICE_STEP, abs(quantity))))

    return Rule(rule, f"{price} times PricingQuantity is not {cost}", broken)


def _without_price(cost: str, price: str, rule: str) -> Rule:
    return Rule(rule, f"{cost} differs from BilledCost without {price}",
                lambda row: row[price] is None and row[cost] != row["BilledCost"])  # fmt: skip


def _is_month(row: Row) -> bool:
    start, end = row["BillingPeriodStart"], row["BillingPeriodEnd"]
    return _begins_month(start) and _begins_month(end) and 27 < (end - start).days < 32


def _begins_month(at: datetime) -> bool:
    return (at.day, at.hour, at.minute, at.second) == (1, 0, 0, 0)


def _within(row: Row) -> bool:
    return bool(
        row["BillingPeriodStart"] <= row["ChargePeriodStart"]
        and row["ChargePeriodEnd"] <= row["BillingPeriodEnd"]
    )


_SKU_PROPERTIES = frozenset({
    "CoreCount", "DiskMaxIops", "DiskSpace", "DiskType", "GpuCount", "InstanceType",
    "InstanceSeries", "MemorySize", "NetworkMaxIops", "NetworkMaxThroughput", "OperatingSystem",
    "Redundancy", "StorageClass",
})  # fmt: skip
_UNIT_PRICES = ("ListUnitPrice", "ContractedUnitPrice", "PricingCurrencyListUnitPrice",
                "PricingCurrencyContractedUnitPrice")  # fmt: skip
_PRICE_RULES = {  # null for a tax, not null in usage, not negative
    "ListUnitPrice": ("C-004-C", "C-005-C", "C-008-M"),
    "ContractedUnitPrice": ("C-005-C", "C-006-C", "C-009-C"),
    "PricingCurrencyListUnitPrice": ("C-004-C", "C-005-C", "C-008-M"),
    "PricingCurrencyContractedUnitPrice": ("C-004-C", "C-005-C", "C-008-C"),
}


def _price_rules() -> Iterator[Rule]:
    for name in _UNIT_PRICES:
        tax, needed, sign = _PRICE_RULES[name]
        yield _not_in_tax(name, tax)
        yield _needed(name, needed)
        yield _not_negative(name, sign)


RULES: tuple[Rule, ...] = (
    *_price_rules(),
    *(_not_in_tax(name, rule) for name, rule in (
        ("PricingQuantity", "C-004-C"), ("SkuId", "C-004-C"), ("SkuPriceId", "C-004-C"),
        ("PricingCategory", "C-003-C"))),
    *(_needed(name, rule) for name, rule in (
        ("PricingQuantity", "C-005-C"), ("SkuId", "C-005-C"), ("SkuPriceId", "C-005-C"),
        ("PricingCategory", "C-004-C"))),
    *_together("PricingUnit", "PricingQuantity", "C-005-C", "C-006-C"),
    *_together("ConsumedUnit", "ConsumedQuantity", "C-005-C", "C-006-C"),
    *_together("SubAccountName", "SubAccountId", "C-004-C", "C-005-C"),
    *_together("SubAccountType", "SubAccountId", "C-004-C", "C-005-C"),
    *_together("BillingAccountType", "BillingAccountId", "C-004-C", "C-005-C"),
    *_together("RegionName", "RegionId", "C-004-C", "C-005-C"),
    *_together("ResourceType", "ResourceId", "C-004-C", "C-005-C"),
    *_together("SkuMeter", "SkuId", "C-004-C", "C-005-C"),
    *_together("CommitmentDiscountCategory", "CommitmentDiscountId", "C-003-C", "C-004-C"),
    *_together("CommitmentDiscountType", "CommitmentDiscountId", "C-004-C", "C-005-C"),
    *_together("CommitmentDiscountUnit", "CommitmentDiscountQuantity", "C-005-C", "C-006-C"),
    _only_with("ResourceName", "ResourceId", "C-004-C"),
    _only_with("SkuPriceDetails", "SkuPriceId", "C-004-C"),
    _only_with("CommitmentDiscountName", "CommitmentDiscountId", "C-004-C"),
    _only_with("CommitmentDiscountStatus", "CommitmentDiscountId", "C-003-C"),
    _only_with("CapacityReservationStatus", "CapacityReservationId", "C-003-C"),
    Rule("ConsumedQuantity-C-004-C", "ConsumedQuantity outside of usage",
         lambda row: row["ConsumedQuantity"] is not None and row["ChargeCategory"] != "Usage"),
    Rule("ConsumedQuantity-C-006-C", "ConsumedQuantity is null in usage",
         lambda row: row["ConsumedQuantity"] is None and row["ChargeCategory"] == "Usage"
         and row["ChargeClass"] != "Correction"),
    _product("ListUnitPrice", "ListCost", "ListUnitPrice-C-010-C"),
    _product("ContractedUnitPrice", "ContractedCost", "ContractedUnitPrice-C-011-C"),
    _without_price("ListCost", "ListUnitPrice", "ListCost-C-008-C"),
    _without_price("ContractedCost", "ContractedUnitPrice", "ContractedCost-C-008-C"),
    Rule("EffectiveCost-C-010-C", "EffectiveCost differs from BilledCost in an adjustment",
         lambda row: row["ChargeCategory"] in ("Credit", "Adjustment")
         and row["EffectiveCost"] != row["BilledCost"]),
    Rule("BilledCost-C-005-C", "BilledCost is not 0 although another party is paid",
         lambda row: row["ProviderName"] != row["InvoiceIssuerName"] and row["BilledCost"] != 0),
    Rule("ChargeFrequency-C-004-C", "a purchase is usage-based",
         lambda row: row["ChargeCategory"] == "Purchase"
         and row["ChargeFrequency"] == "Usage-Based"),
    Rule("BillingPeriodEnd-C-004-M", "the billing period is not a calendar month",
         lambda row: not _is_month(row)),
    Rule("ChargePeriodEnd-C-004-M", "the charge period is empty",
         lambda row: row["ChargePeriodStart"] >= row["ChargePeriodEnd"]),
    Rule("ChargeClass-C-003-C", "a correction within the current billing period",
         lambda row: row["ChargeClass"] is not None and _within(row)),
    Rule("ChargeClass-C-004-C", "a charge of a former billing period that is no correction",
         lambda row: row["ChargeClass"] is None and not _within(row)),
    Rule("SkuPriceDetails-C-017-C", "a property neither is the specification's nor begins with x_",
         lambda row: any(not (key.startswith("x_") or key in _SKU_PROPERTIES)
                         for key in row["SkuPriceDetails"] or ())),
)  # fmt: skip
