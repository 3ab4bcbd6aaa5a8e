"""Values by key: read and write. One row of `STRINGS` per tool.

Each tool is four things: its arguments, a `step_…` that says what to ask of the store, a reader of the replies, and
its structured result. A missing key is an answer, not a failure.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, TypeAlias

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.backends.ops import (
    Condition,
    Exists,
    Failure,
    Get,
    KeyHasEtag,
    KeyIs,
    Namespace,
    Reply,
    Set,
    Ttl,
    TtlReply,
    Unmet,
    etag_of,
)
from kvmcp.core.plan import Answer, AskBackend, Context, Plan
from kvmcp.core.wire.common import ToolResult
from kvmcp.tools.answers import Fault, Rendered, Shown, answer, conflict, encode, failed, is_done, of_type
from kvmcp.tools.definition import ALWAYS_LOAD, OVERWRITE, READ, Call, DryRun, Reader, Row, Step, ask, tool
from kvmcp.tools.keys import Detail, Key, Seconds, Value, bad, key_fault, stored_value
from kvmcp.tools.room import Truncated, chars, fits
from kvmcp.tools.uris import KEY, link

Etag: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]


# --- redis_get ---


class GetArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    detail: Detail = "concise"


class GetResult(Struct, frozen=True):
    found: Annotated[bool, Meta(description="Whether the key exists.")]
    value: Annotated[Raw, Meta(description="The JSON value, exactly as it was stored.")] | UnsetType = UNSET
    etag: (
        Annotated[str, Meta(description="Stands for this value; for `if_match` of redis_set.")] | UnsetType
    ) = UNSET
    ttl: (
        Annotated[int | None, Meta(description="Detailed: seconds it lives; null: for good.")] | UnsetType
    ) = UNSET
    size: Annotated[int, Meta(description="Detailed: bytes of JSON.")] | UnsetType = UNSET
    truncated: Truncated = UNSET


_NOT_FOUND: Final = b'{"found":false}'


class ValueReader(Reader, frozen=True):
    """Reads the value of a key; with a second reply its time to live, too."""

    key: str

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        value = replies[0]
        if value is None:
            return _NOT_FOUND
        value = of_type(value, bytes)
        more = b""
        if len(replies) > 1:
            left = seconds_left(of_type(replies[1], TtlReply))
            more = b',"ttl":%b,"size":%d' % (encode(left), len(value))
        return found_value(self.key, value, context, room, more)


def found_value(key: str, value: bytes, context: Context, room: int, more: bytes = b"") -> Rendered:
    """The result for a value that exists; without the value where it is too long."""
    etag = etag_of(value).encode()
    # Joined, not encoded: the value is JSON text already (benchmarks: redis_get is the hot path).
    json = b'{"found":true,"value":%b,"etag":"%b"%b}' % (value, etag, more)
    if fits(json, room):
        return json
    resource = link(KEY, context, key=key, size=len(value))
    truncated = (
        f"the value of {chars(value)} characters is left out, for it is too long for one result; read the resource "
        "linked here, or parts of the value with redis_json_get where that is offered"
    )
    json = b'{"found":true,"etag":"%b"%b,"truncated":%b}' % (etag, more, encode(truncated))
    return Shown(json, (resource,))


def step_get(arguments: GetArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    key = call.namespace.key(arguments.key)
    if arguments.detail == "detailed":
        return Step((Get(key), Ttl(key)), ValueReader(arguments.key))
    return Step((Get(key),), ValueReader(arguments.key))


class RenderValue(Struct, frozen=True, gc=False):
    """Continuation of the quick way of `redis_get`."""

    key: str
    room: int

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        (reply,) = replies
        if isinstance(reply, bytes):
            # As `found_value` does, without its calls: this is the hot path.
            json = b'{"found":true,"value":%b,"etag":"%b"}' % (reply, etag_of(reply).encode())
            if len(json) <= self.room:
                return Answer(ToolResult((), json))
            return answer(found_value(self.key, reply, context, self.room))
        return _MISSING if reply is None else answer(of_type(reply, Failure))


_MISSING: Final = Answer(ToolResult(structured=_NOT_FOUND))


def quick_get(room: int) -> Callable[[GetArguments, Context], Plan]:
    """`redis_get` without a `Step` in between, for most calls of most agents are this one."""
    namespace = Namespace("")  # Of the last call, and mostly of the next one.
    make_key = namespace.key_maker()

    def plan(arguments: GetArguments, context: Context) -> Plan:
        nonlocal namespace, make_key
        key = arguments.key
        if not key.isascii() and (fault := key_fault(key)) is not None:
            return failed(fault)
        if context.caller.namespace != namespace.name:
            namespace = Namespace(context.caller.namespace)
            make_key = namespace.key_maker()
        of_store = make_key(key)
        if arguments.detail == "concise":
            return AskBackend((Get(of_store),), RenderValue(key, room))
        return ask(Step((Get(of_store), Ttl(of_store)), ValueReader(key)), room, writes=False)

    return plan


# --- redis_set ---


class SetArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    value: Value
    ttl: (
        Annotated[
            Seconds,
            Meta(
                description="Seconds until the key expires, for example 3600. Leave out to keep it for good."
            ),
        ]
        | UnsetType
    ) = UNSET
    if_match: (
        Annotated[
            Etag,
            Meta(description="Store only if the value still has this etag (of redis_get); else CONFLICT."),
        ]
        | UnsetType
    ) = UNSET
    if_absent: Annotated[bool, Meta(description="Store only if the key does not exist; else ok: false.")] = (
        False
    )
    dry_run: DryRun = False


class SetResult(Struct, frozen=True):
    ok: Annotated[bool, Meta(description="Whether the value is stored; false only with if_absent.")]
    etag: Annotated[str, Meta(description="Of the value that is there now.")] | UnsetType = UNSET


class SetReader(Reader, frozen=True):
    """`etag` is that of the value to store; `only_new` where it was to be stored only for a new key."""

    etag: str
    only_new: bool

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        is_done(replies[0])
        return SetResult(True, self.etag)

    def unmet(self, unmet: Unmet) -> Rendered:
        if not self.only_new:
            return conflict(unmet)
        there = SetResult(False, UNSET if unmet.etag is None else unmet.etag)
        return Shown(there, notes=("note: the key exists already; nothing was stored.",))


def step_set(arguments: SetArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    value = stored_value(arguments.value)
    if isinstance(value, Fault):
        return value
    key = call.namespace.key(arguments.key)
    conditions: tuple[Condition, ...] = ()
    if arguments.if_match is not UNSET:
        if arguments.if_absent:
            return bad("if_match and if_absent came together; send one of them")
        conditions = (KeyHasEtag(key, arguments.if_match),)
    elif arguments.if_absent:
        conditions = (KeyIs(key, None),)
    ttl_ms = None if arguments.ttl is UNSET else arguments.ttl * 1000
    reader = SetReader(etag_of(value), arguments.if_absent)
    return Step((Exists((key,)) if arguments.dry_run else Set(key, value, ttl_ms),), reader, conditions)


def seconds_left(ttl: TtlReply) -> int | None:
    """Whole seconds that a key still lives, rounded up; None where it lives for good or does not exist."""
    left = ttl.milliseconds
    return None if left is None else -(-left // 1000)


STRINGS: Final[tuple[Row, ...]] = (
    tool(
        "redis_get", GetArguments, GetResult, step=step_get, quick=quick_get, hints=READ, meta=ALWAYS_LOAD,
        title="Read a value",
        description="Read the JSON value of one key. Gives `found: true` with `value` and `etag`, or `found: false` "
        "when the key does not exist, which is not an error. To change a value that others may change too, send "
        "its etag as `if_match` of redis_set. Example: {\"key\": \"user:1:name\"}.",
    ),
    tool(
        "redis_set", SetArguments, SetResult, step=step_set, hints=OVERWRITE, meta=ALWAYS_LOAD,
        title="Store a value",
        description="Store any JSON value under a key, replacing what is there. With `ttl` the key expires after "
        "so many seconds; without it the key stays for good, even if it had a ttl before. Gives `ok: true` and the "
        "new `etag`. Example: {\"key\": \"user:1\", \"value\": {\"name\": \"Ada\"}, \"ttl\": 3600}.",
    ),
)  # fmt: skip
"""The tools for values, in the order in which they are listed."""
