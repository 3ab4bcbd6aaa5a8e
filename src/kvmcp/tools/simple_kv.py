"""The three tools of `community.database.simple_kv`, under their full names, over the same keys as `redis_get`."""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.backends.ops import Delete, Exists, Get, Reply, Set
from kvmcp.core.plan import Context
from kvmcp.tools.answers import Fault, Rendered, Shown, is_done, of_type
from kvmcp.tools.definition import OVERWRITE, READ, Call, DryRun, Reader, Row, Step, tool
from kvmcp.tools.keys import Key, Value, key_fault, stored_value
from kvmcp.tools.keyspace import GoneReader, GoneResult, KeyArguments
from kvmcp.tools.room import Truncated, chars, fits
from kvmcp.tools.uris import KEY, link

_PREFIX: Final = "community.database.simple_kv."


class KvSetArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    value: Value
    dry_run: DryRun = False


class KvSetResult(Struct, frozen=True):
    """Nothing: it is stored."""


class DoneReader(Reader, frozen=True):
    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        is_done(replies[0])
        return KvSetResult()


def step_set(arguments: KvSetArguments, call: Call) -> Step | Fault:
    value = key_fault(arguments.key) or stored_value(arguments.value)
    if isinstance(value, Fault):
        return value
    key = call.namespace.key(arguments.key)
    return Step((Exists((key,)) if arguments.dry_run else Set(key, value),), DoneReader())


class KvGetResult(Struct, frozen=True):
    value: (
        Annotated[Raw, Meta(description="The JSON value; absent when the key does not exist.")] | UnsetType
    ) = UNSET
    truncated: Truncated = UNSET


class KvValueReader(Reader, frozen=True):
    key: str

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        if replies[0] is None:
            return KvGetResult()
        value = of_type(replies[0], bytes)
        json = b'{"value":%b}' % value
        if fits(json, room):
            return json
        problem = f"the value of {chars(value)} characters is too long for one result; read the resource linked here"
        return Shown(KvGetResult(truncated=problem), (link(KEY, context, key=self.key, size=len(value)),))


def step_get(arguments: KeyArguments, call: Call) -> Step | Fault:
    fault = key_fault(arguments.key)
    return fault or Step((Get(call.namespace.key(arguments.key)),), KvValueReader(arguments.key))


class KvDeleteArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    dry_run: DryRun = False


def step_delete(arguments: KvDeleteArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    keys = (call.namespace.key(arguments.key),)
    return Step((Exists(keys) if arguments.dry_run else Delete(keys),), GoneReader())


SIMPLE_KV: Final[tuple[Row, ...]] = (
    tool(
        _PREFIX + "set", KvSetArguments, KvSetResult, step=step_set, hints=OVERWRITE,
        title="Store a value",
        description="Store any JSON value under a key, replacing what is there. Gives an empty object. "
        'Example: {"key": "user:1", "value": {"name": "Ada"}}.',
    ),
    tool(
        _PREFIX + "get", KeyArguments, KvGetResult, step=step_get, hints=READ,
        title="Read a value",
        description="Read the JSON value of a key. Gives `value`, or an empty object when the key does not exist. "
        'Example: {"key": "user:1"}.',
    ),
    tool(
        _PREFIX + "delete", KvDeleteArguments, GoneResult, step=step_delete, hints=OVERWRITE,
        title="Delete a key",
        description="Delete a key with its value, for good. Gives `deleted`: whether it existed. "
        'Example: {"key": "user:1"}.',
    ),
)  # fmt: skip
"""The three tools."""
