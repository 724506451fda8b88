"""Content encodings of bodies."""

from __future__ import annotations

import gzip

import pytest

from sluice.warehouse.encodings import BodyError, choose, pack, unpack

DATA = bytes(range(256)) * 100
NAMES = ("lz4", "zstd", "gzip", "deflate")


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(name: str) -> None:
    """What is packed comes out again, and one byte beyond the limit is refused."""
    packed = pack(DATA, name)
    assert len(packed) < len(DATA)
    assert unpack(packed, name, len(DATA)) == DATA
    with pytest.raises(BodyError) as caught:
        unpack(packed, name, len(DATA) - 1)
    assert caught.value.too_large


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_noticed(name: str) -> None:
    """A body that ends early or is something else is an error, never fewer rows."""
    packed = pack(DATA, name)
    for broken in (packed[:-5], packed[: len(packed) // 2], b"not packed at all"):
        with pytest.raises(BodyError):
            unpack(broken, name, len(DATA))


def test_members_follow_each_other() -> None:
    """Concatenated gzip members are one body."""
    assert unpack(gzip.compress(b"one") + gzip.compress(b"two"), "gzip", 100) == b"onetwo"


def test_choice() -> None:
    """The best encoding both sides know, or none."""
    assert choose("gzip, deflate;q=0.5, lz4") == "lz4"
    assert choose("br") is None
    assert choose("") is None
    with pytest.raises(BodyError, match="br"):
        unpack(b"x", "br", 10)
