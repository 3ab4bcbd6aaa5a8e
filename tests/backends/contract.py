"""What every backend must do: the meaning of `kvmcp.backends.base.Backend`, as tests.

A backend's test module subclasses `BackendContract` and gives the fixture `store`:

    class TestMemory(BackendContract):
        @pytest.fixture
        def store(self) -> Store: ...

Each test gets a started backend and a namespace that nobody else uses. Nothing here sleeps or looks at a
clock: time passes through `Store.advance`, which a real store answers by waiting. Hence times to live that
have to end are short (`SOON_MS`), and those that must not end are long (`LATER_MS`).
"""

import anyio
import pytest

from kvmcp.backends.ops import (
    MAX_BATCH_KEYS,
    MAX_KEY_BYTES,
    MAX_PATTERN_BYTES,
    MAX_PATTERN_STARS,
    MAX_SCAN_COUNT,
    MAX_TTL_SECONDS,
    MAX_VALUE_BYTES,
    Atomic,
    Change,
    Code,
    Delete,
    Exists,
    Expire,
    Get,
    KeyExists,
    KeyIs,
    Message,
    Op,
    Page,
    Publish,
    Reply,
    Scan,
    Set,
    Ttl,
    TtlReply,
    Unmet,
    etag_of,
)
from tests.backends.contract_collections import CollectionsContract
from tests.backends.contract_sharing import SharingContract
from tests.backends.contract_values import ValuesContract
from tests.backends.harness import (
    AFTER_SOON,
    LATER_MS,
    SOON_MS,
    SPENT_MS,
    Store,
    assert_refused,
    next_event,
    read_until,
    receivers,
    soon,
)
from tests.patience import PATIENCE

