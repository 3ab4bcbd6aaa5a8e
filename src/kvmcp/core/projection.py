"""One internal model, many revisions: what of a definition or of content a revision can carry.

The rules are data: `_SINCE` says for each type which member came with which revision. Used by both dialects.
"""

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from kvmcp.core.catalog import LISTING, Catalog, ListKind
from kvmcp.core.items import Listed, Prompt, Resource, ResourceTemplate, Tool
from kvmcp.core.versions import MODERN
from kvmcp.core.wire.common import (
    Annotations,
    AudioContent,
    ClientCapabilities,
    ClientRequest,
    CompletionResult,
    Content,
    ElicitationCapability,
    ElicitForm,
    EmbeddedResource,
    ImageContent,
    Implementation,
    ListRoots,
    PromptArgument,
    PromptMessage,
    PromptResult,
    ReadResult,
    ResourceContents,
    ResourceLink,
    ResourcePage,
    Sample,
    SamplingCapability,
    TextContent,
    ToolResult,
)
from kvmcp.core.wire.definitions import (
    PromptDefinition,
    ResourceDefinition,
    TemplateDefinition,
    ToolDefinition,
)
from kvmcp.core.wire.params import TASKS

LIST_MEMBER: Final[dict[ListKind, bytes]] = {
    "tools": b'"tools"',
    "resources": b'"resources"',
    "templates": b'"resourceTemplates"',
    "prompts": b'"prompts"',
}

_TITLES: Final = "2025-06-18"
_ICONS: Final = "2025-11-25"

_SINCE: Final[dict[type[Struct], dict[str, str]]] = {
    ToolDefinition: {
        "annotations": "2025-03-26",
        "title": _TITLES,
        "output_schema": _TITLES,
        "meta": _TITLES,
        "icons": _ICONS,
    },
    ResourceDefinition: {"title": _TITLES, "meta": _TITLES, "icons": _ICONS},
    TemplateDefinition: {"title": _TITLES, "meta": _TITLES, "icons": _ICONS},
    PromptDefinition: {"title": _TITLES, "meta": _TITLES, "icons": _ICONS},
    PromptArgument: {"title": _TITLES},
    Implementation: {"title": _TITLES, "description": _ICONS, "website_url": _ICONS, "icons": _ICONS},
    Annotations: {"last_modified": _TITLES},
    TextContent: {"meta": _TITLES},
    ImageContent: {"meta": _TITLES},
    AudioContent: {"meta": _TITLES},
    EmbeddedResource: {"meta": _TITLES},
    ResourceLink: {"meta": _TITLES, "icons": _ICONS},
    ResourceContents: {"meta": _TITLES},
    ClientCapabilities: {"elicitation": _TITLES, "extensions": MODERN[0]},
    ElicitationCapability: {"form": _ICONS, "url": _ICONS},
    SamplingCapability: {"context": _ICONS, "tools": _ICONS},
}

_encode = msgspec.json.Encoder().encode

StructT = TypeVar("StructT", bound=Struct)


def trim(value: StructT, version: str) -> StructT:
    """`value` without the members that came after `version`."""
    dropped = {
        name: UNSET
        for name, since in _SINCE[type(value)].items()
        if since > version and getattr(value, name) is not UNSET
    }
    return msgspec.structs.replace(value, **dropped) if dropped else value


# --- lists ---


def definitions(items: Iterable[Listed], version: str) -> bytes:
    """The JSON array that a list shows for `items`."""
    return _encode([definition(item, version) for item in items])


def definition(item: Listed, version: str) -> Struct:
    """One item as a list of revision `version` shows it."""
    match item:
        case Tool():
            return _tool(item, version)
        case Resource():
            return _resource(item, version)
        case ResourceTemplate():
            return _template(item, version)
        case _:
            return _prompt(item, version)


def _tool(tool: Tool, version: str) -> ToolDefinition:
    return trim(
        ToolDefinition(
            name=tool.name,
            input_schema=Raw(_schema(tool.arguments.schema, version)),
            title=tool.title,
            description=tool.description,
            output_schema=_output_schema(tool.output_schema, version),
            annotations=tool.annotations,
            icons=tool.icons,
            meta=tool.meta,
        ),
        version,
    )


