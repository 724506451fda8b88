"""Scopes as they stand in keys and rows: `field=value` pairs, sorted by field."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote

# The percent sign first: what it encodes must not be encoded again.
_RESERVED = {"%": "%25", ",": "%2C", "=": "%3D"}


def scope_text(pairs: Iterable[tuple[str, str]]) -> str:
    """The scope of these fields and values; empty = one ledger for all.

    Values are percent-encoded where they hold a comma, an equals sign or a percent sign.
    """
    return ",".join(f"{name}={_encoded(value)}" for name, value in sorted(pairs))


def scope_pairs(text: str) -> list[tuple[str, str]]:
    """The fields and values that `scope_text` made a scope of."""
    parts = (pair.partition("=") for pair in text.split(",") if pair)
    return [(name, unquote(value)) for name, _, value in parts]


def _encoded(value: str) -> str:
    for reserved, code in _RESERVED.items():
        if reserved in value:
            value = value.replace(reserved, code)
    return value
