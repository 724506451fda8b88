"""What the HTTP front has to know about a statement before the engine sees it.

The engine takes the data of an INSERT apart from its text, allows several statements at once, and
reads files on behalf of SQL; ClickHouse's HTTP interface does none of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

_TOKEN = re.compile(
    rb"""
    (?P<space>\s+ | --[^\n]* | \#[!\ ][^\n]* | /\*.*?\*/)
  | (?P<text>'(?:[^'\\]|\\.|'')*' | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
  | (?P<name>"(?:[^"\\]|\\.|"")*" | `(?:[^`\\]|\\.|``)*`)
  | (?P<word>[A-Za-z_][\w$]*)
  | (?P<number>\d[\w.]*)
  | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_DATA_START = re.compile(rb"[ \t\f]*\r?\n?")
_RESULT_WORDS = frozenset(
    b"SELECT WITH SHOW DESCRIBE DESC EXISTS EXPLAIN CHECK VALUES KILL FROM (".split()
)
# They read files, Python objects or SQL from text, past the grants.
_DENIED_CALLS = frozenset({b"FILE", b"EVAL", b"PYTHON"})
_DENIED_PAIRS = frozenset({(b"INTO", b"OUTFILE"), (b"FROM", b"INFILE")})
_DENIED_HINT = re.compile(rb"file|eval|python", re.IGNORECASE)


class StatementError(Exception):
    """A statement the front refuses; `code` and `name` are ClickHouse's."""

    def __init__(self, code: int, name: str, sentence: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {sentence}. ({name})")
        self.code = code


class Token(NamedTuple):
    """One lexical element; `depth` counts the open parentheses around it."""

    kind: str
    text: bytes
    start: int
    end: int
    depth: int

    @property
    def upper(self) -> bytes:
        """The text as keywords are compared."""
        return self.text.upper()


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, its INSERT data apart; `data_format` is None where it takes none."""

    sql: bytes
    data: bytes = b""
    data_format: str | None = None
    output_format: str | None = None
    has_result: bool = False


def tokens(sql: bytes) -> Iterator[Token]:
    """Tokens of `sql` without spaces and comments."""
    depth = 0
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup or "mark"
        kind = "text" if kind == "tag" else kind
        if kind == "space":
            continue
        depth -= match.group() == b")"
        yield Token(kind, match.group(), match.start(), match.end(), depth)
        depth += match.group() == b"("


def split(sql: bytes) -> list[bytes]:
    """The statements of a file, split at semicolons outside of texts and comments."""
    starts, ends = [0], []
    for token in tokens(sql):
        if token.text == b";":
            ends.append(token.start)
            starts.append(token.end)
    pieces = [sql[a:b] for a, b in zip(starts, [*ends, len(sql)], strict=True)]
    return [piece.strip() for piece in pieces if any(True for _ in tokens(piece))]


def parse(sql: bytes) -> Statement:
    """The one statement in `sql`, which for an INSERT may end in data of any format.

    Raises StatementError for several statements, and for what reads or writes files.
    """
    stream = tokens(sql)
    first = next(stream, None)
    if first is None:
        raise StatementError(62, "SYNTAX_ERROR", "Empty query")
    if first.upper == b"INSERT":
        return _insert(sql, [first], stream)
    return _query(sql, [first, *stream])


def _query(sql: bytes, found: list[Token]) -> Statement:
    end = next((i for i, token in enumerate(found) if token.text == b";"), len(found))
    if any(token.text != b";" for token in found[end:]):
        raise StatementError(62, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
    if end < len(found):
        sql = sql[: found[end].start]
    _refuse_files(found)
    has_result = found[0].upper in _RESULT_WORDS
    return Statement(sql, output_format=_output_format(found[:end]), has_result=has_result)


def _output_format(found: list[Token]) -> str | None:
    for word, name in reversed(list(pairwise(found))):
        if word.depth == 0 and word.kind == name.kind == "word" and word.upper == b"FORMAT":
            return name.text.decode()
    return None


def _insert(sql: bytes, found: list[Token], stream: Iterator[Token]) -> Statement:
    """An INSERT: the text up to its data, or a whole INSERT ... SELECT."""
    for token in stream:
        found.append(token)
        if token.depth or token.kind not in ("word", "mark"):
            continue
        if token.upper in (b"SELECT", b"WITH", b"("):
            if token.text == b"(" and not _opens_select(sql[token.end : token.end + 4096]):
                continue
            return _insert_select(sql, [*found, *stream])
        if token.upper == b"VALUES":
            return _with_data(sql, found, token.start, token.end, "Values")
        if token.upper == b"FORMAT" and (name := next(stream, None)) is not None:
            return _with_data(sql, found, token.start, name.end, name.text.decode())
        if token.text == b";":
            return _with_data(sql, found, token.start, token.end, "Values")
    return _with_data(sql, found, len(sql), len(sql), "Values")


def _opens_select(rest: bytes) -> bool:
    first = next(tokens(rest), None)
    return first is not None and first.upper in (b"SELECT", b"WITH")


def _insert_select(sql: bytes, found: list[Token]) -> Statement:
    for word, mark in pairwise(found):
        if word.upper == b"INPUT" and mark.text == b"(":
            sentence = "INSERT ... SELECT FROM input() is not supported by the embedded server"
            raise StatementError(48, "NOT_IMPLEMENTED", sentence)
    return replace(_query(sql, found), has_result=False, output_format=None)


def _with_data(sql: bytes, found: list[Token], head: int, start: int, name: str) -> Statement:
    _refuse_files(found)
    data = sql[start:]
    if name == "Values":
        if _DENIED_HINT.search(data):
            _refuse_files(list(tokens(data)))
        return Statement(sql[:head], data, name)
    skip = _DATA_START.match(data)
    return Statement(sql[:head], data[skip.end() if skip else 0 :], name)


def _refuse_files(found: list[Token]) -> None:
    for left, right in pairwise(found):
        call = left.kind in ("word", "name") and right.text == b"("
        if call and left.text.strip(b'`"').upper() in _DENIED_CALLS:
            raise _denied(f"function {left.text.decode()}")
        if (left.upper, right.upper) in _DENIED_PAIRS:
            raise _denied((left.upper + b" " + right.upper).decode())


def _denied(what: str) -> StatementError:
    return StatementError(497, "ACCESS_DENIED", f"default: Not enough privileges to use {what}")
