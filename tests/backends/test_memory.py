"""The memory backend: the contract, and what only this store promises (room, its clock, exact scans, gaps)."""

import time
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

from kvmcp.backends.base import Backend
from kvmcp.backends.memory import MemoryBackend, Usage, scan
from kvmcp.backends.memory.checks import ENTRY_OVERHEAD
from kvmcp.backends.memory.keys import EXPIRED_PER_BATCH
from kvmcp.backends.memory.keyspace import SLACK
from kvmcp.backends.memory.scan import SCAN_STEPS
from kvmcp.backends.ops import (
    LOG_COUNT_LIFE_MS,
    LOG_LIFE_MS,
    LOST_UNKNOWN,
    MAX_CLAIM_COUNT,
    MAX_CLAIMS,
    MAX_VALUE_BYTES,
    Atomic,
    Change,
    Code,
    Delete,
    Elements,
    Event,
    Exists,
    Expire,
    Failure,
    Gap,
    Get,
    KeyIs,
    LogPage,
    Message,
    Namespace,
    NsKey,
    Op,
    Page,
    Pop,
    Publish,
    Published,
    Push,
    QueueClaim,
    Range,
    ReadLog,
    Reply,
    Scan,
    Set,
    SetAdd,
    Ttl,
    TtlReply,
    Unmet,
)
from kvmcp.backends.watcher import WATCHER_BYTES, WATCHER_EVENTS
from tests.backends.contract import BackendContract
from tests.backends.harness import Store, assert_refused, next_event, plain, receivers
from tests.backends.redis.dice import Dice, Names

NAMESPACE = Namespace("acme")
SPACE = NAMESPACE.space()


def key(name: str) -> NsKey:
    return NAMESPACE.key(name)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Small:
    """A store on a clock that stands still until a test moves it."""

    def __init__(self, max_keys: int = 1000, max_bytes: int = 1_000_000) -> None:
        self.clock = Clock()
        self.backend = MemoryBackend(clock=self.clock, max_keys=max_keys, max_bytes=max_bytes)

    def ask(self, op: Op) -> Reply:
        (reply,) = self.backend.execute_now([op])
        return reply

    def put(self, *names: str, ttl_ms: int | None = None) -> None:
        for name in names:
            assert self.ask(Set(key(name), b"1", ttl_ms)) is True

    def page(self, pattern: str = "*", count: int = 100, cursor: str = "") -> Page:
        page = self.ask(Scan(SPACE, pattern, count, cursor))
        assert isinstance(page, Page), page
        return page

    def pages(self, pattern: str = "*", count: int = 100) -> Iterator[Page]:
        page = self.page(pattern, count)
        yield page
        while page.cursor:
            page = self.page(pattern, count, page.cursor)
            yield page

    async def move(self, seconds: float) -> None:
        self.clock.now += seconds

    @property
    def usage(self) -> Usage:
        return self.backend.usage()


@pytest.fixture
def small() -> Small:
    return Small()


class TestContract(BackendContract):
    @pytest.fixture
    def store(self) -> Store:
        clock = Clock()
        backend = MemoryBackend(clock=clock)

        async def advance(seconds: float) -> None:
            clock.now += seconds
            assert await backend.execute(()) == []

        return Store(backend, advance, NAMESPACE)


# --- the calls


def test_it_is_a_backend(small: Small) -> None:
    backend: Backend = small.backend
    answers: list[list[Reply]] = []
    assert backend.execute_soon([Get(key("a"))], answers.append)
    assert answers == [[None]]


@pytest.mark.anyio
async def test_it_answers_without_waiting() -> None:
    backend = MemoryBackend(clock=Clock())
    await backend.start()
    waiting = backend.execute([Set(key("a"), b"1"), Get(key("a"))])
    with pytest.raises(StopIteration) as answer:
        waiting.send(None)
    assert answer.value.value == [True, b"1"]


