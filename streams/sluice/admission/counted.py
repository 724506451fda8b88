"""Bytes counted where they pass: chunks, binary files and sockets, neither copied nor kept."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

Chunk = TypeVar("Chunk")
Count = Callable[[int], None]


def size_of(data: Any) -> int:
    """How many bytes `data` is: something bytes-like, or a count.

    Raises TypeError for text and ValueError for a count below 0.
    """
    kind = type(data)
    if kind is bytes:
        return len(data)
    if kind is int:
        if data < 0:
            raise ValueError(f"bytes are counted from 0 up, not {data}")
        return int(data)
    try:
        with memoryview(data) as view:
            return view.nbytes
    except TypeError:
        raise TypeError(f"give bytes or their number, not {kind.__name__}") from None


def counted_stream(
    chunks: Iterable[Chunk], note: Callable[[Chunk], None]
) -> Generator[Chunk, None, None]:
    """Pass chunks on as they come, each noted first; closed early, it closes their source too."""
    source = iter(chunks)
    try:
        for chunk in source:
            note(chunk)
            yield chunk
    except GeneratorExit:
        close = getattr(source, "close", None)
        if close is not None:
            close()
        raise


async def counted_async_stream(
    chunks: AsyncIterable[Chunk], note: Callable[[Chunk], None]
) -> AsyncGenerator[Chunk, None]:
    """`counted_stream` for an asynchronous source."""
    source = aiter(chunks)
    try:
        async for chunk in source:
            note(chunk)
            yield chunk
    except GeneratorExit:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
        raise


class _Around:
    """Stands for a thing: what the class does not define is the thing's own."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._thing, name)

    def __enter__(self) -> Self:
        self._thing.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> Any:  # fmt: skip
        return self._thing.__exit__(kind, error, trace)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return next(self._thing)


class CountedReads(_Around):
    """A binary file whose bytes are counted as they are read."""

    def __init__(self, file: Any, count: Count) -> None:
        super().__init__(_binary(file))
        self._count = count

    def __next__(self) -> Any:
        return self._got(next(self._thing))

    def read(self, *size: Any) -> Any:
        """As the file's own."""
        return self._got(self._thing.read(*size))

    def read1(self, *size: Any) -> Any:
        """As the file's own."""
        return self._got(self._thing.read1(*size))

    def readline(self, *size: Any) -> Any:
        """As the file's own."""
        return self._got(self._thing.readline(*size))

    def readlines(self, *hint: Any) -> list[bytes]:
        """As the file's own."""
        return [self._got(line) for line in self._thing.readlines(*hint)]

    def readinto(self, buffer: Any) -> int | None:
        """As the file's own."""
        return self._filled(self._thing.readinto(buffer))

    def readinto1(self, buffer: Any) -> int | None:
        """As the file's own."""
        return self._filled(self._thing.readinto1(buffer))

    def _got(self, data: Any) -> Any:
        # A raw file that would have to wait gives None.
        if data is not None:
            self._count(size_of(data))
        return data

    def _filled(self, size: int | None) -> int | None:
        if size is not None:
            self._count(size)
        return size


class CountedWrites(_Around):
    """A binary file whose bytes are counted as they are written."""

    def __init__(self, file: Any, count: Count) -> None:
        super().__init__(_binary(file))
        self._count = count

    def write(self, data: Any) -> int | None:
        """As the file's own."""
        written: int | None = self._thing.write(data)
        if written is not None:
            self._count(written)
        return written

    def writelines(self, lines: Iterable[Any]) -> None:
        """As the file's own."""
        for line in lines:
            self.write(line)


class CountedSocket(_Around):
    """A stream socket whose bytes are counted in both directions, in its binary files too."""

    def __init__(self, sock: Any, count_in: Count, count_out: Count) -> None:
        super().__init__(sock)
        self._in, self._out = count_in, count_out

    def send(self, data: Any, *flags: int) -> int:
        """As the socket's own."""
        sent: int = self._thing.send(data, *flags)
        self._out(sent)
        return sent

    def sendall(self, data: Any, *flags: int) -> None:
        """As the socket's own; nothing is counted where it fails, nobody knows how much went."""
        self._thing.sendall(data, *flags)
        self._out(size_of(data))

    def sendfile(self, *args: Any, **options: Any) -> int:
        """As the socket's own."""
        sent: int = self._thing.sendfile(*args, **options)
        self._out(sent)
        return sent

    def recv(self, *args: int) -> bytes:
        """As the socket's own."""
        data: bytes = self._thing.recv(*args)
        self._in(len(data))
        return data

    def recv_into(self, *args: Any) -> int:
        """As the socket's own."""
        size: int = self._thing.recv_into(*args)
        self._in(size)
        return size

    def makefile(self, *args: Any, **options: Any) -> CountedReads:
        """As the socket's own, but binary only."""
        file = self._thing.makefile(*args, **options)
        return CountedReads(CountedWrites(file, self._out), self._in)


def _binary(file: Any) -> Any:
    if isinstance(file, io.TextIOBase):
        raise TypeError("bytes cannot be counted in a text file: open it in binary mode")
    return file
