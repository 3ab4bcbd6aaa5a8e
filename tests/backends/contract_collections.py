"""The contract of a store, part three: lists, hashes, sets, sorted sets and streams."""

import math

import pytest

from kvmcp.backends.ops import (
    MAX_COLLECTION,
    MAX_FIELD_BYTES,
    MAX_ITEMS,
    MAX_MEMBER_BYTES,
    MAX_READ_BYTES,
    MAX_TTL_SECONDS,
    MAX_VALUE_BYTES,
    Atomic,
    Change,
    Code,
    Elements,
    Entries,
    Exists,
    Expire,
    HashDelete,
    HashExpire,
    HashGet,
    HashGetAll,
    HashSet,
    HashSize,
    Length,
    ListRemove,
    ListTrim,
    Namespace,
    NsKey,
    Op,
    Pop,
    Push,
    Range,
    Ranked,
    Set,
    SetAdd,
    SetContains,
    SetMembers,
    SetRemove,
    SetSize,
    SortedAdd,
    SortedByScore,
    SortedIncrement,
    SortedRange,
    SortedRank,
    SortedRemove,
    SortedScore,
    SortedSize,
    StreamAdd,
    StreamDelete,
    StreamEntry,
    StreamLength,
    StreamRange,
    StreamTrim,
    Ttl,
    TtlReply,
)
from tests.backends.contract_values import assert_lives
from tests.backends.harness import AFTER_SOON, LATER_MS, SOON_MS, Store, assert_refused, next_event

_A = Namespace("n").key("a")
OF_TYPES: list[Op] = [
    *(Push(_A, (b"1",)), Pop(_A), Range(_A), Length(_A), ListRemove(_A, b"1"), ListTrim(_A, 0, 1)),
    *(HashSet(_A, (("f", b"1"),)), HashGet(_A, ("f",)), HashGetAll(_A), HashDelete(_A, ("f",)), HashSize(_A)),
    *(SetAdd(_A, (b"1",)), SetRemove(_A, (b"1",)), SetMembers(_A), SetContains(_A, (b"1",)), SetSize(_A)),
    *(SortedAdd(_A, ((b"1", 1.0),)), SortedRange(_A), SortedByScore(_A), SortedRemove(_A, (b"1",))),
    *(SortedScore(_A, (b"1",)), SortedIncrement(_A, b"1", 1.0), SortedRank(_A, b"1"), SortedSize(_A)),
    *(StreamAdd(_A, (("f", b"1"),)), StreamRange(_A), StreamLength(_A), StreamTrim(_A, 0)),
    StreamDelete(_A, ("1-1",)),
]


def at(op: Op, key: NsKey) -> Op:
    """The same on another key."""
    values = {field: getattr(op, field) for field in op.__struct_fields__}
    return type(op)(**values | {"key": key})


