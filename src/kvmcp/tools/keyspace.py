"""Keys of whatever type: remove, look for, list, expire. One row of `KEYSPACE` per tool."""

from collections.abc import Sequence
from typing import Annotated, Final, cast

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from kvmcp.backends.ops import (
    MAX_PATTERN_BYTES,
    MAX_PATTERN_STARS,
    MAX_SCAN_COUNT,
    Delete,
    Exists,
    Expire,
    Failure,
    Namespace,
    NsKey,
    Page,
    Reply,
    Scan,
    SizeOf,
    Ttl,
    TtlReply,
    TypeOf,
)
from kvmcp.core.plan import AskBackend, Context, Plan
from kvmcp.tools.answers import Fault, Rendered, answer, encode, failed, of_type, only_reply
from kvmcp.tools.definition import (
    ALWAYS_LOAD,
    OVERWRITE,
    READ,
    Call,
    DryRun,
    Offered,
    Reader,
    Row,
    Step,
    tool,
)
from kvmcp.tools.keys import Detail, Key, Keys, Seconds, key_fault, keys_fault, pattern_fault
from kvmcp.tools.room import FRAME, Truncated, how_many_fit
from kvmcp.tools.strings import seconds_left

MAX_SCAN_PAGES: Final = 16
"""Pages that one `redis_keys` reads while it has found fewer names than it may give: 16 trips to the store."""
_DETAIL_CHARS: Final = 90
"""What `KeyDetail` says of a key besides its name, at most."""


class KeyArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key


class KeysArguments(Struct, frozen=True, forbid_unknown_fields=True):
    keys: Keys


# --- redis_del ---


class DelArguments(Struct, frozen=True, forbid_unknown_fields=True):
    keys: Keys
    dry_run: DryRun = False


class DelResult(Struct, frozen=True):
    deleted: Annotated[int, Meta(ge=0, description="How many of the keys existed and are gone now.")]


class DeletedReader(Reader, frozen=True):
    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return DelResult(of_type(replies[0], int))


class WouldDelete(Reader, frozen=True):
    keys: tuple[str, ...]

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return DelResult(sum(dict(zip(self.keys, _flags(replies[0]), strict=True)).values()))


def step_del(arguments: DelArguments, call: Call) -> Step | Fault:
    keys = _of_store(arguments.keys, call)
    if isinstance(keys, Fault):
        return keys
    if arguments.dry_run:
        return Step((Exists(keys),), WouldDelete(arguments.keys))
    return Step((Delete(keys),), DeletedReader())


def removed_keys(arguments: DelArguments, offered: Offered) -> Sequence[str]:
    return arguments.keys


def _of_store(keys: Sequence[str], call: Call) -> tuple[NsKey, ...] | Fault:
    return keys_fault(keys) or tuple(map(call.namespace.key, keys))


def _flags(reply: Reply) -> tuple[bool, ...]:
    # `ops.Exists` lays down what is in the tuple.
    return cast(tuple[bool, ...], of_type(reply, tuple))


class GoneResult(Struct, frozen=True):
    deleted: Annotated[bool, Meta(description="Whether it existed; it is gone now.")]


class GoneReader(Reader, frozen=True):
    """Reads whether the one key existed, from `Delete` or `Exists`."""

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        reply = replies[0]
        return GoneResult(bool(reply[0] if isinstance(reply, tuple) else of_type(reply, int)))


# --- redis_exists ---


class ExistsResult(Struct, frozen=True):
    exists: Annotated[dict[str, bool], Meta(description="For each key whether it exists.")]
    count: Annotated[int, Meta(ge=0, description="How many different keys of these exist.")]
    truncated: Truncated = UNSET


class ExistsReader(Reader, frozen=True):
    names: tuple[str, ...]

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        exists = dict(zip(self.names, _flags(replies[0]), strict=True))
        count = sum(exists.values())
        whole = how_many_fit((encode(name) + b":false" for name in exists), room - FRAME)
        if whole == len(exists):
            return ExistsResult(exists, count)
        truncated = (
            f"only the first {whole} of {len(exists)} keys are told here, the others are counted only; ask for the "
            "others in a call of their own"
        )
        return ExistsResult(dict(list(exists.items())[:whole]), count, truncated)


