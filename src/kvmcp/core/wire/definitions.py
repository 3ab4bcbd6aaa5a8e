"""Tools, resources, templates and prompts as lists show them."""

from msgspec import UNSET, Raw, Struct, UnsetType, field

from kvmcp.core.wire.common import Annotations, Icon, PromptArgument, ToolAnnotations


class ToolDefinition(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Schemas are JSON text, passed on with every keyword they came with."""

    name: str
    input_schema: Raw
    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    output_schema: Raw | UnsetType = UNSET
    annotations: ToolAnnotations | UnsetType = UNSET
    icons: tuple[Icon, ...] | UnsetType = UNSET
    meta: Raw | UnsetType = field(name="_meta", default=UNSET)


class ResourceDefinition(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """`size` is in bytes."""

    uri: str
    name: str
    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    mime_type: str | UnsetType = UNSET
    size: int | UnsetType = UNSET
    annotations: Annotations | UnsetType = UNSET
    icons: tuple[Icon, ...] | UnsetType = UNSET
    meta: Raw | UnsetType = field(name="_meta", default=UNSET)


class TemplateDefinition(Struct, frozen=True, omit_defaults=True, rename="camel"):
    uri_template: str
    name: str
    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    mime_type: str | UnsetType = UNSET
    annotations: Annotations | UnsetType = UNSET
    icons: tuple[Icon, ...] | UnsetType = UNSET
    meta: Raw | UnsetType = field(name="_meta", default=UNSET)


class PromptDefinition(Struct, frozen=True, omit_defaults=True, rename="camel"):
    name: str
    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    arguments: tuple[PromptArgument, ...] | UnsetType = UNSET
    icons: tuple[Icon, ...] | UnsetType = UNSET
    meta: Raw | UnsetType = field(name="_meta", default=UNSET)
