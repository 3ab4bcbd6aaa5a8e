"""A store under test, and what the parts of the contract share."""

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
from msgspec import Struct

from kvmcp.backends.base import Backend, Ops, Replies
from kvmcp.backends.ops import (
    Code,
    Event,
    Failure,
    Get,
    Message,
    Namespace,
    NsKey,
    Op,
    Page,
    Published,
    Reply,
    Scan,
    Set,
)
from tests.patience import PATIENCE

SOON_MS = 100
AFTER_SOON = 0.25
"""Seconds after which a key that was given `SOON_MS` is gone."""
LATER_MS = 3_600_000
SPENT_MS = 5_000
"""What a time to live may have lost when it is read back."""


class Store(Struct, frozen=True):
    """A backend under test, and what a test needs besides it."""

    backend: Backend
    advance: Callable[[float], Awaitable[None]]
    """Let at least so many seconds pass for the store; what expired is noticed (watchers are told)."""
    namespace: Namespace
    """Empty, and only this test's. So is `elsewhere`."""

    @property
    def elsewhere(self) -> Namespace:
        return Namespace(f"{self.namespace.name}-2")

    def key(self, name: str) -> NsKey:
        return self.namespace.key(name)

    async def run(self, *ops: Op) -> list[Reply]:
        return await self.backend.execute(ops)

    async def ask(self, op: Op) -> Reply:
        (reply,) = await self.backend.execute([op])
        return reply

    async def put(self, *names: str) -> None:
        await self.backend.execute([Set(self.key(name), b"1") for name in names])

    async def get(self, name: str) -> Reply:
        return await self.ask(Get(self.key(name)))

    async def page(self, pattern: str = "*", count: int = 100, cursor: str = "") -> Page:
        reply = await self.ask(Scan(self.namespace.space(), pattern, count, cursor))
        assert isinstance(reply, Page), reply
        assert len(reply.names) <= count
        return reply

    async def scan(self, pattern: str = "*", count: int = 100) -> list[str]:
        """The names that all pages give together, sorted; a backend may give one twice, the list does not."""
        page = await self.page(pattern, count)
        names = set(page.names)
        while page.cursor:
            page = await self.page(pattern, count, page.cursor)
            names.update(page.names)
        return sorted(names)


def assert_refused(reply: Reply, code: Code) -> None:
    assert isinstance(reply, Failure), reply
    assert reply.code is code
    assert reply.outcome == "not_applied"
    assert reply.message


async def next_numbered(events: AsyncIterator[Event]) -> Event:
    with anyio.fail_after(PATIENCE):
        return await anext(events)


async def next_event(events: AsyncIterator[Event]) -> Event:
    """Without the number that a message has; those are tested with the logs."""
    return plain(await next_numbered(events))


def plain(event: Event) -> Event:
    return Message(event.channel, event.message) if isinstance(event, Message) else event


def receivers(reply: Reply) -> int:
    """How many watchers `Publish` reached."""
    assert isinstance(reply, Published), reply
    return reply.receivers


async def read_until(events: AsyncIterator[Event], wanted: Event) -> list[Event]:
    """What comes before `wanted`."""
    before: list[Event] = []
    while (event := await next_event(events)) != wanted:
        before.append(event)
    return before


async def soon(backend: Backend, batch: Ops) -> tuple[bool, list[Replies]]:
    """Whether the store has begun a batch without a task, and what it has answered since."""
    answers: list[Replies] = []
    answered = anyio.Event()

    def done(replies: Replies) -> None:
        answers.append(replies)
        answered.set()

    begun = backend.execute_soon(batch, done)
    if begun:
        with anyio.fail_after(PATIENCE):
            await answered.wait()
    return begun, answers
