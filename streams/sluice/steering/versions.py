"""Versions of policies: which were published, which are in force where, what differs, raises.

Publishing a version switches it on, also when it was published before; so the order in which
versions were last published is the order in which they were last switched on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import ValidationError

from sluice.enforcement.policy import Policy
from sluice.enforcement.policy_budget import Budget
from sluice.enforcement.units import UNITS, whole_amount
from sluice.errors import ConfigError, WireError
from sluice.settings import Settings
from sluice.steering.amounts import EVERY_SCOPE, amount_text
from sluice.steering.control import Standing
from sluice.wire.codec import decode
from sluice.wire.kafka import topics
from sluice.wire.scan import committed_records
from sluice.wire.scopes import ALL_TENANTS, scope_fields

_AMOUNTS = frozenset({"limit", "limit_pusd", "limits", "add"})
_NAMES = ("budget_id", "rule_id")


class Published(NamedTuple):
    """A policy version and when it was last published, µs UTC."""

    policy: Policy
    published_at: int


class Change(NamedTuple):
    """One value that differs between two policies; None = it is not there."""

    path: str
    before: str | None
    after: str | None


class Raised(NamedTuple):
    """A policy with a raise in it; limits of the scope before and after, in `unit`.

    `tenant_id` is whom the whole budget belongs to; empty where its scope says it, or all tenants.
    """

    policy: Policy
    scope: str
    before: int
    after: int
    unit: str
    tenant_id: str = ""


def read_versions(settings: Settings) -> list[Published]:
    """Every published policy version, the newest first; what cannot be read is left out."""
    held: dict[tuple[str, str], Published] = {}
    for record in committed_records(settings, topics(settings).policy):
        with suppress(WireError, ValueError):
            fields = decode(record.value or b"")[1]
            policy = Policy.from_json(fields["body"])
            held[policy.policy_id, policy.version] = Published(policy, fields["published_at"])
    return sorted(held.values(), key=lambda version: version.published_at, reverse=True)


def in_force(standing: Standing) -> dict[tuple[str, str], list[int]]:
    """Partitions in which each (policy, version) is in force, as their owners last said."""
    newest: dict[tuple[str, int], tuple[tuple[int, int], str]] = {}
    for key, rule in standing.state.budgets.by_key.items():
        partition = int(standing.records[key]["source_partition"])
        said = (rule.version, rule.policy_version)
        place = (rule.policy_id, partition)
        newest[place] = max(said, newest.get(place, said))
    found: dict[tuple[str, str], list[int]] = {}
    for (policy_id, partition), (_, version) in sorted(newest.items()):
        found.setdefault((policy_id, version), []).append(partition)
    return found


def tellers(policy: Policy, partitions: int) -> list[int]:
    """Partitions whose owners say a policy of so many usage partitions; the last spans tenants."""
    kinds = {budget.of_tenant for budget in policy.budgets}
    return [
        *(range(partitions) if True in kinds else ()),
        *([partitions] if False in kinds else ()),
    ]


def pick(versions: Iterable[Published], policy_id: str | None, version: str) -> Policy:
    """The published policy whose version begins so; ConfigError for none or several."""
    found = [
        policy
        for policy, _ in versions
        if policy.version.startswith(version) and policy_id in (None, policy.policy_id)
    ]
    whose = f"policy {policy_id}" if policy_id else "policy"
    if not found:
        raise ConfigError(f"no {whose} version {version} was published; see `sluice policy list`")
    if len(found) > 1:
        named = ", ".join(f"{policy.policy_id} {policy.version}" for policy in found)
        raise ConfigError(f"version {version} is ambiguous: {named}")
    return found[0]


def current(versions: Iterable[Published], policy_id: str) -> Policy:
    """The version that was switched on last; ConfigError where none was published."""
    return _of(versions, policy_id)[0]


def before(versions: Iterable[Published], policy_id: str) -> Policy:
    """The version that was switched on before the current one; ConfigError where there is none."""
    known = _of(versions, policy_id)
    if len(known) < 2:
        raise ConfigError(f"policy {policy_id} has one version only: nothing to go back to")
    return known[1]


def _of(versions: Iterable[Published], policy_id: str) -> list[Policy]:
    newest_first = sorted(versions, key=lambda version: version.published_at, reverse=True)
    known = [v.policy for v in newest_first if v.policy.policy_id == policy_id]
    if not known:
        raise ConfigError(f"no policy {policy_id} was published; see `sluice policy list`")
    return known


def raised(policy: Policy, budget_id: str, scope: str, add: str, until: int, by: str, reason: str,
           now: int) -> Raised:  # fmt: skip
    """The policy with more room in one scope of a budget until an instant (µs UTC).

    `add` is in the budget's unit as a policy has it. Raises ConfigError naming what is wrong.
    """
    budget = policy.by_id.get(budget_id)
    if budget is None:
        raise ConfigError(f"policy {policy.policy_id} has no budget {budget_id}; one of: "
                          f"{', '.join(policy.by_id)}")  # fmt: skip
    if scope == EVERY_SCOPE and not budget.scope:
        scope = ""
    if "=" in scope and scope_fields(scope).keys() != set(budget.scope):
        fields = ",".join(f"{field}=..." for field in sorted(budget.scope)) or EVERY_SCOPE
        raise ConfigError(f"--scope {scope} is none of budget {budget_id}; write {fields}")
    if until <= now:
        raise ConfigError("--until lies in the past: the raise would never hold")
    entry = {"scope": scope, "add": _added(add, budget), "until": _iso(until), "by": by,
             "reason": reason}  # fmt: skip
    after = _with_raise(policy, budget_id, entry)
    new = after.by_id[budget_id]
    full = next(name for name, raises in new.scope_raises.items() if new.raises[-1] in raises)
    limits = budget.limit_for(full, now), new.limit_for(full, now)
    return Raised(after, full, *limits, budget.ledger_unit, budget.where.get("tenant_id", ""))


def _added(add: str, budget: Budget) -> int:
    try:
        return whole_amount(add, budget.unit)
    except ValueError as error:
        raise ConfigError(f"--add {error}") from error


def _with_raise(policy: Policy, budget_id: str, entry: Mapping[str, Any]) -> Policy:
    value = json.loads(policy.to_json())
    for budget in value["budgets"]:
        if budget["budget_id"] == budget_id:
            budget["raises"] = [*budget.get("raises", ()), entry]
    try:
        return Policy.from_json(json.dumps(value))
    except ValidationError as error:
        said = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise ConfigError(f"the raise is wrong, nothing applied: {said}") from error


def _iso(instant: int) -> str:
    whole, rest = divmod(instant, 1_000_000)
    return datetime.fromtimestamp(whole, UTC).replace(microsecond=rest).isoformat()


def differences(left: Policy, right: Policy) -> list[Change]:
    """What a change from `left` to `right` changes, in the order of its paths."""
    old, new = (dict(_lines(json.loads(p.to_json()), "", "pusd")) for p in (left, right))
    paths = sorted(old.keys() | new.keys())
    changes = (Change(path, old.get(path), new.get(path)) for path in paths)
    return [change for change in changes if change.before != change.after]


def _lines(value: Any, path: str, unit: str, *, amount: bool = False) -> Iterator[tuple[str, str]]:
    """Every value of canonical JSON with its path; amounts with their unit."""
    if isinstance(value, dict):
        unit = _unit_of(value) or unit
        for name, item in value.items():
            shown = name.removesuffix("_pusd") or ALL_TENANTS
            yield from _lines(item, f"{path}.{shown}" if path else shown, unit,
                              amount=amount or name in _AMOUNTS)  # fmt: skip
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _lines(item, f"{path}[{_label(item, number)}]", unit)
    elif amount and isinstance(value, int):
        yield path, amount_text(value, unit)
    else:
        empty = ALL_TENANTS if path.endswith(".scope") else ""
        yield path, "none" if value is None else str(value) or empty


def _unit_of(value: Mapping[str, Any]) -> str | None:
    named = UNITS.get(str(value.get("unit")))
    return named.ledger_unit if named else None


def _label(item: Any, number: int) -> str:
    """What tells an item of a list from the others: its id, else its place, from 1."""
    named = (str(item[name]) for name in _NAMES if isinstance(item, dict) and name in item)
    return next(named, str(number + 1))
