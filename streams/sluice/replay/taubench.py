"""tau-bench: the messages of tool-calling agents, as the calls of model and tools that they were.

The text is counted and hashed here and goes no further.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from sluice.replay.rows import (
    NO_TENANTS,
    STAND_IN_MODEL,
    STAND_IN_PROVIDER,
    Reading,
    TraceRequest,
    name_of,
    opened,
    synthetic_tenant,
)

AGENT = "airline-agent"
ENCODING = "o200k_base"
# As OpenAI counts a chat: four tokens around each message, three that open the answer.
MESSAGE_TOKENS, ANSWER_TOKENS = 4, 3
# As OpenAI caches a prompt: from 1,024 tokens on, in blocks of 128.
CACHED_FROM, CACHE_BLOCK = 1024, 128
# Made up, for the trace has no times.
RUN_EVERY_US = 5_000_000
FIRST_TOKEN_US, TOKEN_US = 400_000, 20_000
TOOL_US = 250_000
USER_US = 10_000_000

_BAD = (ValueError, KeyError, TypeError, AttributeError)


@dataclass(slots=True)
class _Run:
    """Where one run stands; `number` is that of its first request in the order of reading.

    `prompt` tokens will be read by the next call of the model, `sent` were by the latest one, which
    is request `asked_by`.
    """

    task: str
    tenant_id: str
    now_us: int
    number: int
    prompt: int = ANSWER_TOKENS
    sent: int = 0
    step: int = 0
    asked_by: int | None = None
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_taubench(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """tau-bench trajectories: a JSON list of runs {task_id, trial, reward, traj: messages}.

    A run is a task of `airline-agent`. An assistant's message is a call of the model that reads all
    messages before it; of these, what the call before it had read counts as read from cache. A
    tool's message is a tool call caused by the latest answer; one that begins with "Error" failed.
    The last event of a run is good where the reward is 1, else failed.
    """
    reading.notes += [
        NO_TENANTS,
        "the trace has no times: turns and runs are spaced by constants",
        f"the trace has no token counts: its text is counted with {ENCODING}",
        "the definitions of the agent's tools are not in the trace and not counted",
        f"blocks of {CACHE_BLOCK} tokens that the call before read count as read from cache",
    ]
    try:
        with opened(path) as text:
            runs = json.load(text)
        if not isinstance(runs, list):
            raise TypeError("the file must hold a list of runs")  # noqa: TRY301
    except (ValueError, TypeError) as error:
        reading.fault("file", error)
        return
    yielded = 0
    for number, run in enumerate(runs):
        try:
            requests = _requests(run, number, yielded)
        except _BAD as error:
            reading.fault(f"run {number}", error)
            continue
        yielded += len(requests)
        yield from requests


def _requests(run: dict[str, Any], number: int, first: int) -> list[TraceRequest]:
    """The calls of one run; `first` is the number of its first request in the order of reading."""
    messages = run["traj"]
    at = _Run(f"{int(run['task_id'])}/{int(run['trial'])}", synthetic_tenant(number),
              now_us=number * RUN_EVERY_US, number=first)  # fmt: skip
    counts = _token_counts([_text(message) for message in messages])
    requests = [request for message, tokens in zip(messages, counts, strict=True)
                for request in _heard(at, message, tokens)]  # fmt: skip
    if not requests:
        raise ValueError("no message is of an assistant")
    last = requests[-1]
    outcome = {"slo_outcome": "good" if run["reward"] == 1 else "failed"}
    return [*requests[:-1], replace(last, event=(last.event or {}) | outcome)]


def _heard(at: _Run, message: dict[str, Any], tokens: int) -> Iterator[TraceRequest]:
    """The call that a message is of, if any; afterwards the message is part of the prompt."""
    role = message["role"]
    if role == "assistant":
        at.calls |= {call["id"]: call["function"] for call in message.get("tool_calls") or ()}
        at.asked_by = at.number + at.step
        yield _answer(at, tokens)
    elif role == "tool":
        yield _tool_call(at, message, at.calls[message["tool_call_id"]])
    elif role == "user" and at.step:
        at.now_us += USER_US
    elif role not in ("system", "user"):
        raise ValueError(f"{role!r} is no role")
    at.prompt += MESSAGE_TOKENS + tokens


def _answer(at: _Run, tokens: int) -> TraceRequest:
    cached = at.sent // CACHE_BLOCK * CACHE_BLOCK if at.sent >= CACHED_FROM else 0
    at.sent = at.prompt
    step = _step(at, FIRST_TOKEN_US + tokens * TOKEN_US, {"event_type": "inference"})
    return replace(step, input_tokens=at.prompt, output_tokens=tokens,
                   cache_read_input_tokens=cached)  # fmt: skip


def _tool_call(at: _Run, message: dict[str, Any], call: dict[str, Any]) -> TraceRequest:
    failed = message["content"].startswith("Error")
    step = _step(at, TOOL_US, {
        "event_type": "tool", "operation_name": "execute_tool", "depth": 1,
        "tool_name": name_of(call["name"]), "tool_type": "function",
        "tool_call_id": name_of(message["tool_call_id"]),
        "tool_args_hash": _hash(_same(call["arguments"])),
        "result_hash": _hash(message["content"]),
        "outcome": "error" if failed else "ok", "error_type": "tool_error" if failed else None,
    })  # fmt: skip
    return replace(step, parent=at.asked_by)


def _step(at: _Run, latency_us: int, event: dict[str, Any]) -> TraceRequest:
    """The next step of a run, without tokens, from where the run stands to `latency_us` later."""
    at.step += 1
    arrival_us, at.now_us = at.now_us, at.now_us + latency_us
    return TraceRequest(
        arrival_us=arrival_us, tenant_id=at.tenant_id,
        model=STAND_IN_MODEL, provider_name=STAND_IN_PROVIDER, input_tokens=0, output_tokens=0,
        latency_us=latency_us, timing_quality="estimated", task=at.task,
        event={"agent_name": AGENT, "step": at.step, **event},
    )  # fmt: skip


def _text(message: dict[str, Any]) -> str:
    """All text of a message: its content, the names and arguments of the tools that it calls."""
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    called = "".join(function["name"] + function["arguments"] for function in functions)
    return (message["content"] or "") + called


def _token_counts(texts: list[str]) -> list[int]:
    from toktok import batch_count  # noqa: PLC0415 - a large module that only this reader needs

    counts: list[int] = batch_count(texts, ENCODING)
    return counts


def _same(arguments: str) -> str:
    """JSON arguments in one spelling, so that equal ones have equal hashes."""
    return json.dumps(json.loads(arguments), sort_keys=True, separators=(",", ":"))


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]