def test_a_lone_surrogate_does_no_harm(small: Small) -> None:
    small.put("\ud800")
    assert small.page("[^a]*").names == ("\ud800",)
    assert small.page("\ud800").names == ("\ud800",)
    assert small.ask(Delete((key("\ud800"),))) == 1
    assert small.usage == Usage(0, 0)


# --- room


def test_usage_counts_names_values_and_overhead(small: Small) -> None:
    small.ask(Set(key("\u00e9"), b"123"))
    assert small.usage == Usage(1, 2 + 3 + ENTRY_OVERHEAD)
    small.ask(Set(key("\u00e9"), b"1"))
    assert small.usage == Usage(1, 2 + 1 + ENTRY_OVERHEAD)
    small.ask(Set(NAMESPACE.key("a", "s"), b"1"))
    assert small.usage == Usage(2, 5 + 2 * ENTRY_OVERHEAD)
    small.ask(Delete((key("\u00e9"), NAMESPACE.key("a", "s"))))
    assert small.usage == Usage(0, 0)


def test_a_store_full_of_keys_refuses_new_ones_only() -> None:
    small = Small(max_keys=2)
    small.put("a", "b")
    refusal = small.ask(Set(key("c"), b"1"))
    assert refusal == Failure(
        Code.TOO_LARGE,
        "the store holds 2 keys, its limit is 2 and this needs 1 more; delete some or let them expire",
        retryable=False,
    )
    assert small.ask(Set(key("a"), b"22")) is True
    assert small.ask(Delete((key("b"),))) == 1
    assert small.ask(Set(key("c"), b"1")) is True


def test_a_store_full_of_bytes_refuses_growth_only() -> None:
    small = Small(max_bytes=2 * ENTRY_OVERHEAD + 20)
    assert small.ask(Set(key("a"), b"1" * 9)) is True
    assert small.ask(Set(key("b"), b"1" * 9)) is True
    refusal = small.ask(Set(key("a"), b"1" * 10))
    assert refusal == Failure(
        Code.TOO_LARGE,
        f"the store holds {2 * ENTRY_OVERHEAD + 20} bytes, its limit is {2 * ENTRY_OVERHEAD + 20} "
        "and this needs 1 more; delete some or let them expire",
        retryable=False,
    )
    assert small.ask(Get(key("a"))) == b"1" * 9
    assert small.ask(Set(key("a"), b"1" * 8)) is True
    assert small.ask(Set(key("b"), b"1" * 10)) is True


def test_what_has_expired_makes_way_however_much_there_is() -> None:
    held = 5 * EXPIRED_PER_BATCH
    small = Small(max_keys=held + 1)
    small.put(*map(str, range(held)), ttl_ms=1000)
    small.clock.now += 2
    wanted = tuple(Set(key(f"new-{i}"), b"1") for i in range(held + 1))
    assert small.ask(Atomic(wanted)) == (True,) * (held + 1)
    assert small.usage.keys == held + 1


def test_atomic_is_refused_as_a_whole_when_the_whole_does_not_fit() -> None:
    small = Small(max_keys=3)
    small.put("a", "b")
    assert_refused(
        small.ask(Atomic((Delete((key("a"),)), *[Set(key(n), b"1") for n in "cde"]))), Code.TOO_LARGE
    )
    assert small.page().names == ("a", "b")
    assert_refused(small.ask(Atomic((Set(key("c"), b"1" * MAX_VALUE_BYTES),))), Code.TOO_LARGE)
    assert small.page().names == ("a", "b")


def test_atomic_needs_room_only_for_what_it_leaves() -> None:
    small = Small(max_keys=2)
    small.put("a", "b")
    replace = Atomic(
        (Set(key("c"), b"1"), Set(key("c"), b"2"), Set(key("d"), b"3"), Delete((key("a"), key("d"))))
    )
    assert small.ask(replace) == (True, True, True, 2)
    assert small.page().names == ("b", "c")
    assert small.usage == Usage(2, 4 + 2 * ENTRY_OVERHEAD)


