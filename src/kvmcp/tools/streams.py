"""Streams: entries in the order in which they came, each with an id. One row of `STREAMS` per tool."""

import re
from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.backends.ops import (
    MAX_FIELD_BYTES,
    MAX_ITEMS,
    MAX_VALUE_BYTES,
    Entries,
    Reply,
    StreamAdd,
    StreamDelete,
    StreamEntry,
    StreamLength,
    StreamRange,
    StreamTrim,
    Ttl,
    TtlReply,
)
from kvmcp.core.plan import Context
from kvmcp.core.wire.common import ResourceLink
from kvmcp.tools.answers import TOO_LARGE, Fault, Rendered, Shown, encode, of_type
from kvmcp.tools.counting import MAX_POSITION, Told
from kvmcp.tools.definition import ADD, OVERWRITE, READ, Call, DryRun, Reader, Row, Step, tool
from kvmcp.tools.hashes import object_of
from kvmcp.tools.keys import Detail, Key, bad, key_fault, stored_value, text_fault
from kvmcp.tools.keyspace import KeyArguments
from kvmcp.tools.more_lists import RemovedResult
from kvmcp.tools.room import FRAME, chars, fits
from kvmcp.tools.strings import seconds_left
from kvmcp.tools.uris import KEY, link

MAX_DELETED_IDS: Final = 100
"""Entries of one redis_xdel; a dry run looks for each by an operation of its own."""
MAX_NUMBER: Final = 2**64 - 1
"""Each of the two numbers of an id."""

EntryId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=41)]
_ID: Final = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", re.ASCII)


def entry_id(text: str, otherwise: int = 0) -> str | Fault:
    """An id as the store takes it; where the second number is missing it is `otherwise`."""
    match = _ID.fullmatch(text)
    if match is not None:
        first, second = int(match[1]), otherwise if match[2] is None else int(match[2])
        if first <= MAX_NUMBER and second <= MAX_NUMBER:
            return f"{first}-{second}"
    return bad("an id of an entry must be two numbers, as in 1700000000000-0, and as redis_xrange gives them")


# --- redis_xadd ---


class XaddArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    fields: Annotated[
        dict[str, Raw],
        Meta(
            min_length=1,
            max_length=MAX_ITEMS,
            description='The entry: fields with any JSON value each, for example {"event": "built", "ok": true}.',
        ),
    ]
    max_length: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=MAX_POSITION,
                description="Remove the oldest entries beyond so many. Leave out to keep all.",
            ),
        ]
        | UnsetType
    ) = UNSET
    dry_run: DryRun = False


class XaddResult(Struct, frozen=True):
    id: Annotated[str, Meta(description="Of the entry: milliseconds and a number, greater than all before.")]


class AddedEntry(Reader, frozen=True):
    """Reads the id, or for a dry run says one like it: `about`."""

    about: str = ""

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return XaddResult(self.about or of_type(replies[0], str))


def step_xadd(arguments: XaddArguments, call: Call) -> Step | Fault:
    fields = key_fault(arguments.key) or _fields(arguments)
    if isinstance(fields, Fault):
        return fields
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step((StreamLength(key),), AddedEntry(f"{int(call.environment.wall() * 1000)}-0"))
    most = None if arguments.max_length is UNSET else arguments.max_length
    return Step((StreamAdd(key, fields, most),), AddedEntry())


def _fields(arguments: XaddArguments) -> tuple[tuple[str, bytes], ...] | Fault:
    fields: list[tuple[str, bytes]] = []
    for name, raw in arguments.fields.items():
        value = text_fault("the name of a field", name, MAX_FIELD_BYTES) or stored_value(
            raw, "a field of `fields`"
        )
        if isinstance(value, Fault):
            return value
        fields.append((name, value))
    size = sum([len(name.encode()) + len(value) for name, value in fields])
    if size > MAX_VALUE_BYTES:
        return Fault(
            TOO_LARGE, f"`fields` of {size} bytes of JSON, limit is {MAX_VALUE_BYTES}; add several entries"
        )
    return tuple(fields)


