"""ServeGen: clients' request rates and token distributions, from which requests are drawn.

Files and columns are those of Xiang et al., "ServeGen" (Alibaba Cloud Model Studio, 2025). Of
client N, `chunk-N-trace.csv` has a row per 600 s: start in s, rate in requests/s, coefficient of
variation, arrival pattern (Gamma, Weibull or none) with its shape and scale. `chunk-N-dataset.json`
has, per start of a longer window, each field's distribution as the text of a dictionary.
"""

from __future__ import annotations

import ast
import csv
import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate, islice
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from sluice.errors import ConfigError
from sluice.replay.rows import (
    STAND_IN_MODEL,
    STAND_IN_PROVIDER,
    Reading,
    TraceRequest,
    tokens_of,
    us_of,
)

REASONING_MODEL, REASONING_PROVIDER = "deepseek-reasoner", "deepseek"
WINDOW_S = 600
MODALITIES = ("image", "audio", "video")

_FILE = re.compile(r"chunk-(\d+)-(trace\.csv|dataset\.json)$")
_COLUMNS = 6
_MAX_RATE = 10_000.0
_MAX_SHAPE = 10**6
_BAD = (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError, AttributeError)
# A gap between two arrivals, in any unit: a window's gaps are stretched until they fill it.
_GAPS: Mapping[str, Callable[[Random, float], float]] = {
    "Gamma": lambda random, shape: random.gammavariate(shape, 1.0),
    "Weibull": lambda random, shape: random.weibullvariate(1.0, shape),
}


class Distribution(NamedTuple):
    """Values and their cumulated weights."""

    values: list[Any]
    cumulated: list[float]

    def draw(self, random: Random, count: int) -> list[Any]:
        """`count` values, independent of each other."""
        return random.choices(self.values, cum_weights=self.cumulated, k=count)


Fields = Mapping[str, Distribution]


class Window(NamedTuple):
    """600 s in which a client sends so many requests, whose fields are drawn from `fields`."""

    client: int
    start_s: int
    requests: int
    pattern: str
    shape: float
    fields: Fields