def test_conditions_come_before_refusals() -> None:
    small = Small(max_keys=0)
    assert small.ask(Atomic((Set(key("a"), b"1"),), (KeyIs(key("a"), b"1"),))) == Unmet(0, False)
    assert_refused(small.ask(Atomic((Set(key("a"), b"1"),))), Code.TOO_LARGE)


def test_an_operation_that_atomic_does_not_know_is_a_bug_and_changes_nothing(small: Small) -> None:
    nested = Atomic(())
    with pytest.raises(KeyError):
        small.ask(Atomic((Set(key("a"), b"1"), nested)))  # type: ignore[arg-type]  # what the types forbid
    assert small.usage == Usage(0, 0)


# --- its clock


def test_a_key_lives_until_its_deadline_and_not_at_it(small: Small) -> None:
    small.put("a", ttl_ms=1500)
    small.clock.now += 1.499
    assert small.ask(Get(key("a"))) == b"1"
    small.clock.now = 1000.0 + 1.5
    assert small.ask(Get(key("a"))) is None


@pytest.mark.parametrize(("passed", "left"), [(0.0, 1500), (0.0004, 1500), (0.5, 1000), (1.4999, 1)])
def test_ttl_is_in_milliseconds_and_never_zero(small: Small, passed: float, left: int) -> None:
    small.put("a", ttl_ms=1500)
    small.clock.now += passed
    assert small.ask(Ttl(key("a"))) == TtlReply(True, left)


def test_a_batch_happens_at_one_moment() -> None:
    moments = iter([0.0, 0.0, 1.0])
    backend = MemoryBackend(clock=lambda: next(moments))
    backend.execute_now([Set(key("a"), b"1", 1000)])
    assert backend.execute_now([Get(key("a"))] * 3) == [None] * 3


def test_an_untouched_key_frees_its_memory(small: Small) -> None:
    small.put("a", "b", ttl_ms=1000)
    small.put("c")
    assert small.backend.next_expiry() == 1001.0
    small.clock.now += 1
    assert small.usage.keys == 3
    assert small.backend.execute_now(()) == []
    assert small.usage.keys == 1
    assert small.backend.next_expiry() is None


def test_the_work_of_one_batch_is_bounded(small: Small) -> None:
    small.put(*map(str, range(EXPIRED_PER_BATCH + 10)), ttl_ms=1000)
    small.clock.now += 1
    small.backend.execute_now(())
    assert small.usage.keys == 10
    small.ask(Get(key("a")))
    assert small.usage.keys == 0


@pytest.mark.parametrize("met_by", [Get, Ttl])
def test_an_expired_key_that_is_met_is_removed(small: Small, met_by: type[Get] | type[Ttl]) -> None:
    extra = EXPIRED_PER_BATCH + 2  # what the batch removes by itself
    small.put(*map(str, range(extra)), ttl_ms=999)
    small.put("a", "b", ttl_ms=1000)
    small.clock.now += 1
    small.ask(met_by(key("a")))
    assert small.usage.keys == 1


def test_a_scan_removes_what_it_finds_expired(small: Small) -> None:
    names = [str(i) for i in range(2 * EXPIRED_PER_BATCH)]
    small.put(*names, ttl_ms=1000)
    small.put("a")
    small.clock.now += 1
    assert small.page(count=1000).names == ("a",)
    assert small.usage.keys == 1


def test_a_key_that_got_more_time_outlives_its_first_deadline(small: Small) -> None:
    small.put("a", "b", "c", ttl_ms=1000)
    small.ask(Expire(key("a"), 5000))
    small.put("b")
    small.clock.now += 1
    small.backend.execute_now(())
    assert small.page().names == ("a", "b")
    assert small.backend.next_expiry() == 1005.0
    small.clock.now += 4
    small.backend.execute_now(())
    assert small.page().names == ("b",)


