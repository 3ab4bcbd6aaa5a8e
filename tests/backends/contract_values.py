"""The contract of a store, part two: values beyond reading and writing them, and conditions on them."""

import pytest

from kvmcp.backends.ops import (
    MAX_ATOMIC_OPS,
    MAX_INTEGER,
    MAX_KEY_BYTES,
    MAX_READ_BYTES,
    MAX_VALUE_BYTES,
    Append,
    Atomic,
    Code,
    Delete,
    Exists,
    Expire,
    Failure,
    Get,
    GetDelete,
    GetMany,
    HashSet,
    Increment,
    KeyExists,
    KeyHasEtag,
    KeyIs,
    Op,
    Persist,
    Push,
    Range,
    Rename,
    Set,
    SetAdd,
    SizeOf,
    SortedAdd,
    StreamAdd,
    Ttl,
    TtlReply,
    TypeOf,
    Unmet,
    etag_of,
)
from tests.backends.harness import AFTER_SOON, LATER_MS, SOON_MS, SPENT_MS, Store, assert_refused


async def assert_lives(store: Store, name: str) -> None:
    """It has the time to live that it was given."""
    ttl = await store.ask(Ttl(store.key(name)))
    assert isinstance(ttl, TtlReply) and ttl.milliseconds is not None
    assert LATER_MS - SPENT_MS <= ttl.milliseconds <= LATER_MS


