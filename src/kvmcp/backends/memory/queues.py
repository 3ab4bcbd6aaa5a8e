"""Queues of the memory store: elements of a list that are claimed for a time."""

from bisect import insort
from typing import ClassVar

from msgspec import Struct

from kvmcp.backends.checks import key_bytes
from kvmcp.backends.faults import TOO_MANY_CLAIMS, TOO_MUCH
from kvmcp.backends.memory.checks import CLAIM_OVERHEAD, ELEMENT_OVERHEAD, size_of
from kvmcp.backends.memory.keys import Keys
from kvmcp.backends.memory.keyspace import Entry
from kvmcp.backends.memory.lists import List
from kvmcp.backends.ops import (
    MAX_CLAIMS,
    SUFFIX_CLAIMS,
    Claimed,
    Failure,
    KeyType,
    QueueAck,
    QueueClaim,
    QueueExtend,
    QueueHolds,
    Reply,
    beside,
)


class Claim(Struct, frozen=True, gc=False):
    """An element that somebody has."""

    value: bytes
    owner: str
    deliveries: int
    due: float
    """When the claim ends."""

    @property
    def weight(self) -> int:
        return len(self.value) + key_bytes(self.owner) + CLAIM_OVERHEAD


class Claims:
    """Claims by receipt, and receipts by when their claim ends."""

    kind: ClassVar[KeyType] = "other"
    vanishes: ClassVar[bool] = True
    __slots__ = ("by_receipt", "order")

    def __init__(self) -> None:
        self.by_receipt: dict[str, Claim] = {}
        self.order: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self.order)

    def copy(self) -> "Claims":
        other = Claims()
        other.by_receipt, other.order = self.by_receipt.copy(), self.order.copy()
        return other

    def put(self, receipt: str, claim: Claim) -> None:
        self.by_receipt[receipt] = claim
        insort(self.order, (claim.due, receipt))

    def take(self, receipt: str) -> Claim:
        claim = self.by_receipt.pop(receipt)
        self.order.remove((claim.due, receipt))
        return claim


class _Wanted(Struct):
    """What a claim will give: receipts whose claims have ended, and elements from the left of the list."""

    ended: list[str]
    values: list[bytes]
    size: int = 0


def claim(keys: Keys, op: QueueClaim, now: float) -> Reply:
    queue = keys.open(List, op.queue, now)
    if isinstance(queue, Failure):
        return queue
    beside_it = beside(op.queue, SUFFIX_CLAIMS)
    claims = keys.open(Claims, beside_it, now)
    assert not isinstance(claims, Failure), "nobody else can write there"
    wanted = _look(keys, op, queue[1], claims[1], now)
    if isinstance(wanted, Failure):
        return wanted
    if not wanted.ended and not wanted.values:
        return ()
    fault = _claim_room(keys, op, wanted, claims, now) or keys.spend(wanted.size)
    if fault is not None:
        return fault
    entry, held = keys.begin(beside_it, *claims)
    before = sum([held.by_receipt[receipt].weight for receipt in wanted.ended])
    given = [held.take(receipt) for receipt in wanted.ended]
    given += [Claim(value, op.owner, 0, 0.0) for value in wanted.values]
    replies: list[Claimed] = []
    weight = 0
    for old in given:
        keys.receipts += 1
        receipt = f"{keys.receipts:016d}"
        new = Claim(old.value, op.owner, old.deliveries + 1, now + op.visibility_ms / 1000)
        held.put(receipt, new)
        weight += new.weight
        replies.append(Claimed(receipt, new.value, new.deliveries))
    keys.wrote(entry, weight - before)
    _take(keys, op, queue, wanted.values)
    return tuple(replies)


def _look(keys: Keys, op: QueueClaim, queue: List, claims: Claims, now: float) -> _Wanted | Failure:
    wanted = _Wanted([], [])
    ended = [receipt for due, receipt in claims.order[: op.count] if due <= now]
    waiting = [queue[place] for place in range(min(len(queue), op.count - len(ended)))]
    for receipt in ended:
        if not _fits(keys, wanted, claims.by_receipt[receipt].value):
            return wanted if wanted.ended else TOO_MUCH
        wanted.ended.append(receipt)
    for value in waiting:
        if not ended and len(claims) >= MAX_CLAIMS:
            return TOO_MANY_CLAIMS
        if len(claims) + len(wanted.values) >= MAX_CLAIMS:
            break
        if not _fits(keys, wanted, value):
            return wanted if wanted.ended or wanted.values else TOO_MUCH
        wanted.values.append(value)
    return wanted


def _fits(keys: Keys, wanted: _Wanted, value: bytes) -> bool:
    if wanted.size + len(value) > keys.budget:
        return False
    wanted.size += len(value)
    return True


def _claim_room(
    keys: Keys, op: QueueClaim, wanted: _Wanted, claims: tuple[Entry | None, Claims], now: float
) -> Failure | None:
    owner = key_bytes(op.owner)
    growth = len(wanted.values) * (CLAIM_OVERHEAD + owner - ELEMENT_OVERHEAD)
    growth += sum([owner - key_bytes(claims[1].by_receipt[receipt].owner) for receipt in wanted.ended])
    new = claims[0] is None
    return keys.refusal(int(new), growth + new * size_of(op.queue.name, 0), now)


def _take(keys: Keys, op: QueueClaim, queue: tuple[Entry | None, List], values: list[bytes]) -> None:
    """Out of the list."""
    if not values:
        return
    entry, held = keys.begin(op.queue, *queue)
    for _ in values:
        held.popleft()
    keys.wrote(entry, -sum([len(value) + ELEMENT_OVERHEAD for value in values]))


def ack(keys: Keys, op: QueueAck, now: float) -> Reply:
    found = _found(keys, op, now)
    if found is None:
        return False
    entry, held = keys.begin(beside(op.queue, SUFFIX_CLAIMS), *found)
    keys.wrote(entry, -held.take(op.receipt).weight)
    return True


def extend(keys: Keys, op: QueueExtend, now: float) -> Reply:
    found = _found(keys, op, now)
    if found is None:
        return False
    entry, held = keys.begin(beside(op.queue, SUFFIX_CLAIMS), *found)
    old = held.take(op.receipt)
    held.put(op.receipt, Claim(old.value, old.owner, old.deliveries, now + op.visibility_ms / 1000))
    keys.wrote(entry, 0)
    return True


def holds(keys: Keys, op: QueueHolds, now: float) -> Reply:
    return _found(keys, op, now) is not None


def _found(
    keys: Keys, op: QueueAck | QueueExtend | QueueHolds, now: float
) -> tuple[Entry | None, Claims] | None:
    opened = keys.open(Claims, beside(op.queue, SUFFIX_CLAIMS), now)
    assert not isinstance(opened, Failure), "nobody else can write there"
    return opened if op.receipt in opened[1].by_receipt else None