def test_a_key_that_got_less_time_ends_earlier(small: Small) -> None:
    small.put("a", ttl_ms=9000)
    small.ask(Expire(key("a"), 1000))
    small.clock.now += 1
    small.backend.execute_now(())
    assert small.usage.keys == 0
    small.put("a")
    small.clock.now += 10
    small.backend.execute_now(())
    assert small.usage.keys == 1


def test_a_key_that_is_touched_often_has_one_place_in_the_heap(small: Small) -> None:
    for _ in range(1000):
        small.put("a", ttl_ms=1000)
        small.clock.now += 0.5
    assert len(small.backend._keys.deadlines.heap) == 1
    assert small.ask(Get(key("a"))) == b"1"


def test_deadlines_that_no_longer_count_do_not_pile_up(small: Small) -> None:
    for ttl_ms in range(10_000, 1000, -1):
        small.put("a", ttl_ms=ttl_ms)
    for i in range(10 * SLACK):
        small.put(str(i), ttl_ms=1000)
        small.ask(Delete((key(str(i)),)))
    assert len(small.backend._keys.deadlines.heap) <= 2 + SLACK
    small.clock.now += 2
    assert small.ask(Get(key("a"))) is None


def test_removed_keys_leave_the_heap(small: Small) -> None:
    names = [str(i) for i in range(10 * SLACK)]
    small.put(*names, ttl_ms=1000)
    small.ask(Delete(tuple(key(name) for name in names)))
    assert len(small.backend._keys.deadlines.heap) <= SLACK


def test_a_key_filed_twice_under_one_moment_expires_once(small: Small) -> None:
    a = key("a")
    small.ask(Set(a, b"1", 2000))
    small.ask(Expire(a, 1000))
    small.ask(Expire(a, 2000))
    small.clock.now += 1
    small.backend.execute_now(())
    assert len(small.backend._keys.deadlines.heap) == 2
    small.clock.now += 1
    small.backend.execute_now(())
    assert small.usage == Usage(0, 0)


# --- scans


def test_a_scan_gives_each_key_once_in_order_of_creation(small: Small) -> None:
    small.put("c", "a", "b")
    small.put("c")
    assert [page.names for page in small.pages(count=2)] == [("c", "a"), ("b",)]


def test_a_scan_ends_although_keys_keep_coming(small: Small) -> None:
    small.put("a", "b", "c")
    seen: list[str] = []
    for i, page in enumerate(small.pages(count=1)):
        seen.extend(page.names)
        small.put(f"new-{i}")
    assert seen == ["a", "b", "c"]


def test_a_scan_survives_the_compaction_of_what_it_walked_over(small: Small) -> None:
    names = [f"{i:04}" for i in range(500)]
    small.put(*names)
    kept = names[::10]
    first = small.page(count=100)
    small.ask(Delete(tuple(key(name) for name in names if name not in kept)))
    assert len(small.backend._keys.spaces[SPACE].order) < 3 * len(kept) + SLACK
    rest = small.page(count=1000, cursor=first.cursor)
    assert rest == Page(tuple(kept[10:]))


def test_a_key_that_atomic_replaces_keeps_its_place(small: Small) -> None:
    small.put("a", "b", "c")
    first = small.page(count=1)
    replace = Atomic((Delete((key("a"), key("b"), key("c"))), Set(key("b"), b"2"), Set(key("a"), b"2")))
    assert small.ask(replace) == (3, True, True)
    assert small.page(cursor=first.cursor) == Page(("b",))


def test_a_cursor_outlives_its_space(small: Small) -> None:
    small.put("a", "b")
    first = small.page(count=1)
    small.ask(Delete((key("a"), key("b"))))
    assert small.page(cursor=first.cursor) == Page(())
    small.put("c")
    assert small.page(cursor=first.cursor) == Page(())


@pytest.mark.parametrize(
    "cursor", ["1-1", "2-1", "1-", "-1-2", "1-2-3", "\u0661-2", "1" * 19 + "-2", " 1-2", "1-2\n"]
)
def test_a_cursor_that_no_page_gave_is_refused(small: Small, cursor: str) -> None:
    small.put("a", "b", "c")
    assert_refused(small.ask(Scan(SPACE, cursor=cursor)), Code.INVALID_PARAMS)
    assert_refused(small.ask(Scan(NAMESPACE.space("other"), cursor=cursor)), Code.INVALID_PARAMS)