class ValuesContract:
    # --- strings

    async def test_set_can_keep_the_time_to_live(self, store: Store) -> None:
        a, b = store.key("a"), store.key("b")
        await store.run(Set(a, b"1", LATER_MS), Set(a, b"2", keep_ttl=True), Set(b, b"1", keep_ttl=True))
        assert await store.run(Get(a), Ttl(b)) == [b"2", TtlReply(True)]
        await assert_lives(store, "a")
        assert_refused(await store.ask(Set(a, b"3", LATER_MS, keep_ttl=True)), Code.REDIS_ERROR)

    async def test_several_values_at_once(self, store: Store) -> None:
        a, b, other = store.key("a"), store.key("b"), store.key("list")
        await store.run(Set(a, b"1"), Set(b, b'"x"'), Push(other, (b"1",)))
        reply = await store.ask(GetMany((b, store.key("absent"), a, a, other)))
        assert isinstance(reply, tuple) and reply[:4] == (b'"x"', None, b"1", b"1")
        assert_refused(reply[4], Code.WRONG_TYPE)
        assert await store.ask(GetMany(())) == ()
        assert_refused(await store.ask(GetMany((a, store.elsewhere.key("a")))), Code.REDIS_ERROR)

    async def test_more_values_than_a_reply_may_have_are_refused(self, store: Store) -> None:
        large, a = store.key("large"), store.key("a")
        await store.run(Set(large, b"1" * MAX_VALUE_BYTES), Set(a, b"1"))
        fits = (large,) * (MAX_READ_BYTES // MAX_VALUE_BYTES)
        assert await store.ask(GetMany(fits)) == (b"1" * MAX_VALUE_BYTES,) * len(fits)
        assert_refused(await store.ask(GetMany((*fits, a))), Code.TOO_LARGE)
        reply = await store.ask(Atomic((*[Get(large) for _ in fits], Get(a), Set(a, b"2"))))
        assert isinstance(reply, tuple) and reply[0] == b"1" * MAX_VALUE_BYTES and reply[-1] is True
        assert_refused(reply[-2], Code.TOO_LARGE)

    async def test_get_and_delete(self, store: Store) -> None:
        a, other = store.key("a"), store.key("list")
        await store.run(Set(a, b"1"), Push(other, (b"1",)))
        assert await store.run(GetDelete(a), GetDelete(a)) == [b"1", None]
        assert_refused(await store.ask(GetDelete(other)), Code.WRONG_TYPE)
        assert await store.ask(Exists((other,))) == (True,)

    @pytest.mark.parametrize(
        ("old", "text", "new", "length"),
        [
            (None, b'"ab"', b'"ab"', 2),
            (b'""', b'""', b'""', 0),
            (b'"ab"', b'"c\\n"', b'"abc\\n"', 4),
            (b'"\\\\"', b'"\\"\\u00e9"', b'"\\\\\\"\\u00e9"', 3),
            (b'"\xc3\xa9"', b'"\xf0\x9f\x98\x80"', b'"\xc3\xa9\xf0\x9f\x98\x80"', 2),
            (b'"\\ud83d\\ude00"', b'"\\\\u0041"', b'"\\ud83d\\ude00\\\\u0041"', 7),
            (b'"\\\\\\u0041"', b'"x"', b'"\\\\\\u0041x"', 3),
        ],
    )
    async def test_append(
        self, store: Store, old: bytes | None, text: bytes, new: bytes, length: int
    ) -> None:
        a = store.key("a")
        if old is not None:
            await store.ask(Set(a, old, LATER_MS))
        assert await store.run(Append(a, text), Get(a)) == [length, new]
        if old is None:
            assert await store.ask(Ttl(a)) == TtlReply(True)
        else:
            await assert_lives(store, "a")

    @pytest.mark.parametrize(
        "value", [b"1", b"[]", b'"a","b"', b"null", b'"a" ', b'"', b'"\\"', b'"a\\\\"b"']
    )
    async def test_append_to_anything_but_a_string_is_refused(self, store: Store, value: bytes) -> None:
        a, b = store.key("a"), store.key("b")
        await store.ask(Set(a, value))
        assert_refused(await store.ask(Append(a, b'"x"')), Code.WRONG_TYPE)
        assert_refused(await store.ask(Append(b, value)), Code.REDIS_ERROR)
        assert await store.ask(Exists((a, b))) == (True, False)

    async def test_append_beyond_the_largest_value_is_refused(self, store: Store) -> None:
        a = store.key("a")
        await store.ask(Set(a, b'"' + b"x" * (MAX_VALUE_BYTES - 2) + b'"'))
        assert await store.ask(Append(a, b'""')) == MAX_VALUE_BYTES - 2
        assert_refused(await store.ask(Append(a, b'"x"')), Code.TOO_LARGE)
        assert_refused(await store.ask(Append(store.key("b" * 513), b'"x"')), Code.TOO_LARGE)

    async def test_increment(self, store: Store) -> None:
        a = store.key("a")
        assert await store.run(Increment(a), Increment(a, -5), Increment(a, 0), Get(a)) == [1, -4, -4, b"-4"]
        await store.run(Set(a, b"7", LATER_MS), Increment(a, 3))
        assert await store.get("a") == b"10"
        await assert_lives(store, "a")

    async def test_increment_stays_within_64_bits(self, store: Store) -> None:
        a = store.key("a")
        await store.ask(Set(a, b"%d" % (MAX_INTEGER - 1)))
        assert await store.ask(Increment(a)) == MAX_INTEGER
        assert_refused(await store.ask(Increment(a)), Code.OUT_OF_RANGE)
        await store.ask(Set(a, b"%d" % (-MAX_INTEGER - 1)))
        assert_refused(await store.ask(Increment(a, -1)), Code.OUT_OF_RANGE)
        assert await store.ask(Increment(a, MAX_INTEGER)) == -1
        assert_refused(await store.ask(Increment(a, MAX_INTEGER + 1)), Code.REDIS_ERROR)
        assert await store.get("a") == b"-1"

    @pytest.mark.parametrize("value", [b'"1"', b"1.0", b"1e3", b" 1", b"-0", b"9223372036854775808", b"{}"])
    async def test_only_integers_are_incremented(self, store: Store, value: bytes) -> None:
        a = store.key("a")
        await store.ask(Set(a, value))
        assert_refused(await store.ask(Increment(a)), Code.WRONG_TYPE)
        assert_refused(await store.ask(Atomic((Set(store.key("b"), b"1"), Increment(a)))), Code.WRONG_TYPE)
        assert await store.run(Get(a), Exists((store.key("b"),))) == [value, (False,)]

    # --- keys of any type

    async def test_persist(self, store: Store) -> None:
        a = store.key("a")
        await store.ask(Set(a, b"1", SOON_MS))
        assert await store.run(Persist(a), Persist(a), Persist(store.key("absent"))) == [True, False, False]
        await store.advance(AFTER_SOON)
        assert await store.run(Get(a), Ttl(a)) == [b"1", TtlReply(True)]

    async def test_rename(self, store: Store) -> None:
        a, b, c = store.key("a"), store.key("b"), store.key("c")
        await store.run(Push(a, (b"1", b"2")), Set(b, b"1"), Expire(a, LATER_MS))
        assert await store.run(Rename(a, b, if_absent=True), Rename(c, a), Rename(a, b)) == [
            False,
            None,
            True,
        ]
        assert await store.run(Exists((a, b)), TypeOf(b)) == [(False, True), "list"]
        await assert_lives(store, "b")
        assert await store.run(Rename(b, c, if_absent=True), Rename(c, c), Rename(c, c, if_absent=True)) == [
            True,
            True,
            False,
        ]
        assert await store.scan() == ["c"]

    async def test_a_name_stays_in_its_namespace(self, store: Store) -> None:
        a = store.key("a")
        await store.put("a")
        assert_refused(await store.ask(Rename(a, store.elsewhere.key("a"))), Code.REDIS_ERROR)
        assert_refused(await store.ask(Rename(a, store.key("x" * (MAX_KEY_BYTES + 1)))), Code.TOO_LARGE)
        assert await store.ask(Rename(a, store.namespace.key("a", "s"))) is True
        assert await store.scan() == []

    async def test_types_and_sizes(self, store: Store) -> None:
        key = store.key
        await store.run(
            Set(key("value"), b'"abc"'),
            Push(key("list"), (b"1", b"2")),
            HashSet(key("hash"), (("f", b"1"),)),
            SetAdd(key("set"), (b"1", b"2", b"3")),
            SortedAdd(key("sorted_set"), ((b"1", 1.0),)),
            StreamAdd(key("stream"), (("f", b"1"),)),
        )
        sizes = {"value": 5, "list": 2, "hash": 1, "set": 3, "sorted_set": 1, "stream": 1}
        for name, size in sizes.items():
            assert await store.run(TypeOf(key(name)), SizeOf(key(name))) == [name, size]
        assert await store.run(TypeOf(key("absent")), SizeOf(key("absent"))) == [None, None]

    async def test_a_value_replaces_whatever_is_there(self, store: Store) -> None:
        a = store.key("a")
        await store.run(Push(a, (b"1",)), Expire(a, LATER_MS), Set(a, b"1"))
        assert await store.run(Get(a), TypeOf(a), Ttl(a)) == [b"1", "value", TtlReply(True)]

    async def test_get_of_another_type(self, store: Store) -> None:
        await store.ask(Push(store.key("a"), (b"1",)))
        assert_refused(await store.get("a"), Code.WRONG_TYPE)
        assert_refused(await store.ask(Append(store.key("a"), b'"x"')), Code.WRONG_TYPE)
        assert_refused(await store.ask(Increment(store.key("a"))), Code.WRONG_TYPE)

    # --- conditions

    async def test_conditions_on_the_etag(self, store: Store) -> None:
        a = store.key("a")
        swap = Atomic((Set(a, b"2"),), (KeyHasEtag(a, etag_of(b'"1"')),))
        assert await store.ask(swap) == Unmet(0, False)
        await store.ask(Set(a, b'"1"'))
        assert await store.run(swap, swap) == [(True,), Unmet(0, True, etag_of(b"2"))]
        assert await store.ask(Atomic((), (KeyHasEtag(a, ""),))) == Unmet(0, True, etag_of(b"2"))
        assert len(etag_of(b"2")) >= 16

    async def test_conditions_on_a_key_of_another_type(self, store: Store) -> None:
        a = store.key("a")
        await store.ask(Push(a, (b"1",)))
        for condition in (KeyIs(a, b"1"), KeyIs(a, None), KeyHasEtag(a, etag_of(b"1"))):
            assert await store.ask(Atomic((), (KeyExists(a), condition))) == Unmet(1, True)

    async def test_a_lease_in_one_operation(self, store: Store) -> None:
        lease, fence = store.namespace.key("x", "l"), store.namespace.key("x", "f")
        acquire = Atomic((Set(lease, b'"me"', LATER_MS), Increment(fence)), (KeyIs(lease, None),))
        renew = Atomic((Expire(lease, LATER_MS),), (KeyIs(lease, b'"me"'),))
        release = Atomic((Delete((lease,)),), (KeyIs(lease, b'"me"'),))
        taken = Unmet(0, True, etag_of(b'"me"'))
        assert await store.run(acquire, acquire, renew, release, release, acquire) == [
            (True, 1),
            taken,
            (True,),
            (1,),
            Unmet(0, False),
            (True, 2),
        ]

    # --- all or nothing, over all types

    async def test_a_write_that_cannot_be_done_takes_the_whole_back(self, store: Store) -> None:
        """Whatever was done to whatever type before."""
        key = store.key
        everything = tuple(
            key(name) for name in ("value", "list", "hash", "set", "sorted_set", "stream", "new")
        )
        await store.run(
            Set(key("value"), b'"abc"', LATER_MS),
            Push(key("list"), (b"1", b"2")),
            HashSet(key("hash"), (("f", b"1"),)),
            SetAdd(key("set"), (b"1", b"2", b"3")),
            SortedAdd(key("sorted_set"), ((b"1", 1.0),)),
            StreamAdd(key("stream"), (("f", b"1"),)),
            Push(key("wrong"), (b"1",)),
            Expire(key("list"), LATER_MS),
        )
        questions: list[Op] = [
            *[TypeOf(k) for k in everything],
            *[SizeOf(k) for k in everything],
            Get(key("value")),
        ]
        before = await store.run(*questions)
        reply = await store.ask(
            Atomic(
                (
                    Append(key("value"), b'"d"'),
                    Expire(key("value"), SOON_MS),
                    Push(key("list"), (b"3",)),
                    Persist(key("list")),
                    HashSet(key("hash"), (("g", b"1"),)),
                    SetAdd(key("set"), (b"4",)),
                    SortedAdd(key("sorted_set"), ((b"2", 1.0),)),
                    StreamAdd(key("stream"), (("f", b"1"),)),
                    Set(key("new"), b"1"),
                    Rename(key("hash"), key("set")),
                    Delete((key("stream"),)),
                    Set(key("wrong"), b"1"),
                    HashSet(key("wrong"), (("f", b"1"),)),
                )
            )
        )
        assert_refused(reply, Code.WRONG_TYPE)
        assert await store.run(*questions) == before
        await assert_lives(store, "value")
        await assert_lives(store, "list")
        assert await store.ask(TypeOf(key("wrong"))) == "list"

    async def test_a_read_that_cannot_be_done_fails_alone(self, store: Store) -> None:
        a, b = store.key("a"), store.key("b")
        await store.put("a")
        reply = await store.ask(Atomic((Set(b, b"1"), Range(a), Get(a), Set(b, b"2"))))
        assert isinstance(reply, tuple) and (reply[0], reply[2], reply[3]) == (True, b"1", True)
        assert_refused(reply[1], Code.WRONG_TYPE)
        (alone,) = await store.run(Atomic((Range(a),)))
        assert isinstance(alone, tuple) and isinstance(alone[0], Failure)
        assert await store.get("b") == b"2"

    async def test_types_change_inside(self, store: Store) -> None:
        a, b = store.key("a"), store.key("b")
        await store.run(Set(a, b"1"), Push(b, (b"1",)))
        ops = (Delete((a,)), Push(a, (b"2",)), Rename(a, b), HashSet(a, (("f", b"1"),)), TypeOf(a), TypeOf(b))
        assert await store.ask(Atomic(ops)) == (1, 1, True, 1, "hash", "list")
        reply = await store.ask(Atomic((Set(b, b"5"), Increment(b), Increment(b, MAX_INTEGER), Get(b))))
        assert_refused(reply, Code.OUT_OF_RANGE)
        assert await store.ask(TypeOf(b)) == "list"

    async def test_too_many_operations_at_once_are_refused(self, store: Store) -> None:
        a = store.key("a")
        most = Atomic((Increment(a),) * MAX_ATOMIC_OPS)
        assert await store.ask(most) == tuple(range(1, MAX_ATOMIC_OPS + 1))
        assert_refused(await store.ask(Atomic((*most.ops, Increment(a)))), Code.TOO_LARGE)
        assert_refused(await store.ask(Atomic((), (KeyExists(a),) * (MAX_ATOMIC_OPS + 1))), Code.TOO_LARGE)
        assert await store.get("a") == b"%d" % MAX_ATOMIC_OPS
