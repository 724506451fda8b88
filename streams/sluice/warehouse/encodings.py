"""HTTP content encodings, both ways, whole bodies at a time."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from typing import Any

import lz4.frame  # type: ignore[import-untyped]

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_GZIP_WBITS = 31


class BodyError(Exception):
    """A body that cannot be unpacked, or is larger than allowed (`too_large`)."""

    def __init__(self, sentence: str, *, too_large: bool = False) -> None:
        super().__init__(sentence)
        self.too_large = too_large


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(1, wbits=_GZIP_WBITS)
    return packer.compress(data) + packer.flush()


# In the order in which an answer's encoding is chosen.
_PACK: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lambda data: bytes(lz4.frame.compress(data)),
    "zstd": lambda data: zstd.compress(data, 1),
    "gzip": _gzip,
    "deflate": lambda data: zlib.compress(data, 1),
}
_UNPACKER: dict[str, Callable[[], Any]] = {
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": zstd.ZstdDecompressor,
    "gzip": lambda: zlib.decompressobj(_GZIP_WBITS),
    "deflate": zlib.decompressobj,
}


def choose(accepted: str) -> str | None:
    """The encoding for an answer, given the request's Accept-Encoding; None = as it is."""
    offers = {part.split(";")[0].strip().lower() for part in accepted.split(",")}
    return next((name for name in _PACK if name in offers), None)


def pack(data: bytes, encoding: str) -> bytes:
    """`data` in `encoding`, one of those that `choose` returns."""
    return _PACK[encoding](data)


def unpack(data: bytes, encoding: str, limit_bytes: int) -> bytes:
    """`data` taken out of its Content-Encoding; BodyError beyond `limit_bytes` or when damaged."""
    if encoding in ("", "identity"):
        return data
    if encoding not in _UNPACKER:
        known = ", ".join(_UNPACKER)
        raise BodyError(f"Content-Encoding {encoding} is not supported; use one of {known}")
    try:
        return _unpack(data, _UNPACKER[encoding], limit_bytes)
    except (zlib.error, RuntimeError, zstd.ZstdError) as error:
        raise BodyError(f"the body is not valid {encoding}: {error}") from error


def _unpack(data: bytes, unpacker: Callable[[], Any], limit_bytes: int) -> bytes:
    parts, size = [], 0
    while data:
        frame = unpacker()
        parts.append(frame.decompress(data, limit_bytes - size + 1))
        size += len(parts[-1])
        if size > limit_bytes:
            sentence = f"the unpacked body is larger than {limit_bytes} bytes"
            raise BodyError(sentence, too_large=True)
        if not frame.eof:
            raise BodyError("the compressed body ends too early")
        data = frame.unused_data or b""
    return b"".join(parts)
