"""The usage that the data plane is measured with: encoded once, stamped with fresh times later.

200 tenants, 20 models of the packaged price book and 30 tools, each drawn by Zipf's law, events up
to two seconds out of order and numbered per source and tenant. All values follow from the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.metering.prices import PriceEntry, default_book
from sluice.metering.rates import STANDARD
from sluice.wire import schema
from sluice.wire.emitter_encode import RecordEncoder

Profile = Literal["ledger", "full"]
Ints = npt.NDArray[np.int64]

TENANTS, PROJECTS, MODELS, TOOLS, SOURCES = 200, 2, 20, 30, 4
STEP_US = 600  # between two events in event time: 1 M events are ten minutes
DISORDER_US = 2_000_000
TASK_EVENTS = 20
_EXPONENT = 1.1
_TOOL_SHARE, _TASK_SHARE, _CACHED_SHARE = 0.3, 0.2, 0.5
_MOST_INPUT = 100_000
_LAYOUT = 2  # of the cached files
_MODEL_RATES = ("input", "cache_read", "output")
# Instants of this age take eight bytes each, whatever they are, so that they can be replaced.
_OCCURRED, _STARTED = 1_790_000_000_123_457, 1_780_000_000_765_431
_TIME_BYTES = 8
_EPOCH = "bench-0000000001"


class Mix(NamedTuple):
    """How much usage and of which kind; "ledger" has no tasks, latencies or SLO outcomes."""

    events: int
    profile: Profile = "full"
    seed: int = 1


class Sums(NamedTuple):
    """What the events of one window row add up to."""

    events: int
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cost_pusd: int


RowKey = tuple[int, str, str, str, str]  # window_start, tenant_id, project_id, model, tool


@dataclass(frozen=True)
class Workload:
    """Encoded events as one buffer, and what they hold as columns of indexes and amounts."""

    buffer: npt.NDArray[np.uint8]
    end: Ints
    epoch_place: Ints
    occurred_place: Ints
    started_place: Ints
    behind_us: Ints
    took_us: Ints
    tenant: Ints
    project: Ints
    model: Ints
    tool: Ints
    input: Ints
    cached: Ints
    output: Ints

    def __len__(self) -> int:
        return len(self.end)

    @property
    def value_bytes(self) -> float:
        """Mean size of a value."""
        return len(self.buffer) / len(self)

    def occurred_at(self, first_us: int, step_us: float = STEP_US) -> Ints:
        """When each event occurs if the first one does at `first_us` (µs UTC)."""
        steps = (np.arange(len(self)) * step_us).astype(np.int64)
        return first_us + DISORDER_US + steps - self.behind_us

    def records(self, occurred_at: Ints, epoch: int = 1) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of every event, in order, with these times.

        Another `epoch` makes them new events: their sources begin to count again.
        """
        buffer = self.buffer.copy()
        name = np.frombuffer(f"bench-{epoch:010}".encode(), dtype=np.uint8)
        buffer[self.epoch_place[:, None] + np.arange(len(name))] = name
        _put(buffer, self.occurred_place, occurred_at)
        _put(buffer, self.started_place, occurred_at - self.took_us)
        data, keys, begin = buffer.tobytes(), [_tenant(n).encode() for n in range(TENANTS)], 0
        for end, tenant in zip(self.end.tolist(), self.tenant.tolist(), strict=True):
            yield keys[tenant], data[begin:end]
            begin = end

    def answer(self, occurred_at: Ints) -> dict[RowKey, Sums]:
        """Exact sums of every window row that the events make."""
        minute = occurred_at // 60_000_000
        first = int(minute.min())
        code = minute - first
        for column, size in _dimensions(self):
            code = code * size + column
        codes, place = np.unique(code, return_inverse=True)
        ones = np.ones(len(self), dtype=np.int64)
        columns = [ones, self.input, self.output, self.cached, self._costs()]
        sums = _group_sums(place, len(codes), columns)
        rows = zip(*(column.tolist() for column in sums), strict=True)
        return {_row_key(c, first): Sums(*row) for c, row in zip(codes.tolist(), rows, strict=True)}

    def _costs(self) -> Ints:
        rates = np.array([[rates_of(e)[name] for name in _MODEL_RATES] for e in models()])
        fresh, cached, output = rates[self.model].T
        input_costs = (self.input - self.cached) * fresh + self.cached * cached
        costs: Ints = input_costs + self.output * output
        return costs


@cache
def models() -> tuple[PriceEntry, ...]:
    """The models of the workload: the first of the packaged book that have all three rates."""
    priced = [
        entry for entry in default_book().entries if set(_MODEL_RATES) <= set(rates_of(entry))
    ]
    return tuple({entry.model: entry for entry in reversed(priced)}.values())[-MODELS:]


