"""`kvmcp call`: one tool, its arguments from the command line or standard input, its result as JSON."""

from __future__ import annotations

import msgspec

from kvmcp.cli.console import OK, TOOL_ERROR, Console, UsageError
from kvmcp.cli.parser import load_settings, require_loop
from kvmcp.cli.tools import described
from kvmcp.config import did_you_mean, quoted
from kvmcp.core.wire.common import TextContent

TYPE_CHECKING = False  # what `typing` calls so, without importing it
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from kvmcp.core.wire.common import ToolResult


def call(args: argparse.Namespace, console: Console) -> int:
    settings = load_settings(args, console).settings
    require_loop(settings)
    arguments = _arguments(args.arguments, console)
    server = console.server()
    try:
        result = server.call_tool(settings, args.tool, arguments)
    except server.UnknownTool:
        raise UsageError(_unknown_tool(args.tool, server.tool_definitions(settings))) from None
    except server.Refused as error:
        raise UsageError(f"the call of {args.tool} was refused: {error}") from None
    return _print_error(args, result, console) if result.is_error else _print_result(result, console)


def _arguments(given: str, console: Console) -> bytes:
    """The JSON text of a tool's arguments. Raises UsageError where it is no JSON object."""
    text = console.stdin.read() if given == "-" else given.encode("utf-8", "surrogateescape")
    try:
        msgspec.json.decode(text.decode(), type=dict[str, msgspec.Raw])  # Raw alone takes any bytes
    except msgspec.ValidationError:
        raise UsageError(f"the arguments are no JSON object; {_EXAMPLE_ARGUMENTS}") from None
    except RecursionError:
        raise UsageError("the arguments are nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the arguments are not valid JSON ({error}); {_EXAMPLE_ARGUMENTS}") from None
    return text


_EXAMPLE_ARGUMENTS = """allowed: an object such as '{"key": "a"}', or - to read it from standard input"""


def _unknown_tool(name: str, definitions: Sequence[bytes]) -> str:
    names = [tool.name for tool in map(described, definitions)]
    return f"unknown tool {quoted(name)}{did_you_mean(name, names)}; kvmcp tools lists all"


def _print_result(result: ToolResult, console: Console) -> int:
    """What the tool returned as JSON: its structured result, or its content where it has none."""
    console.print(msgspec.json.encode(result.content) if result.structured is None else result.structured)
    for note in result.notes:
        console.complain(note)
    return OK


def _print_error(args: argparse.Namespace, result: ToolResult, console: Console) -> int:
    if args.json:
        console.complain_raw(_error_json(result))
        return TOOL_ERROR
    for text in (*_texts(result), *result.notes):
        console.complain(f"{args.tool}: {text}")
    return TOOL_ERROR


def _texts(result: ToolResult) -> list[str]:
    """What a result says, for people."""
    texts = [block.text for block in result.content if isinstance(block, TextContent)]
    return texts or [(result.structured or b"failed without a message").decode()]


def _error_json(result: ToolResult) -> bytes:
    """The result as MCP writes it."""
    texts = result.notes if result.content else (*_texts(result), *result.notes)
    answer: dict[str, object] = {
        "isError": True,
        "content": [*result.content, *map(TextContent, texts)],
    }
    if result.structured is not None:
        answer["structuredContent"] = msgspec.Raw(result.structured)
    return msgspec.json.encode(answer)
