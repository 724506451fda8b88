"""Files and sockets that count, and hashes that stand for content."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sluice.admission.counted import CountedReads, CountedSocket, CountedWrites
from sluice.admission.hashing import content_hash, identity_hash

DATA = b"one\ntwo\nthree"


@pytest.mark.parametrize("consume", [
    lambda file: file.read(), lambda file: [file.read(5), file.read()],
    lambda file: [file.read1(4), file.read()], lambda file: list(file),
    lambda file: file.readlines(), lambda file: [file.readline() for _ in range(4)],
    lambda file: file.readinto(bytearray(50)), lambda file: file.readinto1(bytearray(50)),
])  # fmt: skip
def test_every_way_to_read_counts_every_byte_once(
    tmp_path: Path, consume: Callable[[Any], Any]
) -> None:
    """However a file is read to its end, the count is its size."""
    path, counts = tmp_path / "f", list[int]()
    path.write_bytes(DATA)
    with CountedReads(path.open("rb"), counts.append) as file:
        consume(file)
        assert file.name == str(path)
    assert sum(counts) == len(DATA)
    assert file.closed


def test_every_way_to_write_counts_every_byte_once(tmp_path: Path) -> None:
    """What is in the file afterwards is what was counted."""
    path, counts = tmp_path / "f", list[int]()
    with CountedWrites(path.open("wb"), counts.append) as file:
        assert file.write(b"12") == 2
        file.writelines([b"345", bytearray(b"6")])
    assert sum(counts) == len(path.read_bytes()) == 6


def test_both_directions_of_one_file(tmp_path: Path) -> None:
    """A file for reading and writing counts each way by itself."""
    reads, writes = list[int](), list[int]()
    with (tmp_path / "f").open("w+b") as raw:
        file = CountedReads(CountedWrites(raw, writes.append), reads.append)
        file.write(DATA)
        file.seek(4)
        file.read(3)
    assert (sum(writes), sum(reads)) == (len(DATA), 3)


def test_a_raw_file_that_would_wait_counts_nothing() -> None:
    """None from a raw file is no zero."""

    class Waiting(io.RawIOBase):
        def read(self, size: int = -1) -> None:
            return None

        def readinto(self, buffer: Any) -> None:
            return None

        def write(self, data: Any) -> None:
            return None

    counts: list[int] = []
    file = CountedReads(CountedWrites(Waiting(), counts.append), counts.append)
    assert [file.read(), file.readinto(bytearray(1)), file.write(b"1")] == [None] * 3
    assert counts == []


def test_a_text_file_is_refused() -> None:
    """Characters are not bytes: the message says what to do."""
    for counted in (CountedReads, CountedWrites):
        with pytest.raises(TypeError, match="binary mode"):
            counted(io.StringIO("x"), print)


def test_a_socket_counts_both_directions(tmp_path: Path) -> None:
    """send, sendall, sendfile, recv, recv_into and makefile count what crosses the socket."""
    got, gone = list[int](), list[int]()
    (tmp_path / "f").write_bytes(b"file")
    left, right = socket.socketpair()
    with (
        right,
        CountedSocket(left, got.append, gone.append) as sock,
        (tmp_path / "f").open("rb") as file,
    ):
        assert sock.send(b"ab") == 2
        sock.sendall(bytearray(b"cde"))
        sock.sendfile(file)
        stream = sock.makefile("rwb")
        stream.write(b"fg")
        stream.flush()
        assert right.recv(100, socket.MSG_WAITALL | socket.MSG_PEEK)[:2] == b"ab"
        right.sendall(b"123456\n")
        assert sock.recv(2) == b"12"
        assert sock.recv_into(bytearray(1)) == 1
        assert stream.readline() == b"456\n"
        assert sock.fileno() == left.fileno()
        with pytest.raises(TypeError, match="binary mode"):
            sock.makefile("r")
        stream.close()
    assert (sum(gone), sum(got)) == (11, 7)


def test_arguments_hash_by_what_they_say() -> None:
    """Order and spaces do not matter, nor whether they come as JSON text; content does."""
    same = [{"a": 1, "b": ["ä"]}, {"b": ["ä"], "a": 1}, '{"b": ["\\u00e4"],  "a": 1}']
    assert len({content_hash(value) for value in same}) == 1
    others = [{"a": 1}, {"a": "1"}, "not json", b"not json", "", b"", None, [], "[" * 100_000]
    hashes = [content_hash(value) for value in (*others, same[0])]
    assert len(set(hashes)) == len(hashes)
    with pytest.raises(TypeError):
        content_hash(object())


def test_the_hash_is_the_canonical_json_digest() -> None:
    """A gateway in another language can make the same one."""
    assert content_hash(json.loads('{"q": "x", "a": [1, true, null]}')) == "e98b8be4b9d410fc"


def test_identities_need_the_secret() -> None:
    """The same person under the same secret is the same; another secret makes another hash."""
    one, two = b"1" * 16, b"2" * 16
    assert identity_hash("ann@x.org", one) == identity_hash("ann@x.org", one)
    assert identity_hash("ann@x.org", one) != identity_hash("ann@x.org", two)
    assert len(identity_hash("ann@x.org", one)) == 32
    with pytest.raises(ValueError, match="16 bytes"):
        identity_hash("ann@x.org", b"short")
