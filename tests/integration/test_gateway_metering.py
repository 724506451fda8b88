"""A real gateway over real sockets: what SQL says went over the wire is what went over the wire."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.integration import openai_gateway as gw
from tests.integration.conftest import Stack, until

from sluice.admission.hashing import content_hash, identity_hash
from sluice.admission.metered import Metered
from sluice.admission.subscriber import follow
from sluice.wire.emitter import UsageEmitter
from sluice.wire.kafka import producer_config, topics

pytestmark = pytest.mark.integration

INDEX = "eins zwei drei vier fünf\n".encode() * 40
EVENTS = 8
BYTES = ("net_in_bytes", "net_out_bytes", "io_read_bytes", "io_write_bytes")


@dataclass
class Seen:
    """What a client saw: status, body, µs until its first byte and until its last one."""

    status: int
    body: bytes
    first_us: int
    whole_us: int


@dataclass
class Traffic:
    """The requests that were made, what the upstream counted, and the stored events."""

    wire: gw.Wire
    seen: dict[str, Seen]
    bodies: dict[str, bytes]
    stack: Stack

    def events(self, conversation: str) -> list[dict[str, Any]]:
        """Events of a conversation, in order of their step."""
        return self.stack.rows(
            f"SELECT * FROM usage_events FINAL WHERE tenant_id = '{gw.TENANT}' AND "
            f"ifNull(conversation_id, 'tool') = '{conversation}' ORDER BY step "
            "SETTINGS output_format_json_quote_64bit_integers = 0"
        )

    def event(self, conversation: str) -> dict[str, Any]:
        """The only event of a conversation."""
        (event,) = self.events(conversation)
        return event


def ask(url: str, name: str, body: bytes, *, path: str = "/v1/chat/completions",
        leave_after: int | None = None, **headers: str) -> Seen:  # fmt: skip
    """Post `body` and read the answer, at most `leave_after` bytes of it."""
    began = time.monotonic_ns()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    sent = {"authorization": "Bearer k1", "x-conversation": name, **headers}
    connection.request("POST", path, body, sent)
    with connection.getresponse() as answer:
        first = answer.read(1)
        first_us = (time.monotonic_ns() - began) // 1000
        rest = answer.read() if leave_after is None else answer.read(leave_after - 1)
    connection.close()
    return Seen(answer.status, first + rest, first_us, (time.monotonic_ns() - began) // 1000)


def chat(**over: Any) -> bytes:
    """Body of a chat completion."""
    messages = [{"role": "user", "content": "grüß Gott"}]
    return json.dumps({"model": gw.MODEL, "messages": messages} | over, ensure_ascii=False).encode()


@pytest.fixture(scope="module")
def traffic(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Traffic:
    """One request of each kind through the gateway, stored."""
    folder, settings = tmp_path_factory.mktemp("gateway"), stack.settings
    (folder / "index").write_bytes(INDEX)
    upstream, usage = gw.Upstream(), topics(settings).usage
    with (
        UsageEmitter(producer_config(settings), usage, "test-gateway", folder / "wal") as emitter,
        follow(settings, "test-gateway", emitter) as point,
        gw.tool_server(upstream.wire) as tool_port,
        gw.served(upstream.app) as upstream_url,
        gw.served(
            gw.Gateway(Metered(point, emitter), upstream_url, folder, tool_port).app
        ) as url,
    ):  # fmt: skip
        assert point.wait_ready(30)
        bodies, seen = play(url)
    count = f"SELECT count() FROM usage_events FINAL WHERE tenant_id = '{gw.TENANT}'"
    until(lambda: int(stack.value(count)) == EVENTS, what=f"{EVENTS} events")
    assert (folder / "notes").read_bytes() == gw.TOOL_ANSWER[:100]
    return Traffic(upstream.wire, seen, bodies, stack)


def play(url: str) -> tuple[dict[str, bytes], dict[str, Seen]]:
    """Make one request of each kind; returns what was sent and what came back."""
    bodies = {
        "plain": chat(), "slow": chat(max_tokens=3), "failed": chat(model="fail"),
        "streamed": chat(stream=True), "aborted": chat(stream=True, model="hang"),
        "agent": b"{}",
    }  # fmt: skip
    read = sum(len(gw.word(number)) for number in range(gw.WORDS_BEFORE_HANGING))
    special: dict[str, dict[str, Any]] = {
        "plain": {"x-slo-us": "60000000"}, "slow": {"x-slo-us": "1"},
        "failed": {"x-slo-us": "60000000"}, "aborted": {"leave_after": read},
        "agent": {"path": "/v1/agent"},
    }  # fmt: skip
    return bodies, {name: ask(url, name, body, **special.get(name, {}))
                    for name, body in bodies.items()}  # fmt: skip


def wire_bytes(traffic: Traffic, name: str) -> dict[str, int | None]:
    """The byte fields as the upstream's own count has them."""
    return {"net_in_bytes": traffic.wire.sent[name], "net_out_bytes": traffic.wire.received[name],
            "io_read_bytes": None, "io_write_bytes": None}  # fmt: skip


