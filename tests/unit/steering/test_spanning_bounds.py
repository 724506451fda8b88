"""Budgets that span tenants, as people are told them."""

from __future__ import annotations

from typing import Any

from tests.unit.admission.messages import MINUTE_US, NOW, budget_rule, decision, key_of, rule_key
from tests.unit.steering.test_explaining import EVIDENCE, STORED, USD, standing, view

from sluice.steering.bounds import Ceiling, bounds, ceilings
from sluice.steering.control import Standing
from sluice.steering.explaining import known, tell_decision, tell_scope, tell_stored
from sluice.steering.ledgers import LedgerView


def spanning(budget: str, scope: str = "", **over: Any) -> LedgerView:
    """A ledger of a budget that spans tenants."""
    return view(budget_id=budget, scope=scope, tenant_id="", **over)


def in_force(budget: str, *where: tuple[str, str], **over: Any) -> tuple[bytes, bytes]:
    """The rule of a budget, as the owner of those that span tenants says it."""
    pairs = [{"key": name, "value": value} for name, value in where]
    fields = {"budget_id": budget, "scope": [], "where": pairs, "source_partition": 4}
    return rule_key(budget, 4), budget_rule(**fields | over)


def test_a_tenant_is_bound_by_budgets_that_span_tenants_too() -> None:
    """Those that its requests can meet are told before its own, each with whom it is about."""
    topic = standing(in_force("pool", ("pool", "large")), in_force("model"), in_force("all"),
                     (rule_key("b"), budget_rule()))  # fmt: skip
    ledgers = [view(), spanning("all"), spanning("model", "model=gpt-x"), spanning("pool"),
               view(tenant_id="other", scope="tenant_id=other")]  # fmt: skip
    asked = {"tenant_id": "acme", "model": "gpt-x"}
    assert [bound.whose for bound in bounds(topic, ledgers, asked, None, NOW)] == [
        "all tenants", "model=gpt-x", "all tenants, pool=large", "tenant_id=acme",
    ]  # fmt: skip
    elsewhere = {"tenant_id": "acme", "model": "gpt-y", "pool": "small"}
    assert [bound.ledger.name.budget_id for bound in bounds(topic, ledgers, elsewhere, None, NOW)
            ] == ["all", "b"]  # fmt: skip
    assert len(bounds(topic, ledgers, {}, None, NOW)) == 5


def test_a_ledger_of_one_tenant_without_a_scope_is_not_of_another() -> None:
    """A budget that only matches a tenant belongs to it and spans nothing."""
    ledger = view(scope="")
    assert (ledger.spans_tenants, ledger.whose) == (False, "tenant_id=acme")
    assert bounds(Standing(), [ledger], {"tenant_id": "other"}, None, NOW) == []


def left(found: list[Ceiling]) -> list[tuple[str, int, int | None]]:
    """Budget, amount and end of ceilings."""
    return [(one.bound.ledger.name.budget_id, one.amount, one.until) for one in found]


def test_the_smallest_bound_on_all_requests_of_a_scope_is_its_ceiling() -> None:
    """Of a tenant's own budget and one of all tenants the one with less left holds, per unit."""
    end = NOW + 60 * MINUTE_US
    topic = standing(in_force("all"), in_force("model"), (rule_key("b"), budget_rule()),
                     in_force("tokens", unit="tokens"), in_force("many", unit="concurrency"),
                     in_force("tried", mode="shadow"))  # fmt: skip
    own = view(settled_pusd=USD // 4)
    all_of_them = spanning("all", limit_pusd=9 * USD, settled_pusd=(9 * USD) - 5)
    tokens = {"unit": "tokens", "limit": 10, "settled": 4, "reserved": 0, "presumed": 0,
              "corrected": 0, "remaining": 6, "period": "rolling"}  # fmt: skip
    ledgers = [
        own, all_of_them, spanning("model", "model=m", settled_pusd=USD), spanning("tried"),
        spanning("tokens", **tokens), spanning("many", **tokens | {"unit": "concurrency"}),
        spanning("withdrawn", settled_pusd=USD),
    ]  # fmt: skip

    def most(**scope: str) -> list[tuple[str, int, int | None]]:
        return left(ceilings(topic, bounds(topic, ledgers, scope, None, NOW), scope))

    assert most(tenant_id="acme") == [("all", 5, end), ("tokens", 6, None)]
    assert most(tenant_id="acme", model="m") == [("model", 0, end), ("tokens", 6, None)]
    assert most() == [("all", 5, end), ("tokens", 6, None)]
    all_of_them = spanning("all", limit_pusd=9 * USD, settled_pusd=0)
    ledgers[1] = all_of_them
    assert most(tenant_id="acme")[0] == ("b", 3 * USD // 4, end)
    (first, _) = ceilings(topic, bounds(topic, ledgers, {}, None, NOW), {})
    assert first.as_dict() == {
        "unit": "pusd", "amount": 9 * USD, "until": end, "policy_id": "p", "budget_id": "all",
        "scope": "", "tenant_id": "",
    }  # fmt: skip


def test_a_soft_budget_that_spans_tenants_is_obeyed_later() -> None:
    """Usage is first told to its owner; what is not measured is no ceiling."""
    topic = standing(in_force("all", hard=False))
    ledger = spanning("all", burn=[{"key": "5m", "value": 300 * USD}])
    found = bounds(topic, [ledger, view()], {}, 50_000, NOW, 100_000)
    assert [bound.loop_delay_us for bound in found] == [150_000, 50_000]
    assert left(ceilings(topic, found, {})) == [("all", 15 * USD // 100, NOW + 60 * MINUTE_US)]
    unmeasured = bounds(topic, [ledger], {}, None, NOW, 100_000)
    assert unmeasured[0].loop_delay_us is None
    assert ceilings(topic, unmeasured, {}) == []


def test_a_block_of_all_tenants_is_told_with_a_raise_that_can_be_typed() -> None:
    """A decision without a tenant meets any tenant; its raise names the scope `all`."""
    key = key_of("b", "")
    topic = standing((key, decision(rule_id="b", evidence=EVIDENCE, scope={})))
    of = known(topic, [spanning("b")])
    (told,) = tell_scope(of, {"tenant_id": "acme"}, NOW)
    assert tell_scope(of, {}, NOW) == [told] == [tell_decision(of, "id-block", NOW)]
    assert told.ways_out[1].startswith(
        "a limit of 2.000001 USD: sluice budget raise p b --scope all --add 1.000001 "
    )
    past = tell_stored(STORED | {"tenant_id": None, "scope": ""}, None, NOW)
    assert past.sentence.startswith("block for all tenants, expired")
    assert past.as_dict()["scope"] == ""
