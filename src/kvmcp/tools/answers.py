"""What the store's tools answer: a structured result, a refusal, a failure of the store, a conflict.

Everything that a tool says is a `Rendered` first, which knows no protocol, and becomes an `Answer` here.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from kvmcp.backends.ops import Code, Failure, Outcome, Unmet
from kvmcp.core.plan import Answer
from kvmcp.core.wire.common import Content, ResourceLink, TextContent, ToolResult

INVALID_PARAMS: Final = "INVALID_PARAMS"
CONFLICT: Final = "CONFLICT"
SESSION_NOT_FOUND: Final = "SESSION_NOT_FOUND"
CONFIRMATION_REQUIRED: Final = "CONFIRMATION_REQUIRED"
TOO_LARGE: Final = Code.TOO_LARGE.value
"""Codes of what the tools themselves refuse; those of the store's failures are `ops.Code`."""

ReplyT = TypeVar("ReplyT")

encode = msgspec.json.Encoder().encode


class Fault(Struct, frozen=True):
    """`structuredContent.error` of a tool that failed. Every tool's schema has it, so it is not described there."""

    code: str
    """`INVALID_PARAMS`, `CONFLICT` and the like, for programs."""
    message: str
    """What came, what was allowed, what to do next; no value."""
    retryable: bool = False
    """Whether the same call may succeed later."""
    outcome: Outcome = "not_applied"
    etag: str | UnsetType = UNSET
    """Of the value that is there now, for a `CONFLICT`."""


class _Failed(Struct, frozen=True):
    error: Fault


class Shown(Struct, frozen=True):
    """A result with something beside it: resources to read for what was left out, sentences for the model."""

    result: "Struct | bytes"
    links: tuple[ResourceLink, ...] = ()
    notes: tuple[str, ...] = ()


Rendered: TypeAlias = Struct | bytes
"""A structured result as a struct or as the JSON text of an object; or a `Shown`, a `Fault`, a `Failure`."""


def answer(rendered: Rendered, *, dry: bool = False) -> Answer:
    """The answer that says `rendered`; `dry` marks it as what would have happened."""
    links: tuple[ResourceLink, ...] = ()
    notes: tuple[str, ...] = ()
    if isinstance(rendered, Fault):
        return failed(rendered)
    if isinstance(rendered, Failure):
        return store_failed(rendered)
    if isinstance(rendered, Shown):
        links, notes, rendered = rendered.links, rendered.notes, rendered.result
    json = to_json(rendered, dry=dry)
    content: tuple[Content, ...] = (TextContent(json.decode()), *links) if links else ()
    return Answer(ToolResult(content, json, notes=notes))


def to_json(rendered: Rendered, *, dry: bool = False) -> bytes:
    """The JSON text of a structured result, of `{"error": …}` for a fault."""
    if isinstance(rendered, Shown):
        rendered = rendered.result
    if isinstance(rendered, Failure):
        rendered = fault_of(rendered)
    if isinstance(rendered, Fault):
        return encode(_Failed(rendered))
    json = rendered if isinstance(rendered, bytes) else encode(rendered)
    if not dry:
        return json
    return b'%b%b"dry_run":true}' % (json[:-1], b"," if len(json) > 2 else b"")


def structured(result: Struct) -> Answer:
    """Answer with `result` as the structured result."""
    return Answer(ToolResult(structured=encode(result)))


def refused(message: str, code: str = INVALID_PARAMS) -> Answer:
    """Answer that the arguments cannot be used; nothing was asked of the store. `message` holds no value."""
    return failed(Fault(code, message))


def store_failed(failure: Failure) -> Answer:
    """Answer with what the store said."""
    return failed(fault_of(failure))


def fault_of(failure: Failure) -> Fault:
    return Fault(failure.code.value, failure.message, failure.retryable, failure.outcome)


def failed(fault: Fault) -> Answer:
    """Answer with a failure; the text reads `CODE: message`."""
    return Answer(
        ToolResult(
            content=(TextContent(f"{fault.code}: {fault.message}"),),
            structured=encode(_Failed(fault)),
            is_error=True,
        )
    )


def conflict(unmet: Unmet) -> Fault:
    """What `if_match` says where something else is there. The etag is no secret: who may write may read."""
    if not unmet.found:
        return Fault(
            CONFLICT, "the key does not exist, so nothing was changed; leave if_match out to make it"
        )
    if unmet.etag is None:
        problem = "the key holds no plain value, so it has no etag; nothing was changed"
        return Fault(CONFLICT, f"{problem}; look with redis_keys and detail: detailed what it holds")
    return Fault(
        CONFLICT,
        f"the value has changed, its etag is {unmet.etag} now; nothing was changed; "
        "read it again, decide again, then send the new etag",
        etag=unmet.etag,
    )


def only_reply(replies: Sequence[object], reply_type: type[ReplyT]) -> ReplyT | Failure:
    """The reply to a batch of one operation, whose type `ops` lays down."""
    (reply,) = replies
    assert isinstance(reply, reply_type | Failure), _broken(reply)
    return reply


def of_type(reply: object, reply_type: type[ReplyT]) -> ReplyT:
    """A reply that is no `Failure`, whose type `ops` lays down."""
    assert isinstance(reply, reply_type), _broken(reply)
    return reply


def is_done(reply: object) -> None:
    """Check the reply to a write that says nothing more, or to the look that stands for it in a dry run."""
    assert isinstance(reply, bool | int | tuple), _broken(reply)


def _broken(reply: object) -> str:
    return f"the backend broke its contract: {type(reply).__name__}"
