"""Avro encoding of one record type, several times faster than the general writer.

Every field is encoded on its own and the pieces are joined; absent fields are pieces made once
from their defaults. The bytes are those of `codec.encode`; types are checked more strictly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from sluice.errors import WireError
from sluice.wire import schema
from sluice.wire.codec import MAGIC

Encode = Callable[[Any], bytes]

_NOTHING: Mapping[str, Any] = MappingProxyType({})

_INT_LIMIT = 2**31
_LONG_LIMIT = 2**63
_GROUP_BITS = 14
_GROUP = 1 << _GROUP_BITS
_MASK = _GROUP - 1
_TWO_GROUPS = _GROUP * _GROUP
_KNOWN_LENGTHS = _GROUP >> 1


def _short(zigzag: int) -> bytes:
    low, high = zigzag & 127, zigzag >> 7
    return bytes((low | 128, high)) if high else bytes((low,))


# Variable-length numbers by groups of 14 bits: as the last group, and with more to follow.
_LAST = tuple(_short(group) for group in range(_GROUP))
_MORE = tuple(bytes((group & 127 | 128, group >> 7 | 128)) for group in range(_GROUP))
_LENGTH = _LAST[::2]


def _varint(zigzag: int) -> bytes:
    pieces = b""
    while zigzag >= _GROUP:
        pieces += _MORE[zigzag & _MASK]
        zigzag >>= _GROUP_BITS
    return pieces + _LAST[zigzag]


def _length(size: int) -> bytes:
    return _LENGTH[size] if size < _KNOWN_LENGTHS else _varint(size << 1)


def _long(value: Any) -> bytes:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not an integer")
    zigzag = value << 1 if value >= 0 else ~(value << 1)
    if zigzag < _GROUP:
        return _LAST[zigzag]
    if zigzag < _TWO_GROUPS:
        return _MORE[zigzag & _MASK] + _LAST[zigzag >> _GROUP_BITS]
    if not -_LONG_LIMIT <= value < _LONG_LIMIT:
        raise ValueError(f"{value} exceeds 64 bits")
    return _varint(zigzag)


def _int(value: Any) -> bytes:
    if type(value) is int and not -_INT_LIMIT <= value < _INT_LIMIT:
        raise ValueError(f"{value} exceeds 32 bits")
    return _long(value)


def _string(value: Any) -> bytes:
    data: bytes = value.encode()
    size = len(data)
    return (_LENGTH[size] if size < _KNOWN_LENGTHS else _varint(size << 1)) + data


def _optional_string(value: Any) -> bytes:
    if value is None:
        return b"\x00"
    data: bytes = value.encode()
    return b"\x02" + _length(len(data)) + data


def _boolean(value: Any) -> bytes:
    if value is True:
        return b"\x01"
    if value is False:
        return b"\x00"
    raise TypeError(f"{value!r} is not true or false")


def _optional(encode: Encode) -> Encode:
    if encode is _string:
        return _optional_string
    return lambda value: b"\x00" if value is None else b"\x02" + encode(value)


def _array(encode: Encode) -> Encode:
    def array(value: Any) -> bytes:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{value!r} is not a list")
        if not value:
            return b"\x00"
        return b"".join((_length(len(value)), *map(encode, value), b"\x00"))

    return array


_SIMPLE: dict[str, Encode] = {"string": _string, "long": _long, "int": _int, "boolean": _boolean}


class RecordEncoder:
    """Encodes records of one type; `header` stands before each of them."""

    def __init__(self, raw: schema.Schema, header: bytes = b"",
                 known: dict[str, Encode] | None = None) -> None:  # fmt: skip
        self._name = raw["name"]
        self._known = dict(_SIMPLE) if known is None else known
        self._blank: list[bytes | None] = [header]
        self._places: dict[str, tuple[int, Encode]] = {}
        self._known[self._name] = self.encode
        for place, field in enumerate(raw["fields"], 1):
            encode = self._encoder(field["type"])
            self._places[field["name"]] = (place, encode)
            self._blank.append(encode(field["default"]) if "default" in field else None)

    @classmethod
    def framed(cls, name: str) -> RecordEncoder:
        """For a record of `schemas/`, in single-object framing."""
        return cls(schema.schema(name), MAGIC + schema.fingerprint(name))

    def encode(self, record: Mapping[str, Any], over: Mapping[str, Any] = _NOTHING) -> bytes:
        """The record's bytes; fields in `over` replace its own, absent ones take their defaults.

        Raises WireError(unencodable) naming the field that is unknown, missing or of another type.
        """
        pieces = self._blank.copy()
        places = self._places
        name = ""
        try:
            for name, value in record.items():
                place, encode = places[name]
                pieces[place] = encode(value)
            for name, value in over.items():
                place, encode = places[name]
                pieces[place] = encode(value)
            return b"".join(pieces)  # type: ignore[arg-type]
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise self._fault({**record, **over}, name, error) from error

    def _fault(self, record: Mapping[str, Any], name: str, error: Exception) -> WireError:
        unknown = [str(given) for given in record if given not in self._places]
        missing = [
            field for field, (place, _) in self._places.items()
            if self._blank[place] is None and field not in record
        ]  # fmt: skip
        if unknown:
            fault = f"has no {', '.join(unknown)}"
        elif missing:
            fault = f"needs {', '.join(missing)}"
        else:
            fault = f"{name}: {'not a text' if isinstance(error, AttributeError) else error}"
        return WireError("unencodable", f"{self._name} {fault}")

    def _encoder(self, kind: Any) -> Encode:
        if isinstance(kind, str):
            return self._known[kind]
        if isinstance(kind, list) and len(kind) == 2 and kind[0] == "null":
            return _optional(self._encoder(kind[1]))
        if isinstance(kind, dict) and kind["type"] == "array":
            return _array(self._encoder(kind["items"]))
        if isinstance(kind, dict) and kind["type"] == "record":
            return RecordEncoder(kind, known=self._known).encode
        raise TypeError(f"no fast encoding for {kind!r}")
