"""Random operations on few keys, so that they meet; and what two stores call the same thing by different names.

A stream's ids, a message's number and a receipt are the store's own. An operation names them by `LAST`, or by their
place; `Names` puts in what one store called them, and takes it out of that store's replies again.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from kvmcp.backends.ops import (
    MAX_KEY_BYTES,
    Append,
    Atomic,
    Claimed,
    Condition,
    Delete,
    Entries,
    Exists,
    Expire,
    Get,
    GetDelete,
    GetMany,
    HashDelete,
    HashExpire,
    HashGet,
    HashGetAll,
    HashSet,
    HashSize,
    Increment,
    KeyExists,
    KeyHasEtag,
    KeyIs,
    Length,
    ListRemove,
    ListTrim,
    LogPage,
    Namespace,
    NsKey,
    Op,
    Persist,
    Pop,
    Publish,
    Published,
    Push,
    QueueAck,
    QueueClaim,
    QueueExtend,
    QueueHolds,
    Range,
    ReadLog,
    Rename,
    Reply,
    Scan,
    Set,
    SetAdd,
    SetContains,
    SetMembers,
    SetRemove,
    SetSize,
    Single,
    SizeOf,
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
    StreamLength,
    StreamRange,
    StreamTrim,
    Ttl,
    TypeOf,
    etag_of,
)

LATER_MS = 3_600_000
LAST = "last"
"""In the place of a stream's id: the last one that the key's stream gave."""

NAMES = ["a", "b", "c", "ab", "a*b", "[x]", "é", "日本", "a:b", "\\", "", "?", "l" * MAX_KEY_BYTES, "l" * 513]
BUSY = ["a", "b", "c"]
"""Where collections are, and meet each other's types."""
VALUES = [
    b"1",
    b'""',
    b"null",
    b'{ "a" : 1.10, "a":2 }',
    b'"\\u00e9\xc3\xa9"',
    b"1e400",
    b"[]",
    b"true",
    b"-7",
]
TEXTS = [b'""', b'"x"', b'"\\"\\\\"', b'"\xc3\xa9\\n"', b'"\\\\\\u0041"', b"1", b'"']
PATTERNS = [
    *("*", "a*", "?", "??", "[ab]", "[^a]", "*b", "\\[x]", "\\*", "é", "l*", "", "[", "*?*", "a\\", "[b-a]"),
    *("*" * 9, "x*" * 9),
]
TTLS = [None, None, None, LATER_MS, 2 * LATER_MS, 0, -5, 2**62]
FIELDS = ["f", "g", "", "é", "f" * 513]
SCORES = [-1.5, 0.0, 0.1, 0.1, 2.5, 1e300, 1e308, float("inf")]
PLACES = [0, 0, 1, 2, 5, -1, -1, -2, -9, 2**63]
STEPS = [1, -1, 5, 2**62, -(2**63), 2**63]


