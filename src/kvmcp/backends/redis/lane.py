"""Work for one server: calls queue here, leave joined, and a link to the server is kept alive for them.

    call ▸ batcher ▸ link ▸ wire          as soon as the link has room for another pipeline
    no link: calls wait; after `patience` they are refused at once until the server is back

A call is never sent twice. Its deadline holds wherever it stands: it is then settled with what is known of it.
"""

import math
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import anyio.lowlevel
from msgspec import Struct

from kvmcp.backends.batcher import Batcher
from kvmcp.backends.ops import Failure
from kvmcp.backends.redis.address import Endpoint
from kvmcp.backends.redis.errors import (
    CLOSED,
    CONNECT_TIMED_OUT,
    CONNECTION_LOST,
    NOT_PRIMARY,
    TIMED_OUT,
    TLS_TIMED_OUT,
    connect_failure,
)
from kvmcp.backends.redis.greeting import Greeting, Refused
from kvmcp.backends.redis.link import Link, open_link
from kvmcp.backends.redis.loops import new_signal
from kvmcp.backends.redis.resp import Call, Push
from kvmcp.backends.redis.wire import Connect

FIRST_PAUSE: Final = 0.02
"""Seconds before the second attempt to connect; they double up to `longest_pause`, and each is shortened at
random by up to a half, so that many servers of ours do not come back in step."""
REFUSED_PAUSE: Final = 2.0
"""Seconds after a refusal that will last (password, certificate)."""
SETTLED_LINK: Final = 1.0
"""Seconds after which a link was a success: its end then is news, and is followed by an attempt at once."""
LATE: Final = 0.05
"""Seconds by which only a timer is late whose event loop stood still: a running one wakes it within a few."""
TURNS_TO_READ: Final = 64
"""Turns of the event loop before calls are given up after such a stall. A read takes one to three of them, so this
is 1 MiB of answers and more; in a loop that runs again it is some milliseconds."""


class LaneSettings(Struct, frozen=True, kw_only=True):
    """How a lane reaches its server. Times are seconds."""

    find: Callable[[], Awaitable[Endpoint]]
    """Where the server is now. Raises `Refused`, OSError."""
    tls: Callable[[], ssl.SSLContext | None]
    """Raises OSError."""
    greeting: Callable[[], Greeting]
    """Raises OSError."""
    connect: Connect
    op_timeout: float
    connect_timeout: float
    patience: float
    longest_pause: float
    clock: Callable[[], float]
    random: Callable[[], float]
    connected: Callable[[], None] = lambda: None
    """A link is there; calls made now go out on it first."""
    lost: Callable[[Failure], None] = lambda cause: None
    """The link is gone, or an attempt to make one failed."""
    pushed: Callable[[list[Push]], None] = lambda pushes: None


