"""The command line: words in, one call of `kvmcp.assembly`, an exit code out.

Knows commands, flags and how results are printed; not what a setting means (`kvmcp.config`) nor how the server
is put together (`kvmcp.assembly`). Every wrong use ends in one line on stderr and `USAGE`.

Imports as little as it can: hosts start `kvmcp serve` for each window and wait for it. Whatever is not needed
to say `kvmcp --version` is imported by the function that needs it, `typing` included.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys

from kvmcp import __version__

TYPE_CHECKING = False  # what `typing` calls so, without importing it
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, BinaryIO, NoReturn, Protocol, TextIO

    from kvmcp.config import Loaded, Setting, Settings
    from kvmcp.core.wire.common import ToolResult

    class Arguments(Protocol):
        """A parser, or a group of its options."""

        def add_argument(self, *names: str, **how: Any) -> object: ...

    class Server(Protocol):
        """What the commands need of `kvmcp.assembly`."""

        @property
        def UnknownTool(self) -> type[Exception]:
            """Raised by `call_tool` where no tool has that name."""
            ...

        @property
        def Refused(self) -> type[Exception]:
            """Raised by `call_tool` where the request was refused unread; the message says why."""
            ...

        def serve(self, settings: Settings) -> int:
            """Serve until told to stop; the exit code."""
            ...

        def call_tool(self, settings: Settings, name: str, arguments: bytes) -> ToolResult:
            """Call one tool with the JSON text of its arguments. Raises UnknownTool and Refused."""
            ...

        def tool_definitions(self, settings: Settings) -> Sequence[bytes]:
            """Each tool's definition as MCP lists it: JSON text."""
            ...

        def exported_schemas(self, settings: Settings) -> Sequence[tuple[str, str]]:
            """File name and JSON text of the schemas of each tool."""
            ...


OK = 0
TOOL_ERROR = 1
USAGE = 2
INTERNAL = 3
INTERRUPTED = 130
"""What shells report for a program that SIGINT ended."""
BROKEN_PIPE = 141
"""The same for SIGPIPE."""

YOUNG_OBJECTS = 10_000
"""Containers that a server makes before garbage is looked for among them (Python: 700). Imports make many and leave few
behind: at 700 the first answer costs 2% more instructions, without any limit trio's start leaves 1 MiB of garbage."""

EXIT_CODES = """\
exit codes:
  0    done
  1    the tool answered with an error (call)
  2    wrong usage or configuration
  3    internal failure
  130  interrupted
  141  nobody reads the output any more"""

HELP_WIDTH = 100
"""Columns of help. Fixed: asking the terminal would import `shutil`, even where no help is printed."""


class UsageError(Exception):
    """The words on the command line, or the configuration, cannot be used. The message is one line."""


class OutputError(Exception):
    """The output could not be written. The cause is the OSError."""


class Console:
    """What a command reads and writes: streams of bytes (UTF-8 on every platform), environment, server."""

    def __init__(
        self,
        environ: Mapping[str, str],
        stdin: BinaryIO,
        stdout: BinaryIO,
        stderr: BinaryIO,
        server: Server | None = None,
    ) -> None:
        self.environ = environ
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self._server = server

    def print(self, text: str | bytes) -> None:
        """A line, or several, of output. Raises OutputError."""
        try:
            _print(self.stdout, text)
        except OSError as error:
            raise OutputError(error.strerror) from error

    def complain(self, text: str) -> None:
        """One line of diagnosis."""
        self.complain_raw(f"kvmcp: {' '.join(text.splitlines())}")

    def complain_raw(self, text: str | bytes) -> None:
        """Diagnosis that is printed as it is. What cannot be written is lost: there is nobody to tell."""
        try:
            _print(self.stderr, text)
        except OSError:
            pass

    def server(self) -> Server:
        if self._server is None:
            from kvmcp import assembly

            self._server = assembly
        return self._server


