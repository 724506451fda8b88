"""What columns of the wire cost: `python tests/bench/wire_columns.py [EARLIER]`.

Prints one JSON line per case with microseconds of CPU per record, the best of five passes: reading
usage events in chunks of several sizes, writing window rows, coding texts; beside them fastavro,
polars where it is installed, and an earlier `wire/columns.py` where its path is given.
"""

from __future__ import annotations

import importlib.util
import io
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from sluice.bench.limit import _container
from sluice.bench.workload import Mix, make
from sluice.wire import schema
from sluice.wire.codec import decode, encode_row
from sluice.wire.column_types import Items, Texts
from sluice.wire.columns import read_usage
from sluice.wire.layout import layout

EVENTS = 20_000
CHUNKS = (1, 20, 500, 5_000)
NAMES = ("tenant-7", "gpt-4o-mini", "search", "größer", "")


def cpu_us(step: Callable[[], object], records: int, budget_s: float = 0.1) -> float:
    """Microseconds of CPU per record, the best of five passes."""
    step()
    begun = time.process_time()
    step()
    times = max(1, int(budget_s / max(time.process_time() - begun, 1e-6)))
    best = float("inf")
    for _ in range(5):
        begun = time.process_time()
        for _ in range(times):
            step()
        best = min(best, time.process_time() - begun)
    return round(best / times / records * 1e6, 3)


def events() -> list[bytes]:
    """Usage events of the benchmark's workload."""
    work = make(Mix(EVENTS))
    whole, begin, values = work.buffer.tobytes(), 0, []
    for end in work.end.tolist():
        values.append(whole[begin:end])
        begin = end
    return values


def drawn(kind: Any, draw: random.Random) -> Any:
    """A value of a schema; lists have one or two entries on average."""
    if isinstance(kind, list):
        return None if draw.random() < 0.3 else drawn(kind[1], draw)
    if isinstance(kind, str):
        number = draw.choice((0, 5, draw.randrange(10**6), draw.randrange(10**15)))
        of = {"string": draw.choice(NAMES), "int": number % 1000, "boolean": number % 2 == 0}
        return of.get(kind, number)
    if kind["type"] == "array":
        return [drawn(kind["items"], draw) for _ in range(draw.choice((0, 0, 1, 2, 3)))]
    return {field["name"]: drawn(field["type"], draw) for field in kind["fields"]}


def coded(column: Any) -> Any:
    """A column with its texts coded, as a meter holds them."""
    if isinstance(column, Items):
        return column._replace(fields={name: coded(one) for name, one in column.fields.items()})
    return column.coded() if isinstance(column, Texts) else column


def say(case: str, records: int, **us: float) -> None:
    """One line."""
    print(json.dumps({"case": case, "records": records, **us}))


def reading(chunk: list[bytes], earlier: Any) -> None:
    """Usage events, all of their columns, by several readers."""
    size = len(chunk)
    us = {
        "read": cpu_us(lambda: read_usage(chunk), size),
        "every_column": cpu_us(lambda: list(read_usage(chunk).columns.values()), size),
        "fastavro": cpu_us(lambda: [decode(value) for value in chunk], size),
    }
    if earlier:
        us["earlier"] = cpu_us(lambda: earlier.read_usage(chunk), size)
    if importlib.util.find_spec("polars"):
        us["polars"] = cpu_us(lambda: by_polars(chunk), size)
    say("read UsageEvent", size, **us)


def by_polars(chunk: list[bytes]) -> Any:
    """A frame of the chunk, spliced into a container."""
    import polars as pl

    return pl.read_avro(io.BytesIO(_container(chunk)))


def writing(rows: list[Any]) -> None:
    """Window rows, as values and as one buffer."""
    size, plan = len(rows), layout("WindowRow")
    values = [encode_row("WindowRow", row) for row in rows]
    columns = {name: coded(column) for name, column in plan.read(values).columns.items()}
    assert plan.write(columns, size) == values
    say(
        "write WindowRow", size,
        values=cpu_us(lambda: plan.write(columns, size), size),
        buffer=cpu_us(lambda: plan.write_buffer(columns, size), size),
        fastavro=cpu_us(lambda: [encode_row("WindowRow", row) for row in rows], size),
        read=cpu_us(lambda: list(plan.read(values).columns.values()), size),
    )  # fmt: skip


def coding(values: list[bytes]) -> None:
    """Text columns of few names and of many, per row of one column."""
    size, few, many = len(values), list[Texts](), list[Texts]()
    for column in read_usage(values).columns.values():
        if isinstance(column, Texts):
            is_many = len(column.coded().values) > max(20, size // 20)
            (many if is_many else few).append(column)
    us = {}
    for name, columns in (("few_names", few), ("many_names", many)):
        if columns:
            us[name] = coded_us(columns, size, Texts.coded)
            us[f"{name}_arrow"] = coded_us(columns, size, by_arrow)
    say("code a text column", size, **us)


def coded_us(columns: list[Texts], size: int, code: Callable[[Texts], object]) -> float:
    """Microseconds per row of one column."""
    return cpu_us(lambda: [code(column) for column in columns], size * len(columns))


def by_arrow(column: Texts) -> Any:
    """Codes and names by Arrow's dictionary encoding."""
    found = column.array()
    if found.type != "string":  # all null
        return None
    found = found.dictionary_encode(null_encoding="encode")
    return found.indices.to_numpy(zero_copy_only=False).astype(
        "int64"
    ), found.dictionary.to_pylist()


def module_at(path: str) -> Any:
    """A module of another version."""
    spec = importlib.util.spec_from_file_location("earlier_columns", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    usage, draw = events(), random.Random(1)
    kind = schema.columnar_schema("WindowRow")
    windows = [drawn(kind, draw) for _ in range(max(CHUNKS))]
    before = module_at(sys.argv[1]) if len(sys.argv) > 1 else None
    for count in CHUNKS:
        reading(usage[:count], before)
    for count in CHUNKS:
        writing(windows[:count])
    for count in (*CHUNKS, EVENTS):
        coding(usage[:count])
