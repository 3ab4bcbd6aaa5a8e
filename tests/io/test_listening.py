"""Listeners and connections on real sockets, on both loops: limits, stale files, faults, TLS, lines."""

import errno
import json
import logging
import os
import socket
import ssl
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from kvmcp.core.http.guard import Guard
from kvmcp.io import sockets
from kvmcp.io.client import connect_lines, connect_websocket
from kvmcp.io.listening import Acceptor, Listener, ListenLimits, Peer, listen_tcp, listen_unix
from kvmcp.io.serving import lines_acceptor, websocket_acceptor
from kvmcp.io.sockets import PlainTransport, TlsTransport, connect_tcp, plain_transport
from kvmcp.io.transport import Transport
from kvmcp.server import Server
from tests.backends.redis.certificates import Authority
from tests.io.sockets_support import PROFILE, RawPeer, Running, served, until
from tests.io.support import SlowBackend, call, initialize, make_server, ping
from tests.io.websocket.support import text, upgrade
from tests.patience import PATIENCE
from tests.tools.support import without_etag

pytestmark = pytest.mark.anyio

SET = b'{"name":"redis_set","arguments":{"key":"a","value":1}}'
GET = b'{"name":"redis_get","arguments":{"key":"a"}}'


@asynccontextmanager
async def lines_served(server: Server | None = None, **options: Any) -> AsyncIterator[Running]:
    server = server or make_server()
    listeners = await listen_tcp("127.0.0.1", 0)
    async with served(Running(server, listeners, lines_acceptor(server, listeners, **options))) as running:
        yield running


@asynccontextmanager
async def echoing(limits: ListenLimits | None = None, **options: Any) -> AsyncIterator[Running]:
    """A server that says what it hears."""

    async def echo(transport: Transport, peer: Peer) -> None:
        while data := await transport.receive():
            view = memoryview(data)
            while view:
                view = view[await transport.send_some(view) :]

    listeners = await listen_tcp("127.0.0.1", 0)
    acceptor = Acceptor(listeners, echo, limits or ListenLimits(shutdown_grace=0), **options)
    async with served(Running(make_server(), listeners, acceptor)) as running:
        yield running


# --- addresses ----------------------------------------------------------------------------------------------------


async def test_port_zero_takes_one_port_for_all_addresses() -> None:
    listeners = await listen_tcp("localhost", 0)
    try:
        assert len({listener.port for listener in listeners}) == 1
        assert listeners[0].name.endswith(f":{listeners[0].port}")
    finally:
        for listener in listeners:
            listener.close()


async def test_ipv6_and_ipv4_do_not_share_a_socket() -> None:
    try:
        listeners = await listen_tcp("::1", 0)
    except OSError:
        pytest.skip("NO IPv6 LOOPBACK ON THIS MACHINE")
    port = listeners[0].port
    try:
        (other,) = await listen_tcp("127.0.0.1", port)
        other.close()
    finally:
        listeners[0].close()


async def test_a_taken_port_is_an_error_and_leaves_nothing_open() -> None:
    (first,) = await listen_tcp("127.0.0.1", 0)
    try:
        with pytest.raises(OSError) as caught:
            await listen_tcp("127.0.0.1", first.port)
        assert caught.value.errno == errno.EADDRINUSE
    finally:
        first.close()


async def test_processes_can_share_a_port() -> None:
    (first,) = await listen_tcp("127.0.0.1", 0, reuse_port=True)
    (second,) = await listen_tcp("127.0.0.1", first.port, reuse_port=True)
    first.close()
    second.close()


async def test_a_unix_socket_is_private_and_goes_with_its_listener(tmp_path: Path) -> None:
    path = tmp_path / "kvmcp.sock"
    listener = listen_unix(path)
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert listener.name == str(path)
    listener.close()
    listener.close()
    assert not path.exists()


async def test_a_socket_file_that_a_dead_server_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "kvmcp.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listener = listen_unix(path)
    listener.close()


async def test_a_socket_where_somebody_listens_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "kvmcp.sock"
    living = listen_unix(path)
    with pytest.raises(OSError) as caught:
        listen_unix(path)
    assert caught.value.errno == errno.EADDRINUSE
    assert path.exists()
    living.close()


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError) as caught:
        listen_unix(path)
    assert caught.value.errno == errno.EEXIST
    assert path.read_text() == "data"