def _print(stream: BinaryIO, text: str | bytes) -> None:
    stream.write(text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace"))
    stream.write(b"\n")
    stream.flush()


# --- serve ----------------------------------------------------------------------------------------------------


def _serve(args: argparse.Namespace, console: Console) -> int:
    settings = _load(args, console).settings
    _require_loop(settings)
    return console.server().serve(settings)


def _require_loop(settings: Settings) -> None:
    """Raises UsageError where the event loop's package is missing."""
    if settings.loop == "asyncio":
        return
    from importlib.util import find_spec

    if find_spec(settings.loop) is None:
        package = "'kvmcp[trio]'" if settings.loop == "trio" else settings.loop
        raise UsageError(
            f"the loop {settings.loop} is not installed: run pip install {package}, or use the loop asyncio"
        )


# --- call -----------------------------------------------------------------------------------------------------


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
    settings = _load(args, console).settings
    _require_loop(settings)
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
    import msgspec

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
    from kvmcp.config import did_you_mean, quoted

    names = [tool.name for tool in map(_definition, definitions)]
    return f"unknown tool {quoted(name)}{did_you_mean(name, names)}; kvmcp tools lists all"


def _print_result(result: ToolResult, console: Console) -> int:
    """What the tool returned as JSON: its structured result, or its content where it has none."""
    import msgspec

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
    from kvmcp.core.wire.common import TextContent

    texts = [block.text for block in result.content if isinstance(block, TextContent)]
    return texts or [(result.structured or b"failed without a message").decode()]


def _error_json(result: ToolResult) -> bytes:
    """The result as MCP writes it."""
    import msgspec

    from kvmcp.core.wire.common import TextContent

    texts = result.notes if result.content else (*_texts(result), *result.notes)
    answer: dict[str, object] = {
        "isError": True,
        "content": [*result.content, *map(TextContent, texts)],
    }
    if result.structured is not None:
        answer["structuredContent"] = msgspec.Raw(result.structured)
    return msgspec.json.encode(answer)


# --- tools ----------------------------------------------------------------------------------------------------


def _configure_tools(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the MCP definitions as a JSON array")


def _tools(args: argparse.Namespace, console: Console) -> int:
    definitions = console.server().tool_definitions(_load(args, console).settings)
    if args.json:
        console.print(b"[" + b",\n ".join(definitions) + b"]")
        return OK
    rows = [(tool.name, tool.title, tool.glance) for tool in map(_definition, definitions)]
    console.print(_columns([("NAME", "TITLE", "ARGUMENTS"), *rows]))
    return OK


class _Definition:
    """A tool as the list for people shows it."""

    def __init__(self, name: str, title: str, glance: str) -> None:
        self.name = name
        self.title = title
        self.glance = glance


def _definition(definition: bytes) -> _Definition:
    import msgspec

    from kvmcp.core.wire.definitions import ToolDefinition

    tool = msgspec.json.decode(definition, type=ToolDefinition)
    return _Definition(tool.name, tool.title or "", _glance(bytes(tool.input_schema)))


def _glance(schema: bytes) -> str:
    """The names of a tool's arguments; optional ones in brackets."""
    import msgspec

    members = msgspec.json.decode(schema, type=dict[str, msgspec.Raw])
    properties = msgspec.json.decode(members.get("properties", b"{}"), type=dict[str, msgspec.Raw])
    required = msgspec.json.decode(members.get("required", b"[]"), type=list[str])
    return " ".join(name if name in required else f"[{name}]" for name in properties)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """`rows` as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


# --- schema export --------------------------------------------------------------------------------------------


def _configure_schema_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="DIR", help="where the files are written; made where it is not there"
    )


def _schema_export(args: argparse.Namespace, console: Console) -> int:
    schemas = console.server().exported_schemas(_load(args, console).settings)
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


# --- config show ----------------------------------------------------------------------------------------------


def _configure_config_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON object, one member per setting")


def _config_show(args: argparse.Namespace, console: Console) -> int:
    loaded = _load(args, console)
    if args.json:
        console.print(_config_json(loaded))
        return OK
    from kvmcp.config import SETTINGS

    rows = [
        (s.name, s.shown(getattr(loaded.settings, s.name)), str(loaded.origins[s.name])) for s in SETTINGS
    ]
    console.print(_columns([("SETTING", "VALUE", "FROM"), *rows]))
    return OK


def _config_json(loaded: Loaded) -> bytes:
    """One line per setting."""
    import msgspec

    from kvmcp.config import SETTINGS

    lines: list[bytes] = []
    for setting in SETTINGS:
        origin = loaded.origins[setting.name]
        value = setting.public(getattr(loaded.settings, setting.name))
        member = {"value": value, "source": origin.source, "where": origin.where or None}
        lines.append(b'  "%b": %b' % (setting.name.encode(), msgspec.json.encode(member)))
    return b"{\n" + b",\n".join(lines) + b"\n}"


# --- commands -------------------------------------------------------------------------------------------------


class Command:
    """A command: what help says about it, how its parser is made, and what it does.

    `serving` is whether it takes the settings that matter to a server alone.
    """

    def __init__(
        self,
        summary: str,
        run: Callable[[argparse.Namespace, Console], int],
        examples: tuple[str, ...],
        configure: Callable[[argparse.ArgumentParser], None] | None = None,
        serving: bool = False,
    ) -> None:
        self.summary = summary
        self.run = run
        self.examples = examples
        self.configure = configure
        self.serving = serving


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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        from kvmcp.config import redacted

        raise UsageError(f"{redacted(message)}; see {self.prog} --help")


def _parser(name: str, command: Command) -> _Parser:
    parser = _Parser(
        prog=f"kvmcp {name}",
        description=f"{command.summary[0].upper()}{command.summary[1:]}.",
        epilog=_epilog(command.examples),
        formatter_class=_formatter,
        allow_abbrev=False,
        add_help=False,  # `main` prints help, to the console that it was given
    )
    parser.add_argument("-h", "--help", action="store_true", help="print this")
    if command.configure is not None:
        command.configure(parser)
    _add_settings(parser, command.serving)
    return parser


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=HELP_WIDTH)


def _epilog(examples: Sequence[str]) -> str:
    return "\n".join(["examples:", *(f"  {example}" for example in examples), "", EXIT_CODES])


def _add_settings(parser: argparse.ArgumentParser, serving: bool) -> None:
    """One flag per setting. All are read as text: `config.load` knows what is allowed."""
    from kvmcp.config import CONFIG_FLAG, CONFIG_VARIABLE, SETTINGS

    offered = [setting for setting in SETTINGS if serving or not setting.row.serving]
    group = parser.add_argument_group("settings", _precedence(offered))
    for setting in offered:
        if setting.flag is not None:
            _add_setting(group, setting, setting.flag)
    group.add_argument(
        CONFIG_FLAG, metavar="FILE", help=f"a file with settings, .toml or .yaml (env: {CONFIG_VARIABLE})"
    )


def _add_setting(group: Arguments, setting: Setting, flag: str) -> None:
    kind = setting.row.kind
    if kind.takes == "switch":
        group.add_argument(flag, dest=setting.name, action="store_const", const="yes", help=_help(setting))
        off = f"--no-{flag.removeprefix('--')}"
        group.add_argument(off, dest=setting.name, action="store_const", const="no", help=argparse.SUPPRESS)
        return
    group.add_argument(
        flag,
        dest=setting.name,
        metavar=kind.metavar,
        action="append" if kind.takes == "list" else "store",
        help=_help(setting),
    )


def _help(setting: Setting) -> str:
    default = setting.shown(setting.default) or "none"
    text = f"{setting.row.help} (default: {default}; env: {setting.variable})"
    return text.replace("%", "%%")  # argparse formats it


def _precedence(offered: Sequence[Setting]) -> str:
    secrets = [
        f"{setting.name} is a secret and has no flag: {_secret_places(setting)}."
        for setting in offered
        if setting.row.secret
    ]
    return "\n".join(
        ["A flag wins over its environment variable, that over the file, that over the default.", *secrets]
    )


def _secret_places(setting: Setting) -> str:
    return f"set {setting.variable}, or {setting.file_variable} to a file's path"


def _load(args: argparse.Namespace, console: Console) -> Loaded:
    """The settings for a command; tells the user of what was ignored. Raises UsageError."""
    from kvmcp.config import SETTINGS, ConfigError, load

    given: dict[str, str | list[str] | None] = {
        name: getattr(args, name, None) for name in ("config", *(s.name for s in SETTINGS))
    }
    flags = {
        name: value if isinstance(value, str) else ",".join(value)
        for name, value in given.items()
        if value is not None
    }
    try:
        loaded = load(flags, console.environ, _read_file)
    except ConfigError as error:
        raise UsageError(str(error)) from None
    for warning in loaded.warnings:
        console.complain(f"warning: {warning}")
    return loaded


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


# --- from words to a command ----------------------------------------------------------------------------------


def main(
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | None = None,
    stderr: BinaryIO | None = None,
    server: Server | None = None,
) -> int:
    """Run one command and return its exit code. What is not given is taken from the process."""
    console = Console(
        os.environ if environ is None else environ,
        stdin or _bytes_of(sys.stdin),
        stdout or _bytes_of(sys.stdout),
        stderr or _bytes_of(sys.stderr),
        server,
    )
    if argv is None and sys.argv[1:2] == ["serve"]:
        _end_on_signals()
        _collect_rarely()
    try:
        return _dispatch(sys.argv[1:] if argv is None else argv, console)
    except UsageError as error:
        console.complain(str(error))
        return USAGE
    except OutputError as error:
        return _abandon_output(error, console)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the one place that turns a bug into an exit code
        from kvmcp.config import ConfigError

        if not isinstance(error, ConfigError):
            return _report_bug(console)
        console.complain(str(error))
        return USAGE


def _collect_rarely() -> None:
    import gc

    gc.set_threshold(YOUNG_OBJECTS)


def _end_on_signals() -> None:
    """Until the server has handlers of its own, SIGTERM and SIGINT end the process at once, with status 0.

    Nothing was accepted yet, so nothing is lost; and no KeyboardInterrupt is raised inside an import.
    """
    import signal

    def end(number: int, frame: object) -> None:
        os._exit(OK)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _bytes_of(stream: TextIO | None) -> BinaryIO:
    """The bytes below a standard stream; where its descriptor is closed Python gives None, hence nothing."""
    return stream.buffer if stream is not None else io.BytesIO()


def _abandon_output(error: OutputError, console: Console) -> int:
    """Let the interpreter's last flush go nowhere, so that it does not complain once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), console.stdout.fileno())
    if isinstance(error.__cause__, BrokenPipeError):
        return BROKEN_PIPE
    console.complain(f"cannot write the output: {error}")
    return INTERNAL


def _report_bug(console: Console) -> int:
    import traceback

    console.complain_raw(traceback.format_exc().rstrip())
    console.complain(f"internal failure, kvmcp {__version__}: please report it with the lines above")
    return INTERNAL


def _dispatch(words: Sequence[str], console: Console) -> int:
    first = words[0] if words else ""
    if first in ("--version", "-V"):
        console.print(f"kvmcp {__version__}")
        return OK
    if first in ("--help", "-h", "help"):
        console.print(_overview())
        return OK
    name, rest = _find_command(words)
    command = COMMANDS[name]
    parser = _parser(name, command)
    if _asks_for_help(rest):
        console.print(parser.format_help().rstrip())
        return OK
    return command.run(_parse(parser, rest), console)


def _overview() -> str:
    commands = _columns([(f"  {name}", command.summary) for name, command in COMMANDS.items()])
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
            _epilog([command.examples[0] for command in COMMANDS.values()]),
        ]
    )


