"""JSON documents: read a part by its path, change a part by a merge patch. One row of `DOCUMENTS` per tool."""

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.backends.ops import (
    MAX_VALUE_BYTES,
    Atomic,
    Code,
    Condition,
    Failure,
    Get,
    KeyHasEtag,
    KeyIs,
    NsKey,
    Reply,
    Set,
    Unmet,
    etag_of,
)
from kvmcp.core.arguments import MAX_DEPTH
from kvmcp.core.json_text import kind, too_deep
from kvmcp.core.plan import AskBackend, Context, Plan
from kvmcp.tools.answers import (
    CONFLICT,
    TOO_LARGE,
    Fault,
    Rendered,
    Shown,
    answer,
    conflict,
    failed,
    is_done,
    of_type,
)
from kvmcp.tools.definition import OVERWRITE, READ, Call, DryRun, Reader, Row, Step, tool
from kvmcp.tools.json_paths import (
    MAX_PATH_CHARS,
    NoPath,
    PathStep,
    Place,
    children_of,
    follow,
    parse_path,
    pointer_of,
)
from kvmcp.tools.keys import Key, bad, key_fault, stored_value
from kvmcp.tools.merge_patch import merge_patch
from kvmcp.tools.room import Truncated, chars, fits, named
from kvmcp.tools.strings import Etag
from kvmcp.tools.uris import KEY, link

MAX_TRIES: Final = 16
"""Times that redis_json_merge reads and writes: each time but the last somebody else was faster, and has changed
something."""

Path: TypeAlias = Annotated[
    str,
    Meta(
        max_length=MAX_PATH_CHARS,
        description='Where in the document: a JSON Pointer such as "/a/0/b", or the same as "$.a[0].b". '
        "Left out: all of it.",
    ),
]

# --- redis_json_get ---


class JsonGetArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    path: Path = ""


class JsonGetResult(Struct, frozen=True):
    found: Annotated[bool, Meta(description="Whether there is something at this path.")]
    value: Annotated[Raw, Meta(description="The JSON value there, as it was stored.")] | UnsetType = UNSET
    etag: Annotated[str, Meta(description="Of the whole document; for if_match.")] | UnsetType = UNSET
    ended_at: (
        Annotated[
            str, Meta(description="Only if the path ended before: the pointer of the last place there is.")
        ]
        | UnsetType
    ) = UNSET
    there: Annotated[str, Meta(description="What is at that place.")] | UnsetType = UNSET
    truncated: Truncated = UNSET


class PlaceReader(Reader, frozen=True):
    """Reads the place of a document that steps lead to."""

    key: str
    steps: tuple[PathStep, ...]

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        if replies[0] is None:
            return b'{"found":false}'
        document = of_type(replies[0], bytes)
        place, etag = follow(document, self.steps), etag_of(document)
        if not place.arrived:
            return JsonGetResult(
                False, etag=etag, ended_at=pointer_of(place.taken), there=outline(place.value)
            )
        json = b'{"found":true,"value":%b,"etag":"%b"}' % (place.value, etag.encode())
        return json if fits(json, room) else self._too_long(place, etag, context, len(document))

    def _too_long(self, place: Place, etag: str, context: Context, size: int) -> Rendered:
        problem = (
            f"the value of {chars(place.value)} characters is left out, for it is too long for one result; it is "
            f"{outline(place.value)}; read parts of it by longer paths, or the resource linked here"
        )
        return Shown(
            JsonGetResult(True, etag=etag, truncated=problem), (link(KEY, context, key=self.key, size=size),)
        )


def outline(value: bytes) -> str:
    """What a value is, in words: never what it says, but the names of its members."""
    match children_of(value):
        case dict() as members if members:
            return f"an object of {len(members)} members: {named(tuple(members))}"
        case dict():
            return "an empty object"
        case list() as elements:
            return f"an array of {len(elements)} elements"
        case _:
            return _WORDS.get(kind(value), "a number")


_WORDS: Final = {
    "object": "an object", "array": "an array", "string": "a string", "boolean": "a boolean", "null": "null",
}  # fmt: skip


def step_json_get(arguments: JsonGetArguments, call: Call) -> Step | Fault:
    steps = key_fault(arguments.key) or parse_path(arguments.path)
    if isinstance(steps, Fault):
        return steps
    if isinstance(steps, NoPath):
        return bad(steps.problem)
    return Step((Get(call.namespace.key(arguments.key)),), PlaceReader(arguments.key, steps))


# --- redis_json_merge ---


class JsonMergeArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    patch: Annotated[
        Raw,
        Meta(
            description="What to change: members to write; null removes a member; an object is merged, anything else "
            'replaces what was there. For example {"status": "done", "draft": null}.',
            extra_json_schema={"type": "object"},
        ),
    ]
    if_match: (
        Annotated[Etag, Meta(description="Change only if the document still has this etag; else CONFLICT.")]
        | UnsetType
    ) = UNSET
    dry_run: DryRun = False