class _SchemaHead(Struct):
    type: Raw = Raw()


def _output_schema(schema: bytes | None, version: str) -> Raw | UnsetType:
    """Before 2026-07-28 only a schema for an object can be said."""
    if schema is None:
        return UNSET
    if version not in MODERN and bytes(msgspec.json.decode(schema, type=_SchemaHead).type) != b'"object"':
        return UNSET
    return Raw(_schema(schema, version))


def _schema(schema: bytes, version: str) -> bytes:
    """Before 2025-11-25 a tool's schema has no `$schema`."""
    if version >= _ICONS or b'"$schema"' not in schema:
        return schema
    members = msgspec.json.decode(schema, type=dict[str, Raw])
    members.pop("$schema", None)
    return _encode(members)


def _resource(resource: Resource, version: str) -> ResourceDefinition:
    return trim(
        ResourceDefinition(
            uri=resource.uri,
            name=resource.name,
            title=resource.title,
            description=resource.description,
            mime_type=resource.mime_type,
            size=resource.size,
            annotations=_annotations(resource.annotations, version),
            icons=resource.icons,
            meta=resource.meta,
        ),
        version,
    )


def _template(template: ResourceTemplate, version: str) -> TemplateDefinition:
    return trim(
        TemplateDefinition(
            uri_template=template.uri_template.text,
            name=template.name,
            title=template.title,
            description=template.description,
            mime_type=template.mime_type,
            annotations=_annotations(template.annotations, version),
            icons=template.icons,
            meta=template.meta,
        ),
        version,
    )


def _prompt(prompt: Prompt, version: str) -> PromptDefinition:
    arguments = tuple(trim(argument, version) for argument in prompt.arguments)
    return trim(
        PromptDefinition(
            name=prompt.name,
            title=prompt.title,
            description=prompt.description,
            arguments=arguments or UNSET,
            icons=prompt.icons,
            meta=prompt.meta,
        ),
        version,
    )


# --- results, capabilities, requests to the client ---


class _ListCapability(Struct, omit_defaults=True, rename="camel"):
    list_changed: bool = False
    subscribe: bool = False


class _Capabilities(Struct, omit_defaults=True):
    tools: _ListCapability | UnsetType = UNSET
    resources: _ListCapability | UnsetType = UNSET
    prompts: _ListCapability | UnsetType = UNSET
    logging: Raw | UnsetType = UNSET
    completions: Raw | UnsetType = UNSET
    extensions: dict[str, Raw] | UnsetType = UNSET


def capabilities(catalog: Catalog, version: str) -> Struct:
    """What the server offers, as both eras write it."""
    listed = _ListCapability(list_changed=True)
    return _Capabilities(
        tools=listed if catalog.offers("tools") else UNSET,
        resources=_ListCapability(list_changed=True, subscribe=True)
        if catalog.offers("resources")
        else UNSET,
        prompts=listed if catalog.offers("prompts") else UNSET,
        logging=Raw(b"{}"),
        completions=Raw(b"{}") if catalog.offers("completions") and version >= "2025-03-26" else UNSET,
        extensions={TASKS: Raw(b"{}")} if catalog.offers("tasks") and version in MODERN else UNSET,
    )


class _Completion(Struct, omit_defaults=True, rename="camel"):
    values: tuple[str, ...]
    total: int | UnsetType = UNSET
    has_more: bool | UnsetType = UNSET


class _Messages(Struct, omit_defaults=True):
    messages: list[PromptMessage]
    description: str | UnsetType = UNSET


Plain: TypeAlias = ReadResult | PromptResult | CompletionResult | ResourcePage
"""Results that both eras write alike, but for what the modern one adds."""


class _Resources(Struct, omit_defaults=True, rename="camel"):
    resources: list[ResourceDefinition]
    next_cursor: str | UnsetType = UNSET


def _page(page: ResourcePage, version: str) -> _Resources:
    cursor = UNSET if page.next_cursor is UNSET else LISTING + page.next_cursor
    return _Resources([_link(link, version) for link in page.resources], cursor)


