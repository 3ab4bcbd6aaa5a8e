"""Standard input and output as a transport (specification: transports, stdio).

Nothing but messages may reach standard output ("MUST NOT write anything that is not a valid MCP message"), so
the driver keeps private copies of descriptors 0 and 1 and gives the rest of the process the null device and
standard error in their place. The inherited descriptors may be shared with other processes: O_NONBLOCK, a flag
of the open file, is never set on them. A pipe to write to is opened once more, where the system allows that, and the
flag set there. Otherwise descriptors are asked first whether they are ready: then reading does not block, nor does
writing up to PIPE_BUF bytes.
"""

import os
import select
import stat
from collections.abc import Generator
from contextlib import closing, contextmanager
from functools import partial
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from kvmcp.io.reading import AsyncioReader, on_trio

CHUNK: Final = 65536
"""Bytes read at once: what a pipe holds on Linux."""

_STDIN, _STDOUT, _STDERR = 0, 1, 2


class StdioTransport:
    """A pair of descriptors: pipes, sockets, terminals or files. Made by `claim_stdio`, or from any two.

    `nonblocking` says that O_NONBLOCK is set for `writer`.
    """

    def __init__(self, reader: int, writer: int, *, nonblocking: bool = False) -> None:
        self._reader = reader
        self._writer = writer
        self._nonblocking = nonblocking
        self._readable = _poll(reader, select.POLLIN)
        self._on_asyncio: AsyncioReader | None = None
        self._begun = False
        self._writable = _poll(writer, select.POLLOUT)

    async def receive(self) -> bytes:
        """The next chunk; empty at the end of input."""
        if not self._begun:
            self._begun = True
            self._on_asyncio = _asyncio_reader(self._reader)
        if self._on_asyncio is not None:
            return await self._on_asyncio.receive()
        while True:
            if self._readable.poll(0):
                await checkpoint()  # A client that never pauses must not keep other tasks from running.
            else:
                await anyio.wait_readable(self._reader)
            try:
                return os.read(self._reader, CHUNK)
            except BlockingIOError:  # The parent has set O_NONBLOCK, and somebody else was faster.
                continue

    def close(self) -> None:
        """Before the descriptors are closed."""
        if self._on_asyncio is not None:
            self._on_asyncio.close()

    async def send_some(self, data: bytes | memoryview) -> int:
        while not (written := self.send_now(data)):
            await anyio.wait_writable(self._writer)
        return written

    def send_now(self, data: bytes | memoryview) -> int:
        """As `kvmcp.io.transport.PromptTransport` has it."""
        if self._nonblocking:
            try:
                return os.write(self._writer, data)
            except BlockingIOError:
                return 0
        return self._send_pieces(data)

    def _send_pieces(self, data: bytes | memoryview) -> int:
        """Pieces that do not block where the descriptor is ready."""
        written = 0
        with memoryview(data) as view:
            while written < len(view) and self._writable.poll(0):
                try:
                    written += os.write(self._writer, view[written : written + select.PIPE_BUF])
                except BlockingIOError:  # The parent has set O_NONBLOCK, and less than a piece is free.
                    break
        return written


def _asyncio_reader(descriptor: int) -> AsyncioReader | None:
    """None where another loop runs, and for files, which no loop can watch."""
    if on_trio():
        return None
    try:
        return AsyncioReader(descriptor, partial(os.read, descriptor, CHUNK))
    except PermissionError:
        return None


def _reopened(pipe: int) -> int | None:
    """Another open file of the pipe's writing end, without waits: ours alone, as its flags are. Linux has it.

    None for what is no pipe, for a pipe of another user, and on other systems.
    """
    if not stat.S_ISFIFO(os.fstat(pipe).st_mode):
        return None
    try:
        return os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None


def _poll(descriptor: int, events: int) -> select.poll:
    poll = select.poll()
    poll.register(descriptor, events)
    return poll


def fill_standard_descriptors() -> None:
    """Give the null device to descriptors 0, 1 and 2 that the parent has closed.

    Call it before an event loop is made: otherwise a descriptor of the loop takes such a number, and is
    overwritten when stdio is claimed.
    """
    for descriptor in (_STDIN, _STDOUT, _STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest free number, which is this one.


@contextmanager
def claim_stdio() -> Generator[StdioTransport]:
    """Take descriptors 0 and 1 for messages alone, and give them back at the end.

    Until then a stray `print` goes to standard error, and a child process reads an empty input.
    """
    reader, writer = os.dup(_STDIN), os.dup(_STDOUT)
    null, own = os.open(os.devnull, os.O_RDONLY), _reopened(writer)
    try:
        os.dup2(null, _STDIN)
        os.dup2(_STDERR, _STDOUT)
        transport = StdioTransport(reader, writer if own is None else own, nonblocking=own is not None)
        with closing(transport):
            yield transport
    finally:
        os.dup2(reader, _STDIN)
        os.dup2(writer, _STDOUT)
        for descriptor in (reader, writer, null, own):
            if descriptor is not None:
                os.close(descriptor)