def rates_of(entry: PriceEntry) -> Mapping[str, int]:
    """Rates that all requests of the workload pay, pico-USD per token."""
    tiers = [tier for tier in entry.tiers if tier.service_tier == STANDARD]
    if any(0 < tier.above_input_tokens <= _MOST_INPUT for tier in tiers):
        return {}
    return next((tier.rates_pusd for tier in tiers if not tier.above_input_tokens), {})


def load(mix: Mix, folder: Path, tell: Callable[[str], None] = lambda _: None) -> Workload:
    """The workload from `folder`, made and kept there the first time."""
    name = f"{mix.profile}-{mix.events}-{mix.seed}-{_version()}.npz"
    path = folder / name
    if path.is_file():
        with np.load(path) as kept:
            return Workload(**{f.name: kept[f.name] for f in fields(Workload)})
    tell(f"encoding {mix.events:,} events ({mix.profile})")
    made = make(mix)
    folder.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part.npz")
    np.savez(half, **{f.name: getattr(made, f.name) for f in fields(Workload)})
    half.replace(path)
    return made


def _version() -> str:
    """Changes with the schema, the prices and this module's own layout."""
    parts = (schema.fingerprint("UsageEvent").hex(), default_book().version, str(_LAYOUT))
    return hashlib.sha256("-".join(parts).encode()).hexdigest()[:12]


def make(mix: Mix) -> Workload:
    """Draw and encode the events."""
    drawn = _Draw(mix)
    encoder = RecordEncoder.framed("UsageEvent")
    values = [encoder.encode(event) for event in drawn.events()]
    sizes = np.array([len(value) for value in values], dtype=np.int64)
    end = np.cumsum(sizes)
    begin = end - sizes
    return Workload(
        np.frombuffer(b"".join(values), dtype=np.uint8), end,
        _places(begin, values, _EPOCH.encode()), _places(begin, values, _time(_OCCURRED)),
        _places(begin, values, _time(_STARTED)), drawn.behind, drawn.took, drawn.tenant,
        drawn.project, drawn.model, drawn.tool, drawn.input, drawn.cached, drawn.output,
    )  # fmt: skip


def _places(begin: Ints, values: list[bytes], mark: bytes) -> Ints:
    found: Ints = begin + np.array([value.index(mark) for value in values], dtype=np.int64)
    return found


def drawn_events(mix: Mix) -> Iterator[dict[str, Any]]:
    """The events of a mix as their gateways would state them, their times to be replaced."""
    return _Draw(mix).events()


class _Draw:
    """The random choices of a mix as columns."""

    def __init__(self, mix: Mix) -> None:
        self.mix = mix
        self.random = random = np.random.default_rng([mix.seed, mix.profile == "full"])
        count = mix.events
        self.tenant = _zipf(random, TENANTS, count)
        self.project = random.integers(0, PROJECTS, count) % (1 + self.tenant % PROJECTS)
        self.model = _zipf(random, MODELS, count)
        tool = 1 + _zipf(random, TOOLS, count)
        self.tool = np.where(random.random(count) < _TOOL_SHARE, tool, 0)
        self.source = random.integers(0, SOURCES, count)
        self.input = _sizes(random, 6.5, 1.2, _MOST_INPUT - 1, count)
        cached = (self.input * random.random(count) * 0.9).astype(np.int64)
        self.cached = np.where(random.random(count) < _CACHED_SHARE, cached, 0)
        self.output = _sizes(random, 5.0, 1.1, 20_000, count)
        self.behind = random.integers(0, DISORDER_US + 1, count)
        self.queue = _sizes(random, 9.0, 1.0, 10_000_000, count)
        self.took = self.queue + 50_000 + 40 * self.input + 20_000 * self.output
        self.number = 1 + _counted(self.source * TENANTS + self.tenant)
        in_task = random.random(count) < (_TASK_SHARE if mix.profile == "full" else 0)
        self.in_task = np.where(in_task, 1 + _counted(self.tenant * 2 + in_task), 0)
        self.draw = random.integers(0, 2**62, count)

    def events(self) -> Iterator[dict[str, Any]]:
        """Every event as its gateway would state it."""
        entries = models()
        names = [entry.model for entry in entries]
        providers = [entry.provider or "openai" for entry in entries]
        columns = (self.tenant, self.project, self.model, self.tool, self.source, self.input,
                   self.cached, self.output, self.queue, self.took, self.number, self.in_task,
                   self.draw)  # fmt: skip
        full = self.mix.profile == "full"
        for place, row in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            model = row[2]
            event = _event(place, row, names[model], providers[model])
            if full:
                event |= _beyond_the_ledger(row)
            yield event


