"""fakeredis as a server on a loopback port: RESP3 in front, fakeredis's own commands behind.

fakeredis brings a TCP server, which kvmcp cannot talk to: it names fakeredis's version (2.40) as Redis's, loses the
class of errors (`WRONGTYPE` becomes `ERR`), writes pushes as plain replies and ends the connection at a command
that it does not know. Hence this front. Who answers what:

    here       how commands and replies are framed; the version in the answer to HELLO (`PRETENDED`)
    fakeredis  everything else, refusals included: it has no ROLE, INFO and CLIENT TRACKING

It reaches into fakeredis's connection object, which is not public: pyproject.toml pins the release series.
"""

import socket
import socketserver
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Self

import hiredis
from fakeredis import FakeServer
from fakeredis._helpers import NoResponse, SimpleError, SimpleString
from fakeredis._socket import FakeSocket
from redis import Redis

PRETENDED: Final = "7.0.15"
"""The Redis whose behaviour is asked of fakeredis; kvmcp refuses what says to be older than 7.0."""
CHUNK: Final = 65536


class _Encoded(bytes):
    """A reply, as opposed to a push that another connection caused."""


class _FakeConnection(FakeSocket):
    """One client's state in fakeredis; what it says goes straight to the client's socket."""

    def __init__(self, store: FakeServer, sock: socket.socket) -> None:
        super().__init__(store, 0, client_class=Redis, client_info={"addr": "127.0.0.1:0"})
        self._socket = sock
        self._writing = threading.Lock()
        self._verb = b""

    def run(self, command: list[bytes]) -> None:
        self._verb = command[0].upper()
        self._process_command(command)

    def put_response(self, msg: Any) -> None:
        """fakeredis's way out, for replies and pushes; called from any connection's thread."""
        data = msg if isinstance(msg, _Encoded) else encode_items(b">", msg)
        with self._writing:
            self._socket.sendall(data)

    def _decode_result(self, result: Any) -> Any:
        """Where fakeredis would make redis-py's values out of a reply."""
        if isinstance(result, NoResponse):
            return result
        if self._verb == b"HELLO" and isinstance(result, dict):
            result = result | {"version": PRETENDED}
        return _Encoded(encode(result))


def encode(value: Any) -> bytes:
    """One reply as RESP3. Any: whatever fakeredis's commands return."""
    match value:
        case SimpleError():
            return b"-%b\r\n" % value.value.encode()
        case SimpleString():
            return b"+%b\r\n" % value.value
        case None:
            return b"_\r\n"
        case bool():
            return b"#t\r\n" if value else b"#f\r\n"
        case int():
            return b":%d\r\n" % value
        case float():
            return b",%b\r\n" % repr(value).encode()
        case bytes() | str():
            data = value.encode() if isinstance(value, str) else value
            return b"$%d\r\n%b\r\n" % (len(data), data)
        case dict():
            return b"%%%d\r\n" % len(value) + b"".join(
                encode(part) for pair in value.items() for part in pair
            )
        case list() | tuple():
            return encode_items(b"*", value)
        case _:
            raise TypeError(f"fakeredis answered with {type(value).__name__}")


def encode_items(kind: bytes, items: Iterable[Any]) -> bytes:
    encoded = [encode(item) for item in items]
    return b"%b%d\r\n" % (kind, len(encoded)) + b"".join(encoded)


class _Handler(socketserver.BaseRequestHandler):
    server: "FakeRedisServer"

    def handle(self) -> None:
        connection = _FakeConnection(self.server.store, self.request)
        reader = hiredis.Reader()
        try:
            while data := self.request.recv(CHUNK):
                reader.feed(data)
                while (command := reader.gets()) is not False:
                    assert isinstance(command, list)
                    connection.run(command)
        except ConnectionError:
            pass
        finally:
            connection.close()


class FakeRedisServer(socketserver.ThreadingTCPServer):
    """A thread for each connection, until the context ends. Clients are gone before that."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = FakeServer(version=(7,), server_type="redis")
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
