"""HTTP/2 where its streams meet: one connection, several responses, a client that reads when it likes."""

import socket

import anyio
import h2.connection
import h2.events
import h2.settings
import pytest
from anyio.abc import SocketStream

from kvmcp.io.endpoint import Message, Receive, Send
from tests.io.http.support import listening
from tests.patience import PATIENCE

pytestmark = pytest.mark.anyio

PART = 64 * 1024
PARTS = 256
"""16 MiB: more than the kernel and the server hold together."""


async def app(scope: Message, receive: Receive, send: Send) -> None:
    parts = PARTS if scope["path"] == "/large" else 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(parts):
        await send({"type": "http.response.body", "body": b"x" * PART, "more_body": number < parts - 1})


class Reader:
    """A client with room for everything, which reads nothing until it is told to."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._protocol = h2.connection.H2Connection()
        self._protocol.initiate_connection()
        window = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE
        self._protocol.update_settings({window: 2**31 - 1})
        self._protocol.increment_flow_control_window(2**30)
        self.received: dict[int, int] = {}
        self.ended: set[int] = set()

    async def ask(self, path: str) -> int:
        stream_id = self._protocol.get_next_available_stream_id()
        head = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "localhost")]
        self._protocol.send_headers(stream_id, head, end_stream=True)
        await self._stream.send(self._protocol.data_to_send())
        return stream_id

    async def ping(self) -> None:
        self._protocol.ping(b"12345678")
        await self._stream.send(self._protocol.data_to_send())

    async def read_until_ended(self, count: int) -> None:
        while len(self.ended) < count:
            for event in self._protocol.receive_data(await self._stream.receive()):
                if isinstance(event, h2.events.DataReceived):
                    self.received[event.stream_id] = self.received.get(event.stream_id, 0) + len(event.data)
                elif isinstance(event, h2.events.StreamEnded):
                    self.ended.add(event.stream_id)


async def test_a_client_that_reads_late_gets_all_of_every_response() -> None:
    async with (
        listening(app) as port,
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        stream.extra(anyio.abc.SocketAttribute.raw_socket).setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024
        )
        reader = Reader(stream)
        large = await reader.ask("/large")
        await anyio.wait_all_tasks_blocked()
        # Whoever answers now waits beside the first for the peer to read; and so does whoever reads.
        small = [await reader.ask("/small") for _ in range(3)]
        await reader.ping()
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(PATIENCE):
            await reader.read_until_ended(4)
    assert reader.received == {large: PARTS * PART, **dict.fromkeys(small, PART)}
