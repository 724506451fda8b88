"""Scopes as they stand in keys and rows: `field=value` pairs, sorted by field."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

# The percent sign first: what it encodes must not be encoded again.
_RESERVED = {"%": "%25", ",": "%2C", "=": "%3D"}

ALL_TENANTS = "all tenants"  # a scope without fields, to people


def scope_text(pairs: Iterable[tuple[str, str]]) -> str:
    """The scope of these fields and values; empty = one ledger for all.

    Values are percent-encoded where they hold a comma, an equals sign or a percent sign.
    """
    return ",".join(f"{name}={_encoded(value)}" for name, value in sorted(pairs))


@lru_cache(maxsize=4096)
def scope_fields(scope: str) -> dict[str, str]:
    """Fields and values of a scope, not to be changed."""
    parts = [part.partition("=") for part in scope.split(",")] if scope else []
    return {name: _decoded(value) for name, _, value in parts}


def _decoded(value: str) -> str:
    for reserved, code in reversed(_RESERVED.items()):
        value = value.replace(code, reserved)
    return value


def _encoded(value: str) -> str:
    for reserved, code in _RESERVED.items():
        if reserved in value:
            value = value.replace(reserved, code)
    return value