async def test_the_socket_file_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "kvmcp.sock"
    old = listen_unix(path)
    path.unlink()
    new = listen_unix(path)
    old.close()
    assert path.exists()
    new.close()


# --- lines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["legacy", "modern"])
async def test_lines_over_tcp(mode: Any) -> None:
    async with (
        lines_served() as running,
        connect_lines(("127.0.0.1", running.port), PROFILE, mode=mode) as client,
    ):
        await client.request("tools/call", SET)
        answer = json.loads(bytes(await client.request("tools/call", GET)))
        assert without_etag(answer["structuredContent"]) == {"found": True, "value": 1}


async def test_several_transports_share_a_store_and_its_changes(tmp_path: Path) -> None:
    server = make_server()
    heard = anyio.Event()
    tcp = await listen_tcp("127.0.0.1", 0)
    unix = listen_unix(tmp_path / "kvmcp.sock")
    web = await listen_tcp("127.0.0.1", 0)
    acceptors = [
        lines_acceptor(server, [unix]),
        websocket_acceptor(server, web, Guard("127.0.0.1")),
    ]
    async with (
        served(Running(server, tcp, lines_acceptor(server, tcp))) as running,
        anyio.create_task_group() as tasks,
    ):
        for acceptor in acceptors:
            tasks.start_soon(acceptor.run)
        async with (
            connect_lines(str(tmp_path / "kvmcp.sock"), PROFILE) as one,
            connect_lines(("127.0.0.1", running.port), PROFILE) as two,
            connect_websocket(
                f"ws://127.0.0.1:{web[0].port}/", PROFILE, mode="legacy", on_event=lambda event: heard.set()
            ) as three,
        ):
            await one.request("tools/call", SET)
            for client in (two, three):
                answer = json.loads(bytes(await client.request("tools/call", GET)))
                assert without_etag(answer["structuredContent"]) == {"found": True, "value": 1}
            heard = anyio.Event()
            server.remove(server.catalog.tool("redis_get"))  # type: ignore[arg-type]  # it is there
            with anyio.fail_after(PATIENCE):
                await heard.wait()
        server.stop()
        for acceptor in acceptors:
            acceptor.stop()