def test_a_page_looks_at_a_bounded_number_of_names() -> None:
    small = Small(max_keys=3 * SCAN_STEPS, max_bytes=10**9)
    small.put(*[f"{i:05}" for i in range(2 * SCAN_STEPS + 1)], "z")
    pages = list(small.pages("z"))
    assert [len(page.names) for page in pages] == [0, 0, 1]


def test_a_page_counts_removed_keys_that_it_walks_over(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "SCAN_STEPS", 10)
    small.put(*[f"{i:02}" for i in range(30)])
    small.ask(Delete(tuple(key(f"{i:02}") for i in range(25))))
    assert [len(page.names) for page in small.pages()] == [0, 0, 5]


def test_a_costly_pattern_looks_at_fewer_names(small: Small) -> None:
    small.put(*[f"{i:03}" + "a" * 500 for i in range(100)])
    pages = list(small.pages("*" + "a?" * 120 + "b*"))
    assert all(page.names == () for page in pages)
    assert 10 < len(pages) < 40


# --- types


def test_nothing_is_left_of_what_was_counted() -> None:
    """Whatever was done to whatever type: once all keys are deleted, the store is empty."""
    small = Small(max_bytes=10**9)
    dice, names = Dice(7, "n"), Names()
    for _ in range(3000):
        batch = [names.put_in(op) for op in dice.batch()]
        for op, reply in zip(batch, small.backend.execute_now(batch), strict=True):
            names.take_out(op, reply)
    spaces = small.backend._keys.spaces
    keys = [NsKey(space.name, name) for space in spaces.values() for name in space.entries]
    assert len(keys) == small.usage.keys > 50
    for one in keys:
        assert small.ask(Delete((one,))) == 1
    assert small.usage == Usage(0, 0)


def test_atomic_is_taken_back_where_collections_do_not_fit() -> None:
    small = Small(max_bytes=ENTRY_OVERHEAD + 300)
    small.ask(Push(key("a"), (b"1", b"2")))
    before = small.usage
    large = Push(key("a"), (b"3" * 200,))
    for refused in (
        large,
        Atomic((Pop(key("a")), Publish(key("b"), b"1"), large)),
        SetAdd(key("b"), (b"1" * 400,)),
    ):
        assert_refused(small.ask(refused), Code.TOO_LARGE)
        assert small.usage == before
    assert small.ask(Range(key("a"))) == Elements((b"1", b"2"), 2, 2)
    assert small.ask(Atomic((large, Delete((key("a"),))))) == (3, 1)
    assert small.usage == Usage(0, 0)


def test_a_message_is_kept_for_its_life(small: Small) -> None:
    news = key("news")
    first = small.ask(Publish(news, b"1"))
    assert isinstance(first, Published)
    small.clock.now += LOG_LIFE_MS / 2000
    second = small.ask(Publish(news, b"2"))
    assert isinstance(second, Published)
    small.clock.now += LOG_LIFE_MS / 2000
    assert small.ask(ReadLog(news, 0)) == LogPage(((second.id, b"2"),), second.id, 0)
    assert small.ask(ReadLog(news, int(first.id) - 1)) == LogPage(((second.id, b"2"),), second.id, 1)
    small.clock.now += LOG_LIFE_MS / 2000
    assert small.ask(ReadLog(news, int(first.id))) == LogPage((), second.id, 1)
    third = small.ask(Publish(news, b"3"))
    assert isinstance(third, Published) and int(third.id) == int(second.id) + 1


