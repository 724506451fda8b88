"""Readers of the trace formats; each docstring says what its columns become."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from sluice.metering.validate import check_usage
from sluice.replay.rows import (
    NO_MODEL,
    NO_TENANTS,
    STAND_IN_MODEL,
    STAND_IN_PROVIDER,
    Reading,
    TraceRequest,
    converted,
    lines_of,
    name_of,
    objects_of,
    synthetic_tenant,
    tokens_of,
    us_of,
)
from sluice.replay.servegen import read_servegen
from sluice.replay.taubench import read_taubench
from sluice.wire.codec import decode, encode

ARENA_MODEL, ARENA_PROVIDER = "replicate/meta/llama-2-7b-chat", "replicate"
BLOCK_TOKENS = 512

_ARENA_ADAPTER = "dummy-lora-7b-rank-8-"
_AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_VLLM_STAMPS = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")
_REPLAYED_TYPES = frozenset({"inference", "embedding", "tool"})
_IDENTITY = {"event_id": "-", "source": "-", "source_epoch": "-", "source_seq": None}
_MAX_TASK_BYTES = 240  # of the 256 of a task_id: the run's id stands before it

Reader = Callable[[Path, Reading], Iterator[TraceRequest]]


def read_vtc(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """VTC artifact: JSON {config, result: {responses}} per line, or one response per line.

    Tenant = adapter_dir; TTFT and latency as that run measured them. first_token_latency -1 means
    that the run's own limit refused the request: it arrives here all the same, since this time
    another admission point decides, and its tokens count if it is admitted.
    """
    reading.notes.append(f"the traced Llama-2-7b is priced as {ARENA_MODEL}")
    rows = _vtc_rows(path, reading)
    return converted(rows, reading, _vtc_request)


def _vtc_rows(path: Path, reading: Reading) -> Iterator[tuple[str, Any]]:
    for number, data in objects_of(path, reading):
        if "result" not in data:
            yield f"line {number}", data
            continue
        result = data["result"]
        responses = result.get("responses") if isinstance(result, dict) else None
        if not isinstance(responses, list):
            reading.fault(f"line {number}", ValueError("result.responses must be a list"))
            continue
        for index, response in enumerate(responses):
            yield f"line {number}, response {index}", response


def _vtc_request(row: dict[str, Any]) -> TraceRequest:
    refused = row["first_token_latency"] == -1
    if row["request_latency"] < row["first_token_latency"]:
        raise ValueError("request_latency is below first_token_latency")
    return TraceRequest(
        arrival_us=us_of(row["req_time"], 1_000_000),
        tenant_id=name_of(row["adapter_dir"]).replace(_ARENA_ADAPTER, "tenant-"),
        model=ARENA_MODEL, provider_name=ARENA_PROVIDER,
        input_tokens=tokens_of(row["prompt_len"]), output_tokens=tokens_of(row["output_len"]),
        ttft_us=None if refused else us_of(row["first_token_latency"], 1_000_000),
        latency_us=None if refused else us_of(row["request_latency"], 1_000_000),
        refused_in_trace=refused,
    )  # fmt: skip


def read_azure(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """Azure LLM inference CSV: TIMESTAMP (UTC), ContextTokens, GeneratedTokens.

    It has neither tenants nor models nor durations: the n-th row goes to a tenant that n alone
    decides, a few tenants get most rows, and a request ends when it arrives.
    """
    reading.notes += [NO_TENANTS, NO_MODEL]
    lines = lines_of(path)
    number, header = next(lines, (1, ""))
    if tuple(header.strip().split(",")) != _AZURE_COLUMNS:
        error = ValueError(f"the header must be {','.join(_AZURE_COLUMNS)}")
        reading.fault(f"line {number}", error)
        return iter(())
    rows = ((f"line {number}", (index, line)) for index, (number, line) in enumerate(lines))
    return converted(rows, reading, _azure_request)


def _azure_request(row: tuple[int, str]) -> TraceRequest:
    index, line = row
    fields = next(csv.reader([line]))
    if len(fields) != len(_AZURE_COLUMNS):
        raise ValueError(f"{len(fields)} columns instead of {len(_AZURE_COLUMNS)}")
    stamp, context, generated = fields
    instant = datetime.fromisoformat(stamp[:26]).replace(tzinfo=UTC)  # 100 ns digits are cut
    return TraceRequest(
        arrival_us=us_of(instant.timestamp(), 1_000_000), tenant_id=synthetic_tenant(index),
        model=STAND_IN_MODEL, provider_name=STAND_IN_PROVIDER,
        input_tokens=tokens_of(int(context)), output_tokens=tokens_of(int(generated)),
        timing_quality="estimated",
    )  # fmt: skip


def read_mooncake(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """Mooncake JSONL: timestamp (ms), input_length, output_length, hash_ids.

    The leading blocks of a prompt that an earlier line has named count as read from cache,
    512 tokens each, at most the whole prompt: an endless cache, shared by all tenants. Tenants and
    ends as in `read_azure`.
    """
    reading.notes += [NO_TENANTS, NO_MODEL,
                      "leading prefix blocks seen before count as read from cache"]  # fmt: skip
    seen: set[int] = set()
    numbers = count()

    def convert(row: dict[str, Any]) -> TraceRequest:
        blocks, tokens = row["hash_ids"], tokens_of(row["input_length"])
        if not isinstance(blocks, list) or not all(isinstance(block, int) for block in blocks):
            raise TypeError("hash_ids must be a list of whole numbers")
        request = TraceRequest(
            arrival_us=us_of(row["timestamp"], 1000), tenant_id=synthetic_tenant(next(numbers)),
            model=STAND_IN_MODEL, provider_name=STAND_IN_PROVIDER,
            input_tokens=tokens, output_tokens=tokens_of(row["output_length"]),
            cache_read_input_tokens=min(_leading(blocks, seen) * BLOCK_TOKENS, tokens),
            timing_quality="estimated",
        )  # fmt: skip
        seen.update(blocks)
        return request

    return converted(_by_line(path, reading), reading, convert)


def read_vllm_bench(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """A vLLM benchmark: a folder with requests.jsonl, or that file.

    arrival_time places a request; waiting, first token and end are differences of the engine's own
    timestamps (queued_ts, scheduled_ts, first_token_ts, last_token_ts), hence exact.
    """
    reading.notes += ["the trace names no tenants: all requests are of tenant-00",
                      f"the served model has no list price: priced as {ARENA_MODEL}"]  # fmt: skip
    file = path / "requests.jsonl" if path.is_dir() else path
    return converted(_by_line(file, reading), reading, _vllm_request)


def _vllm_request(row: dict[str, Any]) -> TraceRequest:
    stamps = [row[name] for name in _VLLM_STAMPS]
    if stamps != sorted(stamps):
        raise ValueError(f"{', '.join(_VLLM_STAMPS)} are not in order")
    queue_us, ttft_us, latency_us = (us_of(stamp - stamps[0], 1_000_000) for stamp in stamps[1:])
    return TraceRequest(
        arrival_us=us_of(row["arrival_time"], 1_000_000), tenant_id="tenant-00",
        model=ARENA_MODEL, provider_name="vllm",
        input_tokens=tokens_of(row["input_toks"]), output_tokens=tokens_of(row["output_toks"]),
        queue_us=queue_us, ttft_us=ttft_us, latency_us=latency_us,
        timing_quality="engine", usage_source="engine",
    )  # fmt: skip


def read_usage_jsonl(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """UsageEvents as JSON lines, kept whole but for identity, project, task and instants.

    Instants move to now and shrink with the replay's speed; a task gets the run's id before its
    own, and an event follows its parent to the new id. Only inference, embedding and tool events
    are replayed: the others say something about events of the original run.
    """
    left_out = 0
    numbers: dict[str, int] = {}
    parents: list[str | None] = []

    def rows() -> Iterator[tuple[str, Any]]:
        nonlocal left_out
        for place, row in _by_line(path, reading):
            if row.get("event_type") in _REPLAYED_TYPES:
                yield place, row
            else:
                left_out += 1

    def convert(row: dict[str, Any]) -> TraceRequest:
        request = _usage_request(row)
        if row.get("event_id"):
            numbers[row["event_id"]] = len(parents)
        parents.append(row.get("parent_event_id"))
        return request

    # All are read before the first is given away: a parent may end, and stand, after its child.
    for request, parent in zip(list(converted(rows(), reading, convert)), parents, strict=True):
        yield replace(request, parent=None if parent is None else numbers.get(parent))
    reading.notes.append("project_id is the replay's own, not the trace's")
    if left_out:
        reading.notes.append(f"{left_out:,} events that are no inference, embedding or tool call "
                             "were left out")  # fmt: skip


def _usage_request(row: dict[str, Any]) -> TraceRequest:
    event = decode(encode("UsageEvent", row | _IDENTITY))[1]
    check_usage(event, event["tenant_id"].encode(), event["occurred_at"])
    started = event["started_at"]
    scheduled, first = event["scheduled_at"], event["first_token_at"]
    if len((event["task_id"] or "").encode()) > _MAX_TASK_BYTES:
        raise ValueError(f"task_id has more than {_MAX_TASK_BYTES} bytes")
    return TraceRequest(
        arrival_us=started, tenant_id=event["tenant_id"], model=event["request_model"],
        provider_name=event["provider_name"], input_tokens=event["input_tokens"],
        output_tokens=event["output_tokens"],
        cache_read_input_tokens=event["cache_read_input_tokens"],
        queue_us=None if scheduled is None else scheduled - started,
        ttft_us=None if first is None else first - started,
        latency_us=event["occurred_at"] - started, task=event["task_id"],
        event={name: value for name, value in event.items() if name not in _IDENTITY},
    )  # fmt: skip


def _leading(blocks: list[int], seen: set[int]) -> int:
    return next((i for i, block in enumerate(blocks) if block not in seen), len(blocks))


def _by_line(path: Path, reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((f"line {number}", row) for number, row in objects_of(path, reading))


READERS: dict[str, Reader] = {
    "vtc": read_vtc,
    "azure": read_azure,
    "mooncake": read_mooncake,
    "vllm-bench": read_vllm_bench,
    "servegen": read_servegen,
    "tau-bench": read_taubench,
    "usage-jsonl": read_usage_jsonl,
}
