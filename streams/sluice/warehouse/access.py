"""Who may ask: credentials of a request, and protection from web pages of other sites."""

from __future__ import annotations

import base64
import binascii
import hmac
from urllib.parse import urlsplit

from aiohttp import web

from sluice.errors import ConfigError
from sluice.settings import Settings
from sluice.warehouse.engine import EngineError

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Access:
    """Decides per request; `host` is the address that the server listens on."""

    def __init__(self, settings: Settings, host: str) -> None:
        self._user = settings.clickhouse_user
        self._password = settings.clickhouse_password.get_secret_value()
        self._loopback = host in _LOOPBACK
        if not self._loopback and not self._password:
            raise ConfigError(
                f"listening on {host} needs a password: set SLUICE_CLICKHOUSE_PASSWORD"
            )

    def check(self, request: web.Request) -> None:
        """EngineError, as ClickHouse words it, for a request that is not welcome."""
        if self._from_elsewhere(request):
            text = "DB::Exception: Requests of web pages are refused. (ACCESS_DENIED)"
            raise EngineError(497, f"Code: 497. {text}")
        user, password = _credentials(request)
        # Both are compared, so that the time taken tells nothing about either.
        known, right = _same(user, self._user), _same(password, self._password)
        if not (known and right):
            text = f"{user}: Authentication failed: password is incorrect, or there is no user"
            raise EngineError(
                516, f"Code: 516. DB::Exception: {text} with such name. (AUTHENTICATION_FAILED)"
            )

    def _from_elsewhere(self, request: web.Request) -> bool:
        """A browser on this machine must not become a way in for the pages it shows."""
        if "Origin" in request.headers:
            return True
        if request.headers.get("Sec-Fetch-Site", "none") != "none":
            return True
        name = urlsplit(f"//{request.host}").hostname or ""
        return self._loopback and name not in _LOOPBACK


def _credentials(request: web.Request) -> tuple[str, str]:
    """User and password: headers of ClickHouse, basic authentication, then URL parameters."""
    if "X-ClickHouse-User" in request.headers:
        user = request.headers["X-ClickHouse-User"]
        return user, request.headers.get("X-ClickHouse-Key", "")
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(encoded).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return user, password
    return request.query.get("user", "default"), request.query.get("password", "")


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