def step_exists(arguments: KeysArguments, call: Call) -> Step | Fault:
    keys = _of_store(arguments.keys, call)
    return keys if isinstance(keys, Fault) else Step((Exists(keys),), ExistsReader(arguments.keys))


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
    cursor: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=256,
                description="`cursor` of the result before, to go on from there.",
            ),
        ]
        | UnsetType
    ) = UNSET
    detail: Detail = "concise"


class KeyDetail(Struct, frozen=True):
    type: Annotated[str, Meta(description="value, list, hash, set, sorted_set, stream or other.")]
    ttl: Annotated[int | None, Meta(description="Seconds it lives; null: for good.")]
    size: Annotated[int, Meta(description="Bytes of a value's JSON, elements of anything else.")]


class KeysResult(Struct, frozen=True):
    keys: Annotated[tuple[str, ...], Meta(description="Keys that match, in no particular order.")]
    cursor: (
        Annotated[
            str,
            Meta(description="Only when there may be more keys than these: send it to go on."),
        ]
        | UnsetType
    ) = UNSET
    details: (
        Annotated[dict[str, KeyDetail], Meta(description="Only if detailed: what each key holds.")]
        | UnsetType
    ) = UNSET


class CollectNames(Struct, frozen=True):
    """Reads on until enough names are found: a page may be short, even empty, although others follow.

    `names` are those found so far, `pages` how many may still be read, `cursor` where the page that is asked for
    began: a page for whose names there is no room is asked for again, shorter, so that none is passed over.
    """

    pattern: str
    count: int
    room: int
    detailed: bool = False
    names: tuple[str, ...] = ()
    pages: int = MAX_SCAN_PAGES - 1
    cursor: str = ""

    def ask(self, context: Context, count: int) -> AskBackend:
        space = _namespace(context).space()
        return AskBackend((Scan(space, self.pattern, count, self.cursor),), self)

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        page = only_reply(replies, Page)
        if isinstance(page, Failure):
            return answer(page)
        names = tuple(dict.fromkeys(self.names + page.names))  # A key that moves may be on two pages.
        fit = how_many_fit(map(self._cost, names), self.room - FRAME)
        if fit < len(names):
            return self._shorter(fit - len(self.names), page, context)
        if not page.cursor or len(names) >= self.count or not self.pages:
            return self._done(names, page.cursor, context)
        return _next(self, names, page.cursor).ask(context, self.count - len(names))

    def _shorter(self, fit: int, page: Page, context: Context) -> Plan:
        """Go on where only `fit` names of a page fit beside those there are."""
        if fit <= 0 and self.names:
            return self._done(self.names, self.cursor, context)
        if fit <= 0 and len(page.names) == 1:  # A single name, too long to be described.
            return answer(KeysResult(page.names, page.cursor or UNSET))
        return _next(self, self.names, self.cursor).ask(context, max(fit, 1))

    def _cost(self, name: str) -> bytes:
        """As many characters as the name takes up in the result."""
        json = encode(name)
        return json + json + b" " * _DETAIL_CHARS if self.detailed else json

    def _done(self, names: tuple[str, ...], cursor: str, context: Context) -> Plan:
        found = KeysResult(names, cursor or UNSET)
        if not self.detailed or not names:
            return answer(found)
        keys = tuple(map(_namespace(context).key, names))
        ops = tuple(op for key in keys for op in (TypeOf(key), Ttl(key), SizeOf(key)))
        return AskBackend(ops, DescribeNames(found))


def _next(then: CollectNames, names: tuple[str, ...], cursor: str) -> CollectNames:
    return msgspec.structs.replace(then, names=names, cursor=cursor, pages=then.pages - 1)


class DescribeNames(Struct, frozen=True):
    """Adds what each key holds; keys that have gone meanwhile are left out of the details."""

    found: KeysResult

    def resume(self, replies: Sequence[Reply], context: Context) -> Plan:
        failure = next((reply for reply in replies if isinstance(reply, Failure)), None)
        if failure is not None:
            return answer(failure)
        details: dict[str, KeyDetail] = {}
        for name, kind, ttl, size in zip(
            self.found.keys, replies[::3], replies[1::3], replies[2::3], strict=True
        ):
            if kind is not None and size is not None:
                left = seconds_left(of_type(ttl, TtlReply))
                details[name] = KeyDetail(of_type(kind, str), left, of_type(size, int))
        return answer(KeysResult(self.found.keys, self.found.cursor, details))


