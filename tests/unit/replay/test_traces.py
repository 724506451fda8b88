"""Readers of trace files: what each column becomes, and what a wrong one is called."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from tests.builders import NOW, usage

from sluice.cli.data import FORMATS
from sluice.errors import ConfigError
from sluice.replay.formats import READERS
from sluice.replay.rows import Extent, synthetic_tenant
from sluice.replay.traces import Trace, TraceError, read_trace

ARENA_ROW: dict[str, Any] = {
    "adapter_dir": "dummy-lora-7b-rank-8-13", "prompt_len": 13, "output_len": 199,
    "req_time": 2.5, "first_token_latency": 1.25, "request_latency": 9.5,
}  # fmt: skip
MOONCAKE_ROW: dict[str, Any] = {
    "timestamp": 27, "input_length": 1100, "output_length": 6, "hash_ids": [1, 2, 3],
}  # fmt: skip
VLLM_ROW: dict[str, Any] = {
    "request_id": "bench-0", "input_toks": 40, "output_toks": 5, "arrival_time": 1787267980.0827403,
    "queued_ts": 100.0, "scheduled_ts": 100.25, "first_token_ts": 101.0, "last_token_ts": 104.5,
}  # fmt: skip
AZURE_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"


def written(path: Path, *rows: Any) -> Path:
    """A file with these lines; what is no text becomes JSON."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("\n".join(lines))
    return path


def read(path: Path, format: str, *rows: Any, skip_bad: bool = False) -> Trace:
    """The trace of a file with these lines."""
    return read_trace(written(path / "trace", *rows), format, skip_bad=skip_bad)


def faults(path: Path, format: str, *rows: Any) -> list[str]:
    """What reading a file with these lines complains about."""
    with pytest.raises(TraceError) as caught:
        read(path, format, *rows)
    return caught.value.faults


def test_an_arena_response_keeps_tenant_tokens_and_measured_times(tmp_path: Path) -> None:
    """The tenant is the adapter, times become microseconds, the first arrival becomes 0."""
    later = ARENA_ROW | {"req_time": 3.75, "adapter_dir": "dummy-lora-7b-rank-8-2"}
    whole = {"config": {}, "result": {"responses": [later, ARENA_ROW]}}
    first, second = read(tmp_path, "vtc", whole).requests
    assert (first.tenant_id, first.arrival_us, first.input_tokens) == ("tenant-13", 0, 13)
    assert (first.output_tokens, first.ttft_us, first.latency_us) == (199, 1_250_000, 9_500_000)
    assert (second.tenant_id, second.arrival_us) == ("tenant-2", 1_250_000)


def test_a_request_that_the_traced_run_refused_is_asked_for_again(tmp_path: Path) -> None:
    """A latency of -1 gives a request without measured times, and a note that says so."""
    refused = ARENA_ROW | {"first_token_latency": -1, "request_latency": -1}
    trace = read(tmp_path, "vtc", refused, ARENA_ROW)
    (request,) = (r for r in trace.requests if r.refused_in_trace)
    assert (request.ttft_us, request.latency_us, request.output_tokens) == (None, None, 199)
    assert any(note.startswith("1 requests that the traced run refused") for note in trace.notes)


def test_azure_rows_go_to_made_up_tenants_and_that_is_said(tmp_path: Path) -> None:
    """The time zone of this machine does not matter; tenants follow from the row's number."""
    rows = ("2023-11-16 18:17:03.9799600,4808,10", "2023-11-16 18:17:04.0319600,3180,8")
    trace = read(tmp_path, "azure", AZURE_HEADER, *rows)
    assert [r.arrival_us for r in trace.requests] == [0, 52_000]
    assert [r.input_tokens for r in trace.requests] == [4808, 3180]
    assert [r.tenant_id for r in trace.requests] == [synthetic_tenant(0), synthetic_tenant(1)]
    assert any("names no tenants" in note for note in trace.notes)


def test_made_up_tenants_are_uneven_and_always_the_same() -> None:
    """Few tenants are large and many are small, and a number always meets the same one."""
    tenants = [synthetic_tenant(number) for number in range(6000)]
    sizes = sorted((tenants.count(tenant) for tenant in set(tenants)), reverse=True)
    assert len(sizes) == 12
    assert sizes[0] > 4 * sizes[-1] > 0
    assert tenants == [synthetic_tenant(number) for number in range(6000)]


