"""The contract of a store, part four: channels with a log, queues with claims."""

import pytest

from kvmcp.backends.ops import (
    LOG_BYTES,
    LOG_MESSAGES,
    LOST_UNKNOWN,
    MAX_CLAIM_COUNT,
    MAX_OWNER_BYTES,
    MAX_RECEIPT_BYTES,
    MAX_VALUE_BYTES,
    Append,
    Atomic,
    Claimed,
    Code,
    Delete,
    Increment,
    Length,
    LogPage,
    Message,
    Publish,
    Published,
    Push,
    QueueAck,
    QueueClaim,
    QueueExtend,
    QueueHolds,
    Range,
    ReadLog,
    Reply,
    Set,
)
from tests.backends.harness import AFTER_SOON, LATER_MS, SOON_MS, Store, assert_refused, next_numbered


async def publish(store: Store, *messages: bytes) -> list[str]:
    """The numbers that they got."""
    replies = await store.run(*[Publish(store.key("news"), message) for message in messages])
    return [reply.id for reply in replies if isinstance(reply, Published)]


async def read(store: Store, after: int | None, count: int = 100) -> LogPage:
    page = await store.ask(ReadLog(store.key("news"), after, count))
    assert isinstance(page, LogPage), page
    return page


async def claim(store: Store, count: int = 1, visibility_ms: int = LATER_MS) -> tuple[Claimed, ...]:
    reply = await store.ask(QueueClaim(store.key("q"), "me", visibility_ms, count))
    assert isinstance(reply, tuple)
    return tuple(one for one in reply if isinstance(one, Claimed))


def values(claims: tuple[Claimed, ...]) -> list[tuple[bytes, int]]:
    return [(one.value, one.deliveries) for one in claims]