def _find_command(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command that `words` begin with, and the words behind it. Raises UsageError."""
    for length in (1, 2):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return name, words[length:]
    allowed = f"allowed: {', '.join(COMMANDS)}; see kvmcp --help"
    if not words:
        raise UsageError(f"no command came; {allowed}")
    if words[0].startswith("-"):
        raise UsageError(f"{_option_name(words[0])} came before a command; {allowed}")
    raise UsageError(f"unknown command {_described(words)}; {allowed}")


def _described(words: Sequence[str]) -> str:
    """The words that should have been a command, with what they resemble."""
    from kvmcp.config import did_you_mean, quoted

    length = 2 if any(name.startswith(f"{words[0]} ") for name in COMMANDS) else 1
    name = " ".join(words[:length])
    return f"{quoted(name)}{did_you_mean(name, COMMANDS)}"


def _asks_for_help(words: Sequence[str]) -> bool:
    """Looked for before anything else, so that help comes even where other words are wrong or missing."""
    options = words[: words.index("--")] if "--" in words else words
    return "-h" in options or "--help" in options


def _parse(parser: _Parser, words: Sequence[str]) -> argparse.Namespace:
    # Intermixed: otherwise argparse takes no JSON behind an option (`call TOOL --json '{}'`).
    args, unknown = parser.parse_known_intermixed_args(words)
    for word in unknown:
        raise UsageError(_unknown_word(word, parser))
    return args


def _unknown_word(word: str, parser: _Parser) -> str:
    """What to say of a word that no option took. Never the value of an option: it may be a secret."""
    from kvmcp.config import did_you_mean, quoted

    if not word.startswith("-"):
        return f"unexpected argument {quoted(word)}; see {parser.prog} --help"
    option = _option_name(word)
    if hint := _secret_hint(option):
        return f"{option}: a secret has no flag, since process lists show flags; {hint}"
    known = re.findall(r"--[a-z-]+", parser.format_usage())
    return f"unknown option {option}{did_you_mean(option, known)}; see {parser.prog} --help"


def _secret_hint(option: str) -> str | None:
    """Where the secret is set that somebody took `option` for."""
    from kvmcp.config import SETTINGS

    for setting in SETTINGS:
        if setting.flag is None and option == f"--{setting.name.replace('_', '-')}":
            return _secret_places(setting)
    return None


def _option_name(word: str) -> str:
    return word.partition("=")[0][:60]
