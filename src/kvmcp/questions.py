"""What a handler asks the client, written with less ceremony, and what was answered, read back.

answers = await work.ask({"who": form("Who are you?", Person)})
person = filled(answers.get("who"), Person)
"""

from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

from kvmcp.core.json_schema import flat_schema
from kvmcp.core.wire.common import ClientAnswer, ElicitForm, ElicitResult, Sample, SampleResult
from kvmcp.io.work import ToolFailed

StructT = TypeVar("StructT", bound=Struct)

_encode = msgspec.json.Encoder().encode


def form(message: str, fields: type[Struct] | Mapping[str, object]) -> ElicitForm:
    """A form for the person to fill in, as a Struct of plain values or as its JSON Schema. Never for secrets."""
    schema = fields
    if not isinstance(schema, Mapping):
        schema = flat_schema(schema, null_is_absent=True)
        schema.pop("additionalProperties", None)  # A form has no other fields anyway.
    return ElicitForm(message, _encode(schema))


def sample(text: str, max_tokens: int, **more: object) -> Sample:
    """A question for the client's model. `more` are members of `CreateMessageRequest.params`, by their names there."""
    message = {"role": "user", "content": {"type": "text", "text": text}}
    params = {"messages": [message], "maxTokens": max_tokens, **more}
    return Sample(_encode(params), tools="tools" in more or "toolChoice" in more)


def filled(answer: ClientAnswer | None, fields: type[StructT]) -> StructT | None:
    """A form as it was filled in; None where it was declined, cancelled, or never shown.

    Raises ToolFailed where the client sent something that does not fit the form.
    """
    if not isinstance(answer, ElicitResult) or answer.action != "accept":
        return None
    try:
        return msgspec.json.decode(answer.content or b"{}", type=fields)
    except msgspec.ValidationError as error:
        raise ToolFailed("INVALID_INPUT", f"the form does not fit: {error}") from None


class _Text(Struct):
    text: str = ""


def said(answer: ClientAnswer | None) -> str | None:
    """The text of what the client's model said; None where it was not asked."""
    if not isinstance(answer, SampleResult):
        return None
    blocks = msgspec.json.decode(answer.content, type=_Text | list[_Text])
    return blocks.text if isinstance(blocks, _Text) else "".join(block.text for block in blocks)