class Dice:
    """Makes batches."""

    def __init__(self, seed: int, name: str) -> None:
        self._random = random.Random(seed)
        one, other = Namespace(f"{name}-1"), Namespace(f"{name}-2")
        self._spaces = [(one, "k"), (one, "k"), (one, "s"), (other, "k")]
        values, strings, lists = self._values(), self._strings(), self._lists()
        self._makers = [values, values, strings, lists, self._hashes(), self._sets(), self._sorted()]
        self._makers += [self._streams(), self._sharing()]

    def batch(self) -> list[Op]:
        return [self._op() for _ in range(self._random.choice([1, 1, 2, 5, 20]))]

    def _op(self) -> Op:
        kind = self._random.randrange(12)
        if kind == 0:
            namespace, part = self._pick(self._spaces)
            return Scan(namespace.space(part), self._pick(PATTERNS), self._pick([1, 3, 100, 0]))
        if kind <= 4:
            conditions = self._pick([0, 0, 0, 1, 1, 2])
            return Atomic(
                tuple(self._single() for _ in range(self._random.randrange(6))),
                tuple(self._condition() for _ in range(conditions)),
            )
        return self._single()

    def _single(self) -> Single:
        made: Single = self._pick(self._pick(self._makers))()
        return made

    def _condition(self) -> Condition:
        chance = self._random.random()
        if chance < 0.3:
            return KeyExists(self._key())
        if chance < 0.5:
            return KeyHasEtag(self._key(), etag_of(self._pick(VALUES[:4])))
        return KeyIs(self._key(), self._pick([None, *VALUES[:4]]))

    # --- what there is to do

    def _values(self) -> list[Callable[[], Single]]:
        key, pick = self._key, self._pick
        return [
            lambda: Set(key(), pick(VALUES), pick(TTLS)),
            lambda: Set(key(), pick(VALUES), keep_ttl=True),
            lambda: Delete(self._keys()),
            lambda: Delete((self._busy(),)),
            lambda: Exists(self._keys()),
            lambda: GetMany(self._keys()),
            lambda: Ttl(key()),
            lambda: Expire(key(), pick([LATER_MS, 2 * LATER_MS, 0])),
            lambda: Persist(key()),
            lambda: Get(key()),
            lambda: TypeOf(key()),
            lambda: SizeOf(key()),
            lambda: Rename(
                self._named(["c", "ab", ""]), self._named(["c", "ab", "l" * 513]), pick([True, False])
            ),
        ]

    def _strings(self) -> list[Callable[[], Single]]:
        key, pick = self._named, self._pick
        return [
            lambda: GetDelete(key(BUSY)),
            lambda: Append(key(BUSY), pick(TEXTS)),
            lambda: Set(key(BUSY), pick(TEXTS[:5])),
            lambda: Increment(key(BUSY), pick(STEPS)),
            lambda: Set(key(BUSY), b"%d" % pick([0, 9, 2**63 - 1, -(2**63), 2**63])),
        ]

    def _lists(self) -> list[Callable[[], Single]]:
        key, pick = self._busy, self._pick
        return [
            lambda: Push(key(), self._some(VALUES), pick(["left", "right"])),
            lambda: Push(key(), self._some(VALUES), pick(["left", "right"])),
            lambda: Pop(key(), pick(["left", "right"]), pick([1, 1, 3, 0])),
            lambda: Range(key(), pick(PLACES), pick(PLACES), pick([1, 3, 1000])),
            lambda: Length(key()),
            lambda: ListRemove(key(), pick(VALUES), pick([0, 1, -1, 2, -(2**63) - 1])),
            lambda: ListTrim(key(), pick(PLACES), pick(PLACES)),
        ]

    def _hashes(self) -> list[Callable[[], Single]]:
        key, pick = self._busy, self._pick
        return [
            lambda: HashSet(key(), tuple((name, pick(VALUES)) for name in self._some(FIELDS))),
            lambda: HashGet(key(), self._some(FIELDS)),
            lambda: HashGetAll(key()),
            lambda: HashDelete(key(), self._some(FIELDS)),
            lambda: HashSet(key(), (("f", b"%d" % pick([0, 7200, 7200, 2**53])),)),
            lambda: HashExpire(key(), pick(FIELDS)),
            lambda: HashSize(key()),
        ]

    def _sets(self) -> list[Callable[[], Single]]:
        key = self._busy
        return [
            lambda: SetAdd(key(), self._some(VALUES)),
            lambda: SetRemove(key(), self._some(VALUES)),
            lambda: SetMembers(key()),
            lambda: SetContains(key(), self._some(VALUES)),
            lambda: SetSize(key()),
        ]

    def _sorted(self) -> list[Callable[[], Single]]:
        key, pick = self._busy, self._pick
        bounds = [None, None, *SCORES]
        return [
            lambda: SortedAdd(key(), self._scored(), pick([True, False, False]), pick([True, False, False])),
            lambda: SortedRange(key(), pick(PLACES), pick(PLACES), pick([True, False]), pick([1, 3, 1000])),
            lambda: SortedByScore(
                key(), pick(bounds), pick(bounds), pick([True, False]), pick([0, 1, 9]), pick([1, 9])
            ),
            lambda: SortedRemove(key(), self._some(VALUES)),
            lambda: SortedScore(key(), self._some(VALUES)),
            lambda: SortedIncrement(key(), pick(VALUES), pick(SCORES)),
            lambda: SortedRank(key(), pick(VALUES), pick([True, False])),
            lambda: SortedSize(key()),
        ]

    def _streams(self) -> list[Callable[[], Single]]:
        key, pick = self._named, self._pick
        own = ["a", "b"]  # never renamed: an id is of one key
        ends = ["-", "+", LAST, "(" + LAST, "0-0", "x"]
        return [
            lambda: StreamAdd(
                key(own), tuple((name, pick(VALUES)) for name in self._some(FIELDS)), pick([None, None, 2])
            ),
            lambda: StreamRange(key(own), pick(ends), pick(ends), pick([True, False]), pick([1, 3, 100])),
            lambda: StreamLength(key(own)),
            lambda: StreamTrim(key(own), pick([0, 1, 3, -1])),
            lambda: StreamDelete(key(own), (pick([LAST, LAST, "1-1"]), "1-2")),
        ]

    def _sharing(self) -> list[Callable[[], Single]]:
        key, pick = self._named, self._pick
        queues = [*BUSY, "q", "q"]
        return [
            lambda: Publish(key(NAMES), pick(VALUES)),
            lambda: ReadLog(key(NAMES), pick([None, 0, 1, 2, 5, -1]), pick([1, 3, 100])),
            lambda: Push(key(["q"]), self._some(VALUES)),
            lambda: QueueClaim(key(queues), pick(["me", "", "é"]), LATER_MS, pick([1, 2, 3, 0])),
            lambda: QueueAck(key(queues), str(self._random.randrange(1, 9))),
            lambda: QueueHolds(key(queues), str(self._random.randrange(1, 9))),
            lambda: QueueExtend(key(queues), str(self._random.randrange(1, 9)), pick([LATER_MS, 0])),
        ]

    # --- parts

    def _pick(self, choices: Sequence[Any]) -> Any:
        """Any: tables hold whatever an operation takes."""
        return self._random.choice(choices)

    def _named(self, names: Sequence[str]) -> NsKey:
        namespace, part = self._random.choice(self._spaces)
        return namespace.key(self._random.choice(names), part)

    def _key(self) -> NsKey:
        return self._named(NAMES)

    def _busy(self) -> NsKey:
        return self._named(BUSY)

    def _keys(self) -> tuple[NsKey, ...]:
        return tuple(self._key() for _ in range(self._random.randrange(4)))

    def _some(self, choices: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(self._pick(choices[:4]) for _ in range(self._pick([1, 1, 2, 3]))) + self._rarely(choices)

    def _rarely(self, choices: Sequence[Any]) -> tuple[Any, ...]:
        return (choices[-1],) if self._random.random() < 0.05 else ()

    def _scored(self) -> tuple[tuple[bytes, float], ...]:
        return tuple((member, self._pick(SCORES[:7])) for member in self._some(VALUES))


class Names:
    """What one store called its ids, numbers and receipts."""

    def __init__(self) -> None:
        self._ids: dict[NsKey, str] = {}
        self._numbers: dict[NsKey, list[int]] = {}
        self._receipts: list[str] = []

    def put_in(self, op: Op) -> Op:
        match op:
            case Atomic():
                return replace(op, ops=tuple(self.put_in(single) for single in op.ops))
            case StreamRange():
                return replace(op, first=self._id(op.key, op.first), last=self._id(op.key, op.last))
            case StreamDelete():
                return replace(op, ids=tuple(self._id(op.key, some) for some in op.ids))
            case ReadLog(channel, int(after)) if after > 0:
                numbers = self._numbers.get(channel, [])[-after:]
                return replace(op, after=numbers[0] if numbers else None)
            case QueueAck() | QueueExtend() | QueueHolds():
                return replace(op, receipt=self._receipt(int(op.receipt)))
        return op

    def take_out(self, op: Op, reply: Reply) -> Reply:
        match op, reply:
            case Atomic(), tuple():
                return tuple(self.take_out(single, one) for single, one in zip(op.ops, reply, strict=True))
            case StreamAdd(), str():
                self._ids[op.key] = reply
                return "id"
            case StreamRange(), Entries():
                return replace(reply, entries=tuple(replace(entry, id="id") for entry in reply.entries))
            case Publish(), Published():
                self._numbers.setdefault(op.channel, []).append(int(reply.id))
                return replace(reply, id=self._place(op.channel, reply.id))
            case ReadLog(), LogPage():
                messages = tuple((self._place(op.channel, number), text) for number, text in reply.messages)
                return LogPage(messages, self._place(op.channel, reply.cursor), reply.lost)
            case QueueClaim(), tuple():
                claims = [one for one in reply if isinstance(one, Claimed)]
                self._receipts += [one.receipt for one in claims]
                return tuple(replace(one, receipt="receipt") for one in claims)
        return reply

    def _id(self, key: NsKey, text: str) -> str:
        return text.replace(LAST, self._ids.get(key, "1-1"))

    def _receipt(self, place: int) -> str:
        return self._receipts[-place] if place <= len(self._receipts) else "none"

    def _place(self, channel: NsKey, number: str) -> str:
        """How many came before it; a channel without messages has a cursor that nobody can foretell."""
        numbers = self._numbers.get(channel)
        return str(int(number) - numbers[0]) if numbers else "cursor"
