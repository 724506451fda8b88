"""Clients of ClickHouse: the embedded server or a cluster, by the same protocol.

Errors of the driver become ours: OutsideError for what may pass, ConfigError for what the operator
has to mend, SluiceError with ClickHouse's own sentence for the rest.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urlsplit

import clickhouse_connect
import urllib3
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from sluice.errors import ConfigError, OutsideError, SluiceError
from sluice.settings import Settings

UNKNOWN_DATABASE = 81
UNKNOWN_TABLE = 60
_CREDENTIALS = frozenset({192, 193, 194, 516})
# Busy, out of memory for now, too many parts, no quorum, read-only replica, Keeper away.
_PASSING = frozenset({159, 202, 209, 210, 241, 242, 252, 285, 319, 439, 999})
# ClickHouse's sentence without the statement it repeats, its version and the address.
_TEXT = re.compile(
    r"Code:\ \d+\..*?(?= :?\ In\ scope\  | \.?\ Expected\ one\ of | :\ While\ executing"
    r" | \ \(version\  | \s+\(for\ url\  | $ )",
    re.DOTALL | re.VERBOSE,
)
_TIMEOUT_S = 60
_POLL_S = 0.1

# The driver tells every failed attempt on standard error; ours says it once, as an exception.
logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())


class WarehouseError(SluiceError):
    """ClickHouse refused a statement; `code` is its error number."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


def connect(settings: Settings, *, database: str | None = "") -> Client:
    """A client on the pipeline's database; `database=None` selects none.

    Raises OutsideError while the server is away, ConfigError for a wrong address or password.
    """
    url = urlsplit(settings.clickhouse)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"SLUICE_CLICKHOUSE_URL {settings.clickhouse} is not http(s)://host:port")
    with translated(settings):
        return clickhouse_connect.get_client(
            interface=url.scheme,
            host=url.hostname,
            port=url.port or (8443 if url.scheme == "https" else 8123),
            username=settings.clickhouse_user,
            password=settings.clickhouse_password.get_secret_value(),
            database=settings.clickhouse_database if database == "" else database or "__default__",
            compress="lz4" if not _is_near(url.hostname) else False,
            # Stated, because servers differ: an acknowledged insert is in the table.
            settings={"async_insert": 0, "wait_for_async_insert": 1},
            autogenerate_session_id=False,
            connect_timeout=5,
            send_receive_timeout=_TIMEOUT_S,
            client_name="sluice",
        )


def _is_near(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def query_text(settings: Settings, sql: str, fmt: str) -> bytes:
    """The result of `sql` in any ClickHouse format, unless the statement names one itself."""
    client = connect(settings)
    try:
        with translated(settings):
            return client.raw_query(sql, transport_settings={"X-ClickHouse-Format": fmt})
    finally:
        client.close()


def wait_ready(settings: Settings, timeout_s: float) -> None:
    """Return when the server answers queries; OutsideError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not _pinged(settings) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    connect(settings, database=None).close()


def _pinged(settings: Settings) -> bool:
    try:
        answer = urllib3.request("GET", f"{settings.clickhouse}/ping", timeout=1, retries=False)
    except urllib3.exceptions.HTTPError:
        return False
    return bool(answer.status == HTTPStatus.OK)


@contextmanager
def translated(settings: Settings) -> Iterator[None]:
    """Errors of the driver inside the block become errors of this program."""
    try:
        yield
    except ClickHouseError as error:
        raise _translate(settings, error) from error


def _translate(settings: Settings, error: ClickHouseError) -> SluiceError:
    code = getattr(error, "code", None)
    if code is None:
        return OutsideError(
            f"ClickHouse at {settings.clickhouse} does not answer; start it with `sluice up`, or "
            "set SLUICE_CLICKHOUSE_URL"
        )
    found = _TEXT.search(str(error))
    text = found.group().strip() if found else str(error)
    if code in _CREDENTIALS:
        return ConfigError(
            f"ClickHouse at {settings.clickhouse} refuses user {settings.clickhouse_user!r}; check "
            "SLUICE_CLICKHOUSE_USER and SLUICE_CLICKHOUSE_PASSWORD"
        )
    if code in _PASSING:
        return OutsideError(f"ClickHouse at {settings.clickhouse} cannot do this now: {text}")
    return WarehouseError(f"ClickHouse refuses: {text}", code)
