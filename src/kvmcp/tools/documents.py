"""What is in the store, as documents: how each kind of thing is read. URIs: `uris`; the table of them: `resources`.

Each is one JSON document, but for values that are not JSON: those that another program wrote. A reader may keep a
document for as long as its key still lives; what never expires may change at any time, so it is not to be kept.

Lists, hashes and the like are documents of `{"type": …}` with as many elements as one read gives, and their size.
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, cast

import msgspec
from msgspec import Raw, Struct

from kvmcp.backends.ops import (
    KIND_CHANNEL,
    KIND_SESSION,
    KIND_VALUE,
    MAX_ITEMS,
    SUFFIX_LOG,
    Elements,
    Entries,
    Failure,
    Get,
    HashGet,
    HashGetAll,
    KeyType,
    LogPage,
    NsKey,
    Op,
    Page,
    Range,
    Ranked,
    ReadLog,
    Scan,
    SetMembers,
    SortedRange,
    StreamRange,
    Ttl,
    TtlReply,
    TypeOf,
)
from kvmcp.core.errors import INTERNAL_ERROR, RpcError
from kvmcp.core.plan import Answer, AskBackend, Context, Fail, Plan, resource_not_found
from kvmcp.core.wire.common import ReadResult, ResourceContents
from kvmcp.tools import uris
from kvmcp.tools.sessions import data_of

JSON: Final = "application/json"
TEXT: Final = "text/plain"
BYTES: Final = "application/octet-stream"

LAST_MESSAGES: Final = 50
"""Messages of a channel that its document holds, the newest: what somebody reads who comes to a conversation."""
STATS_SCANS: Final = 10
STATS_NAMES: Final = 1000
"""Names of one look at a kind. Ten looks: counts above 10,000 are said to be incomplete."""

_encode = msgspec.json.Encoder().encode
_Variables: TypeAlias = Mapping[str, str]


class _ForeignText(Struct, forbid_unknown_fields=True):
    """How a store gives a value that is text, but no JSON."""

    text: str = msgspec.field(name="$text")


class _ForeignBytes(Struct, forbid_unknown_fields=True):
    """How a store gives a value that is not even text. `base64` is what MCP wants."""

    base64: str = msgspec.field(name="$base64")


_decode_foreign = (msgspec.json.Decoder(_ForeignText).decode, msgspec.json.Decoder(_ForeignBytes).decode)


def store_fault(failure: Failure) -> Fail:
    """A read failed: only tools have results of their own for that."""
    data = Raw(_encode({"code": failure.code.value, "retryable": failure.retryable}))
    return Fail(RpcError(INTERNAL_ERROR, f"{failure.code.value}: {failure.message}", data))


def contents(uri: str, value: bytes) -> ResourceContents:
    """JSON text as it is; what a store can only describe in JSON as what it was."""
    if value.startswith(b'{"$'):
        read_text, read_bytes = _decode_foreign
        try:
            return ResourceContents(uri, TEXT, text=read_text(value).text)
        except msgspec.DecodeError:
            pass
        try:
            return ResourceContents(uri, BYTES, blob=read_bytes(value).base64)
        except msgspec.DecodeError:
            pass
    return ResourceContents(uri, JSON, text=value.decode())


def _document(uri: str, ttl: TtlReply, value: bytes) -> Answer:
    return Answer(ReadResult((contents(uri, value),), ttl_ms=ttl.milliseconds or 0))


def first_failure(replies: Sequence[object]) -> Failure | None:
    return next((reply for reply in replies if isinstance(reply, Failure)), None)


# --- a key ---


class ReadAsItIs(Struct, frozen=True):
    """What it holds and how long it lives; a second step reads what is not a plain value."""

    uri: str
    key: NsKey

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        # `ops` lays down the types of the replies.
        kind, value, ttl = cast("tuple[KeyType | Failure | None, object, TtlReply | Failure]", tuple(replies))
        if isinstance(kind, Failure):
            return store_fault(kind)
        if isinstance(ttl, Failure):
            return store_fault(ttl)
        if kind is None or value is None or not ttl.found:
            return resource_not_found(self.uri)
        if isinstance(value, bytes):
            return _document(self.uri, ttl, value)
        operation = _READS.get(kind)
        if operation is None:
            return store_fault(value) if isinstance(value, Failure) else resource_not_found(self.uri)
        return AskBackend((operation(self.key),), ReadCollection(self.uri, kind, ttl))


class ReadCollection(Struct, frozen=True):
    """A list, a hash, a set, a sorted set or a stream as a document."""

    uri: str
    kind: KeyType
    ttl: TtlReply

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        (reply,) = replies
        if isinstance(reply, Failure):
            return store_fault(reply)
        body = {"type": self.kind, **_collection(reply)}
        return _document(self.uri, self.ttl, _encode(body))


def _collection(reply: object) -> dict[str, object]:
    """What the reply to one of `_READS` holds; empty where the key has gone meanwhile."""
    match reply:
        case Elements():
            return {"length": reply.length, "values": _raws(reply.values)}
        case Ranked():
            members = [{"member": Raw(member), "score": score} for member, score in reply.members]
            return {"size": reply.size, "members": members}
        case Entries():
            entries = [{"id": entry.id, "fields": _fields(entry.fields)} for entry in reply.entries]
            return {"entries": entries, "more": reply.more}
        case _:
            return _hash_or_set(cast("tuple[bytes, ...] | tuple[tuple[str, bytes], ...]", reply))


def _hash_or_set(parts: "tuple[bytes, ...] | tuple[tuple[str, bytes], ...]") -> dict[str, object]:
    fields = [part for part in parts if isinstance(part, tuple)]
    if fields:
        return {"fields": _fields(fields)}
    return {"members": _raws([part for part in parts if isinstance(part, bytes)])}


def _fields(fields: Sequence[tuple[str, bytes]]) -> dict[str, Raw]:
    return {name: Raw(value) for name, value in fields}


def _raws(values: Sequence[bytes]) -> list[Raw]:
    return [Raw(value) for value in values]


def _read_list(key: NsKey) -> Op:
    return Range(key, limit=MAX_ITEMS)


def _read_sorted(key: NsKey) -> Op:
    return SortedRange(key, limit=MAX_ITEMS)


_READS: Final = {
    "list": _read_list,
    "hash": HashGetAll,
    "set": SetMembers,
    "sorted_set": _read_sorted,
    "stream": StreamRange,
}


def read_key(uri: str, variables: _Variables, context: Context) -> Plan:
    key = uris.namespace_of(context).key(variables["key"])
    return AskBackend((TypeOf(key), Get(key), Ttl(key)), ReadAsItIs(uri, key))


class ReadField(Struct, frozen=True):
    uri: str

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        if (failure := first_failure(replies)) is not None:
            return store_fault(failure)
        values, ttl = cast("tuple[tuple[bytes | None, ...], TtlReply]", tuple(replies))
        return resource_not_found(self.uri) if values[0] is None else _document(self.uri, ttl, values[0])


def read_field(uri: str, variables: _Variables, context: Context) -> Plan:
    key = uris.namespace_of(context).key(variables["key"])
    return AskBackend((HashGet(key, (variables["field"],)), Ttl(key)), ReadField(uri))


# --- a session ---


class SessionDocument(Struct, frozen=True):
    """What `redis_session_get` gives."""

    session_id: str
    data: dict[str, Raw]
    ttl: int | None
    """Seconds, rounded up; None where it never expires."""


def session_document(id: str, fields: Sequence[tuple[str, bytes]], ttl: TtlReply) -> bytes:
    """A session as it is shown."""
    seconds = None if ttl.milliseconds is None else -(-ttl.milliseconds // 1000)
    data = _fields(data_of(fields))
    return _encode(SessionDocument(id, data, seconds))


class ReadSession(Struct, frozen=True):
    uri: str
    id: str

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        if (failure := first_failure(replies)) is not None:
            return store_fault(failure)
        fields, ttl = cast("tuple[tuple[tuple[str, bytes], ...], TtlReply]", tuple(replies))
        if not fields or not ttl.found:
            return resource_not_found(self.uri)
        return _document(self.uri, ttl, session_document(self.id, fields, ttl))


def ask_session(id: str, context: Context) -> tuple[Op, ...]:
    key = uris.namespace_of(context).key(id, KIND_SESSION)
    return HashGetAll(key), Ttl(key)


def read_session(uri: str, variables: _Variables, context: Context) -> Plan:
    return AskBackend(ask_session(variables["id"], context), ReadSession(uri, variables["id"]))


# --- a channel ---


class FindLast(Struct, frozen=True):
    """The number of the last message, which says where the last few begin."""

    uri: str
    channel: NsKey

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        if (failure := first_failure(replies)) is not None:
            return store_fault(failure)
        (end,) = cast("tuple[LogPage]", tuple(replies))
        return AskBackend((last_messages(self.channel, end),), ReadMessages(self.uri, self.channel.name))


def last_messages(channel: NsKey, end: LogPage) -> ReadLog:
    """The last few messages of a channel whose log ends at `end`. Their numbers have no gaps."""
    return ReadLog(channel, max(0, int(end.cursor) - LAST_MESSAGES), LAST_MESSAGES)


class ReadMessages(Struct, frozen=True):
    uri: str
    channel: str

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        if (failure := first_failure(replies)) is not None:
            return store_fault(failure)
        (page,) = cast("tuple[LogPage]", tuple(replies))
        return Answer(ReadResult((contents(self.uri, channel_document(self.channel, page)),)))


def channel_document(channel: str, page: LogPage) -> bytes:
    messages = [{"id": id, "message": Raw(message)} for id, message in page.messages]
    return _encode({"channel": channel, "messages": messages, "cursor": page.cursor})


def read_channel(uri: str, variables: _Variables, context: Context) -> Plan:
    channel = uris.namespace_of(context).key(variables["name"], KIND_CHANNEL)
    return AskBackend((ReadLog(channel, None),), FindLast(uri, channel))


# --- how much there is ---


def space_of(kind: str, context: Context) -> str:
    """Where the names of one kind are. A channel is there once something was published on it."""
    space = uris.namespace_of(context).space(kind)
    return space + SUFFIX_LOG if kind == KIND_CHANNEL else space


class _Count(Struct, frozen=True):
    kind: str
    names: frozenset[str] = frozenset()
    cursor: str | None = ""
    """Where to go on; None where all were seen."""


class CountNames(Struct, frozen=True):
    """Names are counted by looking at them: no store counts by namespace. A scan may give a name twice."""

    uri: str
    counts: tuple[_Count, ...]
    scans: int = STATS_SCANS

    def ask(self, context: Context) -> Plan:
        scans = [
            Scan(space_of(count.kind, context), count=STATS_NAMES, cursor=count.cursor)
            for count in self.counts
            if count.cursor is not None
        ]
        return AskBackend(tuple(scans), self)

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        if (failure := first_failure(replies)) is not None:
            return store_fault(failure)
        pages = iter(cast("Sequence[Page]", replies))
        counts = tuple(
            count
            if count.cursor is None
            else _Count(count.kind, count.names.union((page := next(pages)).names), page.cursor or None)
            for count in self.counts
        )
        if self.scans > 1 and any(count.cursor is not None for count in counts):
            return CountNames(self.uri, counts, self.scans - 1).ask(context)
        body: dict[str, object] = {"namespace": context.caller.namespace}
        for count, name in zip(counts, ("keys", "sessions", "channels"), strict=True):
            body[name] = {"count": len(count.names), "complete": count.cursor is None}
        return Answer(ReadResult((contents(self.uri, _encode(body)),)))


def read_stats(uri: str, variables: _Variables, context: Context) -> Plan:
    counts = tuple(map(_Count, (KIND_VALUE, KIND_SESSION, KIND_CHANNEL)))
    return CountNames(uri, counts).ask(context)
