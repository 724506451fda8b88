"""A gateway on loopback that meters with the SDK, in front of an upstream that keeps its own count.

The upstream writes down what it received and sent, so that the gateway's figures meet figures from
the other end of the wire.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, web

from sluice.admission.hashing import identity_hash
from sluice.admission.metered import Call, Metered, Task, ToolCall
from sluice.admission.verdict import AdmissionRequest

MODEL = "gpt-4o-mini"
WORDS = 6
WORDS_BEFORE_HANGING = 3
PAUSE_S = 0.03
TOOL_ANSWER = b"x" * 700
SECRET = b"secret of the gateways"
TENANT = "gateway-io"


@dataclass
class Wire:
    """Bytes of bodies as the upstream saw them, by conversation."""

    received: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)

    def add(self, conversation: str, received: int, sent: int) -> None:
        """Count one exchange or a part of one."""
        self.received[conversation] = self.received.get(conversation, 0) + received
        self.sent[conversation] = self.sent.get(conversation, 0) + sent


def word(number: int) -> bytes:
    """One server-sent event of a streamed answer; umlauts make bytes and characters differ."""
    return b"data: " + json.dumps(
        {"choices": [{"delta": {"content": f"wört{number} "}}]}, ensure_ascii=False
    ).encode() + b"\n\n"  # fmt: skip


USAGE = {"prompt_tokens": 11, "completion_tokens": 8}
LAST = b'data: {"choices": [], "usage": %s}\n\ndata: [DONE]\n\n' % json.dumps(USAGE).encode()


class Upstream:
    """Speaks OpenAI's chat completions; model `fail` fails and model `hang` stops half-way."""

    def __init__(self) -> None:
        self.wire = Wire()

    def app(self) -> web.Application:
        """The application to serve."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.complete)
        return app

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Answer whole or in a stream."""
        body, conversation = await request.read(), request.headers["x-conversation"]
        asked = json.loads(body)
        if asked.get("stream"):
            self.wire.add(conversation, len(body), 0)
            return await self._stream(request, conversation, hang=asked["model"] == "hang")
        await asyncio.sleep(PAUSE_S)
        status = 500 if asked["model"] == "fail" else 200
        answer = json.dumps({"choices": [{"message": {"content": "ok"}}], "usage": USAGE}).encode()
        self.wire.add(conversation, len(body), len(answer))
        return web.Response(body=answer, status=status)

    async def _stream(
        self, request: web.Request, conversation: str, *, hang: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        chunks = [word(number) for number in range(WORDS)] + [LAST]
        for chunk in chunks[:WORDS_BEFORE_HANGING] if hang else chunks:
            await asyncio.sleep(PAUSE_S)
            await response.write(chunk)
            self.wire.add(conversation, 0, len(chunk))
        if hang:
            await asyncio.Event().wait()
        return response


@contextmanager
def tool_server(wire: Wire) -> Iterator[int]:
    """The port of a server that takes one line and answers TOOL_ANSWER."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            sock, _ = listening.accept()
            with sock, sock.makefile("rb") as stream:
                line = stream.readline()
                sock.sendall(TOOL_ANSWER)
                wire.add("tool", len(line), len(TOOL_ANSWER))

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


class Gateway:
    """Forwards chat completions and runs a small agent; every operation is metered."""

    def __init__(self, metered: Metered, upstream: str, files: Path, tool_port: int) -> None:
        self._metered = metered
        self._upstream = upstream
        self._files = files
        self._tool_port = tool_port

    def app(self) -> web.Application:
        """The application to serve."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.complete)
        app.router.add_post("/v1/agent", self.work)
        app.cleanup_ctx.append(self._session)
        return app

    async def _session(self, _: web.Application) -> AsyncIterator[None]:
        async with ClientSession() as self._client:
            yield

    def _request(self, request: web.Request, model: str) -> AdmissionRequest:
        key = identity_hash(request.headers["authorization"], SECRET)
        return AdmissionRequest(TENANT, "gateway", model, api_key_hash=key)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Forward one chat completion."""
        body, name = await request.read(), request.headers["x-conversation"]
        asked = json.loads(body)
        target = request.headers.get("x-slo-us")
        call = self._metered.call(
            self._request(request, asked["model"]), provider_name="openai",
            stream=bool(asked.get("stream")), conversation_id=name,
            slo_latency_us=None if target is None else int(target),
        )  # fmt: skip
        async with call:
            try:
                if asked.get("stream"):
                    return await self._stream(request, call, body, name)
                return web.Response(body=await self._ask(call, body, name))
            except asyncio.CancelledError:
                # The server cancels a handler whose client closed the connection.
                call.abandoned()
                raise

    @asynccontextmanager
    async def _asked(self, call: Call, body: bytes, name: str) -> AsyncIterator[Any]:
        headers = {"x-conversation": name}
        call.sent(body)
        url = f"{self._upstream}/v1/chat/completions"
        async with self._client.post(url, data=body, headers=headers) as answer:
            yield answer

    async def _ask(self, call: Call, body: bytes, name: str) -> bytes:
        async with self._asked(call, body, name) as answer:
            data: bytes = await answer.read()
            call.received(data)
            answer.raise_for_status()
        hand_over(call, json.loads(data))
        return data

    async def _stream(
        self, request: web.Request, call: Call, body: bytes, name: str
    ) -> web.StreamResponse:
        response = web.StreamResponse()
        events = Events(call)
        async with self._asked(call, body, name) as answer:
            await response.prepare(request)
            async for chunk in call.wrap_async_stream(answer.content.iter_any()):
                events.feed(chunk)
                await response.write(chunk)
        return response

    async def work(self, request: web.Request) -> web.StreamResponse:
        """An agent of three steps: a call, a tool call that it asks for, a call with the result."""
        asked = self._request(request, MODEL)
        task = self._metered.task(asked, agent_name="librarian", workflow_name="demo")
        body = json.dumps({"model": MODEL, "messages": []}).encode()
        async with self._agent_call(task, asked) as call:
            await self._ask(call, body, "agent")
        with call.tool("lookup", tool_type="function", server="files", writes=True,
                       args={"q": "x"}) as tool:  # fmt: skip
            found = await asyncio.to_thread(self._lookup, tool)
            tool.result(found)
        async with self._agent_call(task, asked) as call:
            await self._ask(call, body, "agent")
        return web.json_response({"task_id": task.task_id})

    def _agent_call(self, task: Task, asked: AdmissionRequest) -> Call:
        return task.call(asked, provider_name="openai", conversation_id="agent")

    def _lookup(self, tool: ToolCall) -> str:
        with tool.count_reads((self._files / "index").open("rb")) as index:
            line: bytes = index.readline()
        with tool.count_socket(socket.create_connection(("127.0.0.1", self._tool_port))) as sock:
            sock.sendall(line)
            answer = sock.recv(len(TOOL_ANSWER), socket.MSG_WAITALL)
        with tool.count_writes((self._files / "notes").open("wb")) as notes:
            notes.write(answer[:100])
        return answer.decode()


class Events:
    """Server-sent events of a streamed answer, told to its call as they become whole."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        *whole, self._rest = (self._rest + chunk).split(b"\n\n")
        for event in whole:
            data = event.removeprefix(b"data: ")
            if data != b"[DONE]":
                said = json.loads(data)
                self._call.streamed_tokens(len(said["choices"]))
                hand_over(self._call, said)


def hand_over(call: Call, answer: dict[str, Any]) -> None:
    """Hand an answer's usage to its call, if it has come."""
    usage = answer.get("usage")
    if usage:
        call.usage(input_tokens=usage["prompt_tokens"], output_tokens=usage["completion_tokens"])


@contextmanager
def served(make: Callable[[], web.Application]) -> Iterator[str]:
    """The URL of an application on a loop of its own; a client that leaves cancels its handler."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait(work: Awaitable[Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(_awaited(work), loop).result(30)

    runner = wait(_runner(make))
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        wait(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


async def _runner(make: Callable[[], web.Application]) -> web.AppRunner:
    runner = web.AppRunner(make(), handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner
