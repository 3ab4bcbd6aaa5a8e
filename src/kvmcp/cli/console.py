"""What every command shares: exit codes, errors, and a console of bytes to read from and write to."""

from __future__ import annotations

TYPE_CHECKING = False  # what `typing` calls so, without importing it
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import BinaryIO, Protocol

    from kvmcp.config import Settings
    from kvmcp.core.wire.common import ToolResult

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

EXIT_CODES = """\
exit codes:
  0    done
  1    the tool answered with an error (call)
  2    wrong usage or configuration
  3    internal failure
  130  interrupted
  141  nobody reads the output any more"""


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


def columns(rows: Sequence[Sequence[str]]) -> str:
    """`rows` as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