def read_servegen(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """ServeGen: a tar.gz of chunk-N-trace.csv and chunk-N-dataset.json, or the folder of those.

    Each client is a tenant. A window has rate x 600 s requests, as many as were measured; the gaps
    between them follow its pattern and fill it. Fields are drawn independently of each other: input
    = text + image + audio + video tokens, reasoning = reason_ratio of the output. A seed always
    gives the same requests, those of a client whatever the others are.
    """
    windows = list(_windows(path, reading))
    reasons = any("reason_ratio" in window.fields for window in windows)
    model, provider = ((REASONING_MODEL, REASONING_PROVIDER) if reasons
                       else (STAND_IN_MODEL, STAND_IN_PROVIDER))  # fmt: skip
    reading.notes += [
        f"requests are drawn from the trace's distributions with seed {reading.seed}",
        "each client of the trace is a tenant",
        f"the served model is priced as {model} of {provider}",
    ]
    drawn = _drawn(windows, reading, model, provider)
    yield from islice(drawn, reading.wanted.requests)


def _drawn(windows: list[Window], reading: Reading, model: str,
           provider: str) -> Iterator[TraceRequest]:  # fmt: skip
    """The requests of all windows in the order of their arrival, as far as they are wanted."""
    together: dict[int, list[Window]] = defaultdict(list)
    for window in windows:
        together[window.start_s].append(window)
    span_us = reading.wanted.span_us
    for start_s in sorted(together):
        # Spans count from the first request, which is somewhere in the first window.
        if span_us is not None and (start_s - min(together) - WINDOW_S) * 1_000_000 > span_us:
            return
        requests = (request for window in together[start_s]
                    for request in _requests(window, reading.seed, model, provider))  # fmt: skip
        yield from sorted(requests, key=attrgetter("arrival_us"))


def _requests(window: Window, seed: int, model: str, provider: str) -> Iterator[TraceRequest]:
    random = Random(f"{seed}:{window.client}:{window.start_s}")  # noqa: S311 - a sample, no secret
    fields, count = window.fields, window.requests
    arrivals = _arrivals(random, window)
    texts = fields["input_tokens" if "input_tokens" in fields else "text_tokens"]
    columns = zip(
        arrivals, texts.draw(random, count), fields["output_tokens"].draw(random, count),
        fields["reason_ratio"].draw(random, count) if "reason_ratio" in fields else [0.0] * count,
        *(_modality(random, fields, name, count) for name in MODALITIES), strict=True,
    )  # fmt: skip
    for arrival_us, text, output, reason_ratio, *media in columns:
        yield TraceRequest(
            arrival_us=arrival_us, tenant_id=f"client-{window.client:02d}",
            model=model, provider_name=provider,
            input_tokens=text + sum(media), output_tokens=output,
            timing_quality="estimated", usage_source="estimated",
            event=_further(round(reason_ratio * output), media),
        )  # fmt: skip


def _further(reasoning: int, media: Iterable[int]) -> dict[str, Any] | None:
    by_modality = [{"key": f"input.{name}", "value": tokens}
                   for name, tokens in zip(MODALITIES, media, strict=True) if tokens]  # fmt: skip
    if not (reasoning or by_modality):
        return None
    return {"reasoning_output_tokens": reasoning, "tokens_by_modality": by_modality}


def _arrivals(random: Random, window: Window) -> list[int]:
    """Instants in µs: one gap before each request and one after the last fill the window."""
    gap = _GAPS[window.pattern]
    sums = list(accumulate(gap(random, window.shape) for _ in range(window.requests + 1)))
    stretch = WINDOW_S * 1e6 / sums[-1] if sums[-1] else 0.0  # tiny shapes may give gaps of 0 only
    begin_us = us_of(window.start_s, 1_000_000)
    return [begin_us + round(instant * stretch) for instant in sums[:-1]]


def _modality(random: Random, fields: Fields, name: str, count: int) -> list[int]:
    """Tokens of a modality per request: each of its items has its own."""
    if f"{name}_count" not in fields:
        return [0] * count
    tokens = fields[f"{name}_tokens"]
    return [sum(tokens.draw(random, items)) if items else 0
            for items in fields[f"{name}_count"].draw(random, count)]  # fmt: skip


def _windows(path: Path, reading: Reading) -> Iterator[Window]:
    """The windows of all clients in which requests arrive."""
    without = 0
    for client, (trace, dataset) in sorted(_clients(path, reading).items()):
        datasets = _datasets(client, dataset, reading)
        for start_s, requests, pattern, shape in _rates(client, trace, reading):
            begun = [start for start in datasets if start <= start_s]
            if begun:
                fields = datasets[max(begun)]
                yield Window(client, start_s, requests, pattern, shape, fields)
            else:
                without += requests
    if without:
        reading.notes.append(f"{without:,} requests before any distribution of their client were "
                             "left out")  # fmt: skip


def _clients(path: Path, reading: Reading) -> dict[int, tuple[str, str]]:
    """Text of both files of each client."""
    found: dict[int, dict[str, str]] = defaultdict(dict)
    for name, text in _files(path):
        match = _FILE.search(name)
        if match is None:
            continue
        client, kind = int(match[1]), match[2]
        if kind in found[client]:
            raise ConfigError(f"{name}: client {client} is there twice; name the folder of one set")
        found[client][kind] = text
    for client in [client for client, files in found.items() if len(files) < 2]:
        (kind,) = found.pop(client)
        reading.fault(f"client {client}", ValueError(f"there is only its {kind}"))
    return {client: (files["trace.csv"], files["dataset.json"]) for client, files in found.items()}


def _files(path: Path) -> Iterator[tuple[str, str]]:
    """Name and text of the files of a folder or an archive; nothing is extracted."""
    if path.is_dir():
        for file in filter(Path.is_file, path.rglob("chunk-*")):
            yield file.name, file.read_text(encoding="utf-8")
        return
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if _FILE.search(member.name) else None
            if content is not None:
                yield member.name, content.read().decode("utf-8")


def _rates(client: int, text: str, reading: Reading) -> Iterator[tuple[int, int, str, float]]:
    """Start, requests, pattern and its shape, of the rows in which anything arrives."""
    for number, row in enumerate(csv.reader(text.splitlines()), 1):
        try:
            if len(row) != _COLUMNS:
                raise ValueError(f"{len(row)} columns instead of {_COLUMNS}")
            start, rate, _, pattern, shape, _ = row
            if pattern:
                yield int(start), _count(float(rate)), _known(pattern), _shape(float(shape))
        except _BAD as error:
            reading.fault(f"client {client}, trace line {number}", error)


def _count(rate: float) -> int:
    if not 0 <= rate <= _MAX_RATE:
        raise ValueError(f"{rate} is no rate")
    return round(rate * WINDOW_S)


def _known(pattern: str) -> str:
    if pattern not in _GAPS:
        raise ValueError(f"{pattern!r} is no arrival pattern; one of {', '.join(_GAPS)}")
    return pattern


def _shape(shape: float) -> float:
    if not 0 < shape <= _MAX_SHAPE:
        raise ValueError(f"{shape} is no shape")
    return shape


def _datasets(client: int, text: str, reading: Reading) -> dict[int, Fields]:
    """Distributions by the start in s of their window; windows without any values are left out."""
    datasets: dict[int, Fields] = {}
    try:
        raw = json.loads(text)
        for start, fields in raw.items():
            parsed = {name: _distribution(name, said) for name, said in fields.items()}
            if all(distribution.values for distribution in parsed.values()):
                datasets[int(start)] = _whole(parsed)
    except _BAD as error:
        reading.fault(f"client {client}, dataset", error)
    return datasets


def _distribution(name: str, text: str) -> Distribution:
    """The distribution of the text of a dictionary {value: probability}."""
    weights = ast.literal_eval(text)
    if not isinstance(weights, dict):
        raise TypeError(f"{name} must be a dictionary")
    check = _ratio if name == "reason_ratio" else tokens_of
    cumulated = list(accumulate(map(_ratio, weights.values())))
    if weights and not 0.99 < cumulated[-1] < 1.01:
        raise ValueError(f"the probabilities of {name} add up to {cumulated[-1]}")
    return Distribution([check(value) for value in weights], cumulated)


def _ratio(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is not between 0 and 1")
    return float(value)


def _whole(fields: dict[str, Distribution]) -> Fields:
    """The fields if all that a request needs are there."""
    needed = {"output_tokens"} | ({"text_tokens"} if "text_tokens" in fields else {"input_tokens"})
    needed |= {f"{name}_tokens" for name in MODALITIES if f"{name}_count" in fields}
    for name in sorted(needed - fields.keys()):
        raise KeyError(name)
    return fields