def test_mooncake_blocks_seen_before_count_as_cached(tmp_path: Path) -> None:
    """Leading known blocks count 512 tokens each, at most the prompt; a gap ends the prefix."""
    rows = [
        MOONCAKE_ROW,
        MOONCAKE_ROW | {"hash_ids": [1, 2, 9], "timestamp": 28},
        MOONCAKE_ROW | {"hash_ids": [8, 2, 3], "timestamp": 29},
        MOONCAKE_ROW | {"hash_ids": [1, 2, 3], "timestamp": 30},
    ]
    requests = read(tmp_path, "mooncake", *rows).requests
    assert [r.cache_read_input_tokens for r in requests] == [0, 1024, 0, 1100]
    assert [r.arrival_us for r in requests] == [0, 1000, 2000, 3000]


def test_vllm_times_are_the_engines_own(tmp_path: Path) -> None:
    """Waiting, first token and end are exact differences of engine timestamps."""
    written(tmp_path / "requests.jsonl", VLLM_ROW)
    (request,) = read_trace(tmp_path, "vllm-bench").requests
    assert (request.queue_us, request.ttft_us, request.latency_us) == (
        250_000,
        1_000_000,
        4_500_000,
    )
    assert request.timing_quality == "engine"


def test_usage_events_are_kept_but_for_identity(tmp_path: Path) -> None:
    """Every field of an event survives, its instants as distances from its start."""
    times = {"started_at": NOW, "scheduled_at": NOW + 5, "first_token_at": NOW + 7}
    row = usage(1, **times, occurred_at=NOW + 9, queue_us=4, tool_name="search", task_id="t1")
    (request,) = read(tmp_path, "usage-jsonl", row).requests
    assert (request.queue_us, request.ttft_us, request.latency_us) == (5, 7, 9)
    assert request.event is not None
    assert (request.event["tool_name"], request.event["queue_us"]) == ("search", 4)
    assert not {"event_id", "source", "source_epoch", "source_seq"} & request.event.keys()


def test_usage_events_keep_their_family(tmp_path: Path) -> None:
    """Parents become numbers of this trace, whichever stands first; unknown ones stay unknown."""
    rows = [
        usage(1, event_id="child", parent_event_id="late", started_at=NOW - 2, task_id="t1"),
        usage(2, event_id="late", parent_event_id="elsewhere", started_at=NOW - 3, task_id="t1"),
        usage(3, event_id="alone", started_at=NOW - 1),
    ]
    late, child, alone = read(tmp_path, "usage-jsonl", *rows).requests
    assert (late.parent, child.parent, alone.parent) == (None, 0, None)
    assert (late.task, child.task, alone.task) == ("t1", "t1", None)


def test_events_about_other_events_are_left_out(tmp_path: Path) -> None:
    """Corrections and admission reports belong to the original run; the notes count them."""
    rows = [usage(n, event_type=kind) for n, kind in enumerate(("inference", "admission"))]
    rows.append(usage(3, event_type="correction", corrects_event_id="x", input_tokens=-1))
    trace = read(tmp_path, "usage-jsonl", *rows)
    assert len(trace.requests) == 1
    assert any(note.startswith("2 events that are no") for note in trace.notes)


@pytest.mark.parametrize(
    ("format", "rows", "said"),
    [
        ("vtc", ["{"], "line 1: Expecting property name enclosed in double quotes in column 2"),
        ("vtc", [ARENA_ROW, "[]"], "line 2: a line must hold a JSON object"),
        ("vtc", [{"result": {"responses": 3}}], "line 1: result.responses must be a list"),
        ("vtc", [{"result": {"responses": [ARENA_ROW, {}]}}], "line 1, response 1: "),
        ("vtc", [ARENA_ROW | {"prompt_len": -1}], "line 1: -1 is no token count"),
        ("vtc", [ARENA_ROW | {"prompt_len": True}], "line 1: True is no token count"),
        ("vtc", [ARENA_ROW | {"prompt_len": 3.5}], "line 1: 3.5 is no token count"),
        ("vtc", [ARENA_ROW | {"adapter_dir": ""}], "line 1: '' is no name"),
        ("vtc", ['{"req_time": NaN}'], "line 1: NaN is no JSON number"),
        ("vtc", [ARENA_ROW | {"req_time": 1e300}], "line 1: 1e+300 is no time of a trace"),
        ("vtc", [ARENA_ROW | {"request_latency": 1}], "line 1: request_latency is below"),
        ("azure", ["TIME,IN,OUT", "x"], "line 1: the header must be TIMESTAMP,"),
        ("azure", [AZURE_HEADER, "2023-11-16 18:17:03.97,1"], "line 2: 2 columns instead of 3"),
        ("azure", [AZURE_HEADER, "yesterday,1,2"], "line 2: "),
        ("azure", [AZURE_HEADER, "2023-11-16 18:17:03.97,1,-2"], "line 2: -2 is no token count"),
        ("mooncake", [MOONCAKE_ROW | {"hash_ids": "12"}], "line 1: hash_ids must be a list"),
        ("mooncake", [{"timestamp": 1}], "line 1: 'hash_ids' is missing"),
        ("vllm-bench", [VLLM_ROW | {"scheduled_ts": 99.0}], "line 1: queued_ts, scheduled_ts,"),
        ("usage-jsonl", [usage(1, tenant_id="")], "line 1: missing_tenant"),
        ("usage-jsonl", [usage(1, output_tokens=-4)], "line 1: negative_value"),
        ("usage-jsonl", [usage(1, occurred_at=NOW - 1)], "line 1: time_order"),
        ("usage-jsonl", [usage(1, input_tokens="x")], "line 1: unencodable"),
        ("usage-jsonl", [usage(1, task_id="t" * 241)], "line 1: task_id has more than 240 bytes"),
    ],
)  # fmt: skip
def test_a_malformed_line_is_named(tmp_path: Path, format: str, rows: list[Any], said: str) -> None:
    """Every kind of wrong line is refused with its place and what is wrong there."""
    (fault,) = faults(tmp_path, format, *rows)
    assert fault.startswith(said)


