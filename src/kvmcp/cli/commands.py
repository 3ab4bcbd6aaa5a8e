"""The commands: what help says about each, which options it takes, and where it is carried out.

What carries a command out is imported by the command.
"""

from __future__ import annotations

from kvmcp.cli.console import Console, UsageError, columns
from kvmcp.cli.parser import Command, epilog, load_settings, option_name, require_loop, settings_in_use
from kvmcp.config import did_you_mean, quoted

TYPE_CHECKING = False  # what `typing` calls so, without importing it
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


def _serve(args: argparse.Namespace, console: Console) -> int:
    settings = settings_in_use(load_settings(args, console), console)
    require_loop(settings)
    return console.server().serve(settings)


def _configure_call(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tool", metavar="TOOL", help="the tool's name, see kvmcp tools")
    parser.add_argument(
        "arguments",
        metavar="JSON",
        nargs="?",
        default="{}",
        help="its arguments, a JSON object; - reads them from standard input (default: {})",
    )
    parser.add_argument("--json", action="store_true", help="print an error as JSON, too")


def _call(args: argparse.Namespace, console: Console) -> int:
    from kvmcp.cli.call import call

    return call(args, console)


def _configure_tools(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the MCP definitions as a JSON array")


def _tools(args: argparse.Namespace, console: Console) -> int:
    from kvmcp.cli.tools import tools

    return tools(args, console)


def _configure_schema_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="DIR", help="where the files are written; made where it is not there"
    )


def _schema_export(args: argparse.Namespace, console: Console) -> int:
    from kvmcp.cli.tools import schema_export

    return schema_export(args, console)


def _configure_config_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON object, one member per setting")


def _config_show(args: argparse.Namespace, console: Console) -> int:
    from kvmcp.cli.config_show import config_show

    return config_show(args, console)


COMMANDS = {
    "serve": Command(
        "serve MCP clients",
        _serve,
        (
            "kvmcp serve",
            "kvmcp serve --transport http --redis-url redis://localhost:6379",
            "kvmcp serve --transport http:9000 --transport websocket --tools redis,coordination",
            "KVMCP_LOOP=trio kvmcp serve --config kvmcp.toml",
        ),
        serving=True,
    ),
    "call": Command(
        "call one tool and print its result",
        _call,
        (
            """kvmcp call redis_set '{"key": "a", "value": 1}'""",
            "kvmcp call redis_get - < arguments.json",
        ),
        _configure_call,
    ),
    "tools": Command("list the tools", _tools, ("kvmcp tools", "kvmcp tools --json"), _configure_tools),
    "schema export": Command(
        "write the input and output schema of each tool as a file",
        _schema_export,
        ("kvmcp schema export schemas", "kvmcp schema export --tools redis,simple_kv schemas"),
        _configure_schema_export,
    ),
    "config show": Command(
        "show each setting and where its value came from",
        _config_show,
        ("kvmcp config show --config kvmcp.toml", "kvmcp config show --json"),
        _configure_config_show,
        serving=True,
    ),
}


def overview() -> str:
    commands = columns([(f"  {name}", command.summary) for name, command in COMMANDS.items()])
    return "\n".join(
        [
            "usage: kvmcp COMMAND …",
            "       kvmcp COMMAND --help",
            "       kvmcp --version",
            "",
            "An MCP server for key-value state.",
            "",
            "commands:",
            commands,
            "",
            epilog([command.examples[0] for command in COMMANDS.values()]),
        ]
    )


def find_command(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command that `words` begin with, and the words behind it. Raises UsageError."""
    for length in (1, 2):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return name, words[length:]
    allowed = f"allowed: {', '.join(COMMANDS)}; see kvmcp --help"
    if not words:
        raise UsageError(f"no command came; {allowed}")
    if words[0].startswith("-"):
        raise UsageError(f"{option_name(words[0])} came before a command; {allowed}")
    raise UsageError(f"unknown command {_described(words)}; {allowed}")


def _described(words: Sequence[str]) -> str:
    """The words that should have been a command, with what they resemble."""
    length = 2 if any(name.startswith(f"{words[0]} ") for name in COMMANDS) else 1
    name = " ".join(words[:length])
    return f"{quoted(name)}{did_you_mean(name, COMMANDS)}"
