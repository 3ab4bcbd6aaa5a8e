"""What the store's tools answer: a structured result, a refusal of the arguments, a failure of the store."""

from collections.abc import Sequence
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from kvmcp.backends.ops import Code, Failure, Outcome
from kvmcp.core.plan import Answer
from kvmcp.core.wire.common import TextContent, ToolResult

INVALID_PARAMS: Final = "INVALID_PARAMS"
"""The code of a refusal; those of the store's failures are `ops.Code`."""

ReplyT = TypeVar("ReplyT")

_encode = msgspec.json.Encoder().encode


class Fault(Struct, frozen=True):
    """`structuredContent.error` of a tool that failed."""

    code: Annotated[str, Meta(description=f"{INVALID_PARAMS}, " + ", ".join(Code) + ".")]
    message: str
    retryable: Annotated[bool, Meta(description="Whether the same call may succeed later.")]
    outcome: Annotated[
        Outcome,
        Meta(description="Whether the store may have changed: unknown only for a write without a reply."),
    ] = "not_applied"


class _Failed(Struct, frozen=True):
    error: Fault


def structured(result: Struct) -> Answer:
    """Answer with `result` as the structured result."""
    return Answer(ToolResult(structured=_encode(result)))


def refused(message: str, code: str = INVALID_PARAMS) -> Answer:
    """Answer that the arguments cannot be used; nothing was asked of the store. `message` holds no value."""
    return _failed(Fault(code, message, retryable=False))


def store_failed(failure: Failure) -> Answer:
    """Answer with what the store said."""
    return _failed(Fault(failure.code.value, failure.message, failure.retryable, failure.outcome))


def _failed(fault: Fault) -> Answer:
    return Answer(
        ToolResult(
            content=(TextContent(f"{fault.code}: {fault.message}"),),
            structured=_encode(_Failed(fault)),
            is_error=True,
        )
    )


def only_reply(replies: Sequence[object], reply_type: type[ReplyT]) -> ReplyT | Failure:
    """The reply to a batch of one operation, whose type `ops` lays down."""
    (reply,) = replies
    assert isinstance(reply, reply_type | Failure), f"the backend broke its contract: {type(reply).__name__}"
    return reply
