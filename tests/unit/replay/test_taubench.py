"""Agent runs as calls: growing prompts, tools under their callers, no text in any event."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from tests.builders import NOW
from toktok import batch_count

from sluice.metering.validate import check_usage
from sluice.replay.airline import packaged_tasks, packed
from sluice.replay.events import Schedule, usage_event
from sluice.replay.rows import TraceRequest
from sluice.replay.taubench import ANSWER_TOKENS, ENCODING, MESSAGE_TOKENS
from sluice.replay.traces import Trace, TraceError, read_trace
from sluice.wire.codec import decode, encode
from sluice.wire.schema import schema

SECRET = "mia_li_3668 travels from Frankfurt"
LONG = "longword " * 1500
TAU = "tau-bench-airline/gpt-4o-airline.json"


def call(ident: str, arguments: str = '{"a": 1, "b": 2}') -> dict[str, Any]:
    """A tool call of an assistant's message."""
    return {"id": ident, "type": "function",
            "function": {"name": "search", "arguments": arguments}}  # fmt: skip


def run(**over: Any) -> dict[str, Any]:
    """A run: greeting, question, two tool calls in a row, answer."""
    messages = [
        {"role": "system", "content": LONG},
        {"role": "user", "content": SECRET},
        {"role": "assistant", "content": None, "tool_calls": [call("c1")]},
        {"role": "tool", "tool_call_id": "c1", "name": "search", "content": f"Error: {SECRET}"},
        {"role": "assistant", "content": None, "tool_calls": [call("c2", '{"b":2,"a":1}')]},
        {"role": "tool", "tool_call_id": "c2", "name": "search", "content": SECRET},
        {"role": "assistant", "content": "done"},
        {"role": "user", "content": "bye"},
    ]
    return {"task_id": 4, "trial": 2, "reward": 1.0, "traj": messages} | over


def read(path: Path, *runs: Any, skip_bad: bool = False) -> Trace:
    """The trace of these runs."""
    path = path / "runs.json"
    path.write_text(json.dumps(runs))
    return read_trace(path, "tau-bench", skip_bad=skip_bad)


def further(request: TraceRequest) -> dict[str, Any]:
    """The further fields of a request's event."""
    assert request.event is not None
    return request.event


def test_each_turn_reads_all_messages_before_it(tmp_path: Path) -> None:
    """Input grows by every message with its frame; output is content and calls of the turn."""
    first, _, second, _, third = read(tmp_path, run()).requests
    texts = (LONG, SECRET, f"Error: {SECRET}", 'search{"a": 1, "b": 2}', 'search{"b":2,"a":1}')
    system, user, result, called, again = batch_count(texts, ENCODING)
    assert first.input_tokens == system + user + 2 * MESSAGE_TOKENS + ANSWER_TOKENS
    assert second.input_tokens == first.input_tokens + called + result + 2 * MESSAGE_TOKENS
    assert third.input_tokens == second.input_tokens + again + user + 2 * MESSAGE_TOKENS
    assert (first.output_tokens, second.output_tokens, third.output_tokens) == (called, again, 1)
    assert {r.usage_source for r in (first, second, third)} == {"tokenizer"}


def test_what_the_turn_before_read_is_cached_in_whole_blocks(tmp_path: Path) -> None:
    """The first turn reads nothing from cache, the next the blocks of the one before."""
    first, _, second, _, third = read(tmp_path, run()).requests
    assert first.cache_read_input_tokens == 0
    assert second.cache_read_input_tokens == first.input_tokens // 128 * 128 > 0
    assert third.cache_read_input_tokens == second.input_tokens // 128 * 128
    short = run()
    short["traj"][0] = {"role": "system", "content": "brief"}
    assert {r.cache_read_input_tokens for r in read(tmp_path, short).requests} == {0}


def test_tools_are_called_by_the_turn_before(tmp_path: Path) -> None:
    """Parents, steps, names; equal arguments in another spelling have equal hashes."""
    requests = read(tmp_path, run(trial=0), run()).requests
    by_task: dict[str | None, list[tuple[int, TraceRequest]]] = defaultdict(list)
    for number, request in enumerate(requests):
        by_task[request.task].append((number, request))
    assert list(by_task) == ["4/0", "4/2"]
    for steps in by_task.values():
        (first, _), (_, tool), (second, _), (_, other), _ = steps
        assert (tool.parent, other.parent) == (first, second)
        assert [further(request)["step"] for _, request in steps] == [1, 2, 3, 4, 5]
        assert (further(tool)["tool_name"], further(tool)["outcome"]) == ("search", "error")
        assert further(other)["outcome"] == "ok"
        assert further(tool)["tool_args_hash"] == further(other)["tool_args_hash"]
        assert further(tool)["result_hash"] != further(other)["result_hash"]
        assert (tool.input_tokens, tool.output_tokens) == (0, 0)