def test_nothing_is_replayed_from_a_file_with_a_bad_line(tmp_path: Path) -> None:
    """All faults are collected, twenty are shown, and the rest is counted."""
    with pytest.raises(TraceError) as caught:
        read(tmp_path, "vtc", ARENA_ROW, *["{"] * 23)
    assert len(caught.value.faults) == 23
    text = str(caught.value)
    assert "line 21: " in text
    assert "line 22: " not in text
    assert text.endswith("- and 3 more")


def test_bad_lines_are_left_out_only_on_demand(tmp_path: Path) -> None:
    """With `skip_bad` the good lines are replayed, and the notes say how many were not."""
    trace = read(tmp_path, "vtc", ARENA_ROW, "{", ARENA_ROW, skip_bad=True)
    assert len(trace.requests) == 2
    assert "1 malformed lines were left out" in trace.notes


@pytest.mark.parametrize("format", READERS)
def test_a_file_without_requests_is_refused(tmp_path: Path, format: str) -> None:
    """An empty file or folder is an error of the operator, never a replay of nothing."""
    rows = {"azure": [AZURE_HEADER], "tau-bench": ["[]"]}.get(format, [])
    path = tmp_path if format == "servegen" else written(tmp_path / "trace", *rows)
    with pytest.raises(ConfigError, match="holds no request"):
        read_trace(path, format)


def test_a_compressed_file_is_read_whatever_its_name(tmp_path: Path) -> None:
    """Gzip is recognised by its first bytes."""
    path = tmp_path / "trace"
    path.write_bytes(gzip.compress(json.dumps(ARENA_ROW).encode()))
    assert len(read_trace(path, "vtc").requests) == 1


@pytest.mark.parametrize(
    "content", [gzip.compress(b"{}" * 99)[:-9], b"\x1f\x8bnonsense", b"\xff\xfe"]
)
def test_an_unreadable_file_is_an_error_of_the_operator(tmp_path: Path, content: bytes) -> None:
    """Cut or corrupt compression and bytes that are no text give one sentence, no traceback."""
    path = tmp_path / "trace"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_trace(path, "vtc")


def test_an_unknown_format_names_the_known_ones(tmp_path: Path) -> None:
    """A typing error in the format is answered with all formats."""
    with pytest.raises(ConfigError, match="vllm-bench, servegen, tau-bench, usage-jsonl"):
        read_trace(tmp_path, "vct")


def test_the_command_offers_every_format() -> None:
    """What `sluice replay --help` lists are the formats that can be read."""
    assert FORMATS.split(", ") == list(READERS)


def test_a_trace_can_be_cut(tmp_path: Path) -> None:
    """A limit keeps the earliest requests, a span those before its end, and the notes agree."""
    refused = ARENA_ROW | {"req_time": 9, "first_token_latency": -1, "request_latency": -1}
    path = written(tmp_path / "trace", refused, ARENA_ROW, ARENA_ROW | {"req_time": 3.5})

    def arrivals(wanted: Extent | None) -> list[int]:
        return [r.arrival_us for r in read_trace(path, "vtc", wanted=wanted).requests]

    assert arrivals(None) == [0, 1_000_000, 6_500_000]
    assert arrivals(Extent(requests=2)) == [0, 1_000_000]
    assert arrivals(Extent(span_us=1_000_000)) == [0]
    assert arrivals(Extent(requests=2, span_us=10**9)) == [0, 1_000_000]
    assert not any("refused" in n for n in read_trace(path, "vtc", wanted=Extent(2)).notes)