class JsonMergeResult(Struct, frozen=True):
    ok: bool
    etag: Annotated[str, Meta(description="Of the whole document now.")]
    created: Annotated[bool, Meta(description="Whether there was no document before.")]


class MergeInto(Struct, frozen=True):
    """Goes on with the document as it is: writes the merged one, if nobody has changed it meanwhile."""

    key: NsKey
    patch: bytes
    if_match: str | None
    dry: bool
    left: int = MAX_TRIES - 1
    """How often this may be tried again."""

    def ask(self) -> AskBackend:
        return AskBackend((Get(self.key),), self)

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        (reply,) = replies
        if isinstance(reply, Failure):
            return answer(reply)
        document = None if reply is None else of_type(reply, bytes)
        etag = None if document is None else etag_of(document)
        if self.if_match is not None and etag != self.if_match:
            return failed(conflict(Unmet(0, document is not None, etag)))
        merged = merged_document(document, self.patch)
        if isinstance(merged, Fault):
            return failed(merged)
        result = JsonMergeResult(True, etag_of(merged), document is None)
        if self.dry:
            return answer(result, dry=True)
        is_same: Condition = KeyIs(self.key, None) if etag is None else KeyHasEtag(self.key, etag)
        write = Atomic((Set(self.key, merged, keep_ttl=document is not None),), (is_same,))
        return AskBackend((write,), Merged(self, result), writes=True)


class Merged(Struct, frozen=True):
    """Tries again where somebody else was faster, unless the caller knows what should be there."""

    merge: MergeInto
    result: JsonMergeResult

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        (reply,) = replies
        if isinstance(reply, Failure):
            return answer(reply)
        if not isinstance(reply, Unmet):
            is_done(reply)
            return answer(self.result)
        if self.merge.if_match is not None:
            return failed(conflict(reply))
        if not self.merge.left:
            return failed(_BUSY)
        return msgspec.structs.replace(self.merge, left=self.merge.left - 1).ask()


_BUSY: Final = Fault(
    CONFLICT,
    f"others changed the document {MAX_TRIES} times while this was tried; nothing was changed; try again",
    retryable=True,
)


def merged_document(document: bytes | None, patch: bytes) -> bytes | Fault:
    """The document with the patch, or why it cannot be stored."""
    try:
        merged = merge_patch(document, patch)
    except (msgspec.DecodeError, UnicodeError):
        return Fault(
            Code.WRONG_TYPE.value, "what the key holds is no JSON that can be merged; nothing was changed"
        )
    if len(merged) > MAX_VALUE_BYTES:
        problem = f"a document of {len(merged)} bytes of JSON, limit is {MAX_VALUE_BYTES}"
        return Fault(TOO_LARGE, f"{problem}; nothing was changed; use several keys")
    if too_deep(merged, MAX_DEPTH):
        return bad(f"the document would be nested deeper than {MAX_DEPTH} levels; nothing was changed")
    return merged


def plan_json_merge(arguments: JsonMergeArguments, call: Call) -> Plan:
    patch = key_fault(arguments.key) or stored_value(arguments.patch, "`patch`")
    if isinstance(patch, Fault):
        return failed(patch)
    if kind(patch) != "object":
        return failed(bad("`patch` must be an object; to replace the whole value use redis_set"))
    key = call.namespace.key(arguments.key)
    if_match = None if arguments.if_match is UNSET else arguments.if_match
    return MergeInto(key, patch, if_match, arguments.dry_run).ask()


DOCUMENTS: Final[tuple[Row, ...]] = (
    tool(
        "redis_json_get", JsonGetArguments, JsonGetResult, step=step_json_get, hints=READ,
        title="Read a part of a JSON value",
        description="Read one place of the JSON value of a key, without the rest: for values that are long. Gives "
        "`found` and `value`; where the path ends before, `ended_at` says how far it leads and `there` what is at that "
        'place, with the names of its members. Example: {"key": "plan", "path": "$.steps[0].title"}.',
    ),
    tool(
        "redis_json_merge", JsonMergeArguments, JsonMergeResult, plan=plan_json_merge, hints=OVERWRITE,
        title="Change a part of a JSON value",
        description="Change members of the JSON object of a key and leave the others alone, by a merge patch (RFC "
        "7386); null removes a member, arrays are replaced as a whole. Agents that change different members at once "
        "lose nothing. The time to live stays; the key is made if there is none. Gives the new `etag`. "
        'Example: {"key": "plan", "patch": {"status": "done", "draft": null}}.',
    ),
)  # fmt: skip
"""The tools for documents, in the order in which they are listed."""
