"""Values by key: read, write, remove, look for, expire. One row of `STRINGS` per tool.

Each tool is four things: its arguments, a `plan_…` that asks the store, a continuation that reads the reply,
and its structured result. A missing key is an answer, not a failure.
"""

from collections.abc import Sequence
from typing import Annotated, Final, cast

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.backends.ops import (
    MAX_PATTERN_BYTES,
    MAX_PATTERN_STARS,
    MAX_SCAN_COUNT,
    Delete,
    Exists,
    Expire,
    Failure,
    Get,
    Namespace,
    Page,
    Scan,
    Set,
    Ttl,
    TtlReply,
)
from kvmcp.core.catalog import Tool
from kvmcp.core.plan import Answer, AskBackend, Context, Plan
from kvmcp.core.wire.common import ToolResult
from kvmcp.tools.answers import only_reply, refused, store_failed, structured
from kvmcp.tools.definition import OVERWRITE, READ, tool
from kvmcp.tools.keys import Key, Keys, Seconds, key_fault, keys_fault, pattern_fault, stored_value

MAX_SCAN_PAGES: Final = 16
"""Pages that one `redis_keys` reads while it has found fewer names than it may give: 16 trips to the store."""


class KeyArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key


class KeysArguments(Struct, frozen=True, forbid_unknown_fields=True):
    keys: Keys


# --- redis_get ---


class GetResult(Struct, frozen=True, omit_defaults=True):
    found: Annotated[bool, Meta(description="Whether the key exists.")]
    value: (
        Annotated[
            Raw,
            Meta(description="The JSON value, exactly as it was stored; absent when the key does not exist."),
        ]
        | UnsetType
    ) = UNSET


class RenderValue(Struct, frozen=True):
    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        (reply,) = replies
        if isinstance(reply, bytes):
            # Joined, not encoded: the value is JSON text already (benchmarks: redis_get is the hot path).
            return Answer(ToolResult((), b'{"found":true,"value":%b}' % reply))
        value = only_reply(replies, type(None))
        return _NOT_FOUND if value is None else store_failed(value)


_NOT_FOUND: Final = Answer(ToolResult(structured=b'{"found":false}'))
_RENDER_VALUE: Final = RenderValue()


def plan_get(arguments: KeyArguments, context: Context) -> Plan:
    key = arguments.key
    if not key.isascii() and (fault := key_fault(key)) is not None:
        return refused(fault)
    return AskBackend((Get(Namespace(context.caller.namespace).key(key)),), _RENDER_VALUE)


# --- redis_set ---


class SetArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    value: Annotated[
        Raw,
        Meta(
            description="Any JSON value: an object, array, string, number, boolean or null. Stored as it is: "
            "send an object as an object, not as a string of JSON."
        ),
    ]
    ttl: (
        Annotated[
            Seconds,
            Meta(
                description="Seconds until the key expires, for example 3600. Leave out to keep it for good."
            ),
        ]
        | UnsetType
    ) = UNSET


class SetResult(Struct, frozen=True):
    ok: Annotated[bool, Meta(description="Always true: the value is stored.")]


class RenderSet(Struct, frozen=True):
    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        stored = only_reply(replies, bool)
        return store_failed(stored) if isinstance(stored, Failure) else structured(SetResult(stored))


def plan_set(arguments: SetArguments, context: Context) -> Plan:
    if (fault := key_fault(arguments.key)) is not None:
        return refused(fault)
    value = stored_value(arguments.value)
    if isinstance(value, Answer):
        return value
    ttl_ms = None if arguments.ttl is UNSET else arguments.ttl * 1000
    key = Namespace(context.caller.namespace).key(arguments.key)
    return AskBackend((Set(key, value, ttl_ms),), RenderSet(), writes=True)


# --- redis_del ---


class DelResult(Struct, frozen=True):
    deleted: Annotated[int, Meta(ge=0, description="How many of the keys existed and are gone now.")]


class RenderDeleted(Struct, frozen=True):
    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        deleted = only_reply(replies, int)
        return store_failed(deleted) if isinstance(deleted, Failure) else structured(DelResult(deleted))


def plan_del(arguments: KeysArguments, context: Context) -> Plan:
    if (fault := keys_fault(arguments.keys)) is not None:
        return refused(fault)
    space = Namespace(context.caller.namespace)
    return AskBackend((Delete(tuple(map(space.key, arguments.keys))),), RenderDeleted(), writes=True)


# --- redis_exists ---


class ExistsResult(Struct, frozen=True):
    exists: Annotated[dict[str, bool], Meta(description="For each key whether it exists.")]
    count: Annotated[int, Meta(ge=0, description="How many different keys of these exist.")]


class RenderExists(Struct, frozen=True):
    names: tuple[str, ...]

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        # `ops.Exists` lays down what is in the tuple.
        there = cast(tuple[bool, ...] | Failure, only_reply(replies, tuple))
        if isinstance(there, Failure):
            return store_failed(there)
        exists = dict(zip(self.names, there, strict=True))
        return structured(ExistsResult(exists, sum(exists.values())))


def plan_exists(arguments: KeysArguments, context: Context) -> Plan:
    if (fault := keys_fault(arguments.keys)) is not None:
        return refused(fault)
    space = Namespace(context.caller.namespace)
    return AskBackend((Exists(tuple(map(space.key, arguments.keys))),), RenderExists(arguments.keys))


# --- redis_keys ---


class ListArguments(Struct, frozen=True, forbid_unknown_fields=True):
    pattern: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_PATTERN_BYTES,
            description="Glob pattern that the whole key must match: `*` any text, `?` one character, `[ab]` "
            f'one of these, for example "user:*". At most {MAX_PATTERN_STARS} `*`.',
        ),
    ] = "*"
    count: Annotated[int, Meta(ge=1, le=MAX_SCAN_COUNT, description="How many keys to give at most.")] = 100