async def test_a_client_of_lines_that_has_said_all_gets_its_answers() -> None:
    backend = SlowBackend()
    async with lines_served(make_server(backend)) as running:
        peer = await running.connect()
        lines = [*initialize(), call(1, "redis_set", key="a", value=1)]
        await peer.send(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        peer.transport.socket.shutdown(socket.SHUT_WR)
        await until(lambda: backend.batches)
        backend.released.set()
        answers = [json.loads(line) for line in (await peer.rest()).splitlines()]
        assert [answer["id"] for answer in answers] == ["init", 1]


# --- limits and faults --------------------------------------------------------------------------------------------


async def test_connections_above_the_limit_are_turned_away(caplog: pytest.LogCaptureFixture) -> None:
    async with echoing(ListenLimits(connections=3, shutdown_grace=0), full=b"full") as running:
        peers = [await running.connect() for _ in range(3)]
        for peer in peers:
            await peer.send(b"hello")
            assert await peer.transport.receive() == b"hello"
        for _ in range(5):
            late = await running.connect()
            assert await late.rest() == b"full"
        peers[0].close()
        await until(lambda: running.acceptor.connections < 3)
        again = await running.connect()
        await again.send(b"hello")
        assert await again.transport.receive() == b"hello"
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["refusing connections: 3 connections are open"]


async def test_one_address_cannot_take_all(caplog: pytest.LogCaptureFixture) -> None:
    async with echoing(ListenLimits(per_address=2, shutdown_grace=0)) as running:
        peers = [await running.connect() for _ in range(2)]
        for peer in peers:
            await peer.send(b"x")
            await peer.transport.receive()
        assert await (await running.connect()).rest() == b""
        other = socket.socket()
        other.bind(("127.0.0.2", 0))
        other.connect(("127.0.0.1", running.port))
        peer = RawPeer(plain_transport(other))
        await peer.send(b"hello")
        assert await peer.transport.receive() == b"hello"
        peer.close()
    assert "2 connections are open from 127.0.0.1" in caplog.text


async def test_no_descriptors_is_no_busy_loop_and_no_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kvmcp.io.listening.ACCEPT_PAUSE", 0.01)
    async with echoing() as running:
        listener = running.listeners[0]
        failing = _Failing(listener.socket, [errno.EMFILE, errno.ENFILE, errno.ECONNABORTED, errno.EMFILE])
        listener.socket = failing  # type: ignore[assignment]  # all that is used of it
        peer = await running.connect()
        await peer.send(b"hello")
        with anyio.fail_after(PATIENCE):
            assert await peer.transport.receive() == b"hello"
        assert failing.faults == []
    warnings = [record for record in caplog.records if record.name == "kvmcp.io"]
    assert len(warnings) == 2, "once for each fault, however often it comes"


class _Failing:
    """A listening socket whose next accepts fail."""

    def __init__(self, real: socket.socket, faults: list[int]) -> None:
        self._real = real
        self.faults = faults

    def accept(self) -> tuple[socket.socket, object]:
        if self.faults:
            number = self.faults.pop(0)
            raise OSError(number, os.strerror(number))
        return self._real.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


async def test_a_conversation_that_raises_ends_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(transport: Transport, peer: Peer) -> None:
        if await transport.receive() == b"bad":
            raise RuntimeError("a bug")
        await transport.send_some(b"fine")

    listeners = await listen_tcp("127.0.0.1", 0)
    async with served(Running(make_server(), listeners, Acceptor(listeners, fail))) as running:
        bad, good = await running.connect(), await running.connect()
        await bad.send(b"bad")
        assert await bad.rest() == b""
        await good.send(b"good")
        assert await good.rest() == b"fine"
    assert "a conversation failed" in caplog.text


async def test_a_peer_that_takes_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "STALL", 0.2)
    server = make_server()
    async with lines_served(server) as running:
        peer = await running.connect()
        big = json.dumps(call(1, "redis_set", key="a", value="x" * 300_000)).encode() + b"\n"
        asks = b"".join(json.dumps(call(n, "redis_get", key="a")).encode() + b"\n" for n in range(2, 200))
        await peer.send(b"".join(json.dumps(line).encode() + b"\n" for line in initialize()) + big)
        with pytest.raises(OSError), anyio.fail_after(PATIENCE):
            while True:
                await peer.send(asks)
        await until(lambda: not running.drivers)


async def test_a_peer_that_never_closes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmcp.io.listening.LINGER", 0.05)

    async def say_and_end(transport: Transport, peer: Peer) -> None:
        await transport.send_some(b"bye")

    listeners = await listen_tcp("127.0.0.1", 0)
    async with served(Running(make_server(), listeners, Acceptor(listeners, say_and_end))) as running:
        peer = await running.connect()
        assert await peer.rest() == b"bye"
        await until(lambda: not running.acceptor.connections)


async def test_a_stop_ends_those_who_linger_and_those_who_hang() -> None:
    async def hang(transport: Transport, peer: Peer) -> None:
        await anyio.sleep_forever()

    listeners = await listen_tcp("127.0.0.1", 0)
    acceptor = Acceptor(listeners, hang, ListenLimits(shutdown_grace=0.05))
    async with served(Running(make_server(), listeners, acceptor)) as running:
        for _ in range(3):
            await running.connect()
        await until(lambda: acceptor.connections == 3)
    with pytest.raises(OSError):
        await connect_tcp("127.0.0.1", running.port)


# --- TLS ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's side, and a client's that trusts it."""
    authority = Authority(tmp_path_factory.mktemp("certificates"), "authority")
    certificate, key = authority.issue("localhost")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=str(authority.certificate))