class SharingContract:
    # --- channels

    async def test_a_log_is_read_from_its_beginning(self, store: Store) -> None:
        first, second, third = await publish(store, b"1", b'"two"', b"3")
        assert int(first) > 0 and (int(second), int(third)) == (int(first) + 1, int(first) + 2)
        assert await read(store, 0) == LogPage(((first, b"1"), (second, b'"two"'), (third, b"3")), third, 0)

    async def test_a_log_is_read_on_from_a_cursor(self, store: Store) -> None:
        ids = await publish(store, b"1", b"2", b"3")
        page = await read(store, 0, 2)
        assert page == LogPage(((ids[0], b"1"), (ids[1], b"2")), ids[1], 0)
        assert await read(store, int(page.cursor)) == LogPage(((ids[2], b"3"),), ids[2], 0)
        assert await read(store, int(ids[2])) == LogPage((), ids[2], 0)

    async def test_from_now_on(self, store: Store) -> None:
        ids = await publish(store, b"1")
        page = await read(store, None)
        assert page == LogPage((), ids[0], 0)
        (later,) = await publish(store, b"2")
        assert await read(store, int(page.cursor)) == LogPage(((later, b"2"),), later, 0)

    @pytest.mark.parametrize("after", [None, 0])
    async def test_a_channel_that_never_was_used(self, store: Store, after: int | None) -> None:
        """Its cursor is good for the first message."""
        page = await read(store, after)
        assert page.messages == () and page.lost == 0
        again = await read(store, int(page.cursor))
        assert again.messages == () and again.lost == 0
        (number,) = await publish(store, b"1")
        assert await read(store, int(page.cursor)) == LogPage(((number, b"1"),), number, 0)
        assert await read(store, int(again.cursor)) == LogPage(((number, b"1"),), number, 0)

    async def test_the_oldest_messages_make_way(self, store: Store) -> None:
        ids = await publish(store, *[b"%d" % i for i in range(LOG_MESSAGES + 5)])
        page = await read(store, int(ids[2]), LOG_MESSAGES)
        assert page.lost == 2
        assert page.messages == tuple((ids[i], b"%d" % i) for i in range(5, LOG_MESSAGES + 5))
        whole = await read(store, 0, LOG_MESSAGES)
        assert (whole.messages, whole.lost) == (page.messages, 0)
        assert (await read(store, int(ids[4]), 1)).lost == 0

    async def test_large_messages_make_way_by_their_bytes(self, store: Store) -> None:
        half = b"1" * (LOG_BYTES // 2)
        ids = await publish(store, half, half, b"1", b"1" * MAX_VALUE_BYTES)
        assert await read(store, int(ids[0])) == LogPage(((ids[3], b"1" * MAX_VALUE_BYTES),), ids[3], 2)
        (last,) = await publish(store, b"2")
        assert await read(store, int(ids[3])) == LogPage(((last, b"2"),), last, 0)
        assert (await read(store, 0)).messages == ((last, b"2"),)

    async def test_a_cursor_from_another_life_is_told(self, store: Store) -> None:
        (number,) = await publish(store, b"1")
        page = await read(store, int(number) + 10**9)
        assert page == LogPage(((number, b"1"),), number, LOST_UNKNOWN)
        assert await read(store, 1) == LogPage(((number, b"1"),), number, LOST_UNKNOWN)

    async def test_channels_have_logs_of_their_own(self, store: Store) -> None:
        (number,) = await publish(store, b"1")
        other, session = store.elsewhere.key("news"), store.namespace.key("news", "s")
        for channel in (other, session, store.key("new")):
            page = await store.ask(ReadLog(channel, 0))
            assert isinstance(page, LogPage) and page.messages == ()
        assert await store.scan() == []
        assert await store.ask(Delete((store.key("news"),))) == 0
        assert (await read(store, 0)).messages == ((number, b"1"),)

    async def test_a_watcher_is_told_the_number(self, store: Store) -> None:
        news = store.key("news")
        async with store.backend.watch(channels=[news]) as events:
            (number,) = await publish(store, b'{"a": 1}')
            assert await next_numbered(events) == Message(news, b'{"a": 1}', number)

    async def test_what_is_taken_back_is_not_published(self, store: Store) -> None:
        news, a = store.key("news"), store.key("a")
        await store.ask(Set(a, b'"x"'))
        async with store.backend.watch(channels=[news]) as events:
            reply = await store.ask(Atomic((Append(a, b'"y"'), Publish(news, b"1"), Increment(a))))
            assert_refused(reply, Code.WRONG_TYPE)
            done = await store.ask(Atomic((Append(a, b'"y"'), Publish(news, b"2"), ReadLog(news, 0))))
            assert isinstance(done, tuple) and done[0] == 2
            assert isinstance(done[1], Published)
            assert done[2] == LogPage(((done[1].id, b"2"),), done[1].id, 0)
            assert await next_numbered(events) == Message(news, b"2", done[1].id)

    async def test_what_a_log_refuses(self, store: Store) -> None:
        news = store.key("news")
        for op in (
            ReadLog(news, -1),
            ReadLog(news, 2**63),
            ReadLog(news, 0, 0),
            ReadLog(news, 0, LOG_MESSAGES + 1),
        ):
            assert_refused(await store.ask(op), Code.REDIS_ERROR)

    # --- queues

    async def test_elements_are_claimed_in_order(self, store: Store) -> None:
        q = store.key("q")
        await store.ask(Push(q, (b"1", b"2", b"3")))
        assert values(await claim(store)) == [(b"1", 1)]
        assert await store.ask(Length(q)) == 2
        claims = await claim(store, 5)
        assert values(claims) == [(b"2", 1), (b"3", 1)]
        assert await claim(store) == ()
        assert len({one.receipt for one in claims}) == 2

    async def test_a_claim_is_acknowledged_once(self, store: Store) -> None:
        q = store.key("q")
        await store.ask(Push(q, (b"1",)))
        (one,) = await claim(store)
        acks = await store.run(
            QueueAck(q, one.receipt), QueueAck(q, one.receipt), QueueAck(q, "x"), QueueAck(q, "")
        )
        assert acks == [True, False, False, False]
        assert await store.ask(QueueExtend(q, one.receipt, LATER_MS)) is False
        assert await claim(store) == ()

    async def test_whether_a_claim_is_open(self, store: Store) -> None:
        q = store.key("q")
        await store.ask(Push(q, (b"1", b"2")))
        one, two = await claim(store, 2, SOON_MS)
        await store.advance(AFTER_SOON)
        open_ones = (QueueHolds(q, one.receipt), QueueHolds(q, two.receipt), QueueHolds(q, "x"))
        assert await store.run(*open_ones) == [True, True, False]
        assert await store.ask(Atomic((QueueAck(q, one.receipt), *open_ones))) == (True, False, True, False)
        await claim(store)
        assert await store.run(*open_ones) == [False, False, False]
        assert_refused(await store.ask(QueueHolds(q, "x" * (MAX_RECEIPT_BYTES + 1))), Code.TOO_LARGE)

    async def test_a_claim_that_ended_is_given_to_the_next_first(self, store: Store) -> None:
        q = store.key("q")
        await store.ask(Push(q, (b"1", b"2", b"3")))
        lost = await claim(store, 2, SOON_MS)
        await store.advance(AFTER_SOON)
        claims = await claim(store, 3)
        assert values(claims) == [(b"1", 2), (b"2", 2), (b"3", 1)]
        assert await store.ask(QueueAck(q, lost[0].receipt)) is False
        assert await store.ask(QueueExtend(q, lost[1].receipt, LATER_MS)) is False
        assert await store.run(*[QueueAck(q, one.receipt) for one in claims]) == [True] * 3

    async def test_a_claim_that_ended_can_be_acknowledged_until_somebody_has_it(self, store: Store) -> None:
        q = store.key("q")
        await store.ask(Push(q, (b"1",)))
        (one,) = await claim(store, 1, SOON_MS)
        await store.advance(AFTER_SOON)
        assert await store.ask(QueueAck(q, one.receipt)) is True
        assert await claim(store) == ()

    async def test_a_claim_is_extended(self, store: Store) -> None:
        q = store.key("q")
        await store.ask(Push(q, (b"1", b"2")))
        first, second = await claim(store, 2, SOON_MS)
        assert await store.ask(QueueExtend(q, first.receipt, LATER_MS)) is True
        await store.advance(AFTER_SOON)
        assert values(await claim(store, 2)) == [(b"2", 2)]
        assert await store.run(QueueAck(q, second.receipt), QueueAck(q, first.receipt)) == [False, True]

    async def test_claims_are_part_of_an_atomic(self, store: Store) -> None:
        q, a = store.key("q"), store.key("a")
        await store.run(Push(q, (b"1",)), Set(a, b'"x"'))
        take = QueueClaim(q, "me", LATER_MS)
        assert_refused(await store.ask(Atomic((take, Increment(a)))), Code.WRONG_TYPE)
        reply: Reply = await store.ask(Atomic((take, Length(q))))
        assert isinstance(reply, tuple) and isinstance(reply[0], tuple)
        (one,) = reply[0]
        assert isinstance(one, Claimed) and (one.value, one.deliveries, reply[1]) == (b"1", 1, 0)
        assert_refused(await store.ask(Atomic((QueueAck(q, one.receipt), Increment(a)))), Code.WRONG_TYPE)
        assert await store.ask(QueueAck(q, one.receipt)) is True

    async def test_claims_outlive_the_list(self, store: Store) -> None:
        q = store.key("q")
        await store.ask(Push(q, (b"1", b"2")))
        await claim(store, 1, SOON_MS)
        assert await store.ask(Delete((q,))) == 1
        await store.advance(AFTER_SOON)
        assert values(await claim(store, 5)) == [(b"1", 2)]
        assert await store.scan() == []

    async def test_a_claim_stops_where_a_reply_ends(self, store: Store) -> None:
        q = store.key("q")
        for _ in range(9):
            await store.ask(Push(q, (b"1" * MAX_VALUE_BYTES,)))
        assert len(await claim(store, 9)) == 8
        assert len(await claim(store, 9)) == 1

    async def test_what_a_queue_refuses(self, store: Store) -> None:
        q, a = store.key("q"), store.key("a")
        await store.run(Set(a, b"1"), Push(q, (b"1",)))
        assert_refused(await store.ask(QueueClaim(a, "me", 1000)), Code.WRONG_TYPE)
        for op in (
            QueueClaim(q, "me", 0),
            QueueClaim(q, "me", 1000, 0),
            QueueClaim(q, "me", 1000, MAX_CLAIM_COUNT + 1),
            QueueExtend(q, "x", 0),
        ):
            assert_refused(await store.ask(op), Code.REDIS_ERROR)
        assert_refused(await store.ask(QueueClaim(q, "x" * (MAX_OWNER_BYTES + 1), 1000)), Code.TOO_LARGE)
        assert_refused(await store.ask(QueueAck(q, "x" * (MAX_RECEIPT_BYTES + 1))), Code.TOO_LARGE)
        (untouched,) = await store.run(Range(q))
        assert untouched.size == 1  # type: ignore[union-attr]  # an Elements, or the test fails