# --- redis_xrange ---


class XrangeArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    start: Annotated[
        EntryId,
        Meta(description='The smallest id to give, or a Unix time in milliseconds; "-": from the oldest.'),
    ] = "-"
    end: Annotated[
        EntryId,
        Meta(description='The greatest id to give, or a Unix time in milliseconds; "+": to the newest.'),
    ] = "+"
    reverse: Annotated[bool, Meta(description="true: the newest first.")] = False
    count: Annotated[int, Meta(ge=1, le=MAX_ITEMS, description="How many entries to give at most.")] = 100
    cursor: (
        Annotated[EntryId, Meta(description="`cursor` of the result before, to go on behind its last entry.")]
        | UnsetType
    ) = UNSET
    detail: Detail = "concise"


class EntryResult(Struct, frozen=True):
    id: str
    fields: dict[str, Raw] | UnsetType = UNSET
    truncated: (
        Annotated[str, Meta(description="Instead of fields that are too long for a result.")] | UnsetType
    ) = UNSET


class XrangeResult(Struct, frozen=True):
    entries: Annotated[
        tuple[EntryResult, ...], Meta(description="The oldest first, the newest with reverse.")
    ]
    cursor: (
        Annotated[
            str, Meta(description="Only if there are more: send it, with the same arguments, to go on.")
        ]
        | UnsetType
    ) = UNSET
    ttl: (
        Annotated[int | None, Meta(description="Detailed: seconds it lives; null: for good.")] | UnsetType
    ) = UNSET
    length: (
        Annotated[int, Meta(ge=0, description="Detailed: how many entries the whole stream has.")] | UnsetType
    ) = UNSET


class EntriesReader(Reader, frozen=True):
    """Reads entries; with two more replies their stream's time to live and length, too."""

    key: str

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        found = of_type(replies[0], Entries)
        room -= FRAME
        shown: list[bytes] = []
        links: tuple[ResourceLink, ...] = ()
        for entry in found.entries:
            json = _entry(entry)
            if not fits(json, room) and not shown:
                json = _without_fields(entry)
                links = (link(KEY, context, key=self.key),)
            room -= chars(json) + 1
            if room < 0 and shown:
                break
            shown.append(json)
            if links:
                break
        more = b""
        if found.more or len(shown) < len(found.entries):
            more += b',"cursor":%b' % encode(found.entries[len(shown) - 1].id)
        if len(replies) > 1:
            left = seconds_left(of_type(replies[1], TtlReply))
            more += b',"ttl":%b,"length":%d' % (encode(left), of_type(replies[2], int))
        return Shown(b'{"entries":[%b]%b}' % (b",".join(shown), more), links)


def _entry(entry: StreamEntry) -> bytes:
    return b'{"id":%b,"fields":%b}' % (encode(entry.id), object_of(entry.fields))


def _without_fields(entry: StreamEntry) -> bytes:
    size = sum(chars(value) for _, value in entry.fields)
    problem = (
        f"its {len(entry.fields)} fields of {size} characters are left out, for they are too long for one result; read "
        "the resource linked here"
    )
    return encode(EntryResult(entry.id, truncated=problem))


def step_xrange(arguments: XrangeArguments, call: Call) -> Step | Fault:
    first = key_fault(arguments.key) or _bound(arguments.start, "-", 0)
    last = _bound(arguments.end, "+", MAX_NUMBER)
    after = entry_id(arguments.cursor) if arguments.cursor is not UNSET else ""
    for fault in (first, last, after):
        if isinstance(fault, Fault):
            return fault
    if after:
        first, last = (first, f"({after}") if arguments.reverse else (f"({after}", last)
    key = call.namespace.key(arguments.key)
    look = StreamRange(key, str(first), str(last), arguments.reverse, arguments.count)
    ops = (look, Ttl(key), StreamLength(key)) if arguments.detail == "detailed" else (look,)
    return Step(ops, EntriesReader(arguments.key))