@pytest.mark.parametrize(("reward", "outcome"), [(1.0, "good"), (0.0, "failed"), (0.5, "failed")])
def test_the_reward_decides_the_last_event(tmp_path: Path, reward: float, outcome: str) -> None:
    """Only the last event of a run says how the task ended."""
    *before, last = read(tmp_path, run(reward=reward)).requests
    assert further(last)["slo_outcome"] == outcome
    assert not any("slo_outcome" in further(request) for request in before)


def test_steps_follow_each_other_in_time(tmp_path: Path) -> None:
    """Times are made up, marked so, and the same in every reading; no step begins too early."""
    requests = read(tmp_path, run()).requests
    assert requests == read(tmp_path, run()).requests
    ends = [request.arrival_us + (request.latency_us or 0) for request in requests]
    assert all(r.arrival_us >= end for r, end in zip(requests[1:], ends, strict=False))
    assert {request.timing_quality for request in requests} == {"estimated"}


def test_no_text_reaches_an_event(tmp_path: Path) -> None:
    """No word of a message, argument or result is in what is sent, and the meter takes it."""
    for number, request in enumerate(read(tmp_path, run()).requests):
        event = usage_event(Schedule("r1", NOW, 1.0), number, request)
        own = {"source": "s", "source_epoch": "e", "source_seq": 1}
        value = encode("UsageEvent", event | own)
        check_usage(decode(value)[1], request.tenant_id.encode(), NOW + 60_000_000)
        for word in (*SECRET.split(), "longword", "Error", "done"):
            assert word.encode() not in value
            assert word not in request.to_json()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"traj": [{"role": "judge", "content": "x"}]}, "run 1: 'judge' is no role"),
        ({"traj": []}, "run 1: no message is of an assistant"),
        ({"traj": [{"role": "tool", "tool_call_id": "c9", "content": "x"}]}, "run 1: 'c9' is miss"),
        ({"task_id": "x"}, "run 1: invalid literal for int"),
        ({"traj": [{"role": "assistant", "content": 5}]}, "run 1: "),
    ],
)
def test_a_malformed_run_is_named(tmp_path: Path, bad: dict[str, Any], said: str) -> None:
    """A wrong run is left out as a whole, and the parents of the next one are right."""
    with pytest.raises(TraceError) as caught:
        read(tmp_path, run(), run(**bad), run(trial=3))
    (fault,) = caught.value.faults
    assert fault.startswith(said)
    kept = read(tmp_path, run(), run(**bad), run(trial=3), skip_bad=True).requests
    assert len(kept) == 10
    assert all(kept[r.parent].task == r.task for r in kept if r.parent is not None)


def test_a_file_that_is_no_list_is_a_fault(tmp_path: Path) -> None:
    """An object or broken JSON is one fault of the file."""
    path = tmp_path / "runs.json"
    for text in ("{}", "[", ""):
        path.write_text(text)
        with pytest.raises(TraceError, match="file: "):
            read_trace(path, "tau-bench")


def test_the_packaged_tasks_are_small_attributed_and_without_text() -> None:
    """Ten tasks, five of them good; every text is a name, an id, a hash or a word of the wire."""
    data = files("sluice.replay") / "data"
    packaged = (data / "tau-airline.jsonl.gz").read_bytes()
    assert len(packaged) < 20_000
    rows = [json.loads(line) for line in gzip.decompress(packaged).splitlines()]
    assert len({row["task_id"] for row in rows}) == 10
    ends = [row["slo_outcome"] for row in rows if "slo_outcome" in row]
    assert sorted(ends) == ["failed"] * 5 + ["good"] * 5
    fields = {field["name"] for field in schema("UsageEvent")["fields"]}
    texts = {value for row in rows for value in row.values() if isinstance(value, str)}
    assert all(row.keys() <= fields for row in rows)
    assert not any(" " in text or len(text) > 40 for text in texts)
    attribution = (data / "ATTRIBUTION.md").read_text()
    assert "sierra-research/tau-bench" in attribution
    assert "MIT License" in attribution


def test_the_packaged_tasks_equal_the_original(shared_traces: Path) -> None:
    """Packing can be done again, and a replay of it emits what one of the original would."""
    original = shared_traces / TAU
    packaged = (files("sluice.replay") / "data" / "tau-airline.jsonl.gz").read_bytes()
    assert gzip.decompress(packed(original)) == gzip.decompress(packaged)
    tasks = {request.task for request in packaged_tasks().requests}
    whole = [r for r in read_trace(original, "tau-bench").requests if r.task in tasks]
    kept = packaged_tasks().requests
    ids = dict.fromkeys(("event_id", "parent_event_id"))
    assert len(kept) == len(whole)
    assert all(kept[r.parent].task == r.task for r in kept if r.parent is not None)
    assert [r.parent is None for r in kept] == [r.parent is None for r in whole]
    for number, (mine, theirs) in enumerate(zip(kept, whole, strict=True)):
        schedule = Schedule("r1", NOW, 1.0)
        again, once = (usage_event(schedule, number, request) for request in (mine, theirs))
        assert again | ids == once | ids
