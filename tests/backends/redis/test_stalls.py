"""A stall of our own is not held against Redis: what it said in time is heard before anything is given up."""

import anyio
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kvmcp.backends.base import Replies
from kvmcp.backends.ops import Change, Get, Namespace, NsKey, Set
from kvmcp.backends.redis import RedisBackend, RedisOptions
from tests.backends.harness import next_event
from tests.backends.redis.servers import RedisServer
from tests.backends.redis.stores import backend_on

ROUNDS = 10
"""Which of a timer and a reader goes first, when both are due, is a matter of luck on trio."""


def stand_still_until_answered(server: RedisServer) -> None:
    """Redis does one thing after the other: what it got before it has answered, too."""
    assert server.ask("ping") == server.ask("ping") == "PONG"


@pytest.mark.trio
async def test_an_answer_is_read_before_its_call_is_given_up(
    server: RedisServer, namespace: Namespace, mock_clock: MockClock
) -> None:
    a = namespace.key("a")
    options = RedisOptions(clock=trio.current_time)
    async with backend_on(server.port, options) as backend:
        assert await backend.execute([Set(a, b"1")]) == [True]
        for _ in range(ROUNDS):
            answers, answered = ask_soon(backend, namespace)
            stand_still_until_answered(server)
            mock_clock.jump(options.op_timeout + 1)
            await answered.wait()
            assert answers == [[b"1"]]


def ask_soon(backend: RedisBackend, namespace: Namespace) -> tuple[list[Replies], anyio.Event]:
    """Send a read without waiting for anything."""
    answers: list[Replies] = []
    answered = anyio.Event()

    def done(replies: Replies) -> None:
        answers.append(replies)
        answered.set()

    assert backend.execute_soon([Get(namespace.key("a"))], done)
    return answers, answered


@pytest.mark.trio
async def test_a_watch_whose_confirmation_waits_unread_begins_without_a_gap(
    server: RedisServer, namespace: Namespace, mock_clock: MockClock
) -> None:
    options = RedisOptions(clock=trio.current_time)
    async with backend_on(server.port, options) as backend, backend.watch([namespace.key("first")]):
        for number in range(ROUNDS):
            key = namespace.key(f"{number}")
            server.freeze()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(see_a_change, backend, key)
                await wait_all_tasks_blocked()
                server.thaw()
                stand_still_until_answered(server)
                mock_clock.jump(options.op_timeout + 1)


async def see_a_change(backend: RedisBackend, key: NsKey) -> None:
    async with backend.watch([key]) as events:
        await backend.execute([Set(key, b"1")])
        assert await next_event(events) == Change(key)