class CollectionsContract:
    # --- what is the same for all

    @pytest.mark.parametrize("op", OF_TYPES, ids=lambda op: type(op).__name__)
    async def test_another_type_is_refused(self, store: Store, op: Op) -> None:
        await store.put("a")
        assert_refused(await store.ask(at(op, store.key("a"))), Code.WRONG_TYPE)
        assert await store.get("a") == b"1"

    @pytest.mark.parametrize("op", OF_TYPES, ids=lambda op: type(op).__name__)
    async def test_reads_and_removals_make_no_key(self, store: Store, op: Op) -> None:
        a = store.key("a")
        if not isinstance(op, Push | HashSet | SetAdd | SortedAdd | SortedIncrement | StreamAdd):
            reply = await store.ask(at(op, a))
            assert reply in [
                0,
                (),
                (None,),
                (False,),
                None,
                Elements((), 0, 0),
                Ranked((), 0),
                Entries((), False),
            ]
            assert await store.ask(Exists((a,))) == (False,)

    async def test_changing_keeps_the_time_to_live(self, store: Store) -> None:
        steps: list[tuple[str, Op, Op]] = [
            ("list", Push(_A, (b"1", b"2")), Pop(_A)),
            ("hash", HashSet(_A, (("f", b"1"), ("g", b"1"))), HashDelete(_A, ("f",))),
            ("set", SetAdd(_A, (b"1", b"2")), SetRemove(_A, (b"1",))),
            ("sorted", SortedAdd(_A, ((b"1", 1.0),)), SortedIncrement(_A, b"1", 1.0)),
            ("stream", StreamAdd(_A, (("f", b"1"),)), StreamTrim(_A, 0)),
        ]
        for name, first, second in steps:
            key = store.key(name)
            await store.run(at(first, key), Expire(key, LATER_MS), at(second, key), at(first, key))
            await assert_lives(store, name)

    async def test_what_lost_everything_is_gone_and_comes_back_without_a_time_to_live(
        self, store: Store
    ) -> None:
        pairs: list[tuple[Op, Op]] = [
            (Push(_A, (b"1",)), Pop(_A, "right", 5)),
            (Push(_A, (b"1",)), ListRemove(_A, b"1")),
            (Push(_A, (b"1",)), ListTrim(_A, 5, 7)),
            (HashSet(_A, (("f", b"1"),)), HashDelete(_A, ("f", "f", "x"))),
            (SetAdd(_A, (b"1", b"1")), SetRemove(_A, (b"1", b"1", b"2"))),
            (SortedAdd(_A, ((b"1", 1.0),)), SortedRemove(_A, (b"1", b"1", b"2"))),
        ]
        a = store.key("a")
        for add, take in pairs:
            replies = await store.run(
                at(add, a), Expire(a, LATER_MS), at(take, a), Exists((a,)), at(add, a), Ttl(a), at(take, a)
            )
            assert replies[3] == (False,)
            assert replies[5] == TtlReply(True)

    async def test_a_hash_lives_as_long_as_one_of_its_fields_says(self, store: Store) -> None:
        a, b, c = store.key("a"), store.key("b"), store.key("c")
        refused = (b"0", b"-5", b"1.5", b"01", b'"7"', b"null", b"%d" % (MAX_TTL_SECONDS + 1), b"9" * 30)
        fields = tuple((f"f{number}", value) for number, value in enumerate(refused))
        await store.run(HashSet(a, (("life", b"60"), *fields)), Expire(a, LATER_MS), Push(b, (b"1",)))
        refusals = [HashExpire(a, name) for name in ("none", *dict(fields))]
        for reply in await store.run(HashExpire(b, "life"), HashExpire(c, "life"), *refusals):
            assert reply is False
        lives = await store.run(Ttl(b), Ttl(a), HashExpire(a, "life"), Ttl(a))
        assert (lives[0], lives[2]) == (TtlReply(True), True)
        assert isinstance(lives[1], TtlReply) and (lives[1].milliseconds or 0) > 60_000
        assert isinstance(lives[3], TtlReply) and 0 < (lives[3].milliseconds or 0) <= 60_000
        done = await store.ask(Atomic((HashSet(a, (("life", b"7200"),)), HashExpire(a, "life"), Ttl(a))))
        assert isinstance(done, tuple) and done[:2] == (0, True)
        assert isinstance(done[2], TtlReply) and (done[2].milliseconds or 0) > LATER_MS

    async def test_an_expired_collection_is_empty(self, store: Store) -> None:
        a = store.key("a")
        await store.run(Push(a, (b"1",)), Expire(a, SOON_MS))
        await store.advance(AFTER_SOON)
        assert await store.run(Length(a), Push(a, (b"2",)), Range(a)) == [0, 1, Elements((b"2",), 1, 1)]

    async def test_changing_a_collection_is_a_change(self, store: Store) -> None:
        a = store.key("a")
        async with store.backend.watch([a]) as events:
            for op in (Push(a, (b"1", b"2")), Pop(a), ListTrim(a, 1, 0), SetAdd(a, (b"1",))):
                await store.ask(op)
                assert await next_event(events) == Change(a)

    @pytest.mark.parametrize("count", [0, MAX_ITEMS + 1])
    async def test_too_few_and_too_many_items_are_refused(self, store: Store, count: int) -> None:
        a = store.key("a")
        code = Code.TOO_LARGE if count else Code.REDIS_ERROR
        items: list[Op] = [
            Push(a, (b"1",) * count),
            HashSet(a, (("f", b"1"),) * count),
            HashGet(a, ("f",) * count),
            HashDelete(a, ("f",) * count),
            SetAdd(a, (b"1",) * count),
            SetRemove(a, (b"1",) * count),
            SetContains(a, (b"1",) * count),
            SortedAdd(a, ((b"1", 1.0),) * count),
            SortedRemove(a, (b"1",) * count),
            SortedScore(a, (b"1",) * count),
            StreamAdd(a, (("f", b"1"),) * count),
            StreamDelete(a, ("1-1",) * count),
        ]
        for op in items:
            assert_refused(await store.ask(op), code)
        limits: list[Op] = [Pop(a, count=count), Range(a, limit=count), SortedRange(a, limit=count)]
        limits += [SortedByScore(a, limit=count), StreamRange(a, count=count)]
        for op in limits:
            assert_refused(await store.ask(op), Code.REDIS_ERROR)

    async def test_sizes_are_refused(self, store: Store) -> None:
        a, large = store.key("a"), b"1" * (MAX_VALUE_BYTES + 1)
        for op in (
            Push(a, (b"1", large)),
            HashSet(a, (("f", large),)),
            HashSet(a, (("f" * (MAX_FIELD_BYTES + 1), b"1"),)),
            SetAdd(a, (b"1" * (MAX_MEMBER_BYTES + 1),)),
            SortedAdd(a, ((b"1" * (MAX_MEMBER_BYTES + 1), 1.0),)),
            SortedIncrement(a, b"1" * (MAX_MEMBER_BYTES + 1), 1.0),
            StreamAdd(a, (("f", b"1" * (MAX_VALUE_BYTES // 2)), ("g", b"1" * (MAX_VALUE_BYTES // 2)))),
            *[at(op, store.key("k" * 513)) for op in OF_TYPES if isinstance(op, Push | HashSet | SetAdd)],
            *[at(op, store.key("k" * 513)) for op in OF_TYPES if isinstance(op, SortedAdd | StreamAdd)],
        ):
            assert_refused(await store.ask(op), Code.TOO_LARGE)
        assert await store.scan() == []

    async def test_numbers_beyond_64_bits_are_refused(self, store: Store) -> None:
        a = store.key("a")
        for op in (
            Range(a, 2**63),
            ListTrim(a, 0, -(2**63) - 1),
            ListRemove(a, b"1", 2**63),
            SortedRange(a, 0, 2**64),
        ):
            assert_refused(await store.ask(op), Code.REDIS_ERROR)

    # --- lists

    async def test_both_ends_of_a_list(self, store: Store) -> None:
        a = store.key("a")
        replies = await store.run(
            Push(a, (b"1", b"2")), Push(a, (b"0", b"-1"), "left"), Push(a, (b"3",)), Range(a)
        )
        assert replies == [2, 4, 5, Elements((b"-1", b"0", b"1", b"2", b"3"), 5, 5)]
        assert await store.run(Pop(a), Pop(a, "right", 2), Length(a), Pop(a, "left", 9), Pop(a)) == [
            (b"-1",),
            (b"3", b"2"),
            2,
            (b"0", b"1"),
            (),
        ]

    @pytest.mark.parametrize(
        ("start", "stop", "expected"),
        [
            (0, -1, "01234"),
            (1, 2, "12"),
            (-2, -1, "34"),
            (-9, 1, "01"),
            (3, 99, "34"),
            (2, 1, ""),
            (5, 9, ""),
            (0, -6, ""),
            (-(2**63), 2**63 - 1, "01234"),
        ],
    )
    async def test_ranges_of_a_list(self, store: Store, start: int, stop: int, expected: str) -> None:
        a, wanted = store.key("a"), tuple(digit.encode() for digit in expected)
        await store.ask(Push(a, tuple(b"%d" % i for i in range(5))))
        assert await store.ask(Range(a, start, stop)) == Elements(wanted, len(wanted), 5)
        assert await store.ask(Range(a, start, stop, 2)) == Elements(wanted[:2], len(wanted), 5)
        assert await store.ask(ListTrim(a, start, stop)) == len(wanted)
        assert await store.ask(Range(a)) == Elements(wanted, len(wanted), len(wanted))

    async def test_a_range_is_cut_and_a_pop_refused_beyond_what_a_reply_may_have(self, store: Store) -> None:
        a, large = store.key("a"), b"1" * MAX_VALUE_BYTES
        fits = MAX_READ_BYTES // MAX_VALUE_BYTES
        for _ in range(fits + 1):
            await store.ask(Push(a, (large,)))
        assert await store.ask(Range(a)) == Elements((large,) * fits, fits + 1, fits + 1)
        assert_refused(await store.ask(Pop(a, "left", fits + 1)), Code.TOO_LARGE)
        assert await store.run(Pop(a, "right", fits), Length(a)) == [(large,) * fits, 1]

    @pytest.mark.parametrize(
        ("count", "removed", "left"),
        [(0, 3, "bcb"), (2, 2, "bcba"), (-1, 1, "abacb"), (9, 3, "bcb"), (-2, 2, "abcb")],
    )
    async def test_removing_from_a_list(self, store: Store, count: int, removed: int, left: str) -> None:
        a = store.key("a")
        await store.ask(Push(a, tuple(b'"%c"' % c for c in b"abacba")))
        assert await store.run(ListRemove(a, b'"x"'), ListRemove(a, b'"a"', count)) == [0, removed]
        values = tuple(f'"{c}"'.encode() for c in left)
        assert await store.ask(Range(a)) == Elements(values, len(values), len(values))

    # --- hashes

    async def test_a_hash(self, store: Store) -> None:
        a = store.key("a")
        fields = (("b", b"1"), ("", b"null"), ("\u00e9\0 x", b'"2"'))
        assert await store.run(HashSet(a, fields), HashSet(a, (("b", b"3"), ("c", b"4"))), HashSize(a)) == [
            3,
            1,
            4,
        ]
        assert await store.ask(HashGet(a, ("c", "x", "", "c"))) == (b"4", None, b"null", b"4")
        whole = (("", b"null"), ("b", b"3"), ("c", b"4"), ("\u00e9\0 x", b'"2"'))
        assert await store.ask(HashGetAll(a)) == whole
        assert await store.run(HashDelete(a, ("b", "b", "x", "")), HashGetAll(a)) == [2, whole[2:]]
        assert await store.run(HashSet(a, (("c", b"5"), ("c", b"6"))), HashGet(a, ("c",))) == [0, (b"6",)]

    async def test_a_hash_has_a_largest_size(self, store: Store) -> None:
        a = store.key("a")
        names = [f"f{i:05}" for i in range(MAX_COLLECTION)]
        for start in range(0, MAX_COLLECTION, MAX_ITEMS):
            fields = tuple((name, b"1") for name in names[start : start + MAX_ITEMS])
            assert await store.ask(HashSet(a, fields)) == MAX_ITEMS
        assert_refused(await store.ask(HashSet(a, (("f00000", b"2"), ("x", b"1")))), Code.TOO_LARGE)
        assert await store.ask(HashSet(a, (("f00000", b"2"),))) == 0
        whole = await store.ask(HashGetAll(a))
        assert isinstance(whole, tuple) and len(whole) == MAX_COLLECTION and whole[0] == ("f00000", b"2")

    async def test_more_of_a_hash_than_a_reply_may_have_is_refused(self, store: Store) -> None:
        a, large = store.key("a"), b"1" * MAX_VALUE_BYTES
        names = [f"f{i}" for i in range(MAX_READ_BYTES // MAX_VALUE_BYTES + 1)]
        for name in names:
            await store.ask(HashSet(a, ((name, large),)))
        assert_refused(await store.ask(HashGetAll(a)), Code.TOO_LARGE)
        assert_refused(await store.ask(HashGet(a, tuple(names))), Code.TOO_LARGE)
        assert await store.ask(HashGet(a, tuple(names[1:]))) == (large,) * (len(names) - 1)

    # --- sets

    async def test_a_set(self, store: Store) -> None:
        a = store.key("a")
        assert await store.run(SetAdd(a, (b"2", b"1", b"2")), SetAdd(a, (b'"x"', b"1"))) == [2, 1]
        assert await store.run(SetMembers(a), SetSize(a)) == [(b'"x"', b"1", b"2"), 3]
        assert await store.ask(SetContains(a, (b"1", b"1.0", b'"x"'))) == (True, False, True)
        assert await store.run(SetRemove(a, (b"1", b"3", b"1")), SetMembers(a)) == [1, (b'"x"', b"2")]

    async def test_a_set_has_a_largest_size(self, store: Store) -> None:
        a = store.key("a")
        for start in range(0, MAX_COLLECTION, MAX_ITEMS):
            await store.ask(SetAdd(a, tuple(b"%d" % i for i in range(start, start + MAX_ITEMS))))
        assert_refused(await store.ask(SetAdd(a, (b"0", b'"x"'))), Code.TOO_LARGE)
        assert await store.run(SetAdd(a, (b"0", b"1")), SetSize(a)) == [0, MAX_COLLECTION]

    # --- sorted sets

    async def test_a_sorted_set(self, store: Store) -> None:
        a = store.key("a")
        scored = ((b'"b"', 2.5), (b'"a"', 2.5), (b'"c"', -1e300), (b'"d"', 0.1))
        assert await store.run(SortedAdd(a, scored), SortedAdd(a, scored), SortedSize(a)) == [4, 0, 4]
        order = ((b'"c"', -1e300), (b'"d"', 0.1), (b'"a"', 2.5), (b'"b"', 2.5))
        assert await store.ask(SortedRange(a)) == Ranked(order, 4)
        assert await store.ask(SortedRange(a, 1, -2)) == Ranked(order[1:3], 2)
        assert await store.ask(SortedRange(a, 0, 1, reverse=True)) == Ranked(order[:1:-1], 2)
        assert await store.ask(SortedRange(a, -3, -1, limit=1)) == Ranked(order[1:2], 3)
        assert await store.ask(SortedRange(a, 3, 2)) == Ranked((), 0)
        assert await store.ask(SortedScore(a, (b'"d"', b"1"))) == (0.1, None)
        assert await store.run(SortedRank(a, b'"a"'), SortedRank(a, b'"a"', True), SortedRank(a, b"1")) == [
            2,
            1,
            None,
        ]
        assert await store.run(SortedRemove(a, (b'"a"', b"1")), SortedSize(a)) == [1, 3]

    async def test_members_by_score(self, store: Store) -> None:
        a = store.key("a")
        order = tuple((b"%d" % i, i / 2) for i in range(10))
        await store.ask(SortedAdd(a, order))
        assert await store.ask(SortedByScore(a)) == Ranked(order, 10)
        assert await store.ask(SortedByScore(a, 1.0, 2.0)) == Ranked(order[2:5], 3)
        assert await store.ask(SortedByScore(a, 1.0, None, True, 1, 2)) == Ranked((order[8], order[7]), 8)
        assert await store.ask(SortedByScore(a, None, 1.0, offset=2)) == Ranked(order[2:3], 3)
        assert await store.ask(SortedByScore(a, 2.0, 1.0)) == Ranked((), 0)
        assert await store.ask(SortedByScore(a, -math.inf, math.inf, offset=99)) == Ranked((), 10)

    async def test_only_new_and_only_existing_members(self, store: Store) -> None:
        a = store.key("a")
        await store.ask(SortedAdd(a, ((b"1", 1.0), (b"2", 2.0))))
        both = ((b"1", 5.0), (b"2", 2.0), (b"3", 3.0))
        assert await store.ask(SortedAdd(a, both, only_existing=True)) == 1
        assert await store.ask(SortedScore(a, (b"1", b"3"))) == (5.0, None)
        assert await store.ask(SortedAdd(a, ((b"1", 9.0), (b"3", 3.0), (b"3", 4.0)), only_new=True)) == 1
        assert await store.ask(SortedScore(a, (b"1", b"3"))) == (5.0, 3.0)
        assert_refused(await store.ask(SortedAdd(a, both, True, True)), Code.REDIS_ERROR)
        b = store.key("b")
        assert await store.run(SortedAdd(b, both, only_existing=True), Exists((b,))) == [0, (False,)]

    async def test_adding_to_a_score(self, store: Store) -> None:
        a = store.key("a")
        assert await store.run(SortedIncrement(a, b"1", 1.5), SortedIncrement(a, b"1", -0.25)) == [1.5, 1.25]
        await store.ask(SortedAdd(a, ((b"2", 1e308),)))
        assert_refused(await store.ask(SortedIncrement(a, b"2", 1e308)), Code.OUT_OF_RANGE)
        assert await store.ask(SortedScore(a, (b"2",))) == (1e308,)

    @pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
    async def test_scores_are_finite(self, store: Store, score: float) -> None:
        a = store.key("a")
        for op in (
            SortedAdd(a, ((b"1", score),)),
            SortedIncrement(a, b"1", score),
            SortedByScore(a, math.nan),
        ):
            assert_refused(await store.ask(op), Code.REDIS_ERROR)

    async def test_many_members_at_once(self, store: Store) -> None:
        a = store.key("a")
        order = tuple((b'"%03d"' % i, float(i)) for i in range(100))
        await store.ask(SortedAdd(a, order[::-1]))
        await store.ask(SortedAdd(a, tuple((member, -score) for member, score in order[50:])))
        assert await store.ask(SortedRemove(a, tuple(member for member, _ in order[10:90]))) == 80
        wanted = (*[(member, -score) for member, score in order[:89:-1]], *order[:10])
        assert await store.ask(SortedRange(a)) == Ranked(wanted, 20)

    # --- streams

    async def test_a_stream(self, store: Store) -> None:
        a = store.key("a")
        fields = [(("f", b"%d" % i), ("g", b'"x"'), ("f", b"null")) for i in range(5)]
        ids = [str(await store.ask(StreamAdd(a, some))) for some in fields]
        entries = tuple(StreamEntry(i, some) for i, some in zip(ids, fields, strict=True))
        assert await store.ask(StreamRange(a)) == Entries(entries, False)
        assert await store.ask(StreamRange(a, reverse=True)) == Entries(entries[::-1], False)
        assert await store.ask(StreamRange(a, count=2)) == Entries(entries[:2], True)
        assert await store.ask(StreamRange(a, reverse=True, count=2)) == Entries(entries[:2:-1], True)
        assert await store.ask(StreamRange(a, f"({ids[1]}", ids[3])) == Entries(entries[2:4], False)
        assert await store.ask(StreamRange(a, ids[1], f"({ids[3]}", True)) == Entries(entries[2:0:-1], False)
        assert await store.ask(StreamRange(a, "+", "-")) == Entries((), False)
        assert await store.ask(StreamRange(a, "+")) == Entries((), False)
        assert await store.run(StreamDelete(a, (ids[1], "1-1", ids[1])), StreamLength(a)) == [1, 4]
        assert await store.run(StreamTrim(a, 1), StreamTrim(a, 1), StreamRange(a)) == [
            3,
            0,
            Entries(entries[4:], False),
        ]

    async def test_an_empty_stream_stays_and_its_ids_go_on(self, store: Store) -> None:
        a = store.key("a")
        first = await store.ask(StreamAdd(a, (("f", b"1"),)))
        assert await store.run(StreamTrim(a, 0), Exists((a,)), StreamLength(a)) == [1, (True,), 0]
        second = await store.ask(StreamAdd(a, (("f", b"1"),)))
        assert [int(part) for part in str(first).split("-")] < [int(part) for part in str(second).split("-")]

    async def test_a_stream_with_a_largest_length(self, store: Store) -> None:
        a = store.key("a")
        ids = [await store.ask(StreamAdd(a, (("f", b"%d" % i),), 3)) for i in range(5)]
        page = await store.ask(StreamRange(a))
        assert isinstance(page, Entries) and [entry.id for entry in page.entries] == ids[2:]

    async def test_a_page_of_a_stream_is_cut_where_a_reply_ends(self, store: Store) -> None:
        a = store.key("a")
        fits = MAX_READ_BYTES // MAX_VALUE_BYTES
        for _ in range(fits + 1):
            await store.ask(StreamAdd(a, (("", b"1" * MAX_VALUE_BYTES),)))
        page = await store.ask(StreamRange(a))
        assert isinstance(page, Entries) and len(page.entries) == fits and page.more
        rest = await store.ask(StreamRange(a, f"({page.entries[-1].id}"))
        assert isinstance(rest, Entries) and len(rest.entries) == 1 and not rest.more

    @pytest.mark.parametrize(
        "text", ["", "x", "1", "1-", "-1-1", "1-1-1", "*", "1-*", f"{2**64}-0", "((1-1", "1-\u0661"]
    )
    async def test_an_id_that_is_none_is_refused(self, store: Store, text: str) -> None:
        a = store.key("a")
        for op in (StreamRange(a, text), StreamRange(a, "-", text), StreamDelete(a, (text,))):
            assert_refused(await store.ask(op), Code.REDIS_ERROR)

    async def test_ids_at_the_ends(self, store: Store) -> None:
        a, largest = store.key("a"), f"{2**64 - 1}-{2**64 - 1}"
        await store.ask(StreamAdd(a, (("f", b"1"),)))
        assert await store.ask(StreamRange(a, largest, "0-0")) == Entries((), False)
        for op in (StreamRange(a, f"({largest}"), StreamRange(a, "-", "(0-0")):
            assert_refused(await store.ask(op), Code.REDIS_ERROR)

    async def test_a_length_out_of_range_is_refused(self, store: Store) -> None:
        a = store.key("a")
        for op in (StreamAdd(a, (("f", b"1"),), 0), StreamTrim(a, -1), StreamTrim(a, 2**63)):
            assert_refused(await store.ask(op), Code.REDIS_ERROR)
        await store.ask(Set(a, b"1"))
