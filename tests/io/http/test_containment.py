"""A bad peer hurts only itself: hostile requests on raw sockets, with a good client beside that sees no error."""

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import h2.connection
import pytest
from anyio.abc import SocketStream
from hypothesis import HealthCheck, given, settings, strategies as st

from kvmcp.io.hypercorn import HttpLimits
from tests.io.http.support import GRACE, Mcp, connected, listening, serving, until_closed
from tests.io.support import make_server
from tests.patience import PATIENCE

pytestmark = [
    pytest.mark.anyio,
    # httpx leaves generators of its own open when a request is cancelled; trio tells.
    pytest.mark.filterwarnings("ignore:.*async_generator object.*:pytest.PytestUnraisableExceptionWarning"),
]

TIMES = 50

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
POST = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

HOSTILE: dict[str, bytes] = {
    "an extension that wsproto cannot read": UPGRADE
    + b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=abc\r\n\r\n",
    "a subprotocol that is no ASCII": UPGRADE + b"Sec-WebSocket-Protocol: caf\xe9\r\n\r\n",
    "bytes behind an upgrade": UPGRADE + b"\r\n\x81\x85\x00\x00\x00\x00hello",
    "an upgrade with a broken key": UPGRADE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"!") + b"\r\n",
    "noise": bytes(range(256)) * 4,
    "nothing": b"",
    "a line without end": b"GET /" + b"a" * 100_000,
    "a head without end": b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 20_000,
    "a header with a NUL": b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
    "no host": b"GET /mcp HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "a version of its own": b"GET /mcp HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "a length that is none": POST + b"Content-Length: -1\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks that are none": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "more than is taken": POST + b"Content-Length: 99999999\r\n\r\n" + b"a" * 65536,
    "a head and no body": POST + b"Content-Length: 10\r\n\r\n",
    "an upgrade to h2c": b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nHTTP2-Settings: !!\r\n\r\n",
    "a preface and noise": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
    "a preface and a huge frame": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + struct.pack(">HBBBI", 0xFFFF, 255, 0, 0, 0),
    "a tunnel": b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "many requests at once": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10,
}


@asynccontextmanager
async def good_client_beside(port: int) -> AsyncIterator[None]:
    """Calls without pause; any error of it fails the test."""
    calls = 0

    async def call() -> None:
        nonlocal calls
        async with connected(port) as client:
            while True:
                result = await client.call_modern("redis_get", key="k")
                assert result["structuredContent"] == {"found": False}
                calls += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        yield
        before = calls
        with anyio.fail_after(PATIENCE):
            while calls < before + 3:  # noqa: ASYNC110  # it is still served
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()


async def attack(port: int, data: bytes, *, stays: bool = False) -> bytes:
    """One hostile connection. It sends, and then closes its sending side, or lets the server end it."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        try:
            await stream.send(data)
            if not stays:
                await stream.send_eof()
        except (anyio.BrokenResourceError, OSError):
            return b""  # The server has had enough.
        return await until_closed(stream)


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_request_hurts_its_own_connection_alone(name: str) -> None:
    app = make_server().http_app()
    async with app.running():
        with anyio.fail_after(PATIENCE):  # The end comes within its bound, too.
            async with listening(app) as port, good_client_beside(port):
                limiter = anyio.Semaphore(10)

                async def once() -> None:
                    async with limiter:
                        await attack(port, HOSTILE[name])

                async with anyio.create_task_group() as tasks:
                    for _ in range(TIMES):
                        tasks.start_soon(once)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("a subprotocol that is no ASCII", 400),
        ("noise", 400),
        ("a line without end", 431),
        ("a head without end", 431),
        ("no host", 400),
        ("two hosts", 400),
        ("a length that is none", 400),
        ("two lengths", 400),
        ("a length and chunks", 400),
        ("more than is taken", 413),
    ],
)
async def test_a_hostile_request_is_answered_where_it_can_be(name: str, status: int) -> None:
    async with serving() as client:
        answer = await attack(client.http.base_url.port or 0, HOSTILE[name], stays=True)
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer[:80]


async def test_two_requests_cannot_be_smuggled_in_one() -> None:
    data = (
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    async with serving() as client:
        answer = await attack(client.http.base_url.port or 0, data, stays=True)
    assert answer.count(b"HTTP/1.1") == 1


STALLED: dict[str, bytes] = {
    "silence behind the first byte": b"G",
    "a head that trickles": b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nX-A: ",
    "an upgrade that trickles": UPGRADE,
}


@pytest.mark.parametrize("name", STALLED)
async def test_a_head_that_does_not_come_is_not_waited_for(name: str) -> None:
    limits = HttpLimits(head_timeout=0.2, sweep=0.05)
    app = make_server().http_app()
    async with (
        app.running(),
        listening(app, limits=limits) as port,
        good_client_beside(port),
        anyio.create_task_group() as tasks,
    ):
        for _ in range(100):
            tasks.start_soon(_trickle, port, STALLED[name])


async def _trickle(port: int, data: bytes) -> None:
    """Sends a byte now and then, until the server has had enough."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream, anyio.create_task_group() as tasks:

        async def send() -> None:
            try:
                await stream.send(data)
                while True:
                    await anyio.sleep(0.02)
                    await stream.send(b"a")
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass

        tasks.start_soon(send)
        await until_closed(stream)
        tasks.cancel_scope.cancel()


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    app = make_server(body_timeout=0.2).http_app()
    async with app.running(), listening(app) as port:
        head = POST + b"Accept: application/json, text/event-stream\r\nContent-Length: 100\r\n\r\n{"
        answer = await attack(port, head, stays=True)
    assert answer.startswith(b"HTTP/1.1 408")


