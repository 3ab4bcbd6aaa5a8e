"""Channels and their logs in the memory store.

A channel has two keys of the store's own beside it: its kept messages, and its numbers, which live longer. The first
number is the moment's microseconds, and each message has the next one: so a number that is given once never is
given again, even after the numbers were forgotten.
"""

from collections import deque
from itertools import islice
from typing import ClassVar

from kvmcp.backends.faults import TOO_MUCH
from kvmcp.backends.memory.checks import MESSAGE_OVERHEAD, size_of
from kvmcp.backends.memory.keys import Keys
from kvmcp.backends.memory.keyspace import Entry
from kvmcp.backends.ops import (
    LOG_BYTES,
    LOG_COUNT_LIFE_MS,
    LOG_LIFE_MS,
    LOG_MESSAGES,
    LOST_UNKNOWN,
    SUFFIX_COUNT,
    SUFFIX_LOG,
    Failure,
    KeyType,
    LogPage,
    Message,
    NsKey,
    Publish,
    Published,
    ReadLog,
    Reply,
    beside,
)

LOG_LIFE: float = LOG_LIFE_MS / 1000
COUNT_LIFE: float = LOG_COUNT_LIFE_MS / 1000


class Log:
    """Kept messages with their numbers and moments, the oldest first."""

    kind: ClassVar[KeyType] = "other"
    vanishes: ClassVar[bool] = False
    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages: deque[tuple[int, float, bytes]] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.messages)

    def copy(self) -> "Log":
        other = Log()
        other.messages, other.bytes = self.messages.copy(), self.bytes
        return other

    def excess(self, size: int, now: float) -> int:
        """How many messages make way for one of `size` bytes."""
        count, total = 0, self.bytes + size
        for _, moment, message in self.messages:
            within = len(self.messages) - count < LOG_MESSAGES and total <= LOG_BYTES
            if within and moment + LOG_LIFE > now:
                break
            total -= len(message)
            count += 1
        return count


class Count:
    """The numbers of a channel: the first and the last one given."""

    kind: ClassVar[KeyType] = "other"
    vanishes: ClassVar[bool] = False
    __slots__ = ("first", "last")

    def __init__(self) -> None:
        self.first = self.last = 0

    def __len__(self) -> int:
        return 1

    def copy(self) -> "Count":
        other = Count()
        other.first, other.last = self.first, self.last
        return other


def microseconds(now: float) -> int:
    return int(now * 1_000_000)


def _opened(keys: Keys, channel: NsKey, now: float) -> tuple[Entry | None, Log, Entry | None, Count]:
    log, count = (
        keys.open(Log, beside(channel, SUFFIX_LOG), now),
        keys.open(Count, beside(channel, SUFFIX_COUNT), now),
    )
    assert not isinstance(log, Failure) and not isinstance(count, Failure), "nobody else can write there"
    return *log, *count


def publish(keys: Keys, op: Publish, now: float) -> Reply:
    log_entry, log, count_entry, count = _opened(keys, op.channel, now)
    excess = log.excess(len(op.message), now)
    growth = len(op.message) + MESSAGE_OVERHEAD
    growth -= sum([len(message) + MESSAGE_OVERHEAD for _, _, message in islice(log.messages, excess)])
    new = (log_entry is None) + (count_entry is None)
    fault = keys.refusal(new, growth + new * size_of(op.channel.name, 0), now)
    if fault is not None:
        return fault
    number = _next_number(keys, op.channel, count_entry, count, now)
    log_entry, log = keys.begin(beside(op.channel, SUFFIX_LOG), log_entry, log)
    for _ in range(excess):
        log.bytes -= len(log.messages.popleft()[2])
    log.messages.append((number, now, op.message))
    log.bytes += len(op.message)
    keys.wrote(log_entry, growth)
    keys.move(log_entry, now + LOG_LIFE)
    return Published(keys.published(Message(op.channel, op.message, str(number))), str(number))


def _next_number(keys: Keys, channel: NsKey, entry: Entry | None, count: Count, now: float) -> int:
    entry, count = keys.begin(beside(channel, SUFFIX_COUNT), entry, count)
    if count.last == 0:
        count.first = count.last = microseconds(now) + 1
    else:
        count.last += 1
    keys.move(entry, now + COUNT_LIFE)
    return count.last


def read(keys: Keys, op: ReadLog, now: float) -> Reply:
    _, log, count_entry, count = _opened(keys, op.channel, now)
    present = microseconds(now)
    if count_entry is None:
        count.first = present + 1
        count.last = present
    if op.after is None:
        return LogPage((), str(count.last), 0)
    after, lost = op.after, _lost_before(keys, op.after, count)
    wanted = max(after + 1, count.first) if lost != LOST_UNKNOWN else count.first
    kept = [(n, message) for n, moment, message in log.messages if n >= wanted and moment + LOG_LIFE > now]
    if after and lost != LOST_UNKNOWN:
        lost = (kept[0][0] if kept else count.last + 1) - wanted
    return _page(keys, kept, op.count, count.last, lost)


def _lost_before(keys: Keys, after: int, count: Count) -> int:
    """0, or `LOST_UNKNOWN` where numbers were forgotten since `after`, or it never was a number of this channel."""
    known_since = max(count.first - microseconds(COUNT_LIFE), microseconds(keys.born))
    forgotten = after < count.first - 1 and after < known_since
    return LOST_UNKNOWN if after and (after > count.last or forgotten) else 0


def _page(keys: Keys, kept: list[tuple[int, bytes]], limit: int, last: int, lost: int) -> Reply:
    found: list[tuple[str, bytes]] = []
    spent = 0
    for number, message in kept[:limit]:
        if spent + len(message) > keys.budget:
            if not found:
                return TOO_MUCH
            break
        spent += len(message)
        found.append((str(number), message))
    cursor = found[-1][0] if found else str(last)
    return keys.spend(spent) or LogPage(tuple(found), cursor, lost)
