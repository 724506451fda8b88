"""Who may ask the embedded server."""

from __future__ import annotations

from base64 import b64encode

import pytest
from aiohttp.test_utils import make_mocked_request
from pydantic import SecretStr

from sluice.errors import ConfigError
from sluice.settings import Settings
from sluice.warehouse.access import Access
from sluice.warehouse.engine import EngineError

LOCKED = Settings(clickhouse_user="ana", clickhouse_password=SecretStr("s3:cret"))
BASIC = "Basic " + b64encode(b"ana:s3:cret").decode()


def code(access: Access, path: str = "/", **headers: str) -> int:
    """0 for a welcome request, else ClickHouse's error code."""
    sent = {"Host": "127.0.0.1:1", **{k.replace("_", "-"): v for k, v in headers.items()}}
    try:
        access.check(make_mocked_request("GET", path, headers=sent))
    except EngineError as error:
        return error.code
    return 0


def test_credentials_in_each_of_their_places() -> None:
    """Basic authentication, ClickHouse's headers and URL parameters all count; wrong ones never."""
    access = Access(LOCKED, "127.0.0.1")
    assert code(access, Authorization=BASIC) == 0
    assert code(access, X_ClickHouse_User="ana", X_ClickHouse_Key="s3:cret") == 0
    assert code(access, "/?user=ana&password=s3:cret") == 0
    assert code(access) == 516
    assert code(access, "/?user=ana") == 516
    assert code(access, X_ClickHouse_User="bob", X_ClickHouse_Key="s3:cret") == 516
    assert code(access, Authorization="Basic ?") == 516


def test_web_pages_are_kept_out() -> None:
    """A page of another site cannot use the browser of someone on this machine."""
    access = Access(Settings(), "127.0.0.1")
    assert code(access) == 0
    assert code(access, Host="localhost:8123") == 0
    assert code(access, Host="[::1]:8123") == 0
    assert code(access, Origin="https://elsewhere.example") == 497
    assert code(access, Sec_Fetch_Site="cross-site") == 497
    assert code(access, Host="rebound.example") == 497


def test_other_hosts_need_a_password() -> None:
    """Nobody opens the server to a network without a password."""
    with pytest.raises(ConfigError, match="SLUICE_CLICKHOUSE_PASSWORD"):
        Access(Settings(), "0.0.0.0")
    assert code(Access(LOCKED, "0.0.0.0"), Host="clickhouse", Authorization=BASIC) == 0