def _namespace(context: Context) -> Namespace:
    return Namespace(context.caller.namespace)


def plan_keys(arguments: ListArguments, call: Call) -> Plan:
    if (fault := pattern_fault(arguments.pattern)) is not None:
        return failed(fault)
    # "0" is how a scan of Redis begins, as many a model knows.
    cursor = "" if arguments.cursor in (UNSET, "0") else arguments.cursor
    detailed = arguments.detail == "detailed"
    then = CollectNames(arguments.pattern, arguments.count, call.room, detailed, cursor=cursor)
    return then.ask(call.context, arguments.count)


# --- redis_ttl ---


class TtlResult(Struct, frozen=True):
    found: Annotated[bool, Meta(description="Whether the key exists.")]
    ttl: Annotated[
        int | None,
        Meta(
            description="Seconds until it expires, rounded up; null when it never expires or does not exist."
        ),
    ]


class TtlReader(Reader, frozen=True):
    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        reply = of_type(replies[0], TtlReply)
        return TtlResult(reply.found, seconds_left(reply))


def step_ttl(arguments: KeyArguments, call: Call) -> Step | Fault:
    fault = key_fault(arguments.key)
    return fault or Step((Ttl(call.namespace.key(arguments.key)),), TtlReader())


# --- redis_expire ---


class ExpireArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    ttl: Annotated[Seconds, Meta(description="Seconds from now until the key expires, for example 3600.")]
    dry_run: DryRun = False


class ExpireResult(Struct, frozen=True):
    applied: Annotated[bool, Meta(description="Whether the key existed and has the new time to live.")]


class AppliedReader(Reader, frozen=True):
    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return ExpireResult(of_type(replies[0], bool))


class WouldApply(Reader, frozen=True):
    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return ExpireResult(_flags(replies[0])[0])


def step_expire(arguments: ExpireArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step((Exists((key,)),), WouldApply())
    return Step((Expire(key, arguments.ttl * 1000),), AppliedReader())


KEYSPACE: Final[tuple[Row, ...]] = (
    tool(
        "redis_del", DelArguments, DelResult, step=step_del, removes=removed_keys, hints=OVERWRITE,
        title="Delete keys",
        description="Delete one or more keys with their values, for good. Keys that do not exist are skipped. "
        "Gives in `deleted` how many existed. Example: {\"keys\": [\"user:1\", \"user:2\"]}.",
    ),
    tool(
        "redis_exists", KeysArguments, ExistsResult, step=step_exists, hints=READ,
        title="Check which keys exist",
        description="Check which of some keys exist, without reading their values. Gives true or false for "
        "each key in `exists`, and how many exist in `count`. Example: {\"keys\": [\"user:1\", \"user:2\"]}.",
    ),
    tool(
        "redis_keys", ListArguments, KeysResult, plan=plan_keys, hints=READ, meta=ALWAYS_LOAD,
        title="Find keys",
        description="Find keys by a glob pattern; use it when you do not know the exact key. Gives `keys`, an "
        "empty array when nothing matches. A `cursor` beside them means that there may be more: call again with "
        "it. Example: {\"pattern\": \"user:*\"}.",
    ),
    tool(
        "redis_ttl", KeyArguments, TtlResult, step=step_ttl, hints=READ,
        title="Read a time to live",
        description="Ask how many seconds a key still lives. Gives `found` and `ttl`; `ttl` is null when the key "
        "never expires, and when it does not exist (`found: false`). Example: {\"key\": \"user:1\"}.",
    ),
    tool(
        "redis_expire", ExpireArguments, ExpireResult, step=step_expire, hints=OVERWRITE,
        title="Set a time to live",
        description="Let an existing key expire after so many seconds from now; its value stays until then. Use "
        "it to prolong or to limit a key's life. Gives `applied: false` when the key does not exist. "
        "Example: {\"key\": \"user:1\", \"ttl\": 3600}.",
    ),
)  # fmt: skip
"""The tools for keys, in the order in which they are listed."""