class KeysResult(Struct, frozen=True, omit_defaults=True):
    keys: Annotated[tuple[str, ...], Meta(description="Keys that match, in no particular order.")]
    cursor: (
        Annotated[
            str,
            Meta(
                description="Only when there may be more keys than these: narrow the pattern or raise count."
            ),
        ]
        | UnsetType
    ) = UNSET


class CollectNames(Struct, frozen=True):
    """Reads on until enough names are found: a page may be short, even empty, although others follow.

    `names` are those found so far, `pages` how many may still be read.
    """

    pattern: str
    count: int
    names: tuple[str, ...] = ()
    pages: int = MAX_SCAN_PAGES - 1

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        page = only_reply(replies, Page)
        if isinstance(page, Failure):
            return store_failed(page)
        names = tuple(dict.fromkeys(self.names + page.names))  # A key that moves may be on two pages.
        if not page.cursor or len(names) >= self.count or not self.pages:
            return structured(KeysResult(names, page.cursor or UNSET))
        then = CollectNames(self.pattern, self.count, names, self.pages - 1)
        return _scan(then, context, page.cursor)


def _scan(then: CollectNames, context: Context, cursor: str = "") -> AskBackend:
    space = Namespace(context.caller.namespace).space()
    return AskBackend((Scan(space, then.pattern, then.count - len(then.names), cursor),), then)


def plan_keys(arguments: ListArguments, context: Context) -> Plan:
    if (fault := pattern_fault(arguments.pattern)) is not None:
        return refused(fault)
    return _scan(CollectNames(arguments.pattern, arguments.count), context)


# --- redis_ttl ---


class TtlResult(Struct, frozen=True):
    found: Annotated[bool, Meta(description="Whether the key exists.")]
    ttl: Annotated[
        int | None,
        Meta(
            description="Seconds until it expires, rounded up; null when it never expires or does not exist."
        ),
    ]


class RenderTtl(Struct, frozen=True):
    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        reply = only_reply(replies, TtlReply)
        if isinstance(reply, Failure):
            return store_failed(reply)
        left = reply.milliseconds
        return structured(TtlResult(reply.found, None if left is None else -(-left // 1000)))


def plan_ttl(arguments: KeyArguments, context: Context) -> Plan:
    if (fault := key_fault(arguments.key)) is not None:
        return refused(fault)
    return AskBackend((Ttl(Namespace(context.caller.namespace).key(arguments.key)),), RenderTtl())


# --- redis_expire ---


class ExpireArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    ttl: Annotated[Seconds, Meta(description="Seconds from now until the key expires, for example 3600.")]


class ExpireResult(Struct, frozen=True):
    applied: Annotated[bool, Meta(description="Whether the key existed and has the new time to live.")]


class RenderApplied(Struct, frozen=True):
    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        applied = only_reply(replies, bool)
        return store_failed(applied) if isinstance(applied, Failure) else structured(ExpireResult(applied))


def plan_expire(arguments: ExpireArguments, context: Context) -> Plan:
    if (fault := key_fault(arguments.key)) is not None:
        return refused(fault)
    key = Namespace(context.caller.namespace).key(arguments.key)
    return AskBackend((Expire(key, arguments.ttl * 1000),), RenderApplied(), writes=True)


STRINGS: Final[tuple[Tool, ...]] = (
    tool(
        "redis_get", KeyArguments, plan_get, GetResult, hints=READ,
        title="Read a value",
        description="Read the JSON value of one key. Gives `found: true` and the value, or `found: false` when "
        "the key does not exist, which is not an error.",
    ),
    tool(
        "redis_set", SetArguments, plan_set, SetResult, hints=OVERWRITE,
        title="Store a value",
        description="Store any JSON value under a key, replacing what is there. With `ttl` the key expires after "
        "so many seconds; without it the key stays for good, even if it had a ttl before. Gives `ok: true`.",
    ),
    tool(
        "redis_del", KeysArguments, plan_del, DelResult, hints=OVERWRITE,
        title="Delete keys",
        description="Delete one or more keys with their values, for good. Keys that do not exist are skipped. "
        "Gives in `deleted` how many existed.",
    ),
    tool(
        "redis_exists", KeysArguments, plan_exists, ExistsResult, hints=READ,
        title="Check which keys exist",
        description="Check which of some keys exist, without reading their values. Gives true or false for "
        "each key in `exists`, and how many exist in `count`.",
    ),
    tool(
        "redis_keys", ListArguments, plan_keys, KeysResult, hints=READ,
        title="Find keys",
        description="Find keys by a glob pattern; use it when you do not know the exact key. Gives `keys`, an "
        "empty array when nothing matches. A `cursor` beside them means that there may be more: narrow the "
        "pattern or raise `count`.",
    ),
    tool(
        "redis_ttl", KeyArguments, plan_ttl, TtlResult, hints=READ,
        title="Read a time to live",
        description="Ask how many seconds a key still lives. Gives `found` and `ttl`; `ttl` is null when the key "
        "never expires, and when it does not exist (`found: false`).",
    ),
    tool(
        "redis_expire", ExpireArguments, plan_expire, ExpireResult, hints=OVERWRITE,
        title="Set a time to live",
        description="Let an existing key expire after so many seconds from now; its value stays until then. Use "
        "it to prolong or to limit a key's life. Gives `applied: false` when the key does not exist.",
    ),
)  # fmt: skip
"""The tools for values, in the order in which they are listed."""
