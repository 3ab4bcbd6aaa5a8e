"""Coroutine functions become what a server offers: tools, resources, templates, prompts, and what completes them.

A function takes its arguments, as a msgspec Struct, and a `Work`. The Struct is what clients are told of the
arguments, and what theirs are held against. A function without arguments takes a `Work` only.
"""

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct

from kvmcp.core.arguments import StructArguments
from kvmcp.core.errors import INVALID_PARAMS, RESOURCE_NOT_FOUND, RpcError
from kvmcp.core.items import Completer, Prompt, Resource, ResourceTemplate, TaskSupport, Tool
from kvmcp.core.json_schema import flat_schema, output_schema
from kvmcp.core.plan import Context, Fail, Plan, Start, resource_not_found
from kvmcp.core.schema_arguments import SchemaArguments
from kvmcp.core.uritemplate import UriTemplate
from kvmcp.core.wire.common import (
    CompletionResult,
    PromptArgument,
    PromptMessage,
    PromptResult,
    ReadResult,
    ResourceContents,
    TextContent,
    ToolAnnotations,
)
from kvmcp.io.work import FunctionJob, RequestFailed, Returned, Work, json_text

Contents: TypeAlias = ReadResult | Struct | Mapping[str, object] | str | bytes | None
"""What a resource's function returns: text, bytes, or data that is written as JSON; None where there is none."""
Messages: TypeAlias = PromptResult | Sequence[PromptMessage] | str
"""What a prompt's function returns; a text is one message of the user."""
Suggestions: TypeAlias = CompletionResult | Sequence[str]
"""What a completing function returns, best first."""


class Completing(Struct, frozen=True):
    """An argument of a prompt, or a variable of a template, that somebody is typing."""

    name: str
    value: str
    """What is there so far."""
    chosen: Mapping[str, str]
    """The other arguments that have a value already."""


CompleteFunction: TypeAlias = Callable[[Completing, Work], Awaitable[Suggestions]]


class NoArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Of a function that takes a `Work` only."""


def start_work(
    function: Callable[[Any, Work], Awaitable[Returned]], arguments: object, context: Context
) -> Plan:
    """A plan that runs a coroutine function. For handlers that plan other things, too: first a question, say.

    `Any`: what `arguments` is.
    """
    return Start(FunctionJob(function, arguments, context))


# --- tools ------------------------------------------------------------------------------------------------------


def function_tool(
    function: Callable[..., Awaitable[Returned]],
    *,
    name: str | None = None,
    title: str | None = None,
    description: str | None = None,
    annotations: ToolAnnotations | None = None,
    schema: bytes | Mapping[str, object] | None = None,
    result: type[Struct] | None = None,
    task_support: TaskSupport = "forbidden",
) -> Tool:
    """A tool that runs a coroutine function; see `Server.tool`."""
    name = function.__name__ if name is None else name
    run, arguments = _taken_apart(function, f"tool {name}", any_type=schema is not None)

    def plan(given: object, context: Context) -> Plan:
        return start_work(run, msgspec.json.decode(given) if isinstance(given, Raw) else given, context)

    return Tool(
        name=name,
        arguments=StructArguments(arguments) if schema is None else SchemaArguments(schema),
        plan=plan,
        title=UNSET if title is None else title,
        description=_described(function, description),
        annotations=UNSET if annotations is None else annotations,
        output_schema=None if result is None else output_schema(result),
        task_support=task_support,
    )


# --- resources --------------------------------------------------------------------------------------------------


def function_resource(
    function: Callable[[Work], Awaitable[Contents]],
    uri: str,
    *,
    name: str | None = None,
    title: str | None = None,
    description: str | None = None,
    mime_type: str | None = None,
) -> Resource:
    """A resource that a coroutine function reads; see `Server.resource`."""
    run, _ = _taken_apart(function, f"resource {uri}")
    as_read = partial(_as_contents, uri, mime_type)

    def read(uri: str, context: Context) -> Plan:
        return Start(FunctionJob(run, NoArguments(), context, as_read))

    return Resource(
        uri=uri,
        name=function.__name__ if name is None else name,
        read=read,
        title=UNSET if title is None else title,
        description=_described(function, description),
        mime_type=UNSET if mime_type is None else mime_type,
    )


def function_template(
    function: Callable[[Any, Work], Awaitable[Contents]],
    uri_template: str,
    *,
    name: str | None = None,
    title: str | None = None,
    description: str | None = None,
    mime_type: str | None = None,
    complete: CompleteFunction | None = None,
) -> ResourceTemplate:
    """A resource template whose resources a coroutine function reads; see `Server.template`."""
    template = UriTemplate(uri_template)
    run, variables = _taken_apart(function, f"template {uri_template}")
    if sorted(template.variables) != sorted(_names(variables)):
        there = ", ".join(template.variables)
        raise TypeError(f"template {uri_template}: {variables.__name__} must have the fields {there}")

    def read(uri: str, found: Mapping[str, str], context: Context) -> Plan:
        try:
            given = msgspec.convert(found, variables, strict=False)
        except msgspec.ValidationError:
            return resource_not_found(uri)
        return Start(FunctionJob(run, given, context, partial(_as_contents, uri, mime_type)))

    return ResourceTemplate(
        uri_template=template,
        name=function.__name__ if name is None else name,
        read=read,
        complete=None if complete is None else _completer(complete),
        title=UNSET if title is None else title,
        description=_described(function, description),
        mime_type=UNSET if mime_type is None else mime_type,
    )


def _as_contents(uri: str, mime_type: str | None, value: Contents) -> ReadResult:
    match value:
        case ReadResult():
            return value
        case None:
            raise RequestFailed(RESOURCE_NOT_FOUND, "resource not found", {"uri": uri})
        case str():
            contents = ResourceContents(uri, mime_type or "text/plain", text=value)
        case bytes():
            blob = base64.b64encode(value).decode()
            contents = ResourceContents(uri, mime_type or "application/octet-stream", blob=blob)
        case _:
            contents = ResourceContents(uri, mime_type or "application/json", text=json_text(value).decode())
    return ReadResult((contents,))


# --- prompts ----------------------------------------------------------------------------------------------------


def function_prompt(
    function: Callable[..., Awaitable[Messages]],
    *,
    name: str | None = None,
    title: str | None = None,
    description: str | None = None,
    complete: CompleteFunction | None = None,
) -> Prompt:
    """A prompt that a coroutine function writes; see `Server.prompt`."""
    name = function.__name__ if name is None else name
    run, arguments = _taken_apart(function, f"prompt {name}")

    def get(given: Mapping[str, str], context: Context) -> Plan:
        try:
            read = msgspec.convert(given, arguments, strict=False)
        except msgspec.ValidationError as error:
            return Fail(RpcError(INVALID_PARAMS, f"arguments of prompt {name}: {error}"))
        return Start(FunctionJob(run, read, context, _as_messages))

    return Prompt(
        name=name,
        get=get,
        arguments=_prompt_arguments(arguments),
        complete=None if complete is None else _completer(complete),
        title=UNSET if title is None else title,
        description=_described(function, description),
    )


def _prompt_arguments(arguments: type[Struct]) -> tuple[PromptArgument, ...]:
    schema = flat_schema(arguments, null_is_absent=True)
    return tuple(
        PromptArgument(
            name, description=node.get("description", UNSET), required=name in schema.get("required", ())
        )
        for name, node in schema["properties"].items()
    )


def _as_messages(value: Messages) -> PromptResult:
    if isinstance(value, PromptResult):
        return value
    return PromptResult(
        (PromptMessage("user", TextContent(value)),) if isinstance(value, str) else tuple(value)
    )


# --- completion -------------------------------------------------------------------------------------------------


def _completer(function: CompleteFunction) -> Completer:
    def complete(name: str, value: str, chosen: Mapping[str, str], context: Context) -> Plan:
        return Start(FunctionJob(function, Completing(name, value, chosen), context, _as_completion))

    return complete


def _as_completion(value: Suggestions) -> CompletionResult:
    return value if isinstance(value, CompletionResult) else CompletionResult(tuple(value))


# --- what a function says of itself -----------------------------------------------------------------------------


def _taken_apart(
    function: Callable[..., Awaitable[Any]], what: str, *, any_type: bool = False
) -> tuple[Callable[[Any, Work], Awaitable[Any]], type[Struct]]:
    """The function as one of arguments and a `Work`, and the type of its arguments.

    Raises TypeError where that is no Struct, unless `any_type`.
    """
    from inspect import get_annotations, signature  # Only for servers with functions of their own.

    names = list(signature(function).parameters)
    if len(names) == 1:

        async def without_arguments(arguments: object, work: Work) -> Any:  # `Any`: whatever it returns
            return await function(work)

        return without_arguments, NoArguments
    if any_type:
        return function, NoArguments
    annotation = function.__annotations__.get(names[0]) if names else None
    if isinstance(annotation, str):  # A name is looked up where the function was defined.
        annotation = get_annotations(function, eval_str=True)[names[0]]
    if not isinstance(annotation, type) or not issubclass(annotation, Struct):
        raise TypeError(f"{what}: the first parameter needs a msgspec Struct as its annotation")
    return function, annotation


def _names(arguments: type[Struct]) -> tuple[str, ...]:
    """The names of a struct's fields as others write them."""
    return arguments.__struct_encode_fields__


def _described(function: Callable[..., object], description: str | None) -> str | msgspec.UnsetType:
    if description is not None:
        return description
    from inspect import getdoc

    return getdoc(function) or UNSET