async def test_a_connection_without_requests_is_not_kept_for_ever() -> None:
    limits = HttpLimits(idle_timeout=0.2, sweep=0.05)
    app = make_server().http_app()
    async with app.running(), listening(app, limits=limits) as port:
        assert await attack(port, b"", stays=True) == b""
        once = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert (await attack(port, once, stays=True)).endswith(b"ok\n")


async def test_whoever_is_answered_before_its_body_came_is_told_of_the_end() -> None:
    """Otherwise the client would send its next request on a connection that is about to be closed."""
    app = make_server().http_app()
    head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
    async with app.running(), listening(app, limits=HttpLimits(idle_timeout=0.1, sweep=0.05)) as port:
        refused = await attack(port, head, stays=True)
        assert refused.startswith(b"HTTP/1.1 415") and b"\r\nconnection: close\r\n" in refused.lower()
        whole = await attack(port, head + b"{}", stays=True)
        assert whole.startswith(b"HTTP/1.1 415") and b"connection: close" not in whole.lower()


async def test_requests_that_are_broken_off_again_and_again_end_the_connection() -> None:
    """HTTP/2 rapid reset."""
    limits = HttpLimits(resets=20)
    app = make_server().http_app()
    async with (
        app.running(),
        listening(app, limits=limits) as port,
        good_client_beside(port),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_reset_again_and_again, stream)
        await until_closed(stream)
        tasks.cancel_scope.cancel()


async def _reset_again_and_again(stream: SocketStream) -> None:
    protocol = h2.connection.H2Connection()
    protocol.initiate_connection()
    head = [(":method", "POST"), (":path", "/mcp"), (":scheme", "http"), (":authority", "localhost")]
    try:
        while True:
            stream_id = protocol.get_next_available_stream_id()
            protocol.send_headers(stream_id, head)
            protocol.reset_stream(stream_id)
            await stream.send(protocol.data_to_send())
    except anyio.BrokenResourceError:
        pass


async def test_a_client_that_never_reads_costs_a_bounded_amount() -> None:
    app = make_server().http_app()
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with (
        app.running(),
        listening(app) as port,
        good_client_beside(port),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        sent = await _send_until_it_blocks(stream, request * 100)
    assert sent < 64 * 1024 * 1024


async def _send_until_it_blocks(stream: SocketStream, data: bytes) -> int:
    sent = 0
    while True:
        with anyio.move_on_after(1) as scope:
            await stream.send(data)
            sent += len(data)
        if scope.cancelled_caught:
            return sent


async def test_the_end_does_not_wait_for_hostile_connections(anyio_backend_name: str) -> None:
    """After the requests that wedge Hypercorn's own server, and with clients that never read."""
    app = make_server().http_app()
    async with app.running(), anyio.create_task_group() as tasks:
        streams: list[SocketStream] = []
        with anyio.fail_after(GRACE + PATIENCE):
            async with listening(app) as port:
                for data in HOSTILE.values():
                    stream = await anyio.connect_tcp("127.0.0.1", port)
                    streams.append(stream)
                    tasks.start_soon(_push, stream, data)
                await anyio.sleep(0.2)
        for stream in streams:
            await stream.aclose()


async def _push(stream: SocketStream, data: bytes) -> None:
    try:
        await stream.send(data)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass


def mutated() -> st.SearchStrategy[bytes]:
    """Hostile requests with some bytes changed, cut or doubled."""
    change: Callable[[tuple[bytes, int, bytes, int]], bytes] = lambda t: (
        t[0][: t[1]] + t[2] + t[0][t[1] + t[3] :]
    )
    return st.tuples(
        st.sampled_from([data[:2000] for data in HOSTILE.values()]),
        st.integers(0, 400),
        st.binary(max_size=6),
        st.integers(0, 6),
    ).map(change)


@pytest.mark.parametrize("anyio_backend_name", ["asyncio", "trio"])
def test_no_bytes_end_the_server(anyio_backend_name: str) -> None:
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(mutated(), min_size=10, max_size=10))
    def check(requests: list[bytes]) -> None:
        async def main() -> None:
            async with serving() as client:
                port = client.http.base_url.port or 0
                async with anyio.create_task_group() as tasks:
                    for data in requests:
                        tasks.start_soon(attack, port, data)
                await _is_served(client)

        anyio.run(main, backend=anyio_backend_name)

    check()


async def _is_served(client: Mcp) -> None:
    assert (await client.call_modern("redis_get", key="k"))["structuredContent"] == {"found": False}