async def test_websocket_and_lines_over_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server = make_server()
    web = await listen_tcp("127.0.0.1", 0)
    acceptor = websocket_acceptor(server, web, Guard("127.0.0.1"), tls=contexts[0])
    value = json.dumps("é" * 200_000, ensure_ascii=False).encode()
    big = b'{"name":"redis_set","arguments":{"key":"a","value":' + value + b"}}"
    async with served(Running(server, web, acceptor)) as running:
        url = f"wss://localhost:{running.port}/mcp"
        async with connect_websocket(url, PROFILE, tls=contexts[1]) as client:
            await client.request("tools/call", big)
            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(client.request, "tools/call", GET)
    async with lines_served(tls=contexts[0]) as running:
        where = ("localhost", running.port)
        async with connect_lines(where, PROFILE, tls=contexts[1]) as client:
            await client.request("tools/call", big)


async def test_a_server_that_is_not_trusted(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with echoing(tls=contexts[0]) as running:
        with pytest.raises(ssl.SSLCertVerificationError):
            async with connect_lines(("localhost", running.port), PROFILE, tls=ssl.create_default_context()):
                pass


async def test_handshakes_that_do_not_come_off(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    limits = ListenLimits(tls_timeout=0.2, shutdown_grace=0)
    async with echoing(limits, tls=contexts[0]) as running:
        for sent in (b"", b"\x16\x03", b"GET / HTTP/1.1\r\n\r\n", upgrade() + text(ping(1))):
            peer = await running.connect()
            await peer.send(sent)
            await peer.rest()
        await until(lambda: not running.acceptor.connections)


async def test_a_write_that_is_cancelled_happens_once(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """Over TLS a record is encrypted before it can leave: whoever is cancelled then must not send it twice."""
    sent = bytes(range(256)) * 16384
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    writer = TlsTransport(plain_transport(ours), contexts[0])
    reader = TlsTransport(plain_transport(theirs), contexts[1], "localhost")

    async def write() -> None:
        view = memoryview(sent)
        while view:
            with anyio.move_on_after(0.001):
                view = view[await writer.send_some(view) :]
        await writer.aclose(PATIENCE)

    received = bytearray()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(writer.handshake)
            await reader.handshake()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            while data := await reader.receive():
                received += data
                await anyio.lowlevel.checkpoint()
            reader.close()
    assert received == sent


async def test_a_read_that_is_cancelled_loses_nothing() -> None:
    ours, theirs = socket.socketpair()
    reader = plain_transport(ours)
    received = b""
    with theirs:
        for n in range(200):
            with anyio.move_on_after(0):
                received += await reader.receive()
            theirs.send(b"%d," % n)
        theirs.shutdown(socket.SHUT_WR)
        with anyio.fail_after(PATIENCE):
            while data := await reader.receive():
                received += data
        assert await reader.receive() == b""
    reader.close()
    assert received == b"".join(b"%d," % n for n in range(200))


async def test_what_is_not_taken_stays_with_the_sender() -> None:
    ours, theirs = socket.socketpair()
    reader = plain_transport(ours)
    theirs.setblocking(False)
    sent = 0
    with theirs:
        with pytest.raises(BlockingIOError):
            while True:
                sent += theirs.send(b"x" * 65536)
                await anyio.lowlevel.checkpoint()
        assert await reader.receive() == b"x" * sockets.CHUNK
        await anyio.sleep(0.01)
        reader.close()


async def test_both_ends_of_tcp_notice_when_the_other_machine_is_gone() -> None:
    """Silence, and data that nobody acknowledges, end within two minutes each; Unix sockets need no such thing."""
    served_sockets: list[socket.socket] = []

    async def keep(transport: Transport, peer: Peer) -> None:
        assert isinstance(transport, PlainTransport)
        served_sockets.append(transport.socket.dup())

    listeners = await listen_tcp("127.0.0.1", 0)
    async with served(Running(make_server(), listeners, Acceptor(listeners, keep))) as running:
        ours = await connect_tcp("127.0.0.1", running.port)
        await until(lambda: served_sockets)
        for sock in (ours, *served_sockets):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if sys.platform == "linux":
                idle, interval, count, unacknowledged = (
                    sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
                )
                assert idle + interval * count == unacknowledged / 1000 == 120
        served_sockets[0].close()
        PlainTransport(ours).close()


def test_a_listener_knows_its_kind(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        assert Listener(sock).address == sock.getsockname()
