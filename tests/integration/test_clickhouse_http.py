"""The embedded ClickHouse as its clients see it: clickhouse-connect, curl, the writer."""

from __future__ import annotations

import gzip
import json
import random
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import clickhouse_connect
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from sluice.errors import ConfigError, OutsideError
from sluice.warehouse.client import WarehouseError, connect, query_text
from sluice.warehouse.node import ClickHouseNode

pytestmark = pytest.mark.integration

TABLE = "(a Int64, b Nullable(String), c LowCardinality(String)) ENGINE = MergeTree ORDER BY a"
# Bytes that end lines, statements, texts and C strings.
NASTY = b"\x00\xff\xfe;\n\r\t'\"\\`--/*$$\x80"


class Answer(NamedTuple):
    """What came back over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture
def client(node: ClickHouseNode) -> Iterator[Client]:
    """A client of it, and a fresh table t."""
    client = connect(node.settings)
    client.command(f"CREATE OR REPLACE TABLE t {TABLE}")
    yield client
    client.close()


def ask(
    node: ClickHouseNode,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    **options: str,
) -> Answer:
    """One raw HTTP request, the way curl sends it."""
    url = f"{node.url}/?{urllib.parse.urlencode(options)}"
    request = urllib.request.Request(url, data=body, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return Answer(answer.status, dict(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, dict(error.headers), error.read())


def test_ping_and_empty_request(node: ClickHouseNode) -> None:
    """Load balancers get what ClickHouse gives them."""
    with urllib.request.urlopen(f"{node.url}/ping", timeout=5) as answer:
        assert answer.read() == b"Ok.\n"
    assert ask(node).body == b"Ok.\n"


def test_get_reads_and_cannot_write(node: ClickHouseNode, client: Client) -> None:
    """GET answers in TabSeparated with ClickHouse's headers, and changes nothing."""
    answer = ask(node, query="SELECT 1, 'a\tb', NULL")
    assert (answer.status, answer.body) == (200, b"1\ta\\tb\t\\N\n")
    assert answer.headers["X-ClickHouse-Format"] == "TabSeparated"
    assert answer.headers["X-ClickHouse-Timezone"] == "UTC"
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["read_rows"] == "1"
    refused = ask(node, query="DROP TABLE t")
    assert refused.headers["X-ClickHouse-Exception-Code"] == "164"
    assert client.command("EXISTS TABLE t") == 1


def test_formats(node: ClickHouseNode) -> None:
    """The statement's format wins over default_format, which wins over the header."""
    header = {"X-ClickHouse-Format": "CSV"}
    assert ask(node, b"SELECT 1 AS a FORMAT JSONEachRow", header).body == b'{"a":1}\n'
    assert ask(node, b"SELECT 'x'", header).body == b'"x"\n'
    answer = ask(node, b"SELECT 'x' AS a", header, default_format="JSONEachRow")
    assert (answer.body, answer.headers["X-ClickHouse-Format"]) == (b'{"a":"x"}\n', "JSONEachRow")


def test_query_id_is_given_back(node: ClickHouseNode) -> None:
    """A client finds its own id in the answer, errors included."""
    for sql in (b"SELECT 1", b"SELECT"):
        assert ask(node, sql, query_id="mine").headers["X-ClickHouse-Query-Id"] == "mine"


@pytest.mark.parametrize(
    ("sql", "status", "code"),
    [
        (b"SELECT * FROM nowhere", 404, 60),
        (b"SELECT nothing", 404, 47),
        (b"SELEC 1", 400, 62),
        (b"SELECT 1; SELECT 2", 400, 62),
        (b"SELECT throwIf(number = 3) FROM numbers(10)", 500, 395),
        (b"SELECT * FROM file('/etc/passwd', LineAsString)", 403, 497),
        (b"SELECT * FROM url('http://127.0.0.1:1/', LineAsString)", 403, 497),
        (b"INSERT INTO t FORMAT Native\n\x03\x01\x01a\x05Int64", 400, 33),
        (b'INSERT INTO t FORMAT CSV\nx,"y","z"', 400, 27),
        (b"INSERT INTO nowhere FORMAT CSV\n1", 404, 60),
        (b"INSERT INTO t FORMAT Nothing\n1", 404, 73),
    ],
)
def test_errors_carry_code_and_status(
    node: ClickHouseNode, client: Client, sql: bytes, status: int, code: int
) -> None:
    """Errors look like ClickHouse's own, and nothing of a faulty insert stays."""
    answer = ask(node, sql)
    assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (status, str(code))
    assert answer.body.startswith(f"Code: {code}. DB::Exception: ".encode())
    assert b"(version 26." in answer.body
    assert client.command("SELECT count() FROM t") == 0


