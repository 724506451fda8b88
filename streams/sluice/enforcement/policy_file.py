"""Policy files for people: YAML, validated whole, every fault named with its place."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from sluice.enforcement.ladder import Rung
from sluice.enforcement.ladder_sentences import consequence
from sluice.enforcement.policy import Budget, Policy, Raise, Rule
from sluice.enforcement.policy_ladder import PRIORITIES, RANK, Section, SignalRule
from sluice.enforcement.units import shown_amount
from sluice.errors import ConfigError

Path = tuple[str | int, ...]
_WHO = {
    ("tenant_id",): "tenant",
    ("task_id", "tenant_id"): "task",
    ("pool", "tenant_id"): "tenant in a pool",
    ("pool", "region"): "pool in a region",
}
_MODELS = (Policy, Budget, Rule, Raise, Section, SignalRule)
_NAMES = {name for model in _MODELS for name in model.model_fields}
# Their values are read as they are written: an amount must not become a binary fraction.
_TEXTS = frozenset({"limit", "limits", "add", "where", "rolling"})


class Fault(NamedTuple):
    """One fault and where it stands; lines and columns count from 1."""

    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"line {self.line}, column {self.column}"
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class PolicyError(ConfigError):
    """A policy file is wrong; `faults` lists everything that is, nothing was applied."""

    def __init__(self, name: str, faults: list[Fault]) -> None:
        self.faults = sorted(faults)
        listed = "".join(f"\n- {fault}" for fault in self.faults)
        super().__init__(f"{name}: {len(faults)} fault(s), nothing applied{listed}")


def load_policy(text: str, name: str) -> Policy:
    """The policy in a YAML text; PolicyError lists every fault with its place."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise PolicyError(name, [Fault(line, column, "", str(error.problem))]) from error
    if not isinstance(root, yaml.MappingNode):
        raise PolicyError(
            name, [Fault(1, 1, "", "a policy is a mapping with policy_id and budgets")]
        )
    reader = _Reader()
    value = reader.plain(root, ())
    faults = list(reader.faults)
    try:
        policy = Policy.model_validate(value)
    except ValidationError as error:
        faults += [reader.fault(fault) for fault in error.errors() if not _follows(fault)]
    if faults:
        raise PolicyError(name, faults)
    return policy


def _follows(error: Any) -> bool:
    """Whether an error only says that faulty items do not count: their own faults are listed."""
    return error["type"] == "too_short" and bool(error["input"])


def explain(policy: Policy) -> list[str]:
    """What a policy does, one plain sentence per hard budget and per rule."""
    effect = "" if policy.mode == "enforce" else " (shadow: published, never obeyed)"
    limits = [line for budget in policy.budgets for line in _sentences(budget)]
    sections = [section for section in (policy.ladder, policy.risk) if section is not None]
    rungs = [_rung(section, rule) for section in sections for rule in section.rules]
    return [line + effect for line in limits + rungs]


def _rung(section: Section, rule: SignalRule) -> str:
    """One rule of a ladder; ceilings are named where they take priorities out."""
    meant = [
        priority
        for priority in PRIORITIES
        if priority in rule.priorities
        and RANK[rule.action] <= RANK[getattr(section.ceilings, priority)]
    ]
    budget = f" of budget {rule.budget_id}" if rule.budget_id else ""
    then = consequence(Rung(rule.action, rule.said(), rule.priorities))
    whose = "all" if len(meant) == len(PRIORITIES) else " and ".join(meant) or "no"
    return (
        f"where {rule.signal}{budget} of a {_WHO[rule.kind.scope]} stays at {rule.at:f} or above "
        f"for {section.hold_s} s, {whose} requests are {then}"
    )


def _sentences(budget: Budget) -> Iterator[str]:
    amount = shown_amount(budget.limit, budget.ledger_unit)
    within = _within(budget)
    if budget.hard:
        draws = f" and out of budget {budget.parent}" if budget.parent else ""
        yield f"{_who(budget)} never gets more than {amount} {within}{draws}"
    used = "spent" if budget.unit == "usd" else "used"
    for rule in budget.rules:
        yield (f"{_who(budget)} that has {used} {rule.at:.0%} of {amount} {within} "
               f"{_what(rule, budget)}")  # fmt: skip


def _who(budget: Budget) -> str:
    fields = [field for field in budget.scope if field != "tenant_id"]
    shown = " of a tenant" if "tenant_id" in budget.scope else ""
    who = f"each {' and '.join(fields)}{shown}" if fields else "a tenant"
    matches = ", ".join(f"{name} {value}" for name, value in sorted(budget.where.items()))
    return f"{who} (only {matches})" if matches else who


def _within(budget: Budget) -> str:
    if budget.period == "rolling":
        return f"within {budget.rolling}"
    return f"in a {budget.period}"


def _what(rule: Rule, budget: Budget) -> str:
    if rule.action == "rate_limit":
        return f"is admitted {rule.rate_per_minute} requests a minute per admission point"
    if budget.period == "rolling":
        return "is refused until enough of it is longer ago"
    return f"is refused until the {budget.period} ends ({budget.time_zone})"


class _Reader:
    """Turns YAML nodes into plain values and remembers where each stood.

    Scalars stay text unless they are quoted-free integers or booleans: 0.05 must not become the
    nearest binary fraction.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._marks: dict[Path, yaml.Mark] = {}

    def plain(self, node: yaml.Node, path: Path) -> Any:
        self._marks[path] = node.start_mark
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*path, i)) for i, item in enumerate(node.value)]
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key_node, item in node.value:
            key = str(key_node.value)
            if key in value:
                self._add(key_node.start_mark, (*path, key), "stands here twice")
            value[key] = self.plain(item, (*path, key))
            if key in _TEXTS:
                value[key] = _as_text(value[key])
            self._marks[*path, key, "<key>"] = key_node.start_mark
        return value

    def fault(self, error: Any) -> Fault:
        """Where and what one of pydantic's errors is."""
        path: Path = tuple(error["loc"])
        message = error["msg"].removeprefix("Value error, ")
        mark = self._marks.get(path)
        if error["type"] == "extra_forbidden":
            close = get_close_matches(str(path[-1]), _NAMES, 1)
            message = "unknown name" + (f"; did you mean {close[0]}?" if close else "")
            mark = self._marks.get((*path, "<key>"), mark)
        while mark is None:
            path = path[:-1]
            mark = self._marks.get(path)
        return Fault(mark.line + 1, mark.column + 1, _shown(error["loc"]), message)

    def _add(self, mark: yaml.Mark, path: Path, message: str) -> None:
        self.faults.append(Fault(mark.line + 1, mark.column + 1, _shown(path), message))


def _scalar(node: yaml.Node) -> Any:
    if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:bool"):
        return yaml.safe_load(node.value)
    return None if node.tag == "tag:yaml.org,2002:null" else node.value


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    return str(value) if isinstance(value, int) else value


def _shown(path: Path) -> str:
    shown = ""
    for part in path:
        shown += f"[{part}]" if isinstance(part, int) else f".{part}" if shown else str(part)
    return shown