def _link(link: ResourceLink, version: str) -> ResourceDefinition:
    listed = ResourceDefinition(
        uri=link.uri,
        name=link.name,
        title=link.title,
        description=link.description,
        mime_type=link.mime_type,
        size=link.size,
        annotations=_annotations(link.annotations, version),
        icons=link.icons,
        meta=link.meta,
    )
    return trim(listed, version)


def result_body(result: Plain, version: str) -> bytes:
    """The JSON object of a result as the legacy revisions write it; the modern one adds members."""
    match result:
        case ReadResult():
            return _encode({"contents": resource_contents(result.contents, version)})
        case PromptResult():
            return _encode(_Messages(messages(result.messages, version), result.description))
        case ResourcePage():
            return _encode(_page(result, version))
        case _:
            return _encode({"completion": _completion(result)})


COMPLETION_VALUES: Final = 100
""""completion.values … MUST NOT exceed 100 items" in all revisions."""


def _completion(result: CompletionResult) -> _Completion:
    """The first values, as many as may be sent; the rest is announced."""
    if len(result.values) <= COMPLETION_VALUES:
        return _Completion(result.values, result.total, result.has_more)
    total = len(result.values) if result.total is UNSET else result.total
    return _Completion(result.values[:COMPLETION_VALUES], total, True)


def known_capabilities(declared: ClientCapabilities, version: str) -> ClientCapabilities:
    """What of a legacy client's capabilities its revision knows: nothing else may be used."""
    known = trim(declared, version)
    sampling, elicitation = known.sampling, known.elicitation
    return msgspec.structs.replace(
        known,
        sampling=sampling if sampling is UNSET else trim(sampling, version),
        elicitation=elicitation if elicitation is UNSET else trim(elicitation, version),
    )


def client_request(request: ClientRequest, elicitation_id: str | None) -> tuple[str, bytes]:
    """Method and params. Only 2025-11-25 names URL elicitations (`elicitation_id`)."""
    match request:
        case ListRoots():
            return "roots/list", b"{}"
        case Sample(params=params):
            return "sampling/createMessage", params
        case ElicitForm(message=message, schema=schema):
            return "elicitation/create", _encode({"message": message, "requestedSchema": Raw(schema)})
        case _:
            named = {} if elicitation_id is None else {"elicitationId": elicitation_id}
            link = {"mode": "url", "message": request.message, "url": request.url, **named}
            return "elicitation/create", _encode(link)


# --- content ---


def content(blocks: Iterable[Content], version: str) -> list[Content]:
    """Content blocks in the words of `version`; what it lacks becomes text that says what was there."""
    return [_block(block, version) for block in blocks]


def result_content(result: ToolResult, version: str) -> list[Content]:
    """All blocks of a tool's result: content (or the structured data as text), then the notes."""
    blocks: Sequence[Content] = result.content
    if not blocks and result.structured is not None:
        blocks = (TextContent(result.structured.decode()),)
    return content((*blocks, *map(TextContent, result.notes)), version)


def messages(prompt_messages: Iterable[PromptMessage], version: str) -> list[PromptMessage]:
    return [PromptMessage(message.role, _block(message.content, version)) for message in prompt_messages]


def resource_contents(contents: Iterable[ResourceContents], version: str) -> list[ResourceContents]:
    return [trim(part, version) for part in contents]


def _block(block: Content, version: str) -> Content:
    if version >= _ICONS:
        return block
    if isinstance(block, AudioContent) and version < "2025-03-26":
        return TextContent(f"[audio, {block.mime_type}: this protocol revision cannot carry it]")
    if isinstance(block, ResourceLink) and version < _TITLES:
        return TextContent(f"{block.name}: {block.uri}")
    if isinstance(block, EmbeddedResource):
        block = msgspec.structs.replace(block, resource=trim(block.resource, version))
    trimmed: Content = trim(block, version)
    if trimmed.annotations is UNSET:
        return trimmed
    return msgspec.structs.replace(trimmed, annotations=_annotations(trimmed.annotations, version))


def _annotations(annotations: Annotations | UnsetType, version: str) -> Annotations | UnsetType:
    return trim(annotations, version) if isinstance(annotations, Annotations) else annotations