def test_parameters_are_bound_by_the_server(client: Client) -> None:
    """Values travel beside the statement and arrive as they were, whatever they contain."""
    text = "tab\t line\n quote' back\\slash {a:String} ;--"
    sql = "SELECT {a:String}, {b:Array(String)}, {c:Nullable(Int64)}, {d:Identifier}"
    values = {"a": text, "b": [text, ""], "c": None, "d": "x"}
    found = client.query(f"{sql} FROM (SELECT 7 AS x)", parameters=values)
    assert found.result_rows == [(text, [text, ""], None, 7)]


def test_parameters_of_an_insert(node: ClickHouseNode, client: Client) -> None:
    """Parameters work in the values of an INSERT too."""
    sql = b"INSERT INTO t VALUES (1, {b:String}, upper('x'))"
    assert ask(node, sql, param_b="a'b\\\\t;").status == 200
    assert client.query("SELECT * FROM t").result_rows == [(1, "a'b\\t;", "X")]


def test_settings_last_for_one_request(node: ClickHouseNode) -> None:
    """URL parameters are settings of this query only; unknown ones are refused by name."""
    sql = b"SELECT getSetting('max_block_size')"
    assert ask(node, sql, max_block_size="17").body == b"17\n"
    assert ask(node, sql).body != b"17\n"
    refused = ask(node, sql, no_such_setting="1")
    assert (refused.status, b"no_such_setting" in refused.body) == (404, True)
    assert ask(node, b"SELECT getSetting('async_insert')").body == b"false\n"


def test_database_of_a_request(node: ClickHouseNode, client: Client) -> None:
    """Unqualified names mean the pipeline's database unless the request names another."""
    client.command("CREATE DATABASE IF NOT EXISTS other")
    assert ask(node, b"SELECT currentDatabase()").body == b"sluice\n"
    assert ask(node, b"SELECT currentDatabase()", database="other").body == b"other\n"
    assert ask(node, b"SELECT 1", database="nowhere").headers["X-ClickHouse-Exception-Code"] == "81"


@pytest.mark.parametrize("encoding", ["gzip", "lz4", "zstd"])
def test_compression_both_ways(node: ClickHouseNode, client: Client, encoding: str) -> None:
    """clickhouse-connect's compressed inserts and answers are the uncompressed ones."""
    packed = clickhouse_connect.get_client(
        host="127.0.0.1", port=node.port, database="sluice", compress=encoding
    )
    rows = [[n, "x" * 50 if n % 3 else None, "c"] for n in range(5000)]
    packed.insert("t", rows)
    assert packed.query("SELECT * FROM t ORDER BY a").result_rows == [tuple(row) for row in rows]
    packed.close()


def test_compression_is_asked_for(node: ClickHouseNode) -> None:
    """Answers are packed only for a client that enables it; curl's gzip bodies are unpacked."""
    accept = {"Accept-Encoding": "gzip"}
    assert ask(node, b"SELECT 1", accept).body == b"1\n"
    answer = ask(node, b"SELECT 1", accept, enable_http_compression="1")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.body) == b"1\n"
    assert ask(node, gzip.compress(b"SELECT 2"), {"Content-Encoding": "gzip"}).body == b"2\n"
    assert ask(node, b"SELECT", {"Content-Encoding": "gzip"}).status == 501
    assert b"Content-Encoding" in ask(node, b"SELECT 1", decompress="1").body


@pytest.mark.parametrize(
    "name",
    "Native RowBinary Arrow ArrowStream Parquet TSV CSV JSONEachRow Values".split(),  # noqa: SIM905
)
@pytest.mark.parametrize("in_body", [True, False])
def test_insert_round_trip(node: ClickHouseNode, client: Client, name: str, in_body: bool) -> None:
    """What one format reads from a table, the same format stores again, byte for byte."""
    texts = [NASTY if name != "JSONEachRow" else NASTY[3:-1], b"", None, b"plain"]
    rows = ", ".join(
        f"({n}, {'NULL' if text is None else f'unhex({text.hex()!r})'}, 'c')"
        for n, text in enumerate(texts * 50)
    )
    client.command(f"INSERT INTO t VALUES {rows}")
    client.command(f"CREATE OR REPLACE TABLE copy {TABLE}")
    data = ask(node, f"SELECT * FROM t ORDER BY a FORMAT {name}".encode()).body
    head = f"INSERT INTO copy (a, b, c) FORMAT {name}"
    answer = ask(node, f"{head}\n".encode() + data) if in_body else ask(node, data, query=head)
    assert answer.status == 200, answer.body
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["written_rows"] == "200"
    missing = "SELECT count() FROM (SELECT * FROM t EXCEPT SELECT * FROM copy)"
    assert client.command(missing) == 0
    assert client.command("SELECT count() FROM copy") == 200


