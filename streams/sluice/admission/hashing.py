"""Hashes that stand in events for what must not leave the gateway."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

_DIGITS = 16


def content_hash(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of bytes, or of a value's canonical JSON.

    Text that is JSON counts as what it says, so that arguments are the same whether a model or a
    program wrote them. Raises TypeError for a value that JSON does not have.
    """
    data = bytes(value) if isinstance(value, bytes | bytearray | memoryview) else _canonical(value)
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def identity_hash(identity: str, secret: bytes) -> str:
    """Keyed hash of a person or API key, 32 hex digits, for `end_user_hash` and `api_key_hash`.

    HMAC-SHA-256, because addresses can be guessed: keep `secret` (at least 16 bytes) in the
    gateways and the same in all of them. Raises ValueError for a shorter one.
    """
    if len(secret) < 16:
        raise ValueError(f"a secret has at least 16 bytes, not {len(secret)}")
    return hmac.new(secret, identity.encode(), hashlib.sha256).hexdigest()[:32]


def _canonical(value: Any) -> bytes:
    if isinstance(value, str):
        value = _said(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # Lone surrogates are legal in JSON text and have no UTF-8.
    return text.encode(errors="surrogatepass")


def _said(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
