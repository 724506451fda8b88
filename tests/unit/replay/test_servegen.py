"""Requests drawn from ServeGen's distributions: seeded, as many as measured, nothing evaluated."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from sluice.errors import ConfigError
from sluice.replay.rows import Extent
from sluice.replay.servegen import REASONING_MODEL, WINDOW_S
from sluice.replay.traces import Trace, TraceError, read_trace

RATES = "0,0,0,,0,0\n600,0.05,6.7,Gamma,0.02,73.0\n1200,0.1,0.9,Weibull,1.1,3.1\n"
REASON: dict[str, str] = {
    "input_tokens": "{10: 0.5, 2000: 0.5}", "output_tokens": "{100: 1.0}",
    "reason_ratio": "{0.25: 1.0}",
}  # fmt: skip
IMAGES: dict[str, str] = {
    "text_tokens": "{7: 1.0}", "image_tokens": "{100: 0.5, 300: 0.5}", "image_count": "{3: 1.0}",
    "audio_tokens": "{0: 1.0}", "audio_count": "{0: 1.0}", "output_tokens": "{20: 1.0}",
}  # fmt: skip


def client(folder: Path, number: int, rates: str = RATES, **fields: str) -> None:
    """The files of a client, whose distributions hold from the begin."""
    (folder / f"chunk-{number}-trace.csv").write_text(rates)
    (folder / f"chunk-{number}-dataset.json").write_text(json.dumps({"0": fields or REASON}))


def drawn(path: Path, **over: Any) -> Trace:
    """The trace of a folder or archive."""
    return read_trace(path, "servegen", **over)


def test_a_window_has_as_many_requests_as_were_measured(tmp_path: Path) -> None:
    """Rate x 600 s requests arrive inside of their window, whatever the pattern."""
    client(tmp_path, 4)
    requests = drawn(tmp_path).requests
    assert len(requests) == 30 + 60
    assert all(0 <= r.arrival_us <= 2 * WINDOW_S * 1_000_000 for r in requests)
    assert sum(r.arrival_us >= WINDOW_S * 1_000_000 for r in requests) >= 60
    assert {r.tenant_id for r in requests} == {"client-04"}


def test_tokens_come_from_the_distributions(tmp_path: Path) -> None:
    """Inputs are values of the distribution, about as often as stated; reasoning is its share."""
    client(tmp_path, 0, "0,10,1,Gamma,1.0,1.0")
    requests = drawn(tmp_path).requests
    inputs = [r.input_tokens for r in requests]
    assert set(inputs) == {10, 2000}
    assert 0.45 < inputs.count(10) / len(inputs) < 0.55
    assert {(r.output_tokens, r.model) for r in requests} == {(100, REASONING_MODEL)}
    assert requests[0].event == {"reasoning_output_tokens": 25, "tokens_by_modality": []}
    assert requests[0].usage_source == "estimated"


def test_modalities_are_part_of_the_input(tmp_path: Path) -> None:
    """Each image has tokens of its own; none of a modality says nothing about it."""
    client(tmp_path, 0, **IMAGES)
    for request in drawn(tmp_path).requests:
        assert request.event is not None
        (image,) = request.event["tokens_by_modality"]
        assert image["key"] == "input.image"
        assert image["value"] in (300, 500, 700, 900)
        assert request.input_tokens == 7 + image["value"]


def test_a_seed_decides_all_and_clients_do_not_matter_to_each_other(tmp_path: Path) -> None:
    """The same seed gives the same trace, another another, a new client changes no old one."""
    client(tmp_path, 1)
    alone = drawn(tmp_path, seed=7).requests
    assert drawn(tmp_path, seed=7).requests == alone
    assert drawn(tmp_path, seed=8).requests != alone
    client(tmp_path, 0, "0,0.05,1,Weibull,1,1")
    both = drawn(tmp_path, seed=7).requests
    assert [r.input_tokens for r in both if r.tenant_id == "client-01"] == [
        r.input_tokens for r in alone
    ]


def test_only_what_is_wanted_is_drawn(tmp_path: Path) -> None:
    """A limit and a span give the begin of the whole trace, in the order of arrival."""
    client(tmp_path, 0)
    client(tmp_path, 1)
    whole = drawn(tmp_path).requests
    assert drawn(tmp_path, wanted=Extent(requests=11)).requests == whole[:11]
    span_us = 900_000_000
    assert drawn(tmp_path, wanted=Extent(span_us=span_us)).requests == [
        r for r in whole if r.arrival_us < span_us
    ]


def test_an_archive_is_read_without_extracting(tmp_path: Path) -> None:
    """A tar.gz gives what its folder gives; members outside of the pattern are passed over."""
    (tmp_path / "set").mkdir()
    client(tmp_path / "set", 3)
    archive = tmp_path / "set.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "set", "reason/set")
        evil = tarfile.TarInfo("../../outside.txt")
        evil.size = 4
        tar.addfile(evil, io.BytesIO(b"evil"))
    assert drawn(archive).requests == drawn(tmp_path / "set").requests
    assert not (tmp_path.parent / "outside.txt").exists()


def test_requests_before_any_distribution_are_left_out_and_counted(tmp_path: Path) -> None:
    """A window that no dataset covers gives no request, and the notes say how many."""
    client(tmp_path, 0)
    (tmp_path / "chunk-0-dataset.json").write_text(json.dumps({"600": {}, "1200": REASON}))
    (tmp_path / "chunk-0-dataset.json").write_text(
        json.dumps({"0": REASON | {"input_tokens": "{}"}, "1200": REASON})
    )
    trace = drawn(tmp_path)
    assert len(trace.requests) == 60
    assert any(note.startswith("30 requests before any distribution") for note in trace.notes)


@pytest.mark.parametrize(
    ("rates", "fields", "said"),
    [
        ("0,1,1,Gamma,1", REASON, "client 2, trace line 1: 5 columns instead of 6"),
        ("0,-1,1,Gamma,1,1", REASON, "client 2, trace line 1: -1.0 is no rate"),
        ("0,nan,1,Gamma,1,1", REASON, "client 2, trace line 1: nan is no rate"),
        ("0,1,1,Zipf,1,1", REASON, "client 2, trace line 1: 'Zipf' is no arrival pattern"),
        ("0,1,1,Gamma,0,1", REASON, "client 2, trace line 1: 0.0 is no shape"),
        (RATES, {"input_tokens": "{1: 1.0}"}, "client 2, dataset: 'output_tokens' is missing"),
        (RATES, IMAGES | {"image_tokens": "[]"}, "client 2, dataset: image_tokens must be a dict"),
        (RATES, {k: v for k, v in IMAGES.items() if k != "image_tokens"},
         "client 2, dataset: 'image_tokens' is missing"),
        (RATES, REASON | {"input_tokens": "{1: 0.4}"}, "client 2, dataset: the probabilities of"),
        (RATES, REASON | {"input_tokens": "{-1: 1.0}"}, "client 2, dataset: -1 is no token count"),
        (RATES, REASON | {"reason_ratio": "{1.5: 1.0}"}, "client 2, dataset: 1.5 is not between"),
        (RATES, REASON | {"input_tokens": "{1: 1.0"}, "client 2, dataset: '{' was never closed"),
        (RATES, REASON | {"input_tokens": "__import__('os').getpid()"}, "client 2, dataset: mal"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_named(
    tmp_path: Path, rates: str, fields: dict[str, str], said: str
) -> None:
    """Wrong rates and distributions are faults with their place; code in them is never run."""
    client(tmp_path, 1)
    client(tmp_path, 2, rates, **fields)
    with pytest.raises(TraceError) as caught:
        drawn(tmp_path)
    (fault,) = caught.value.faults
    assert fault.startswith(said)
    assert drawn(tmp_path, skip_bad=True).requests


def test_half_a_client_is_a_fault_and_two_of_a_number_an_error(tmp_path: Path) -> None:
    """A trace without its dataset is named; two data sets in one folder would be mixed up."""
    client(tmp_path, 1)
    client(tmp_path, 2)
    (tmp_path / "chunk-2-dataset.json").unlink()
    with pytest.raises(TraceError, match=r"client 2: there is only its trace\.csv"):
        drawn(tmp_path)
    (tmp_path / "other").mkdir()
    client(tmp_path / "other", 1)
    with pytest.raises(ConfigError, match="client 1 is there twice"):
        drawn(tmp_path)


@pytest.mark.parametrize(
    ("file", "clients", "modality"),
    [("reason-deepseek-r1.tar.gz", 24, False), ("multimodal-mm-image.tar.gz", 18, True)],
)
def test_the_original_distributions_are_read(
    shared_traces: Path, file: str, clients: int, modality: bool
) -> None:
    """Both published sets have no faulty line, and their first hour has so many clients."""
    trace = drawn(shared_traces / "servegen" / file, wanted=Extent(span_us=3_600_000_000))
    assert trace.faults == []
    assert len({request.tenant_id for request in trace.requests}) == clients
    events = [request.event for request in trace.requests if request.event]
    assert any(event["tokens_by_modality"] for event in events) == modality
    assert any(event["reasoning_output_tokens"] for event in events) != modality