def test_random_bytes_survive(node: ClickHouseNode, client: Client) -> None:
    """No byte pattern in binary data is taken for SQL."""
    chooser = random.Random(1)
    alphabet = bytes([0, 10, 13, 34, 39, 42, 45, 47, 59, 92, 128, 255])
    data = bytearray()
    for n in range(5000):
        text = bytes(chooser.choices(alphabet, k=chooser.randrange(60)))
        data += n.to_bytes(8, "little") + bytes([0, len(text)]) + text + b"\x00"
    assert ask(node, b"INSERT INTO t FORMAT RowBinary\n" + bytes(data)).status == 200
    assert ask(node, b"SELECT * FROM t ORDER BY a FORMAT RowBinary").body == bytes(data)


def test_client_library(client: Client) -> None:
    """The ways of clickhouse-connect that the pipeline and analysts use."""
    client.insert("t", [[1, None, "x"], [2, "b;\n'", "y"]], column_names=["a", "b", "c"])
    client.insert_arrow("t", pa.table({"a": [3], "b": pa.array([None], pa.string()), "c": ["z"]}))
    assert client.query("SELECT * FROM t ORDER BY a").result_rows == [
        (1, None, "x"), (2, "b;\n'", "y"), (3, None, "z"),
    ]  # fmt: skip
    assert client.query_arrow("SELECT a FROM t ORDER BY a")["a"].to_pylist() == [1, 2, 3]
    assert list(client.query_df("SELECT a, c FROM t ORDER BY a")["c"]) == ["x", "y", "z"]
    assert client.query("SELECT * FROM t LIMIT 0").column_names == ("a", "b", "c")
    assert client.query("SELECT a FROM t WHERE a > 9").result_rows == []
    assert client.raw_query("SELECT 1 AS a", fmt="JSONEachRow") == b'{"a":1}\n'
    with client.query_row_block_stream("SELECT number FROM numbers(100000)") as blocks:
        assert sum(len(block) for block in blocks) == 100_000
    with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
        client.query("SELECT * FROM nowhere")


def test_form_encoded_queries(node: ClickHouseNode) -> None:
    """Large parameters may travel as form fields."""
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=node.port, form_encode_query_params=True
    )
    text = "ä\n'" * 5000
    assert client.query("SELECT {a:String}", parameters={"a": text}).result_rows == [(text,)]
    client.close()


def test_eight_clients_at_once(node: ClickHouseNode, client: Client) -> None:
    """Requests that run side by side neither mix nor lose rows."""

    def work(slot: int) -> None:
        own = connect(node.settings)
        for n in range(10):
            own.insert("t", [[slot * 1000 + n, str(slot), "p"]])
            sql = "SELECT {s:Int64}, getSetting('max_block_size') FROM numbers(1)"
            setting = {"max_block_size": slot + 1}
            assert own.query(sql, {"s": slot}, setting).result_rows == [(slot, slot + 1)]
        own.close()

    with ThreadPoolExecutor(8) as pool:
        for outcome in [pool.submit(work, slot) for slot in range(8)]:
            outcome.result()
    assert client.command("SELECT uniqExact(a) FROM t") == 80


def test_a_slow_question_holds_nobody_up(node: ClickHouseNode, client: Client) -> None:
    """Inserts go on while a long query runs, and it ends when its client goes away."""
    mark = "SELECT sum(cityHash64(number)) FROM numbers(1000000000000) SETTINGS max_threads = 1"
    running = f"SELECT count() FROM system.processes WHERE startsWith(query, '{mark[:40]}')"
    with socket.create_connection(("127.0.0.1", node.port)) as waiting:
        head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(mark)}\r\n\r\n"
        waiting.sendall(f"{head}{mark}".encode())
        _until(lambda: client.command(running) == 1)
        client.insert("t", [[1, None, "x"]])
        assert client.command("SELECT count() FROM t") == 1
    _until(lambda: client.command(running) == 0)


def test_bodies_have_a_limit(tmp_path: Path) -> None:
    """A body beyond the limit is refused, packed or not; the server goes on."""
    small = {"SLUICE_CLICKHOUSE_MEMORY_BYTES": str(2**28)}
    with ClickHouseNode(tmp_path, environment=small) as node:
        big = b"SELECT 1 --" + b" " * 2**26
        answer = ask(node, gzip.compress(big, 1), {"Content-Encoding": "gzip"})
        assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (413, "307")
        assert ask(node, b"SELECT 1").body == b"1\n"


