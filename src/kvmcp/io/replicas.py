"""What the processes of one service have in common: records and a channel, in the store that they share.

The core says what to keep, what to load and what to tell the others (`kvmcp.core.http`); here it becomes
operations, in the order in which it came. Losing some is no fault, and a store that is slow or gone must not hold
up requests: what waits is bounded, and the oldest of it is given up.
"""

import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import anyio

from kvmcp.backends.base import Backend
from kvmcp.backends.ops import Delete, Failure, Get, Message, Namespace, Op, Publish, Reply, Set
from kvmcp.core.commands import BatchFailed
from kvmcp.core.http.server import HttpServer
from kvmcp.core.http.shared import DropRecords, KeepRecord, LoadRecords, SharedCommand

logger = logging.getLogger("kvmcp.io")

MAX_WAITING: Final = 4096
"""Commands and relays that wait for the store: as many as there may be requests."""
MAX_AT_ONCE: Final = 128
"""Of these, how many go to the store together: bounds what the replies can weigh."""

AFTER_FAILURE: Final = 1.0
"""Seconds before a watch that raised is tried again."""

HEARD_WITHIN: Final = 1.0
"""Seconds in which a process must hear what it said itself: two round trips. Half of `health.READY_TIMEOUT`, so that
the reason that is told is this one."""
_BEAT: Final = b'"beat '
"""How a message begins that a process sends to hear itself. No relay does."""
DEAF: Final = "this process does not hear the others: what it says on their channel does not come back"

_KIND: Final = "r"
_SPACE: Final = Namespace("kvmcp")
"""Kinds keep it apart from the keys of a user's namespace, should one have this name."""
_CHANNEL: Final = _SPACE.key("relays", _KIND)

_Item: TypeAlias = SharedCommand | bytes
"""A relay is the bytes that it is."""


class Replicas:
    """Runs what one `HttpServer` wants of the common store. `settle` is called when it was given something."""

    def __init__(self, server: HttpServer, backend: Backend, settle: Callable[[], None]) -> None:
        self._server = server
        self._backend = backend
        self._settle = settle
        self._waiting: deque[_Item] = deque()
        self._came = anyio.Event()
        self._sending = False
        self._sent = anyio.Event()
        self._watching = anyio.Event()
        """Set while there is a watch on the channel; it may be blind."""
        self._beat = b""
        self._heard = anyio.Event()

    def add(self, commands: Sequence[SharedCommand], relays: Sequence[bytes]) -> None:
        """To be done in this order, after what came before."""
        self._waiting.extend(commands)
        self._waiting.extend(relays)
        if self._waiting:
            self._came.set()
        while len(self._waiting) > MAX_WAITING:
            self._give_up(self._waiting.popleft())

    def _give_up(self, item: _Item) -> None:
        if isinstance(item, LoadRecords):
            self._server.complete(item.ticket, BatchFailed(), anyio.current_time())

    async def run(self) -> None:
        """As long as the server: what is to be sent is sent, what comes is passed on."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hear)
            while True:
                await self._came.wait()
                self._came = anyio.Event()
                self._sending = True
                while self._waiting:
                    await self._send(
                        [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_AT_ONCE))]
                    )
                self._sending = False
                self._sent.set()

    async def drain(self) -> None:
        """Until the store was given all that there is to send. For one caller, at the end."""
        while self._waiting or self._sending:
            self._sent = anyio.Event()
            await self._sent.wait()

    async def problem(self) -> str | None:
        """Why this process is not in step with the others now; None where it is. For one caller at a time.

        A watch is blind while its connection is down, and nobody tells it; so it must hear what is said here.
        """
        self._beat, self._heard = b'%b%b"' % (_BEAT, secrets.token_hex(8).encode()), anyio.Event()
        with anyio.move_on_after(HEARD_WITHIN):
            await self._watching.wait()
            (reply,) = await self._backend.execute([Publish(_CHANNEL, self._beat)])
            if isinstance(reply, Failure):
                return reply.message
            await self._heard.wait()
            return None
        return DEAF

    async def _send(self, items: Sequence[_Item]) -> None:
        ops = [op for item in items for op in _ops(item)]
        try:
            replies: Sequence[Reply] = await self._backend.execute(ops)
            if len(replies) != len(ops):
                raise TypeError(f"the backend gave {len(replies)} replies to {len(ops)} operations")
        except Exception as error:  # the contract forbids it; clients must not pay for it
            logger.error("the backend raised, which is a bug in it", exc_info=error)
            for item in items:
                self._give_up(item)
            self._settle()
            return
        failed = next((reply for reply in replies if isinstance(reply, Failure)), None)
        if failed is not None:
            logger.warning("what the other processes should know did not reach the store: %s", failed.message)
        start = 0
        for item in items:
            end = start + len(_ops(item))
            if isinstance(item, LoadRecords):
                self._loaded(item, replies[start:end])
            start = end
        self._settle()

    def _loaded(self, item: LoadRecords, replies: Sequence[Reply]) -> None:
        outcome: object = BatchFailed()
        if not any(isinstance(reply, Failure) for reply in replies):
            outcome = list(replies)
        self._server.complete(item.ticket, outcome, anyio.current_time())

    async def _hear(self) -> None:
        """Until the store is closed."""
        while True:
            try:
                await self._hear_channel()
                return
            except Exception as error:
                logger.error("watching the store failed, which is a bug in it", exc_info=error)
            await anyio.sleep(AFTER_FAILURE)

    async def _hear_channel(self) -> None:
        async with self._backend.watch(channels=[_CHANNEL]) as events:
            self._watching.set()
            try:
                async for event in events:
                    if isinstance(event, Message):
                        self._receive(event.message)
            finally:
                self._watching = anyio.Event()

    def _receive(self, message: bytes) -> None:
        if not message.startswith(_BEAT):
            self._server.receive_relay(message, anyio.current_time())
            self._settle()
        elif message == self._beat:
            self._heard.set()


def _ops(item: _Item) -> Sequence[Op]:
    match item:
        case KeepRecord(key=key, value=value, seconds=seconds):
            return [Set(_SPACE.key(key, _KIND), value, max(1, round(seconds * 1000)))]
        case DropRecords(keys=keys):
            return [Delete(tuple(_SPACE.key(key, _KIND) for key in keys))]
        case LoadRecords(keys=keys):
            return [Get(_SPACE.key(key, _KIND)) for key in keys]
        case _:
            return [Publish(_CHANNEL, item)]