def _event(place: int, row: tuple[int, ...], model: str, provider: str) -> dict[str, Any]:
    tenant, project, _, tool, source, tokens, cached, output, _, _, number, _, draw = row
    return {
        "event_id": f"0192{place:08x}-7000-8000-{draw & 0xFFFFFFFFFFFF:012x}",
        "source": f"gateway-{source}", "source_epoch": _EPOCH, "source_seq": number,
        "event_type": "inference", "occurred_at": _OCCURRED, "started_at": _STARTED,
        "timing_quality": "gateway", "tenant_id": _tenant(tenant), "project_id": _project(project),
        "api_key_hash": f"{tenant:08x}{draw & 1:08x}", "end_user_hash": f"{draw % 5000:016x}",
        "conversation_id": f"{draw % 65537:016x}", "attempt": 1 + (draw % 33 == 0),
        "trace_id": f"{draw:032x}", "span_id": f"{place:016x}", "operation_name": "chat",
        "provider_name": provider, "request_model": model, "response_model": model,
        "region": f"region-{draw % 3}", "stream": draw % 2 == 0, "priority": "standard",
        "tool_name": _tool(tool) or None, "input_tokens": tokens,
        "cache_read_input_tokens": cached, "output_tokens": output,
        "reasoning_output_tokens": output // 3 if draw % 4 == 0 else 0,
        "usage_source": "provider", "outcome": "error" if draw % 97 == 0 else "ok",
        "finish_reason": "stop",
    }  # fmt: skip


def _beyond_the_ledger(row: tuple[int, ...]) -> dict[str, Any]:
    """Latencies and SLO outcome, and for some events the agent task they belong to."""
    tenant, _, _, _, _, tokens, _, _, queue, took, _, in_task, draw = row
    more: dict[str, Any] = {
        "queue_us": queue, "ttft_us": queue + 50_000 + 40 * tokens, "latency_us": took,
        "slo_outcome": "slow" if draw % 31 == 0 else "good",
    }  # fmt: skip
    if in_task:
        task, step = divmod(in_task - 1, TASK_EVENTS)
        more |= {"task_id": f"task-{tenant}-{task}", "agent_name": f"agent-{draw % 8}",
                 "step": step + 1, "depth": 1}  # fmt: skip
    return more


def _zipf(random: np.random.Generator, ranks: int, count: int) -> Ints:
    weights = 1 / np.arange(1, ranks + 1) ** _EXPONENT
    return random.choice(ranks, count, p=weights / weights.sum()).astype(np.int64)


def _sizes(random: np.random.Generator, mean: float, spread: float, most: int, count: int) -> Ints:
    return np.minimum(random.lognormal(mean, spread, count), most).astype(np.int64) + 1


def _counted(group: Ints) -> Ints:
    """How many of the same group come before each element."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[begins, len(group)])
    counted = np.empty(len(group), dtype=np.int64)
    counted[order] = np.arange(len(group)) - np.repeat(begins, lengths)
    return counted


def _group_sums(place: Ints, groups: int, columns: list[Ints]) -> list[Ints]:
    """Sums per group in whole numbers; numpy's weighted count would use floats."""
    order = np.argsort(place, kind="stable")
    begins = np.searchsorted(place[order], np.arange(groups))
    return [np.add.reduceat(column[order], begins) for column in columns]


def _dimensions(work: Workload) -> list[tuple[Ints, int]]:
    return [(work.tenant, TENANTS), (work.project, PROJECTS), (work.model, MODELS),
            (work.tool, TOOLS + 1)]  # fmt: skip


def _row_key(code: int, first_minute: int) -> RowKey:
    code, tool = divmod(code, TOOLS + 1)
    code, model = divmod(code, MODELS)
    code, project = divmod(code, PROJECTS)
    minute, tenant = divmod(code, TENANTS)
    start = (first_minute + minute) * 60_000_000
    return start, _tenant(tenant), _project(project), models()[model].model, _tool(tool)


def _tenant(number: int) -> str:
    return f"tenant-{number:03}"


def _project(number: int) -> str:
    return f"project-{number}"


def _tool(number: int) -> str:
    return f"tool-{number:02}" if number else ""


def _time(instant: int) -> bytes:
    return _varints(np.array([instant])).tobytes()


def _put(buffer: npt.NDArray[np.uint8], place: Ints, instants: Ints) -> None:
    buffer[place[:, None] + np.arange(_TIME_BYTES)] = _varints(instants)


def _varints(instants: Ints) -> npt.NDArray[np.uint8]:
    """Avro's bytes of each instant, eight a row; needs instants from 1978 to 3111."""
    groups = (instants[:, None] << 1) >> (7 * np.arange(_TIME_BYTES)) & 0x7F
    groups[:, :-1] |= 0x80
    return groups.astype(np.uint8)