def _bound(text: str, open_: str, otherwise: int) -> str | Fault:
    return text if text == open_ else entry_id(text, otherwise)


class XlenResult(Struct, frozen=True):
    length: Annotated[int, Meta(ge=0, description="How many entries the stream has.")]


def step_xlen(arguments: KeyArguments, call: Call) -> Step | Fault:
    fault = key_fault(arguments.key)
    return fault or Step((StreamLength(call.namespace.key(arguments.key)),), Told(XlenResult))


# --- redis_xdel, redis_xtrim ---


class XdelArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    ids: Annotated[
        tuple[EntryId, ...],
        Meta(
            min_length=1,
            max_length=MAX_DELETED_IDS,
            description=f"An array of 1 to {MAX_DELETED_IDS} ids of entries.",
            examples=[["1700000000000-0"]],
        ),
    ]
    dry_run: DryRun = False


class WouldDeleteEntries(Reader, frozen=True):
    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return RemovedResult(sum(len(of_type(reply, Entries).entries) for reply in replies))


def step_xdel(arguments: XdelArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    ids: dict[str, None] = {}
    for text in arguments.ids:
        id = entry_id(text)
        if isinstance(id, Fault):
            return id
        ids[id] = None
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step(tuple(StreamRange(key, id, id, count=1) for id in ids), WouldDeleteEntries())
    return Step((StreamDelete(key, tuple(ids)),), Told(RemovedResult))


class XtrimArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    max_length: Annotated[
        int, Meta(ge=0, le=MAX_POSITION, description="How many of the newest entries to keep.")
    ]
    dry_run: DryRun = False


class WouldTrimStream(Reader, frozen=True):
    most: int

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return RemovedResult(max(0, of_type(replies[0], int) - self.most))


def step_xtrim(arguments: XtrimArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step((StreamLength(key),), WouldTrimStream(arguments.max_length))
    return Step((StreamTrim(key, arguments.max_length),), Told(RemovedResult))


STREAMS: Final[tuple[Row, ...]] = (
    tool(
        "redis_xadd", XaddArguments, XaddResult, step=step_xadd, hints=ADD,
        title="Add an entry to a stream",
        description="Add an entry of several fields at the end of a stream, a log that many can read at their own pace; "
        "the stream is made if there is none. Gives the entry's `id`, which grows with time. "
        'Example: {"key": "log", "fields": {"event": "built", "ok": true}, "max_length": 1000}.',
    ),
    tool(
        "redis_xrange", XrangeArguments, XrangeResult, step=step_xrange, hints=READ,
        title="Read entries of a stream",
        description="Read entries of a stream between two ids or times, the oldest first, or with reverse the newest "
        "first. Gives `entries`; a `cursor` beside them means that there are more: call again with it. The last five: "
        'send reverse and count. Example: {"key": "log", "reverse": true, "count": 5}.',
    ),
    tool(
        "redis_xlen", KeyArguments, XlenResult, step=step_xlen, hints=READ,
        title="Count the entries of a stream",
        description="Ask how many entries a stream has. Gives `length`, 0 when the key does not exist. "
        'Example: {"key": "log"}.',
    ),
    tool(
        "redis_xdel", XdelArguments, RemovedResult, step=step_xdel, hints=OVERWRITE,
        title="Delete entries of a stream",
        description="Delete entries of a stream by their ids, for good. Gives in `removed` how many existed. "
        'Example: {"key": "log", "ids": ["1700000000000-0"]}.',
    ),
    tool(
        "redis_xtrim", XtrimArguments, RemovedResult, step=step_xtrim, hints=OVERWRITE,
        title="Shorten a stream",
        description="Remove the oldest entries of a stream so that at most `max_length` stay, for good. Gives in "
        '`removed` how many went. Example: {"key": "log", "max_length": 1000}.',
    ),
)  # fmt: skip
"""The tools for streams, in the order in which they are listed."""
