"""Reading of foreign payloads: counts with their names, names without content, hashes of people.

No error repeats a payload's text: details hold field names, numbers, types and single words.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

from sluice.errors import WireError
from sluice.metering.validate import MAX_ID_BYTES

NOTHING: Mapping[str, Any] = MappingProxyType({})

_HASH_DIGITS = 32
_MOST_DIGITS = 15  # before the decimal point


class AdapterError(WireError):
    """A payload that cannot become a usage event; `detail` names its fields and numbers.

    Reasons: missing_context, bad_context, missing_field, missing_usage, unfinished, bad_type,
    negative_value, not_a_name, part_above_whole, sum_mismatch, disagreement, another_model,
    not_metered, bad_time.
    """


class Amount(NamedTuple):
    """A count under the name that the payload gives it."""

    name: str
    value: int

    def __str__(self) -> str:
        return f"{self.name} {self.value}"


def section(payload: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object under a name; an empty one where it is absent or null."""
    value = payload.get(name)
    if value is None:
        return NOTHING
    if not isinstance(value, Mapping):
        raise AdapterError("bad_type", f"{name} is a {type(value).__name__}, not an object")
    return value


def objects(payload: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The objects in the list under a name; none where it is absent or null."""
    values = payload.get(name)
    if values is None:
        return []
    if not isinstance(values, list | tuple):
        raise AdapterError("bad_type", f"{name} is a {type(values).__name__}, not a list")
    return checked_objects(name, values)


def checked_objects(name: str, values: Iterable[Any]) -> list[Mapping[str, Any]]:
    """The same values where all of them are objects."""
    found = list(values)
    for value in found:
        if not isinstance(value, Mapping):
            raise AdapterError("bad_type", f"{name} holds a {type(value).__name__}, not an object")
    return found


def amount(payload: Mapping[str, Any], name: str) -> Amount | None:
    """The count under a name; None where it is absent or null."""
    value = payload.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise AdapterError("bad_type", f"{name} is a {type(value).__name__}, not a whole number")
    if value < 0:
        raise AdapterError("negative_value", f"{name} {value}")
    return Amount(name, value)


def needed(payload: Mapping[str, Any], name: str) -> Amount:
    """The count under a name, which has to be there."""
    found = amount(payload, name)
    if found is None:
        raise AdapterError("missing_field", f"the usage has no {name}")
    return found


def agreed(name: str, stated: Iterable[Amount | None]) -> Amount:
    """The count that the payload states under one or several names; 0 where it states none."""
    known = [found for found in stated if found is not None]
    if len({found.value for found in known}) > 1:
        raise AdapterError("disagreement", ", ".join(map(str, known)))
    return known[0] if known else Amount(name, 0)


def word(payload: Mapping[str, Any], name: str) -> str | None:
    """The name, id or code under a name: one line without white space, never running text."""
    found = label(payload, name)
    if found is not None and any(map(str.isspace, found)):
        raise AdapterError("not_a_name", f"{name} has white space")
    return found


def label(payload: Mapping[str, Any], name: str) -> str | None:
    """The name under a name: one printable line; None where it is absent, null or empty."""
    value = text(payload, name)
    if value is None:
        return None
    size = len(value.encode(errors="surrogatepass"))
    if size > MAX_ID_BYTES or not value.isprintable():
        raise AdapterError("not_a_name", f"{name} has {size} bytes or is not one printable line")
    return value


def text(payload: Mapping[str, Any], name: str) -> str | None:
    """Any text under a name, fit for hashing only; None where it is absent, null or empty."""
    value = payload.get(name)
    if value is not None and not isinstance(value, str):
        raise AdapterError("bad_type", f"{name} is a {type(value).__name__}, not a text")
    return value or None


def word_if_any(payload: Mapping[str, Any], *names: str) -> str | None:
    """The first of these that holds a proper word; what holds something else is left out."""
    for name in names:
        try:
            found = word(payload, name)
        except AdapterError:
            continue
        if found is not None:
            return found
    return None


def quantities(amounts: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    """Amounts under keys as the event lists them, sums per key, without zeros."""
    sums: dict[str, int] = {}
    for key, value in amounts:
        sums[key] = sums.get(key, 0) + value
    return [{"key": key, "value": value} for key, value in sums.items() if value]


def hashed(text: str, salt: bytes = b"") -> str:
    """First 128 bits of SHA-256, in hex; with a salt, of HMAC-SHA-256 under it."""
    data = text.encode(errors="surrogatepass")
    if salt:
        return hmac.new(salt, data, hashlib.sha256).hexdigest()[:_HASH_DIGITS]
    return hashlib.sha256(data).hexdigest()[:_HASH_DIGITS]


def content_hash(content: Any, salt: bytes = b"") -> str | None:
    """Hash of arguments or a result, the same for an object and its JSON text; None for none."""
    if content is None:
        return None
    if isinstance(content, str):
        content = _parsed(content)
    try:
        plain = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise AdapterError("bad_type", "the content of a tool call is not plain JSON") from error
    return hashed(plain, salt)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def scaled(payload: Mapping[str, Any], name: str, units: int) -> int | None:
    """A decimal number times `units`, rounded half even: dollars to pico-dollars, seconds to µs.

    A JSON reader that made a float of it kept its shortest decimal form, which is read back here,
    so no digit of the payload is lost. None where the number is absent or null.
    """
    value = payload.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise AdapterError("bad_type", f"{name} is a {type(value).__name__}, not a number")
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not exact.is_finite() or exact.adjusted() > _MOST_DIGITS:
        raise AdapterError("bad_type", f"{name} is no sensible number")
    if exact < 0:
        raise AdapterError("negative_value", f"{name} {exact}")
    return int((exact * units).to_integral_value(ROUND_HALF_EVEN))
