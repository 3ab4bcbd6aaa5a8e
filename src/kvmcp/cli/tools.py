"""`kvmcp tools` and `kvmcp schema export`: what this server offers, for people, programs and files."""

from __future__ import annotations

import os

import msgspec

from kvmcp.cli.console import OK, Console, UsageError, columns
from kvmcp.cli.parser import load_settings
from kvmcp.core.wire.definitions import ToolDefinition

TYPE_CHECKING = False  # what `typing` calls so, without importing it
if TYPE_CHECKING:
    import argparse


def tools(args: argparse.Namespace, console: Console) -> int:
    definitions = console.server().tool_definitions(load_settings(args, console).settings)
    if args.json:
        console.print(b"[" + b",\n ".join(definitions) + b"]")
        return OK
    rows = [(tool.name, tool.title, tool.glance) for tool in map(described, definitions)]
    console.print(columns([("NAME", "TITLE", "ARGUMENTS"), *rows]))
    return OK


class Described:
    """A tool as the list for people shows it."""

    def __init__(self, name: str, title: str, glance: str) -> None:
        self.name = name
        self.title = title
        self.glance = glance


def described(definition: bytes) -> Described:
    tool = msgspec.json.decode(definition, type=ToolDefinition)
    return Described(tool.name, tool.title or "", _glance(bytes(tool.input_schema)))


def _glance(schema: bytes) -> str:
    """The names of a tool's arguments; optional ones in brackets."""
    members = msgspec.json.decode(schema, type=dict[str, msgspec.Raw])
    properties = msgspec.json.decode(members.get("properties", b"{}"), type=dict[str, msgspec.Raw])
    required = msgspec.json.decode(members.get("required", b"[]"), type=list[str])
    return " ".join(name if name in required else f"[{name}]" for name in properties)


def schema_export(args: argparse.Namespace, console: Console) -> int:
    schemas = console.server().exported_schemas(load_settings(args, console).settings)
    try:
        os.makedirs(args.folder, exist_ok=True)
        for name, text in schemas:
            with open(os.path.join(args.folder, name), "w", encoding="utf-8") as file:
                file.write(f"{text}\n")
    except OSError as error:
        raise UsageError(
            f"cannot write to {args.folder}: {error.strerror}; name a folder that can be written"
        ) from None
    console.print(f"{len(schemas)} schemas written to {args.folder}")
    return OK