def test_too_many_requests_are_turned_away(node: ClickHouseNode) -> None:
    """Beyond the bound a client gets 503 and the advice to come back, and later its answer."""
    answers: list[Answer] = []
    sql = b"SELECT sleep(0.1)"
    threads = [threading.Thread(target=lambda: answers.append(ask(node, sql))) for _ in range(90)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    turned_away = [answer for answer in answers if answer.status == 503]
    assert len(answers) == 90
    assert turned_away
    assert all(answer.headers["Retry-After"] == "1" for answer in turned_away)
    assert {answer.status for answer in answers} == {200, 503}
    assert ask(node, b"SELECT 1").body == b"1\n"


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A query that needs more than its share fails with ClickHouse's code; the server goes on."""
    small = {"SLUICE_CLICKHOUSE_MEMORY_BYTES": str(2**29)}
    with ClickHouseNode(tmp_path, environment=small) as node:
        greedy = ask(node, b"SELECT length(groupArray(number)) FROM numbers(1000000000)")
        assert greedy.headers["X-ClickHouse-Exception-Code"] == "241"
        wide = ask(node, b"SELECT number FROM numbers(1000000000)")
        assert wide.headers["X-ClickHouse-Exception-Code"] == "396"
        assert ask(node, b"SELECT 1").body == b"1\n"


def test_password(tmp_path: Path) -> None:
    """With a password set, nobody gets in without it; our own errors say what to check."""
    locked = {"SLUICE_CLICKHOUSE_USER": "ana", "SLUICE_CLICKHOUSE_PASSWORD": "s3cret"}
    with ClickHouseNode(tmp_path, environment=locked) as node:
        assert query_text(node.settings, "SELECT 1", "TSV") == b"1\n"
        refused = ask(node, b"SELECT 1")
        assert (refused.status, refused.headers["X-ClickHouse-Exception-Code"]) == (403, "516")
        assert ask(node, b"SELECT 1", user="ana", password="s3cret").body == b"1\n"
        wrong = node.settings.model_copy(update={"clickhouse_user": "bob"})
        with pytest.raises(ConfigError, match="SLUICE_CLICKHOUSE_PASSWORD"):
            query_text(wrong, "SELECT 1", "TSV")


def test_kill_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    """After kill -9 in the middle of inserts every acknowledged row is there, each insert whole."""
    node = ClickHouseNode(tmp_path).start()
    connect(node.settings).command(f"CREATE TABLE t {TABLE}")
    acknowledged: list[int] = []

    def insert() -> None:
        client = connect(node.settings)
        try:
            for n in range(10_000):
                client.insert("t", [[n, str(i), "x"] for i in range(1000)])
                acknowledged.append(n)
        except Exception:  # the server is killed under it
            return

    thread = threading.Thread(target=insert)
    thread.start()
    _until(lambda: len(acknowledged) >= 20)
    node.kill()
    thread.join()
    with node:
        rows = connect(node.settings).query("SELECT a, count() FROM t GROUP BY a").result_rows
    assert {count for _, count in rows} == {1000}
    assert set(acknowledged) <= {a for a, _ in rows}


def test_one_server_per_folder(tmp_path: Path) -> None:
    """A second server on a folder says who holds it, and the first goes on."""
    with ClickHouseNode(tmp_path) as first:
        with pytest.raises(OutsideError, match=f"process {first.pid}"):
            ClickHouseNode(tmp_path).start()
        assert query_text(first.settings, "SELECT 1", "TSV") == b"1\n"


def test_taken_port_is_named(node: ClickHouseNode, tmp_path: Path) -> None:
    """A port in use is a sentence with the setting that changes it."""
    with pytest.raises(OutsideError, match="SLUICE_CLICKHOUSE_PORT"):
        ClickHouseNode(tmp_path, node.port).start()


def test_errors_of_our_client(node: ClickHouseNode, tmp_path: Path) -> None:
    """One sentence each: refused with ClickHouse's words, or away with what to do."""
    with pytest.raises(WarehouseError) as caught:
        query_text(node.settings, "SELECT * FROM nowhere", "TSV")
    assert caught.value.code == 60
    assert "nowhere" in str(caught.value)
    away = ClickHouseNode(tmp_path).settings
    with pytest.raises(OutsideError, match="sluice up"):
        query_text(away, "SELECT 1", "TSV")


def _until(holds: object, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    assert callable(holds)
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.05)
