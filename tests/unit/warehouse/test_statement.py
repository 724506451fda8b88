"""Statements as the HTTP front takes them apart."""

from __future__ import annotations

import pytest

from sluice.warehouse.statement import StatementError, parse, split


@pytest.mark.parametrize(
    ("sql", "head", "name", "data"),
    [
        (b"INSERT INTO t FORMAT CSV\n1,2;3", b"INSERT INTO t ", "CSV", b"1,2;3"),
        (b"insert into t(a) format Native \r\n\0;\xff", b"insert into t(a) ", "Native", b"\0;\xff"),
        (b"INSERT INTO t SETTINGS a=1 FORMAT X\n\n1", b"INSERT INTO t SETTINGS a=1 ", "X", b"\n1"),
        (b'INSERT INTO t FORMAT JSONEachRow {"a":1}', b"INSERT INTO t ", "JSONEachRow", b'{"a":1}'),
        (b"INSERT INTO t (a, format) VALUES (1)", b"INSERT INTO t (a, format) ", "Values", b" (1)"),
        (b"INSERT INTO `values` FORMAT CSV\n1", b"INSERT INTO `values` ", "CSV", b"1"),
        (b"/* FORMAT */ INSERT INTO t -- FORMAT\nFORMAT CSV\n1", None, "CSV", b"1"),
        (b"INSERT INTO t", b"INSERT INTO t", "Values", b""),
    ],
)  # fmt: skip
def test_insert_data_is_split_off(sql: bytes, head: bytes | None, name: str, data: bytes) -> None:
    """Data begins exactly where ClickHouse says, whatever bytes it holds."""
    statement = parse(sql)
    assert (statement.data_format, statement.data) == (name, data)
    assert head is None or statement.sql == head


@pytest.mark.parametrize(
    "sql",
    [
        b"INSERT INTO t SELECT 1 FORMAT CSV",
        b"INSERT INTO t (SELECT 1)",
        b"INSERT INTO t WITH 1 AS x SELECT x",
    ],
)
def test_insert_select_has_no_data(sql: bytes) -> None:
    """INSERT ... SELECT goes to the engine whole."""
    statement = parse(sql)
    assert (statement.sql, statement.data_format) == (sql, None)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (b"SELECT 1", None),
        (b"SELECT 1 FORMAT JSON", "JSON"),
        (b"SELECT 1 format JSON SETTINGS a=1;", "JSON"),
        (b"SELECT a AS format FROM (SELECT 1 AS a) FORMAT CSV", "CSV"),
        (b"SELECT 'FORMAT JSON' -- FORMAT CSV", None),
    ],
)
def test_output_format_is_found(sql: bytes, expected: str | None) -> None:
    """The format that the statement itself asks for is known before it runs."""
    statement = parse(sql)
    assert statement.output_format == expected
    assert statement.has_result


@pytest.mark.parametrize(
    "sql",
    [
        b"SELECT file('/etc/passwd')",
        b"SELECT `FILE` ('/etc/passwd')",
        b'SELECT * FROM "Python"(x)',
        b"SELECT * FROM eval('SELECT file(''x'')')",
        b"SELECT 1 INTO /* */ OUTFILE 'x'",
        b"INSERT INTO t FROM INFILE 'x' FORMAT CSV",
        b"INSERT INTO t VALUES (1, file('/etc/passwd'))",
        b"INSERT INTO t SELECT file('/etc/passwd')",
        b"CREATE VIEW v AS SELECT file/**/('/etc/passwd')",
    ],
)
def test_files_are_out_of_reach(sql: bytes) -> None:
    """What reads or writes files past the engine's grants is refused with ClickHouse's code."""
    with pytest.raises(StatementError) as caught:
        parse(sql)
    assert caught.value.code == 497


def test_words_for_files_inside_texts_are_welcome() -> None:
    """Only calls are refused, not texts, columns or tables that carry such names."""
    for sql in (b"SELECT 'file(1)', file FROM python", b"INSERT INTO t VALUES ('eval(1)')"):
        parse(sql)


def test_several_statements_are_refused() -> None:
    """One request is one statement; semicolons in texts and at the end do not count."""
    assert parse(b"SELECT ';' AS `;`; -- ;\n").sql == b"SELECT ';' AS `;`"
    for sql in (b"SELECT 1; SELECT 2", b"SELECT 1; DROP TABLE t", b"", b" -- nothing"):
        with pytest.raises(StatementError) as caught:
            parse(sql)
        assert caught.value.code == 62


def test_input_function_is_refused() -> None:
    """INSERT from input() would store nothing in silence, so it is an error."""
    with pytest.raises(StatementError, match="input"):
        parse(b"INSERT INTO t SELECT * FROM input('a Int8') FORMAT CSV\n1")


def test_files_are_split_into_statements() -> None:
    """Semicolons in comments, texts and heredocs do not end a statement."""
    sql = b"-- a; b\nSELECT ';', $x$ ; $x$;\n\n/* ; */ SELECT 2;\n-- end;\n"
    assert split(sql) == [b"-- a; b\nSELECT ';', $x$ ; $x$", b"/* ; */ SELECT 2"]