def test_a_channel_that_was_silent_for_long_counts_on_from_a_later_number(small: Small) -> None:
    news = key("news")
    first = small.ask(Publish(news, b"1"))
    assert isinstance(first, Published)
    small.clock.now += LOG_COUNT_LIFE_MS / 1000 + 1
    small.backend.execute_now(())
    assert small.usage == Usage(0, 0)
    silent = small.ask(ReadLog(news, int(first.id)))
    assert isinstance(silent, LogPage) and (silent.messages, silent.lost) == ((), LOST_UNKNOWN)
    again = small.ask(Publish(news, b"2"))
    assert isinstance(again, Published) and int(again.id) > int(silent.cursor) > int(first.id)
    assert small.ask(ReadLog(news, int(first.id))) == LogPage(((again.id, b"2"),), again.id, LOST_UNKNOWN)
    assert small.ask(ReadLog(news, int(silent.cursor))) == LogPage(((again.id, b"2"),), again.id, 0)


def test_a_cursor_from_before_the_store_began_is_told(small: Small) -> None:
    page = small.ask(ReadLog(key("news"), int(small.clock.now * 1e6) - 1))
    assert isinstance(page, LogPage) and page.lost == LOST_UNKNOWN


def test_a_queue_has_a_largest_number_of_claims() -> None:
    small, q = Small(max_bytes=10**9), key("q")
    for _ in range(0, MAX_CLAIMS + 1000, 1000):
        small.ask(Push(q, (b"1",) * 1000))
    for _ in range(0, MAX_CLAIMS, MAX_CLAIM_COUNT):
        claims = small.ask(QueueClaim(q, "me", 1000, MAX_CLAIM_COUNT))
        assert isinstance(claims, tuple) and len(claims) == MAX_CLAIM_COUNT
    assert_refused(small.ask(QueueClaim(q, "me", 1000)), Code.TOO_LARGE)
    small.clock.now += 1
    assert isinstance(small.ask(QueueClaim(q, "me", 1000, 7)), tuple)


# --- watches


async def read(events: AsyncIterator[Event], amount: int) -> list[Event]:
    return [await next_event(events) for _ in range(amount)]


@pytest.mark.anyio
async def test_publish_counts_the_watchers(small: Small) -> None:
    watch, news = small.backend.watch, key("news")
    async with watch(channels=[news, news]), watch(channels=[news]), watch([news], [key("other")]):
        assert receivers(small.ask(Publish(news, b"1"))) == 2
    assert receivers(small.ask(Publish(news, b"1"))) == 0


@pytest.mark.anyio
async def test_a_key_that_waits_to_be_told_is_told_once(small: Small) -> None:
    a, b = key("a"), key("b")
    async with small.backend.watch([a, b, a], [b]) as events:
        small.put("a", "b", "a", "a", "b")
        small.ask(Expire(a, 1000))
        small.ask(Publish(b, b"1"))
        assert await read(events, 3) == [Change(a), Change(b), Message(b, b"1")]
        small.put("a")
        assert await read(events, 1) == [Change(a)]


@pytest.mark.anyio
async def test_a_refused_atomic_tells_nothing(small: Small) -> None:
    a, b = key("a"), key("b")
    async with small.backend.watch([a], [b]) as events:
        small.ask(Atomic((Set(a, b"1"), Publish(b, b"1"), Expire(b, 0))))
        small.ask(Publish(b, b"2"))
        assert await read(events, 1) == [Message(b, b"2")]


@pytest.mark.anyio
@pytest.mark.parametrize("names", [(), ("x",)])
async def test_expiry_is_told_when_it_is_noticed(small: Small, names: tuple[str, ...]) -> None:
    a = key("a")
    small.put("a", ttl_ms=1000)
    async with small.backend.watch([a]) as events:
        small.clock.now += 1
        small.backend.execute_now([Get(key(name)) for name in names])
        assert await read(events, 1) == [Change(a)]


