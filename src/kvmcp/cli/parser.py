"""From words to settings: the parser and the help of a command, and what is said of words that fit nothing.

All settings are read as text here: `kvmcp.config` knows what they may be.
"""

from __future__ import annotations

import argparse
import re

import msgspec

from kvmcp.cli.console import EXIT_CODES, Console, UsageError
from kvmcp.config import (
    CONFIG_FLAG,
    CONFIG_VARIABLE,
    SETTINGS,
    ConfigError,
    did_you_mean,
    load,
    quoted,
    redacted,
)

TYPE_CHECKING = False  # what `typing` calls so, without importing it
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn, Protocol

    from kvmcp.config import Loaded, Setting, Settings

    class Arguments(Protocol):
        """A parser, or a group of its options."""

        def add_argument(self, *names: str, **how: Any) -> object: ...


HELP_WIDTH = 100
"""Columns of help. Fixed: asking the terminal would import `shutil`, even where no help is printed."""


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


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{redacted(message)}; see {self.prog} --help")


def make_parser(name: str, command: Command) -> Parser:
    parser = Parser(
        prog=f"kvmcp {name}",
        description=f"{command.summary[0].upper()}{command.summary[1:]}.",
        epilog=epilog(command.examples),
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


def epilog(examples: Sequence[str]) -> str:
    return "\n".join(["examples:", *(f"  {example}" for example in examples), "", EXIT_CODES])


# --- one flag per setting -------------------------------------------------------------------------------------


def _add_settings(parser: argparse.ArgumentParser, serving: bool) -> None:
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


def load_settings(args: argparse.Namespace, console: Console) -> Loaded:
    """The settings for a command; tells the user of what was ignored. Raises UsageError."""
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


def settings_in_use(loaded: Loaded, console: Console) -> Settings:
    """Without what matters only to transports that are not served, as if it was not set.

    Raises UsageError where a flag asked for such a thing; what comes from elsewhere may be meant for other starts,
    and is told as a warning.
    """
    settings = loaded.settings
    idle: dict[str, object] = {}
    for setting in SETTINGS:
        if getattr(settings, setting.name) == setting.default or _matters(setting, settings.transport):
            continue
        origin = loaded.origins[setting.name]
        problem = (
            f"{origin.where} has no effect with --transport {','.join(settings.transport)}: it is for "
            + _alternatives(setting)
        )
        if origin.source == "flag":
            raise UsageError(f"{problem}; add --transport {setting.row.transports[0]}, or leave it out")
        console.complain(f"warning: {problem}")
        idle[setting.name] = setting.default
    return msgspec.structs.replace(settings, **idle) if idle else settings


def _matters(setting: Setting, transports: Sequence[str]) -> bool:
    """Whether one of `transports`, NAME or NAME:PORT, makes use of it."""
    if setting.name == "port":
        return any(transport in setting.row.transports for transport in transports)
    names = [transport.partition(":")[0] for transport in transports]
    return not setting.row.transports or any(name in setting.row.transports for name in names)


def _alternatives(setting: Setting) -> str:
    text = " or ".join(setting.row.transports)
    return f"{text} without a port of its own" if setting.name == "port" else text


def require_loop(settings: Settings) -> None:
    """Raises UsageError where the event loop's package is missing."""
    if settings.loop == "asyncio":
        return
    from importlib.util import find_spec

    if find_spec(settings.loop) is None:
        package = "'kvmcp[trio]'" if settings.loop == "trio" else settings.loop
        raise UsageError(
            f"the loop {settings.loop} is not installed: run pip install {package}, or use the loop asyncio"
        )


# --- words that fit nothing -----------------------------------------------------------------------------------


def asks_for_help(words: Sequence[str]) -> bool:
    """Looked for before anything else, so that help comes even where other words are wrong or missing."""
    options = words[: words.index("--")] if "--" in words else words
    return "-h" in options or "--help" in options


def parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    # Intermixed: otherwise argparse takes no JSON behind an option (`call TOOL --json '{}'`).
    args, unknown = parser.parse_known_intermixed_args(words)
    for word in unknown:
        raise UsageError(_unknown_word(word, parser))
    return args


def _unknown_word(word: str, parser: Parser) -> str:
    """What to say of a word that no option took. Never the value of an option: it may be a secret."""
    if not word.startswith("-"):
        return f"unexpected argument {quoted(word)}; see {parser.prog} --help"
    option = option_name(word)
    if hint := _secret_hint(option):
        return f"{option}: a secret has no flag, since process lists show flags; {hint}"
    known = re.findall(r"--[a-z-]+", parser.format_usage())
    return f"unknown option {option}{did_you_mean(option, known)}; see {parser.prog} --help"


def _secret_hint(option: str) -> str | None:
    """Where the secret is set that somebody took `option` for."""
    for setting in SETTINGS:
        if setting.flag is None and option == f"--{setting.name.replace('_', '-')}":
            return _secret_places(setting)
    return None


def option_name(word: str) -> str:
    return word.partition("=")[0][:60]
