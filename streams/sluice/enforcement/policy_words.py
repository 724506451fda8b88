"""What the sections of a policy are made of: names, shares and multiples, strictly read."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

Ident = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class Strict(BaseModel):
    """A part of a policy: unknown names are refused, nothing changes after validation."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _ratio(value: Any) -> Any:
    text = str(value).strip()
    try:
        return Decimal(text[:-1]) / 100 if text.endswith("%") else Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is neither a number nor a percentage") from error


def _plain(value: Decimal) -> str:
    return format(value.normalize(), "f")


Share = Annotated[
    Decimal, BeforeValidator(_ratio), Field(gt=0, le=1), PlainSerializer(_plain, when_used="json")
]
# How often, or how many: 14.4 times, 30 %, 50 calls. Six decimals, as parts per million have.
Multiple = Annotated[
    Decimal,
    BeforeValidator(_ratio),
    Field(gt=0, le=1_000_000, decimal_places=6),
    PlainSerializer(_plain, when_used="json"),
]
