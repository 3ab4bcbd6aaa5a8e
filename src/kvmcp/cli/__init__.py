"""The command line: words in, one call of `kvmcp.assembly`, an exit code out.

Knows commands, flags and how results are printed; not what a setting means (`kvmcp.config`) nor how the server
is put together (`kvmcp.assembly`). Every wrong use ends in one line on stderr and `USAGE`.

Imports as little as it can: hosts start `kvmcp serve` for each window and wait for it. Whatever is not needed
to say `kvmcp --version` is imported by the function that needs it, `typing` included.
"""

from __future__ import annotations

import io
import os
import sys

from kvmcp import __version__
from kvmcp.cli.console import BROKEN_PIPE, INTERNAL, INTERRUPTED, OK, USAGE, Console, OutputError, UsageError

TYPE_CHECKING = False  # what `typing` calls so, without importing it
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import BinaryIO, TextIO

    from kvmcp.cli.console import Server

YOUNG_OBJECTS = 10_000
"""Containers that a server makes before garbage is looked for among them (Python: 700). Imports make many and leave few
behind: at 700 the first answer costs 2% more instructions, without any limit trio's start leaves 1 MiB of garbage."""


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


def _dispatch(words: Sequence[str], console: Console) -> int:
    first = words[0] if words else ""
    if first in ("--version", "-V"):
        console.print(f"kvmcp {__version__}")
        return OK
    from kvmcp.cli.commands import COMMANDS, find_command, overview

    if first in ("--help", "-h", "help"):
        console.print(overview())
        return OK
    from kvmcp.cli.parser import asks_for_help, make_parser, parse

    name, rest = find_command(words)
    command = COMMANDS[name]
    parser = make_parser(name, command)
    if asks_for_help(rest):
        console.print(parser.format_help().rstrip())
        return OK
    return command.run(parse(parser, rest), console)


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