@pytest.mark.parametrize("name", ["plain", "slow", "failed", "streamed", "aborted"])
def test_bytes_are_those_on_the_wire(traffic: Traffic, name: str) -> None:
    """For every kind of end: body bytes to and from the upstream, and null for what was not."""
    event = traffic.event(name)
    assert {field: event[field] for field in BYTES} == wire_bytes(traffic, name)
    assert event["net_out_bytes"] == len(traffic.bodies[name])


@pytest.mark.parametrize(("name", "outcome", "error", "quality"), [
    ("plain", "ok", None, "good"), ("slow", "ok", None, "slow"),
    ("failed", "error", "ClientResponseError", "failed"), ("streamed", "ok", None, None),
    ("aborted", "cancelled", None, "abandoned"),
])  # fmt: skip
def test_outcomes_are_what_happened(
    traffic: Traffic, name: str, outcome: str, error: str | None, quality: str | None
) -> None:
    """Ends are told apart, with the class of the error and the verdict of the target."""
    event = traffic.event(name)
    told = (event["outcome"], event["error_type"], event["slo_outcome"])
    assert told == (outcome, error, quality)
    assert event["api_key_hash"] == identity_hash("Bearer k1", gw.SECRET)


def test_what_the_client_got_is_what_was_counted(traffic: Traffic) -> None:
    """Whole answers arrive unchanged; the client that left had read what is billed as received."""
    for name in ("plain", "slow", "streamed", "aborted"):
        assert traffic.seen[name].status == 200
        assert len(traffic.seen[name].body) == traffic.event(name)["net_in_bytes"]
    assert traffic.seen["failed"].status == 500


def test_a_streams_first_chunk_and_end_are_timed(traffic: Traffic) -> None:
    """The times lie between the upstream's pauses and what the client waited."""
    event, seen = traffic.event("streamed"), traffic.seen["streamed"]
    pause_us = round(gw.PAUSE_S * 1e6)
    assert pause_us <= event["ttft_us"] <= seen.first_us
    assert (gw.WORDS + 1) * pause_us <= event["latency_us"] <= seen.whole_us
    assert event["stream"] is True
    plain = traffic.event("plain")
    assert plain["ttft_us"] is None
    assert pause_us <= plain["latency_us"] <= traffic.seen["plain"].whole_us


def test_tokens_are_the_providers_or_what_was_streamed(traffic: Traffic) -> None:
    """A whole stream carries the provider's counts, an aborted one what went by, as an estimate."""
    names = ("input_tokens", "output_tokens", "usage_source")
    whole, aborted = traffic.event("streamed"), traffic.event("aborted")
    assert [whole[name] for name in names] == [11, 8, "provider"]
    assert [aborted[name] for name in names] == [0, gw.WORDS_BEFORE_HANGING, "estimated"]


def test_an_agents_steps_and_tool_are_metered(traffic: Traffic) -> None:
    """Two calls and a tool call of one task: steps, parents, storage and socket bytes, hashes."""
    task_id = json.loads(traffic.seen["agent"].body)["task_id"]
    (tool,) = traffic.events("tool")
    calls = traffic.events("agent")
    assert {event["task_id"] for event in (tool, *calls)} == {task_id}
    assert [(event["step"], event["depth"]) for event in (calls[0], tool, calls[1])] == [
        (1, 0), (2, 1), (3, 0),
    ]  # fmt: skip
    assert tool["parent_event_id"] == calls[0]["event_id"]
    line = INDEX.splitlines(keepends=True)[0]
    assert [tool[field] for field in BYTES] == [len(gw.TOOL_ANSWER), len(line), len(line), 100]
    assert (traffic.wire.received["tool"], traffic.wire.sent["tool"]) == (
        len(line), len(gw.TOOL_ANSWER),
    )  # fmt: skip
    assert (tool["tool_name"], tool["tool_server"], tool["tool_writes"]) == (
        "lookup",
        "files",
        True,
    )
    assert tool["tool_args_hash"] == content_hash({"q": "x"})
    assert tool["result_hash"] == content_hash(gw.TOOL_ANSWER.decode())
    assert sum(event["net_in_bytes"] for event in calls) == traffic.wire.sent["agent"]


def test_windows_sum_the_bytes(traffic: Traffic) -> None:
    """usage_windows carries the same bytes as the wire, over all models and the tool."""
    sums = ", ".join(f"toInt64(sum({field})) AS {field}" for field in BYTES)
    query = (
        f"SELECT {sums}, toInt64(sum(events)) AS events FROM usage_windows FINAL "
        f"WHERE tenant_id = '{gw.TENANT}' SETTINGS output_format_json_quote_64bit_integers = 0"
    )
    whole = {
        "net_in_bytes": sum(traffic.wire.sent.values()),
        "net_out_bytes": sum(traffic.wire.received.values()),
        "io_read_bytes": len(INDEX.splitlines(keepends=True)[0]), "io_write_bytes": 100,
        "events": EVENTS,
    }  # fmt: skip
    until(lambda: traffic.stack.rows(query) == [whole], what=str(whole))