ODD_NAMES = [
    "a:b:c",
    "with space",
    "line\nbreak",
    "nul\0",
    "{braces}",
    "}:k:x",
    "*?[a]\\",
    "grüße",
    "日本語",
    "e\u0301",
    "\u00e9",
    "😀",
    "UPPER",
    "upper",
    "\u00e9" * (MAX_KEY_BYTES // 2),
]


class BackendContract(ValuesContract, CollectionsContract, SharingContract):
    pytestmark = pytest.mark.anyio

    # --- values

    async def test_an_absent_key_has_no_value(self, store: Store) -> None:
        assert await store.get("absent") is None

    @pytest.mark.parametrize(
        "value",
        [
            b"1",
            b'""',
            b"null",
            b'{ "a" : 1.10, "a":2 }',
            b'"\\u00e9\xc3\xa9"',
            b"1e400",
            b"[" + b"0," * 5000 + b"0]",
        ],
        ids=["number", "text", "null", "spaces", "escapes", "huge", "long"],
    )
    async def test_a_value_comes_back_byte_for_byte(self, store: Store, value: bytes) -> None:
        assert await store.run(Set(store.key("a"), value), Get(store.key("a"))) == [True, value]

    async def test_set_replaces(self, store: Store) -> None:
        replies = await store.run(Set(store.key("a"), b"1"), Set(store.key("a"), b"22"), Get(store.key("a")))
        assert replies == [True, True, b"22"]

    async def test_every_text_can_be_a_name(self, store: Store) -> None:
        await store.run(*[Set(store.key(name), b"%d" % i) for i, name in enumerate(ODD_NAMES)])
        replies = await store.run(*[Get(store.key(name)) for name in ODD_NAMES])
        assert replies == [b"%d" % i for i in range(len(ODD_NAMES))]
        assert await store.scan() == sorted(ODD_NAMES)

    async def test_delete_counts_what_existed(self, store: Store) -> None:
        await store.put("a", "b", "c")
        a, b, absent = store.key("a"), store.key("b"), store.key("absent")
        assert await store.ask(Delete((a, absent, b, a))) == 2
        assert await store.ask(Delete((a, b))) == 0
        assert await store.ask(Delete(())) == 0
        assert await store.scan() == ["c"]

    async def test_exists_answers_for_each_key_in_order(self, store: Store) -> None:
        await store.put("a", "b")
        keys = tuple(store.key(name) for name in ("absent", "a", "b", "a"))
        assert await store.ask(Exists(keys)) == (False, True, True, True)
        assert await store.ask(Exists(())) == ()

    # --- batches

    async def test_a_batch_runs_in_order(self, store: Store) -> None:
        a = store.key("a")
        replies = await store.run(Get(a), Set(a, b"1"), Get(a), Exists((a,)), Delete((a,)), Get(a), Ttl(a))
        assert replies == [None, True, b"1", (True,), 1, None, TtlReply(False)]

    async def test_an_empty_batch_has_no_replies(self, store: Store) -> None:
        assert await store.run() == []

    async def test_one_refusal_leaves_the_rest_of_the_batch_alone(self, store: Store) -> None:
        a, b = store.key("a"), store.key("b")
        first, refusal, last = await store.run(Set(a, b"1"), Set(b, b"1", ttl_ms=0), Get(a))
        assert (first, last) == (True, b"1")
        assert_refused(refusal, Code.REDIS_ERROR)

    async def test_what_needs_no_task_is_all_or_nothing(self, store: Store) -> None:
        batch: list[Op] = [Set(store.key("a"), b"1"), Get(store.key("a"))]
        begun, answers = await soon(store.backend, batch)
        assert answers == ([[True, b"1"]] if begun else [])
        assert await store.get("a") == (b"1" if begun else None)

    async def test_what_needs_no_task_is_answered_once_in_order(self, store: Store) -> None:
        answers: list[list[Reply]] = []
        expected: list[list[Reply]] = []
        for index in range(20):
            batch: list[Op] = [Set(store.key("a"), b"%d" % index), Get(store.key("a"))]
            if store.backend.execute_soon(batch, answers.append):
                expected.append([True, b"%d" % index])
        assert await store.get("a") == (b"19" if expected else None)
        assert answers == expected

    async def test_a_closed_store_answers_also_without_a_task(self, store: Store) -> None:
        await store.backend.aclose()
        begun, answers = await soon(store.backend, [Get(store.key("a"))])
        assert begun
        [[refusal]] = answers
        assert_refused(refusal, Code.REDIS_NOT_CONNECTED)

    async def test_a_cancelled_call_leaves_the_store_usable(self, store: Store) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await store.put("a")
        await store.put("b")
        assert await store.get("b") == b"1"

    async def test_concurrent_callers_get_their_own_replies(self, store: Store) -> None:
        answers: dict[int, list[Reply]] = {}

        async def call(i: int) -> None:
            key = store.key(f"key-{i}")
            answers[i] = await store.run(Set(key, b"%d" % i), Get(key))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for i in range(20):
                    tasks.start_soon(call, i)
        assert answers == {i: [True, b"%d" % i] for i in range(20)}

    # --- namespaces

    async def test_namespaces_and_kinds_do_not_see_each_other(self, store: Store) -> None:
        here, there, session = store.key("a"), store.elsewhere.key("a"), store.namespace.key("a", "s")
        await store.run(Set(here, b"1"), Set(there, b"2"), Set(session, b"3"))
        assert await store.run(Get(here), Get(there), Get(session)) == [b"1", b"2", b"3"]
        assert await store.ask(Delete((here,))) == 1
        assert await store.ask(Exists((here, there, session))) == (False, True, True)
        assert await store.scan() == []
        assert await store.ask(Scan(store.elsewhere.space())) == Page(("a",))
        assert await store.ask(Scan(store.namespace.space("s"))) == Page(("a",))
        assert await store.ask(Delete((there, session))) == 2

    # --- time to live

    async def test_ttl_of_keys_with_and_without_one(self, store: Store) -> None:
        await store.run(Set(store.key("mortal"), b"1", LATER_MS), Set(store.key("eternal"), b"1"))
        mortal = await store.ask(Ttl(store.key("mortal")))
        assert isinstance(mortal, TtlReply)
        assert mortal.found and mortal.milliseconds is not None
        assert LATER_MS - SPENT_MS <= mortal.milliseconds <= LATER_MS
        assert await store.ask(Ttl(store.key("eternal"))) == TtlReply(True)
        assert await store.ask(Ttl(store.key("absent"))) == TtlReply(False)

    async def test_a_key_ends_with_its_time_to_live(self, store: Store) -> None:
        a = store.key("a")
        replies = await store.run(Set(a, b"1", SOON_MS), Get(a), Set(store.key("b"), b"2", LATER_MS))
        assert replies == [True, b"1", True]
        await store.advance(AFTER_SOON)
        assert await store.run(Get(a), Exists((a,)), Ttl(a), Expire(a, LATER_MS), Delete((a,))) == [
            None,
            (False,),
            TtlReply(False),
            False,
            0,
        ]
        assert await store.scan() == ["b"]

    async def test_an_expired_key_can_be_set_anew(self, store: Store) -> None:
        await store.ask(Set(store.key("a"), b"1", SOON_MS))
        await store.advance(AFTER_SOON)
        await store.ask(Set(store.key("a"), b"2"))
        assert await store.run(Get(store.key("a")), Ttl(store.key("a"))) == [b"2", TtlReply(True)]

    async def test_set_without_ttl_ends_an_earlier_one(self, store: Store) -> None:
        await store.run(Set(store.key("a"), b"1", SOON_MS), Set(store.key("a"), b"2"))
        await store.advance(AFTER_SOON)
        assert await store.get("a") == b"2"

    async def test_set_with_ttl_replaces_an_earlier_one(self, store: Store) -> None:
        longer, shorter = store.key("longer"), store.key("shorter")
        await store.run(Set(longer, b"1", SOON_MS), Set(longer, b"1", LATER_MS))
        await store.run(Set(shorter, b"1", LATER_MS), Set(shorter, b"1", SOON_MS))
        await store.advance(AFTER_SOON)
        assert await store.ask(Exists((longer, shorter))) == (True, False)

    async def test_expire_gives_a_key_an_end(self, store: Store) -> None:
        a = store.key("a")
        await store.put("a")
        assert await store.ask(Expire(a, LATER_MS)) is True
        assert isinstance(ttl := await store.ask(Ttl(a)), TtlReply) and ttl.milliseconds
        assert await store.ask(Expire(a, SOON_MS)) is True
        await store.advance(AFTER_SOON)
        assert await store.get("a") is None
        assert await store.ask(Expire(a, LATER_MS)) is False

    async def test_expire_can_give_more_time(self, store: Store) -> None:
        await store.run(Set(store.key("a"), b"1", SOON_MS), Expire(store.key("a"), LATER_MS))
        await store.advance(AFTER_SOON)
        assert await store.get("a") == b"1"

    @pytest.mark.parametrize("ttl_ms", [-1, 0, MAX_TTL_SECONDS * 1000 + 1, 2**63])
    async def test_a_ttl_out_of_range_is_refused(self, store: Store, ttl_ms: int) -> None:
        await store.put("a")
        a, b = store.key("a"), store.key("b")
        replies = await store.run(Set(b, b"1", ttl_ms), Expire(a, ttl_ms), Expire(b, ttl_ms))
        for reply in replies:
            assert_refused(reply, Code.REDIS_ERROR)
        assert await store.run(Get(a), Get(b), Ttl(a)) == [b"1", None, TtlReply(True)]

    async def test_the_longest_ttl_is_taken(self, store: Store) -> None:
        a = store.key("a")
        longest = MAX_TTL_SECONDS * 1000
        assert await store.run(Set(a, b"1", longest), Expire(a, longest)) == [True, True]
        assert await store.get("a") == b"1"

    # --- sizes

    async def test_the_largest_key_and_value_are_taken(self, store: Store) -> None:
        key, value = store.key("k" * MAX_KEY_BYTES), b"1" * MAX_VALUE_BYTES
        assert await store.run(Set(key, value), Get(key)) == [True, value]

    async def test_a_larger_value_is_refused(self, store: Store) -> None:
        await store.put("a")
        reply = await store.ask(Set(store.key("a"), b"1" * (MAX_VALUE_BYTES + 1)))
        assert_refused(reply, Code.TOO_LARGE)
        assert await store.get("a") == b"1"

    @pytest.mark.parametrize("name", ["k" * (MAX_KEY_BYTES + 1), "\u00e9" * (MAX_KEY_BYTES // 2 + 1)])
    async def test_a_larger_key_is_refused(self, store: Store, name: str) -> None:
        assert_refused(await store.ask(Set(store.key(name), b"1")), Code.TOO_LARGE)
        assert_refused(await store.ask(Publish(store.key(name), b"1")), Code.TOO_LARGE)
        assert await store.scan() == []

    async def test_a_larger_message_is_refused(self, store: Store) -> None:
        reply = await store.ask(Publish(store.key("news"), b"1" * (MAX_VALUE_BYTES + 1)))
        assert_refused(reply, Code.TOO_LARGE)

    async def test_too_many_keys_in_one_operation_are_refused(self, store: Store) -> None:
        await store.put("a")
        most = (store.key("a"),) * MAX_BATCH_KEYS
        assert await store.run(Exists(most), Delete(most)) == [(True,) * MAX_BATCH_KEYS, 1]
        await store.put("a")
        more = (*most, store.key("a"))
        for reply in await store.run(Exists(more), Delete(more)):
            assert_refused(reply, Code.TOO_LARGE)
        assert await store.get("a") == b"1"

    # --- scans

    async def test_scan_of_nothing(self, store: Store) -> None:
        assert await store.scan() == []

    @pytest.mark.parametrize("count", [1, 7, 100, MAX_SCAN_COUNT])
    async def test_scan_gives_every_key(self, store: Store, count: int) -> None:
        names = [f"key-{i:03}" for i in range(150)]
        await store.put(*names)
        assert await store.scan(count=count) == names

    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            ("*", ["", "[x]", "a", "a*b", "ab", "b", "\u00e9"]),
            ("a*", ["a", "a*b", "ab"]),
            ("*b", ["a*b", "ab", "b"]),
            ("?", ["a", "b"]),
            ("??", ["ab", "\u00e9"]),
            ("[ab]", ["a", "b"]),
            ("[^a]", ["b"]),
            ("[b-a]*", ["a", "a*b", "ab", "b"]),
            ("a\\*b", ["a*b"]),
            ("\\[x]", ["[x]"]),
            ("[\\[]x\\]", ["[x]"]),
            ("\u00e9", ["\u00e9"]),
            ("ab", ["ab"]),
            ("", [""]),
            ("absent", []),
            ("{*", []),
        ],
    )
    async def test_scan_matches_as_redis_does(self, store: Store, pattern: str, names: list[str]) -> None:
        await store.put("", "[x]", "a", "a*b", "ab", "b", "\u00e9")
        assert await store.scan(pattern) == names

    async def test_scan_gives_what_exists_throughout(self, store: Store) -> None:
        kept = [f"kept-{i}" for i in range(30)]
        await store.put(*kept, *[f"doomed-{i}" for i in range(30)])
        seen: list[str] = []
        page = await store.page(count=4)
        for i in range(1000):
            seen.extend(page.names)
            if not page.cursor:
                break
            doomed, new, kept_key = (
                store.key(f"doomed-{i}"),
                store.key(f"new-{i}"),
                store.key(f"kept-{i % 30}"),
            )
            await store.run(Delete((doomed,)), Set(new, b"1"), Set(kept_key, b"2"))
            page = await store.page(count=4, cursor=page.cursor)
        assert not page.cursor
        assert set(kept) <= set(seen)

    @pytest.mark.parametrize("cursor", ["garbage", "-1", "1.5", "\u00b2", "9" * 5000, "0 0", "\0"])
    async def test_a_garbage_cursor_is_refused(self, store: Store, cursor: str) -> None:
        reply = await store.ask(Scan(store.namespace.space(), cursor=cursor))
        assert_refused(reply, Code.INVALID_PARAMS)

    @pytest.mark.parametrize("count", [-1, 0, MAX_SCAN_COUNT + 1])
    async def test_a_scan_count_out_of_range_is_refused(self, store: Store, count: int) -> None:
        assert_refused(await store.ask(Scan(store.namespace.space(), count=count)), Code.REDIS_ERROR)

    @pytest.mark.parametrize(
        "pattern",
        [
            "a" * (MAX_PATTERN_BYTES + 1),
            "\u00e9" * (MAX_PATTERN_BYTES // 2 + 1),
            "*a" * (MAX_PATTERN_STARS + 1),
        ],
    )
    async def test_a_pattern_that_costs_too_much_is_refused(self, store: Store, pattern: str) -> None:
        assert_refused(await store.ask(Scan(store.namespace.space(), pattern)), Code.TOO_LARGE)

    async def test_stars_that_are_no_wildcards_or_stand_together_are_not_counted(self, store: Store) -> None:
        await store.put("*" * 9)
        assert await store.scan("\\*" * 9) == ["*" * 9]
        assert await store.scan("*" * 9) == ["*" * 9]

    # --- all or nothing

    async def test_atomic_replies_to_each_operation(self, store: Store) -> None:
        a, b = store.key("a"), store.key("b")
        ops = (
            Set(a, b"1"),
            Get(a),
            Set(b, b"2", LATER_MS),
            Exists((a, b)),
            Expire(a, LATER_MS),
            Delete((b,)),
            Get(b),
        )
        reply = await store.ask(Atomic((*ops, Ttl(b), Publish(a, b"3"))))
        assert isinstance(reply, tuple)
        assert reply[:-1] == (True, b"1", True, (True, True), True, 1, None, TtlReply(False))
        assert receivers(reply[-1]) == 0
        assert await store.get("a") == b"1"

    async def test_an_empty_atomic(self, store: Store) -> None:
        assert await store.ask(Atomic(())) == ()
        assert await store.ask(Atomic((), (KeyExists(store.key("a")),))) == Unmet(0, False)

    async def test_conditions_on_the_value(self, store: Store) -> None:
        a = store.key("a")
        swap = Atomic((Set(a, b"2"),), (KeyIs(a, b"1"),))
        create = Atomic((Set(a, b"1"),), (KeyIs(a, None),))
        absent, one, two = Unmet(0, False), Unmet(0, True, etag_of(b"1")), Unmet(0, True, etag_of(b"2"))
        assert await store.run(swap, create, create, swap, swap) == [absent, (True,), one, (True,), two]
        assert await store.get("a") == b"2"

    async def test_a_value_is_compared_byte_for_byte(self, store: Store) -> None:
        a = store.key("a")
        await store.ask(Set(a, b'{"a": 1}'))
        unmet = Unmet(0, True, etag_of(b'{"a": 1}'))
        assert await store.ask(Atomic((), (KeyIs(a, b'{"a":1}'),))) == unmet
        assert await store.ask(Atomic((), (KeyIs(a, b'{"a": 1}'),))) == ()

    async def test_conditions_on_existence(self, store: Store) -> None:
        a, b = store.key("a"), store.key("b")
        touch = Atomic((Set(b, b"1"),), (KeyExists(a),))
        assert await store.run(touch, Set(a, b"1"), touch) == [Unmet(0, False), True, (True,)]

    async def test_every_condition_has_to_hold(self, store: Store) -> None:
        a, b = store.key("a"), store.key("b")
        await store.put("a")
        assert await store.ask(Atomic((Delete((a,)),), (KeyExists(a), KeyExists(b)))) == Unmet(1, False)
        assert await store.get("a") == b"1"

    async def test_an_expired_key_does_not_exist_for_conditions(self, store: Store) -> None:
        a = store.key("a")
        await store.ask(Set(a, b"1", SOON_MS))
        await store.advance(AFTER_SOON)
        assert await store.ask(Atomic((), (KeyExists(a),))) == Unmet(0, False)
        assert await store.ask(Atomic((Set(a, b"2"),), (KeyIs(a, None),))) == (True,)

    async def test_conditions_are_about_the_moment_before(self, store: Store) -> None:
        a = store.key("a")
        await store.put("a")
        assert await store.ask(Atomic((Delete((a,)), Set(a, b"2")), (KeyIs(a, b"1"),))) == (1, True)

    async def test_a_refusal_inside_refuses_the_whole(self, store: Store) -> None:
        a, b = store.key("a"), store.key("b")
        await store.put("a")
        too_large = Set(b, b"1" * (MAX_VALUE_BYTES + 1))
        assert_refused(await store.ask(Atomic((Delete((a,)), too_large))), Code.TOO_LARGE)
        assert_refused(await store.ask(Atomic((Set(a, b"2"), Expire(a, 0)))), Code.REDIS_ERROR)
        assert await store.run(Get(a), Get(b)) == [b"1", None]

    async def test_what_is_deleted_and_set_again_inside(self, store: Store) -> None:
        a = store.key("a")
        await store.ask(Set(a, b"1", LATER_MS))
        reply = await store.ask(
            Atomic((Delete((a,)), Get(a), Delete((a,)), Expire(a, LATER_MS), Set(a, b"2")))
        )
        assert reply == (1, None, 0, False, True)
        assert await store.run(Get(a), Ttl(a)) == [b"2", TtlReply(True)]
        assert await store.ask(Atomic((Delete((a,)), Set(a, b"3"), Delete((a,))))) == (1, True, 1)
        assert await store.scan() == []

    # --- watches

    async def test_nobody_watches(self, store: Store) -> None:
        assert receivers(await store.ask(Publish(store.key("news"), b"1"))) == 0

    async def test_messages_come_in_order(self, store: Store) -> None:
        news = store.key("news")
        async with store.backend.watch(channels=[news]) as events:
            for i in range(5):
                assert receivers(await store.ask(Publish(news, b"%d" % i))) >= 1
            assert [await next_event(events) for _ in range(5)] == [
                Message(news, b"%d" % i) for i in range(5)
            ]

    async def test_every_watcher_of_a_channel_gets_the_message(self, store: Store) -> None:
        news = store.key("news")
        watch = store.backend.watch
        async with watch(channels=[news]) as one, watch(channels=[store.key("other"), news]) as two:
            await store.ask(Publish(news, b"1"))
            assert await next_event(one) == await next_event(two) == Message(news, b"1")

    async def test_channels_of_another_namespace_are_silent(self, store: Store) -> None:
        news = store.key("news")
        async with store.backend.watch(channels=[news]) as events:
            await store.run(Publish(store.elsewhere.key("news"), b"1"), Publish(news, b"2"))
            assert await next_event(events) == Message(news, b"2")

    async def test_writing_and_removing_are_changes(self, store: Store) -> None:
        a = store.key("a")
        async with store.backend.watch([a]) as events:
            await store.put("a")
            assert await next_event(events) == Change(a)
            await store.ask(Delete((a,)))
            assert await next_event(events) == Change(a)
            await store.ask(Atomic((Set(a, b"2"),)))
            assert await next_event(events) == Change(a)

    async def test_expiry_is_a_change(self, store: Store) -> None:
        a, marker, soon_ms = store.key("a"), store.key("marker"), SOON_MS
        while True:
            await store.ask(Set(a, b"1", soon_ms))
            async with store.backend.watch([a], [marker]) as events:
                if await store.get("a") is None:
                    soon_ms *= 4  # a slow machine: it ended before it was watched
                    continue
                await store.advance(soon_ms / 1000 + AFTER_SOON)
                assert await store.get("a") is None
                assert await next_event(events) == Change(a)
                return

    async def test_other_keys_and_channels_are_silent(self, store: Store) -> None:
        a, b = store.key("a"), store.key("b")
        async with store.backend.watch([a], [b]) as events:
            await store.run(Set(b, b"1"), Publish(a, b"1"), Set(store.elsewhere.key("a"), b"1"))
            await store.run(Delete((store.key("a"),)), Get(a), Exists((a,)), Set(a, b"1"), Publish(b, b"2"))
            # Keys and channels may travel apart: the order between them is not promised.
            first, second = await next_event(events), await next_event(events)
            assert (first, second) in [(Change(a), Message(b, b"2")), (Message(b, b"2"), Change(a))]

    async def test_a_change_is_told_after_it_can_be_seen(self, store: Store) -> None:
        a = store.key("a")
        async with store.backend.watch([a]) as events:
            await store.ask(Set(a, b"2"))
            await read_until(events, Change(a))
            assert await store.get("a") == b"2"

    async def test_a_watch_that_waits_is_woken(self, store: Store) -> None:
        a = store.key("a")
        async with store.backend.watch([a]) as events, anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(store.put, "a")
                assert await next_event(events) == Change(a)

    async def test_a_watch_ends_with_its_context(self, store: Store) -> None:
        a = store.key("a")
        async with store.backend.watch([a], [a]) as events:
            pass
        await store.run(Set(a, b"1"), Publish(a, b"1"))
        with anyio.fail_after(PATIENCE), pytest.raises(StopAsyncIteration):
            await anext(events)

    async def test_a_cancelled_wait_loses_nothing(self, store: Store) -> None:
        a = store.key("a")
        async with store.backend.watch([a]) as events:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await anext(events)
            await store.put("a")
            assert await next_event(events) == Change(a)

    async def test_watching_nothing(self, store: Store) -> None:
        async with store.backend.watch():
            await store.put("a")

    # --- the end

    async def test_a_closed_store_says_so(self, store: Store) -> None:
        await store.put("a")
        await store.backend.aclose()
        await store.backend.aclose()
        a = store.key("a")
        replies = await store.run(Get(a), Set(a, b"1"), Atomic((Get(a),)), Scan(store.namespace.space()))
        assert len(replies) == 4
        for reply in replies:
            assert_refused(reply, Code.REDIS_NOT_CONNECTED)

    async def test_a_closed_store_begins_anew(self, store: Store) -> None:
        await store.backend.aclose()
        await store.backend.start()
        await store.put("b")
        a = store.key("a")
        async with store.backend.watch([a]) as events:
            await store.put("a")
            with anyio.fail_after(PATIENCE):
                assert await anext(events) == Change(a)

    async def test_closing_ends_watches(self, store: Store) -> None:
        ended = anyio.Event()

        async def read() -> None:
            async with store.backend.watch([store.key("a")], [store.key("b")]) as events:
                entered.set()
                assert [event async for event in events] == []
            ended.set()

        entered = anyio.Event()
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await entered.wait()
                await store.backend.aclose()
                await ended.wait()

    async def test_a_watch_of_a_closed_store_ends_at_once(self, store: Store) -> None:
        await store.backend.aclose()
        with anyio.fail_after(PATIENCE):
            async with store.backend.watch([store.key("a")]) as events:
                assert [event async for event in events] == []
