"""One connection to one server: the thin driver of `RespMachine`.

Writing needs no task and no wait in the usual case, so a cancelled caller leaves nothing half-written; what the
kernel does not take at once goes out from the link's own task. Replies belong to calls in the order of sending,
whether or not anybody still waits for them. `lane` keeps a server's link alive.
"""

import errno
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import anyio

from kvmcp.backends.ops import Failure
from kvmcp.backends.redis.address import Endpoint
from kvmcp.backends.redis.errors import CLOSED, CONNECTION_LOST, GARBAGE, REPLY_TOO_LARGE
from kvmcp.backends.redis.greeting import Greeting
from kvmcp.backends.redis.resp import Call, Garbage, Oversized, Push, RespMachine
from kvmcp.backends.redis.wire import Connect, Wire

PIPELINES: Final = 2
"""Pipelines under way at once: one in Redis, one on its way, while callers' batches gather for the next."""


Settled: TypeAlias = Callable[[list[Call]], None]
Pushed: TypeAlias = Callable[[list[Push]], None]


class Link:
    """An open connection. `run` must be running; it returns when the connection has ended."""

    def __init__(self, wire: Wire, clock: Callable[[], float]) -> None:
        self.machine = RespMachine()
        self._wire = wire
        self._clock = clock
        self._rest = b""
        self._unclog = anyio.Event()
        self._pipelines: deque[int] = deque()
        self._scope = anyio.CancelScope()
        self.silent_since = clock()
        """When bytes last came, or were first waited for."""
        self.cause: Failure | None = None
        """Why it ended."""
        self.server = ""
        """Names the server process; empty where the user may not ask."""

    @property
    def ready(self) -> bool:
        """Whether another pipeline may be sent now."""
        return self.cause is None and not self._rest and len(self._pipelines) < PIPELINES

    def send(self, calls: Sequence[Call]) -> None:
        """Write the calls as one pipeline, as far as the kernel takes it now."""
        machine = self.machine
        if not machine.in_flight:
            self.silent_since = self._clock()
        for call in calls:
            machine.send(call)
        if not self._rest and self.cause is None:
            self._rest = machine.data_to_send()
            self._pipelines.append(machine.handed_out)
            self._write()

    def end(self, cause: Failure) -> None:
        """Drop the connection; `run` settles what is left."""
        if self.cause is None:
            self.cause = cause
            self._scope.cancel()

    async def greet(self, greeting: Greeting) -> None:
        """Introduce ourselves, before `run`. Raises `Refused`, OSError."""
        call = Call(greeting.commands())
        self.machine.send(call)
        self._rest = self.machine.data_to_send()
        while self._rest or self._wire.clogged:
            count = self._wire.write(self._rest)
            self.machine.wrote(count)
            self._rest = self._rest[count:]
            if self._rest or self._wire.clogged:
                await self._wire.writable()
        while not call.settled:
            data = await self._wire.receive()
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection")
            self._take(data)
        self.server = greeting.check(call.replies)

    def close(self) -> None:
        """For a link that never ran."""
        self._wire.close()

    async def run(self, settled: Settled, pushed: Pushed) -> Failure:
        """Read until the connection ends; the calls left are settled as lost. Returns why it ended."""
        self._settled, self._pushed = settled, pushed
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write_on)
                    await self._read_on()
        finally:
            self._wire.close()
            self.cause = self.cause or CLOSED
            settled(self._lost_calls(self.cause))
        return self.cause

    def _lost_calls(self, cause: Failure) -> list[Call]:
        """Every call that is left. What was too large was the oldest one's; the others just lost theirs."""
        oldest = next(iter(self.machine.calls()), None)
        lost = self.machine.lose(CONNECTION_LOST if cause is REPLY_TOO_LARGE else cause)
        if cause is REPLY_TOO_LARGE and oldest is not None:
            oldest.cause = cause
        return lost

    def _take(self, data: bytes) -> list[Call]:
        """Raises OSError where what came is not the protocol."""
        try:
            return self.machine.receive_data(data)
        except Garbage as error:
            raise OSError(errno.EPROTO, "what came is not the Redis protocol") from error

    def _write(self) -> None:
        """Never raises: a fault ends the link."""
        try:
            count = self._wire.write(self._rest)
        except OSError:
            self.end(CONNECTION_LOST)
            return
        self.machine.wrote(count)
        self._rest = self._rest[count:]
        if self._rest or self._wire.clogged:
            self._unclog.set()

    async def _write_on(self) -> None:
        """Send what the kernel did not take at once."""
        while True:
            await self._unclog.wait()
            while self._rest or self._wire.clogged:
                try:
                    await self._wire.writable()
                except OSError:
                    return self.end(CONNECTION_LOST)
                self._write()
            self._unclog = anyio.Event()
            self._settled([])  # the next pipeline may go

    async def _read_on(self) -> None:
        machine = self.machine
        pipelines = self._pipelines
        while True:
            try:
                data = await self._wire.receive()
            except OSError:
                data = b""
            if not data:
                return self.end(CONNECTION_LOST)
            self.silent_since = self._clock()
            try:
                calls = machine.receive_data(data)
            except Garbage as error:
                return self.end(REPLY_TOO_LARGE if isinstance(error, Oversized) else GARBAGE)
            while pipelines and pipelines[0] <= machine.answered:
                pipelines.popleft()
            if pushes := machine.take_pushes():
                self._pushed(pushes)
            self._settled(calls)


async def open_link(
    endpoint: Endpoint,
    tls: ssl.SSLContext | None,
    greeting: Greeting,
    connect: Connect,
    clock: Callable[[], float],
) -> Link:
    """A greeted link. Bound it with a cancel scope; nothing stays open then. Raises `Refused`, OSError."""
    link = Link(await connect(endpoint, tls), clock)
    try:
        await link.greet(greeting)
    except BaseException:
        link.close()
        raise
    return link