@pytest.mark.anyio
async def test_expiry_is_told_to_who_waits_though_nobody_calls(small: Small) -> None:
    a, b = key("a"), key("b")
    told: list[Event] = []

    async def wait(events: AsyncIterator[Event]) -> None:
        told.append(await next_event(events))

    small.put("a", ttl_ms=20)
    small.put("b")
    async with small.backend.watch([a, b]) as one, small.backend.watch([b, a]) as two:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, one)
            tasks.start_soon(wait, two)
            await anyio.wait_all_tasks_blocked()
            assert told == []
            small.clock.now += 0.021
        assert told == [Change(a), Change(a)]
        assert small.usage.keys == 1


@pytest.mark.anyio
async def test_a_wait_follows_the_end_of_its_keys(small: Small) -> None:
    """Shorter, longer, none: each is a change, and the last one holds."""
    a = key("a")
    small.put("a", ttl_ms=3_600_000)
    async with small.backend.watch([a]) as events, anyio.create_task_group() as tasks:
        for ttl_ms in (10, 3_600_000, 20):
            tasks.start_soon(small.backend.execute, [Expire(a, ttl_ms)])
            assert await next_event(events) == Change(a)
        tasks.start_soon(small.move, 0.019)
        with anyio.move_on_after(0.1):
            await anext(events)
            raise AssertionError("told before its time")
        tasks.start_soon(small.move, 0.002)
        assert await next_event(events) == Change(a)
        assert small.ask(Get(a)) is None


@pytest.mark.anyio
async def test_expiry_in_real_time() -> None:
    a = key("a")
    backend = MemoryBackend(clock=time.monotonic)
    backend.execute_now([Set(a, b"1", 30)])
    async with backend.watch([a]) as events:
        assert await next_event(events) == Change(a)
        assert backend.usage() == Usage(0, 0)


@pytest.mark.anyio
async def test_a_slow_watcher_loses_the_oldest_and_is_told(small: Small) -> None:
    a, news = key("a"), key("news")
    async with small.backend.watch([a], [news]) as slow, small.backend.watch(channels=[news]) as other:
        small.put("a")
        for i in range(WATCHER_EVENTS + 2):
            small.ask(Publish(news, b"%d" % i))
        small.put("a")
        # Lost: the change and messages 0 to 2; the second change was queued, for the first was lost.
        expected = [Message(news, b"%d" % i) for i in range(3, WATCHER_EVENTS + 2)]
        assert await read(slow, WATCHER_EVENTS + 1) == [Gap(4), *expected, Change(a)]
        assert await read(other, 2) == [Gap(2), Message(news, b"2")]


@pytest.mark.anyio
async def test_large_messages_are_bounded_in_bytes() -> None:
    small = Small(max_bytes=10_000_000)
    news = key("news")
    large = b"1" * MAX_VALUE_BYTES
    room = WATCHER_BYTES // MAX_VALUE_BYTES
    async with small.backend.watch(channels=[news]) as events:
        for _ in range(room):
            small.ask(Publish(news, large))
        small.ask(Publish(news, b"2"))
        small.ask(Publish(news, b"3"))
        assert await read(events, 1) == [Gap(1)]
        assert await read(events, room - 1) == [Message(news, large)] * (room - 1)
        assert await read(events, 2) == [Message(news, b"2"), Message(news, b"3")]


@pytest.mark.anyio
async def test_what_is_queued_can_be_read_after_the_end(small: Small) -> None:
    news = key("news")
    async with small.backend.watch(channels=[news]) as events:
        small.ask(Publish(news, b"1"))
        await small.backend.aclose()
        assert [plain(event) async for event in events] == [Message(news, b"1")]


@pytest.mark.anyio
async def test_nothing_is_left_of_a_watch_or_of_a_closed_store(small: Small) -> None:
    backend = small.backend
    small.put("a", ttl_ms=1000)
    async with backend.watch([key("a")], [key("b")]):
        assert backend._watchers.watched == 2
    assert backend._watchers.watched == 0
    await backend.aclose()
    assert small.usage == Usage(0, 0)
    assert backend.next_expiry() is None
    assert backend.execute_now([Exists((key("a"),))]) == [
        Failure(Code.REDIS_NOT_CONNECTED, "the store is closed", retryable=False)
    ]
