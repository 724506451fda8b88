"""The sections `ladder` and `risk` of a policy: which signal, from which value on, does what.

Both are ladders of their own. A rule is a rung: the action of the strictest rung that is reached
holds for each priority up to that priority's ceiling, so a higher class is never treated more
strictly than a lower one.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from sluice.enforcement.policy_budget import Ident, Strict
from sluice.enforcement.signals.burn import Pair, Span
from sluice.enforcement.signals.signal import PPM

Action = Literal["allow_with_caps", "rate_limit", "degrade", "queue", "preempt", "isolate", "block"]
Priority = Literal["guaranteed", "standard", "batch"]
Windows = Literal["5m/1h", "30m/6h"]

# From the one treated most mildly.
PRIORITIES: tuple[Priority, ...] = ("guaranteed", "standard", "batch")
RANK: dict[str, int] = {
    action: rank
    for rank, action in enumerate(
        (
            "allow",
            "allow_with_caps",
            "rate_limit",
            "degrade",
            "queue",
            "preempt",
            "isolate",
            "block",
        )
    )
}
SPANS = tuple(
    Span(name, minutes * 60_000_000)
    for name, minutes in (("5m", 5), ("30m", 30), ("1h", 60), ("6h", 360))
)
_BY_NAME = {span.name: span for span in SPANS}
PAIRS: dict[str, Pair] = {
    name: Pair(*(_BY_NAME[part] for part in name.split("/"))) for name in ("5m/1h", "30m/6h")
}


class Kind(NamedTuple):
    """What a signal is about, what its rule may say besides `at`, and whether it counts pieces."""

    scope: tuple[str, ...]
    section: str
    takes: frozenset[str] = frozenset()
    counts: bool = False


_TENANT, _TASK = ("tenant_id",), ("task_id", "tenant_id")
_WINDOWED = frozenset({"windows", "min_events"})
KINDS: dict[str, Kind] = {
    "burn": Kind(_TENANT, "ladder", _WINDOWED | {"budget_id"}),
    "exhaustion": Kind(_TENANT, "ladder", _WINDOWED | {"budget_id"}),
    "slo_burn": Kind(_TENANT, "ladder", _WINDOWED | {"target"}),
    "loop": Kind(_TASK, "risk"),
    "repetition": Kind(_TASK, "risk"),
    "task_cost": Kind(_TASK, "risk"),
    "fan_out": Kind(_TASK, "risk", counts=True),
    "depth": Kind(_TASK, "risk", counts=True),
    "retry_share": Kind(_TENANT, "risk", frozenset({"min_events"})),
    "drift": Kind(_TENANT, "risk"),
    "noisy_neighbour": Kind(
        ("pool", "tenant_id"), "risk", frozenset({"min_events", "others_wait_ms", "over_usual"})
    ),
    "jitter": Kind(("pool", "region"), "risk"),
}
# Which action needs which parameters, and which it may have.
_NEEDS: dict[str, frozenset[str]] = {
    "rate_limit": frozenset({"rate_per_minute"}),
    "degrade": frozenset({"fallback_models"}),
    "queue": frozenset({"queue_timeout_ms"}),
    "isolate": frozenset({"pool"}),
}
_MAY: dict[str, frozenset[str]] = {
    "allow_with_caps": frozenset(
        {"max_tokens", "tool_denylist", "max_steps_remaining", "verify", "boundary"}
    ),
    "rate_limit": frozenset({"burst"}),
    "degrade": frozenset({"max_tokens", "boundary"}),
    "queue": frozenset({"queue_depth"}),
    "preempt": frozenset({"cooldown_ms", "boundary"}),
    "isolate": frozenset({"max_tokens", "tool_denylist", "verify"}),
    "block": frozenset({"cooldown_ms", "boundary"}),
}


def _ratio(value: Any) -> Any:
    text = str(value).strip()
    try:
        return Decimal(text[:-1]) / 100 if text.endswith("%") else Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is neither a number nor a percentage") from error


def _plain(value: Decimal) -> str:
    return format(value.normalize(), "f")


_AsText = PlainSerializer(_plain, when_used="json")
# How often, or how many: 14.4 times, 30 %, 50 calls; six decimals, as parts per million have.
_Multiple = Annotated[
    Decimal,
    BeforeValidator(_ratio),
    Field(gt=0, le=1_000_000, decimal_places=6),
    _AsText,
]
_Share = Annotated[Decimal, BeforeValidator(_ratio), Field(gt=0, le=1), _AsText]
_PositiveInt = Annotated[int, Field(gt=0)]


class Params(Strict):
    """Parameters of an action, as `Decision.params` names them; null = not said."""

    rate_per_minute: _PositiveInt | None = None
    burst: _PositiveInt | None = None
    max_tokens: _PositiveInt | None = None
    fallback_models: tuple[str, ...] = ()
    queue_timeout_ms: _PositiveInt | None = None
    queue_depth: _PositiveInt | None = None
    pool: Ident | None = None
    cooldown_ms: _PositiveInt | None = None
    tool_denylist: tuple[str, ...] = ()
    max_steps_remaining: Annotated[int, Field(ge=0)] | None = None
    verify: bool | None = None
    boundary: Literal["request", "task"] | None = None

    def said(self) -> dict[str, Any]:
        """The parameters that are said."""
        values = {name: getattr(self, name) for name in Params.model_fields}
        return {name: value for name, value in values.items() if value not in (None, ())}


class SignalRule(Params):
    """One rung: from `at` on, this action.

    `at` is a multiple or share of what the signal is held against, or a number of pieces;
    `priorities` are those that the action is meant for.
    """

    rule_id: Ident
    signal: Ident
    at: _Multiple
    action: Action
    priorities: tuple[Priority, ...] = PRIORITIES
    budget_id: Ident | None = None
    windows: Windows | None = None
    min_events: _PositiveInt | None = None
    target: _Share | None = None
    others_wait_ms: _PositiveInt | None = None
    over_usual: _Multiple | None = None

    @field_validator("signal")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in KINDS:
            raise ValueError(f"there is no signal {value!r}; there are {', '.join(sorted(KINDS))}")
        return value

    @field_validator("priorities")
    @classmethod
    def _from_below(cls, value: tuple[Priority, ...]) -> tuple[Priority, ...]:
        if not value or set(value) != set(PRIORITIES[-len(set(value)) :]):
            raise ValueError("priorities begin with batch: who is meant, is meant with all below")
        return PRIORITIES[-len(set(value)) :]

    @model_validator(mode="after")
    def _fits(self) -> SignalRule:
        self._check_signal()
        needs, said = _NEEDS.get(self.action, frozenset()), set(self.said())
        if missing := needs - said:
            raise ValueError(f"action {self.action} needs {', '.join(sorted(missing))}")
        if wrong := said - needs - _MAY[self.action]:
            raise ValueError(f"action {self.action} takes no {', '.join(sorted(wrong))}")
        if self.action == "allow_with_caps" and not said:
            raise ValueError("action allow_with_caps needs a cap")
        return self

    def _check_signal(self) -> None:
        kind = KINDS[self.signal]
        conditions = ("budget_id", "windows", "min_events", "target", "others_wait_ms",
                      "over_usual")  # fmt: skip
        given = {name for name in conditions if getattr(self, name) is not None}
        if wrong := given - kind.takes:
            raise ValueError(f"signal {self.signal} takes no {', '.join(sorted(wrong))}")
        needed = kind.takes & {"budget_id", "target"}
        if missing := needed - given:
            raise ValueError(f"signal {self.signal} needs {', '.join(sorted(missing))}")
        if self.target == 1:
            raise ValueError("a target of 100 % leaves nothing to burn")
        if kind.counts and self.at % 1:
            raise ValueError(f"signal {self.signal} counts pieces: at is a whole number")

    @property
    def kind(self) -> Kind:
        """What its signal is about."""
        return KINDS[self.signal]

    @property
    def threshold(self) -> int:
        """`at` as its signal has it: parts per million, or pieces."""
        return int(self.at * (1 if self.kind.counts else PPM))

    @property
    def pair(self) -> Pair:
        """Its look-back windows."""
        return PAIRS[self.windows or "5m/1h"]


class Ceilings(Strict):
    """The strictest action that each priority can meet on a ladder."""

    guaranteed: Action = "rate_limit"
    standard: Action = "block"
    batch: Action = "block"

    @model_validator(mode="after")
    def _in_order(self) -> Ceilings:
        ranks = [RANK[getattr(self, priority)] for priority in PRIORITIES]
        if ranks != sorted(ranks):
            raise ValueError("a higher priority cannot have a stricter ceiling than a lower one")
        return self


class Section(Strict):
    """A ladder: its rules and its pace.

    A signal has to stay at or above its threshold for `hold_s` to raise the rung; it has to stay
    below `exit` of the threshold for `keep_s` to lower it, one rung per `dwell_s`. A decision is
    renewed before `expires_after_s`.
    """

    name: ClassVar[str]
    rules: Annotated[tuple[SignalRule, ...], Field(min_length=1)]
    hold_s: Annotated[int, Field(ge=0, le=3600)] = 15
    keep_s: Annotated[int, Field(ge=0, le=86_400)] = 300
    dwell_s: Annotated[int, Field(ge=0, le=86_400)] = 60
    exit: _Share = Decimal("0.8")
    expires_after_s: Annotated[int, Field(ge=60, le=86_400)] = 600
    on_expiry: Literal["open", "closed", "keep"] = "open"
    ceilings: Ceilings = Field(default_factory=Ceilings)

    @field_validator("rules")
    @classmethod
    def _unique(cls, value: tuple[SignalRule, ...]) -> tuple[SignalRule, ...]:
        names = [rule.rule_id for rule in value]
        if len(set(names)) < len(names):
            raise ValueError("rule_id must be unique within a ladder")
        for rule in value:
            if rule.kind.section != cls.name:
                raise ValueError(
                    f"signal {rule.signal} of rule {rule.rule_id} belongs to {rule.kind.section}"
                )
        return value

    @model_validator(mode="after")
    def _paced(self) -> Section:
        if self.dwell_s > self.keep_s:
            raise ValueError("dwell_s may not be longer than keep_s")
        return self


class BudgetLadder(Section):
    """What happens while budgets and service levels burn, before a limit is reached."""

    name: ClassVar[str] = "ladder"


class RiskLadder(Section):
    """What happens to runaway tasks, retry storms and noisy neighbours."""

    name: ClassVar[str] = "risk"