class Lane:
    """Calls for one server. `run` must be running in the background."""

    def __init__(self, settings: LaneSettings) -> None:
        self._settings = settings
        self._batcher: Batcher[Call] = Batcher()
        self._link: Link | None = None
        self._down: Failure | None = None
        self._alone_since = settings.clock()
        self._linked_since = 0.0
        self._retiring = False
        self._hurry = anyio.Event()
        self._alarm = math.inf
        self._scope = anyio.CancelScope()
        self._epitaph = CLOSED
        self.links = 0
        """How many connections were made."""
        self.server = ""
        """Names the server process that was greeted last."""

    @property
    def connected(self) -> bool:
        return self._link is not None

    @property
    def idle(self) -> bool:
        return not self._batcher and (self._link is None or not self._link.machine.in_flight)

    @property
    def full(self) -> bool:
        """Whether callers should wait for `room` before they build a call."""
        return self._batcher.full and self._down is None

    async def room(self, deadline: float) -> bool:
        """Wait in line for room in the queue; False at the deadline."""
        with anyio.move_on_after(deadline - self._settings.clock()):
            await self._batcher.room()
            return True
        return False

    def leave_room(self) -> None:
        """After `room`, where there is nothing to call after all."""
        self._batcher.invite_next()

    def submit(self, call: Call) -> None:
        """Take a call, which is finished when every command has its reply, or its fate: perhaps at once."""
        if self._down is not None:
            call.lose(0, self._down)
            self.leave_room()
            call.finish()
            return
        self._batcher.add(call, call.size)
        if call.deadline < self._alarm:
            self._hurry.set()
        self._flush()

    async def call(self, call: Call) -> None:
        """`submit` it, and return when it is finished."""
        finished = new_signal()
        call.wake = finished.set
        self.submit(call)
        try:
            await finished.wait()
        except BaseException:
            self._give_up(call, TIMED_OUT)
            raise

    def stop(self) -> None:
        """End; whoever still comes is told that the connection was lost."""
        self._epitaph = CONNECTION_LOST
        self._scope.cancel()

    def drop_link(self) -> None:
        """End the connection and make another one."""
        if self._link is not None:
            self._link.end(NOT_PRIMARY)

    def retire_link(self) -> None:
        """Look for the primary again: no more work for this link, and its end once it has answered."""
        if self._link is not None and self._settings.clock() - self._linked_since >= SETTLED_LINK:
            self._retiring = True
            self._flush()

    async def run(self) -> None:
        """Keep a link until cancelled or stopped; then refuse everything."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._watch_deadlines)
                    await self._keep_linked()
        finally:
            self._refuse(self._epitaph)

    # --- calls

    def _flush(self) -> None:
        link = self._link
        if link is None:
            return
        if self._retiring:
            if not link.machine.in_flight:
                link.end(NOT_PRIMARY)
            return
        while self._batcher and link.ready:
            link.send(self._batcher.take())

    def _settled(self, calls: list[Call]) -> None:
        for call in calls:
            call.finish()
        self._flush()

    def _give_up(self, call: Call, cause: Failure) -> None:
        if call.settled:
            return
        if self._batcher.remove(call) or self._link is None:
            call.lose(0, cause)
        else:
            self._link.machine.give_up(call, cause)

    def _refuse(self, cause: Failure) -> None:
        """From now on every call is refused, those that wait included."""
        self._down = cause
        for call in self._batcher.take_all():
            call.lose(0, cause)
            call.finish()

    # --- deadlines

    async def _watch_deadlines(self) -> None:
        """One timer: new calls have the latest deadline, so a look once per `op_timeout` finds them in time."""
        settings = self._settings
        while True:
            await self._hear_first()
            now = settings.clock()
            self._expire(now)
            self._alarm = min([now + settings.op_timeout, *(call.deadline for call in self._calls())])
            self._hurry = anyio.Event()
            with anyio.move_on_after(self._alarm - now):
                await self._hurry.wait()

    async def _hear_first(self) -> None:
        """After a stall of our own, answers that came in time wait unread, and this timer may precede the reader."""
        for _ in range(TURNS_TO_READ):
            long_ago = self._settings.clock() - LATE
            if all(call.deadline > long_ago for call in self._calls()):
                return
            await anyio.lowlevel.checkpoint()

    def _calls(self) -> list[Call]:
        flying = [] if self._link is None else [call for call in self._link.machine.calls() if not call.ghost]
        return flying + self._batcher.items()

    def _expire(self, now: float) -> None:
        expired = [call for call in self._calls() if call.deadline <= now]
        for call in expired:
            self._give_up(call, TIMED_OUT)
            call.finish()
        link = self._link
        silent = link is not None and link.machine.in_flight and now - link.silent_since
        if expired and link is not None and silent >= self._settings.op_timeout * 0.9:
            link.end(TIMED_OUT)

    # --- the connection

    async def _keep_linked(self) -> None:
        failures = 0
        while True:
            try:
                link = await self._connect()
            except Refused as refused:
                await self._rest(refused.failure, failures)
                failures += 1
                continue
            await self._serve(link)
            if self._alone_since - self._linked_since >= SETTLED_LINK:
                failures = 0
            else:  # a server that hangs up on us must not make us spin
                await self._pause(failures)
                failures += 1

    async def _connect(self) -> Link:
        """Raises `Refused`."""
        settings = self._settings
        tls = None
        try:
            endpoint = await settings.find()
            tls = settings.tls()
            with anyio.fail_after(settings.connect_timeout):
                return await open_link(endpoint, tls, settings.greeting(), settings.connect, settings.clock)
        except TimeoutError:
            raise Refused(CONNECT_TIMED_OUT if tls is None else TLS_TIMED_OUT) from None
        except OSError as error:
            raise Refused(connect_failure(error)) from error

    async def _serve(self, link: Link) -> None:
        """Until the link is gone."""
        self._link, self._down, self._retiring = link, None, False
        self._linked_since = self._settings.clock()
        self.links += 1
        self.server = link.server
        self._settings.connected()
        self._flush()
        cause: Failure = CLOSED
        try:
            cause = await link.run(self._settled, self._settings.pushed)
        finally:
            self._link = None
            self._alone_since = self._settings.clock()
            self._settings.lost(cause)

    async def _rest(self, failure: Failure, failures: int) -> None:
        """After a failed attempt: refuse calls if it lasts, and wait a little, not in step with others."""
        settings = self._settings
        if not failure.retryable or settings.clock() - self._alone_since >= settings.patience:
            self._refuse(failure)
        settings.lost(failure)
        if failure.retryable:
            await self._pause(failures)
        else:
            await anyio.sleep(REFUSED_PAUSE)

    async def _pause(self, failures: int) -> None:
        settings = self._settings
        pause = min(settings.longest_pause, FIRST_PAUSE * 2 ** min(failures, 8))
        await anyio.sleep(pause * (1 - settings.random() / 2))
