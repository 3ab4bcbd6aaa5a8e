"""More of keys of whatever type: keep for good, give another name. One row of `MORE_KEYS` per tool."""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from kvmcp.backends.ops import MAX_KEY_BYTES, Exists, Persist, Rename, Reply, Ttl, TtlReply
from kvmcp.core.plan import Context
from kvmcp.tools.answers import Fault, Rendered, of_type
from kvmcp.tools.counting import Flagged, flags_of
from kvmcp.tools.definition import CREATE, OVERWRITE, Call, DryRun, Reader, Row, Step, tool
from kvmcp.tools.keys import Key, key_fault

# --- redis_persist ---


class PersistArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    dry_run: DryRun = False


class PersistResult(Struct, frozen=True):
    applied: Annotated[bool, Meta(description="Whether it existed and would have expired.")]


class WouldPersist(Reader, frozen=True):
    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return PersistResult(of_type(replies[0], TtlReply).milliseconds is not None)


def step_persist(arguments: PersistArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    key = call.namespace.key(arguments.key)
    return (
        Step((Ttl(key),), WouldPersist())
        if arguments.dry_run
        else Step((Persist(key),), Flagged(PersistResult))
    )


# --- redis_rename ---


class RenameArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    new_key: Annotated[
        str, Meta(min_length=1, max_length=MAX_KEY_BYTES, description='The new name, for example "done:7".')
    ]
    if_absent: Annotated[
        bool, Meta(description="true: leave both alone if something is under the new name already.")
    ] = False
    dry_run: DryRun = False


class RenameResult(Struct, frozen=True):
    found: Annotated[bool, Meta(description="Whether the key existed.")]
    renamed: Annotated[bool, Meta(description="Whether it has the new name now.")]


class RenamedReader(Reader, frozen=True):
    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        reply = replies[0]
        return RenameResult(False, False) if reply is None else RenameResult(True, of_type(reply, bool))


class WouldRename(Reader, frozen=True):
    if_absent: bool

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        found, taken = flags_of(replies[0])
        return RenameResult(found, found and not (taken and self.if_absent))


def step_rename(arguments: RenameArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key) or key_fault(arguments.new_key)) is not None:
        return fault
    key, to = call.namespace.key(arguments.key), call.namespace.key(arguments.new_key)
    if arguments.dry_run:
        return Step((Exists((key, to)),), WouldRename(arguments.if_absent))
    return Step((Rename(key, to, arguments.if_absent),), RenamedReader())


MORE_KEYS: Final[tuple[Row, ...]] = (
    tool(
        "redis_persist", PersistArguments, PersistResult, step=step_persist, hints=CREATE,
        title="Keep a key for good",
        description="Take the time to live away from a key, so that it stays for good; its value is left alone. Gives "
        "`applied: false` when the key does not exist or would not have expired. The opposite is redis_expire. "
        'Example: {"key": "user:1"}.',
    ),
    tool(
        "redis_rename", RenameArguments, RenameResult, step=step_rename, hints=OVERWRITE,
        title="Rename a key",
        description="Give what a key holds, of whatever type, another name, with its time to live. What was under the "
        "new name is lost, unless if_absent is true. Gives `found: false` when the key does not exist. "
        'Example: {"key": "task:7", "new_key": "done:7", "if_absent": true}.',
    ),
)  # fmt: skip
"""More tools for keys, in the order in which they are listed."""
