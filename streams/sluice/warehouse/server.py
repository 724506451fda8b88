"""`sluice clickhouse`: the embedded engine behind ClickHouse's HTTP protocol.

Speaks what clickhouse-connect, curl and Grafana use. Not served: ClickHouse's block compression,
sessions that outlive a request, external data.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web

from sluice.errors import OutsideError
from sluice.settings import Settings
from sluice.warehouse.access import Access
from sluice.warehouse.answers import failure, fault, result
from sluice.warehouse.encodings import BodyError
from sluice.warehouse.engine import Answer, Engine, EngineError, Query
from sluice.warehouse.queries import BusyError, Intake, query_id_of, read_query

log = logging.getLogger(__name__)

ENGINE_THREADS = 4
_REQUESTS = 64
_BODY_BYTES = 256 * 2**20
_LINE_BYTES = 2**20
_OPEN_FILES = 2**16
# aiohttp waits this long twice: for the answers to finish, then for those it has cancelled.
_STOP_S = 5.0


class Front:
    """Answers HTTP requests from an engine that has started."""

    def __init__(self, engine: Engine, settings: Settings, access: Access) -> None:
        body_bytes = min(_BODY_BYTES, settings.clickhouse_memory_bytes // 4)
        self._engine = engine
        self._access = access
        self._intake = Intake(_REQUESTS, body_bytes, settings.clickhouse_memory_bytes // 2)
        self._executor = ThreadPoolExecutor(ENGINE_THREADS, "engine")
        self._killer = ThreadPoolExecutor(1, "kill")

    def app(self) -> web.Application:
        """The HTTP application."""
        app = web.Application(client_max_size=self._intake.body_bytes)
        app.router.add_get("/ping", self._ping)
        app.router.add_get("/", self._answer)
        app.router.add_post("/", self._answer)
        return app

    def close(self) -> None:
        """Wait for what still runs in the engine."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._killer.shutdown(wait=True)

    async def _ping(self, _request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _answer(self, request: web.Request) -> web.Response:
        query_id = query_id_of(request)
        try:
            self._access.check(request)
            async with self._intake.take() as load:
                query = await read_query(request, load, query_id, self._intake.body_bytes)
                return await self._execute(request, query)
        except BusyError as error:
            text = f"Code: 202. DB::Exception: {error}. (TOO_MANY_SIMULTANEOUS_QUERIES)"
            return fault(503, text, query_id, 202)
        except BodyError as error:
            return _body_fault(error, query_id)
        except EngineError as error:
            return failure(error, query_id)

    async def _execute(self, request: web.Request, query: Query | None) -> web.Response:
        if query is None:
            return web.Response(text="Ok.\n")
        start = time.perf_counter_ns()
        answer = await self._run(query)
        elapsed_ns = time.perf_counter_ns() - start
        wanted = request.query.get("enable_http_compression") in ("1", "true")
        accepted = request.headers.get("Accept-Encoding", "") if wanted else ""
        return await asyncio.to_thread(result, answer, query.query_id, elapsed_ns, accepted)

    async def _run(self, query: Query) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, self._engine.run, query)
        except asyncio.CancelledError:
            # The client went away. What it asked stops; what it stores is left to finish.
            if not query.sql.lstrip()[:6].upper().startswith(b"INSERT"):
                self._killer.submit(self._kill, query.query_id)
            raise

    def _kill(self, query_id: str) -> None:
        try:
            self._engine.kill(query_id)
        except RuntimeError as error:
            log.warning("query %s could not be stopped: %s", query_id, error)


def _body_fault(error: BodyError, query_id: str) -> web.Response:
    if error.too_large:
        text = f"Code: 307. DB::Exception: {error}. (TOO_MANY_BYTES)"
        return fault(413, text, query_id, 307)
    text = f"Code: 48. DB::Exception: {error}. (NOT_IMPLEMENTED)"
    return fault(501, text, query_id, 48)


def serve(settings: Settings, dir: Path, host: str, port: int) -> None:
    """Serve the engine of `dir`/clickhouse on `host`:`port` until SIGTERM or SIGINT.

    Raises ConfigError where the folder is held by another server or a password is missing,
    OutsideError where the port is taken. On a signal: no new requests, running ones finish.
    """
    logging.basicConfig(level=settings.log_level, format="%(levelname)s %(message)s")
    access = Access(settings, host)
    _allow_open_files()
    engine = Engine(dir.resolve() / "clickhouse", settings)
    engine.start()
    front = Front(engine, settings, access)
    try:
        asyncio.run(_serve(front, host, port))
    finally:
        front.close()
        engine.close()


def _allow_open_files() -> None:
    """Merges of wide tables open some thousand files; the usual limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(front: Front, host: str, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(
        front.app(),
        access_log=None,
        handler_cancellation=True,
        auto_decompress=False,
        max_line_size=_LINE_BYTES,
        max_field_size=_LINE_BYTES,
        shutdown_timeout=_STOP_S,
    )
    await runner.setup()
    try:
        await _listen(runner, host, port)
        log.info("ClickHouse answers on http://%s:%d", host, port)
        await stop.wait()
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise OutsideError(
            f"port {port} on {host} cannot be opened ({error.strerror}); "
            "stop what uses it, or set SLUICE_CLICKHOUSE_PORT"
        ) from error
