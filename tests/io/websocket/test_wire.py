"""WebSocket over real sockets, on both loops: our client, a stranger's, hostile peers beside a good one."""

import json
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio import from_thread, to_thread
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect as stranger_connect
from websockets.typing import Origin, Subprotocol

from kvmcp.core.client.events import Event, ListChanged as ListChangedEvent
from kvmcp.core.subscriptions import ListChanged
from kvmcp.io.client import Answered, Client, NotConnected, Unanswered, connect_websocket
from kvmcp.io.listening import Acceptor, ListenLimits, Peer, listen_tcp
from kvmcp.io.transport import Transport
from kvmcp.io.websocket.limits import WebSocketLimits
from kvmcp.io.websocket.upgrade import Upgrade, Upgraded
from tests.io.sockets_support import PROFILE, Running, served, until, websockets_served
from tests.io.support import MODERN_META, SlowBackend, call, initialize, make_server, ping
from tests.io.websocket.support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    closing,
    frame,
    make_door,
    text,
    upgrade,
)
from tests.patience import PATIENCE
from tests.tools.support import without_etag

pytestmark = pytest.mark.anyio

GET = b'{"name":"redis_get","arguments":{"key":"a"}}'
SET = b'{"name":"redis_set","arguments":{"key":"a","value":[1,"two"]}}'


async def ask(client: Client, params: bytes) -> Any:
    return json.loads(bytes(await client.request("tools/call", params)))


async def check_good(client: Client) -> None:
    await client.request("tools/call", SET)
    result = await ask(client, GET)
    assert without_etag(result["structuredContent"]) == {"found": True, "value": [1, "two"]}


@pytest.mark.parametrize("mode", ["legacy", "modern", "auto"])
async def test_our_client_in_both_eras(mode: str) -> None:
    async with (
        websockets_served() as running,
        connect_websocket(running.url, PROFILE, mode=mode) as client,  # type: ignore[arg-type]  # a parameter
    ):
        assert client.session.connected is not None
        await check_good(client)
        with pytest.raises(Answered):
            await client.request("nonsense/method")


async def test_many_requests_at_once() -> None:
    async with (
        websockets_served() as running,
        connect_websocket(running.url, PROFILE) as client,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(200):
            tasks.start_soon(check_good, client)


async def test_messages_of_four_mebibytes_both_ways() -> None:
    value = "é" * (1 << 19) * 3
    async with websockets_served() as running, connect_websocket(running.url, PROFILE) as client:
        arguments = json.dumps({"key": "big", "value": value[: 1 << 17]}, ensure_ascii=False)
        await client.request("tools/call", b'{"name":"redis_set","arguments":' + arguments.encode() + b"}")
        result = await ask(client, b'{"name":"redis_get","arguments":{"key":"big"}}')
        assert result["structuredContent"]["value"] == value[: 1 << 17]


async def test_changes_are_told() -> None:
    heard: list[Event] = []
    told = anyio.Event()

    def listen(event: Event) -> None:
        heard.append(event)
        told.set()

    async with (
        websockets_served() as running,
        connect_websocket(running.url, PROFILE, mode="legacy", on_event=listen) as client,
    ):
        await client.request("ping")
        told = anyio.Event()
        for driver in running.drivers:
            driver.publish(ListChanged("tools"))
        with anyio.fail_after(PATIENCE):
            await told.wait()
        assert heard[-1] == ListChangedEvent("tools")


async def test_compression_both_ways() -> None:
    limits = WebSocketLimits(compression=True, compress_from=0)
    async with (
        websockets_served(limits=limits) as running,
        connect_websocket(running.url, PROFILE, limits=limits) as client,
    ):
        await check_good(client)


async def test_who_is_refused_learns_why() -> None:
    async with websockets_served() as running:
        with pytest.raises(NotConnected, match="HTTP 404"):
            async with connect_websocket(running.url + "/nowhere", PROFILE):
                pass
        with pytest.raises(NotConnected, match="HTTP 403"):
            headers = [(b"origin", b"https://evil.example")]
            async with connect_websocket(running.url, PROFILE, headers=headers):
                pass


async def test_plain_http_on_the_port() -> None:
    async with websockets_served() as running:
        for path, status in (("/", b"426"), ("/healthz", b"200")):
            peer = await running.connect()
            await peer.send(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
            assert (await peer.rest()).startswith(b"HTTP/1.1 " + status)
            peer.close()


async def test_an_upgrade_with_frames_behind_it() -> None:
    async with websockets_served() as running:
        peer = await running.connect()
        await peer.send(upgrade() + text(*initialize(), ping(1)) + closing())
        assert (await peer.head()).startswith(b"HTTP/1.1 101")
        opening, answer, end = await peer.frames(3)
        assert (json.loads(opening.payload)["id"], json.loads(answer.payload)["id"]) == ("init", 1)
        assert (end.opcode, end.code) == (CLOSE, 1000)
        assert await peer.rest() == b""
        peer.close()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(BINARY, b"x"), 1003),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"{}", mask=None), 1002),
        (frame(TEXT, b"", size=8, length=1 << 40), 1009),
        (closing(1000), 1000),
    ],
)
async def test_close_codes_on_the_wire(sent: bytes, code: int) -> None:
    async with websockets_served() as running:
        peer = await running.connect()
        # What is behind the mistake is never read by the server, which must not make the Close get lost.
        await peer.send(upgrade() + sent + b"x" * 100_000)
        assert (await peer.head()).startswith(b"HTTP/1.1 101")
        assert await peer.close_code() == code
        peer.close()


async def test_an_answer_of_the_message_limit_and_a_byte_more() -> None:
    async with websockets_served(message_bytes=1000) as running:
        peer = await running.connect()
        await peer.send(upgrade() + text(json.dumps(ping(1)).encode().ljust(1000)))
        await peer.head()
        assert (await peer.frames(1))[0].opcode == TEXT
        await peer.send(text(b" " * 1001))
        assert await peer.close_code() == 1009
        peer.close()


async def test_the_end_of_a_socket_cancels_its_work() -> None:
    backend = SlowBackend()
    async with websockets_served(make_server(backend)) as running:
        peer = await running.connect()
        await peer.send(upgrade() + text(call(1, "redis_set", MODERN_META, key="a", value=1)))
        await peer.head()
        await until(lambda: backend.batches)
        peer.close()
        await until(lambda: not running.drivers)


async def test_a_slow_reader_is_not_read_from_and_others_do_not_notice() -> None:
    async with websockets_served() as running, connect_websocket(running.url, PROFILE) as good:
        value = json.dumps({"key": "big", "value": "x" * 300_000})
        await good.request("tools/call", f'{{"name":"redis_set","arguments":{value}}}'.encode())
        peer = await running.connect()
        await peer.send(upgrade())
        await peer.head()
        ask = text(call(1, "redis_get", MODERN_META, key="big"))
        sent = 0
        # It asks and asks, and reads nothing: at last nothing is taken from it any more.
        with anyio.move_on_after(2):
            while sent < 64 << 20:
                await peer.send(ask * 20)
                sent += len(ask) * 20
        assert sent < 64 << 20
        with anyio.fail_after(PATIENCE):
            await check_good(good)
        peer.close()


async def test_a_dead_peer_is_left() -> None:
    limits = WebSocketLimits(ping_interval=0.05, pong_timeout=0.05)
    async with websockets_served(limits=limits) as running:
        peer = await running.connect()
        await peer.send(upgrade())
        await peer.head()
        pinged, end = await peer.frames(2)
        assert (pinged.opcode, end.code) == (PING, 1001)
        peer.close()


async def test_our_client_answers_pings_and_is_kept() -> None:
    limits = WebSocketLimits(ping_interval=0.02, pong_timeout=5)
    async with websockets_served(limits=limits) as running, connect_websocket(running.url, PROFILE) as client:
        await anyio.sleep(0.3)  # some pings; what is shown is that the connection outlives them
        await check_good(client)


async def test_our_client_leaves_a_silent_server() -> None:
    async def upgrade_and_sleep(transport: Transport, peer: Peer) -> None:
        outcome = Upgrade(make_door()).receive(await transport.receive())
        assert isinstance(outcome, Upgraded)
        await transport.send_some(outcome.response)
        await anyio.sleep_forever()

    limits = WebSocketLimits(ping_interval=0.05, pong_timeout=0.05)
    listening = ListenLimits(shutdown_grace=0)
    listeners = await listen_tcp("127.0.0.1", 0)
    acceptor = Acceptor(listeners, upgrade_and_sleep, listening)
    async with served(Running(make_server(), listeners, acceptor)) as running:
        with pytest.raises(NotConnected, match="no answer to a ping"):
            async with connect_websocket(running.url, PROFILE, limits=limits, mode="legacy"):
                pass


async def test_half_open_upgrades_are_gone_in_time() -> None:
    limits = WebSocketLimits(handshake_timeout=0.2)
    async with websockets_served(limits=limits) as running, connect_websocket(running.url, PROFILE) as good:
        peers = [await running.connect() for _ in range(60)]
        for n, peer in enumerate(peers):
            await peer.send(upgrade()[: n % 100])
        await check_good(good)
        for peer in peers:
            assert (await peer.rest())[:12] in (b"HTTP/1.1 408", b"HTTP/1.1 400")
            peer.close()
        await check_good(good)


# --- stopping -----------------------------------------------------------------------------------------------------


async def test_a_stop_answers_what_was_accepted_and_goes_away() -> None:
    backend = SlowBackend()
    async with websockets_served(make_server(backend)) as running:
        peer = await running.connect()
        await peer.send(upgrade() + text(call(1, "redis_set", MODERN_META, key="a", value=1)))
        await peer.head()
        await until(lambda: backend.batches)
        running.stop()
        backend.released.set()
        answer, end = await peer.frames(2)
        assert without_etag(json.loads(answer.payload)["result"]["structuredContent"]) == {"ok": True}
        assert end.code == 1001
        peer.close()


async def test_a_stop_is_bounded_whatever_peers_do() -> None:
    backend = SlowBackend()  # and it is never released
    listening = ListenLimits(shutdown_grace=0.3)
    async with websockets_served(make_server(backend, shutdown_grace=0.3), listening=listening) as running:
        peers = [await running.connect() for _ in range(6)]
        for n, peer in enumerate(peers):
            await peer.send(HOSTILE[n % len(HOSTILE)][0])
        await peers[0].send(upgrade() + text(call(1, "redis_set", MODERN_META, key="a", value=1)))
        running.stop()
        await until(lambda: not running.acceptor.connections)
        for peer in peers:
            peer.close()


async def test_our_client_is_told_that_the_server_goes() -> None:
    async with websockets_served() as running:
        with pytest.raises((Unanswered, NotConnected)):
            async with connect_websocket(running.url, PROFILE) as client:
                running.stop()
                await until(lambda: client.session.closed)
                raise Unanswered("the server said goodbye")


# --- hostile peers ------------------------------------------------------------------------------------------------

HOSTILE = [
    (upgrade(sec_websocket_extensions=b"permessage-deflate; client_max_window_bits=abc"), b"101"),
    (upgrade(sec_websocket_protocol=b"\xc3\xa9\xff"), b"400"),
    (upgrade() + b"\x00", b"101"),
    (upgrade() + b"trailing bytes that are no frames", b"101"),
    (upgrade(host=b"xn--\xff\xfe"), b"421"),
    (upgrade(connection=b"\xff"), b"400"),
    (upgrade(sec_websocket_key=b"\xff"), b"400"),
    (b"\x16\x03\x01\x00\xa5\r\n\r\n", b"400"),
]


async def test_hostile_upgrades_fifty_times_each_with_a_good_client_beside() -> None:
    limits = WebSocketLimits(compression=True)
    async with websockets_served(limits=limits) as running, connect_websocket(running.url, PROFILE) as good:
        for _ in range(50):
            for sent, status in HOSTILE:
                peer = await running.connect()
                await peer.send(sent)
                assert (await peer.head())[9:12] == status
                peer.close()
            await check_good(good)
    # Leaving the context has shown that the server still stops.


FRAMES = 10_000
"""Of one flood, over sockets; that a flood of any length stays within a bound `test_server.py` shows."""


async def test_floods_of_small_frames_beside_a_good_client() -> None:
    async with websockets_served() as running, connect_websocket(running.url, PROFILE) as good:
        floods = [
            frame(PING, b"") * FRAMES + closing(),
            frame(TEXT, b"", fin=False) + frame(CONTINUATION, b" ", fin=False) * FRAMES + closing(),
            frame(TEXT, b"{}") * FRAMES + closing(),
        ]

        async def flood(data: bytes) -> None:
            peer = await running.connect()
            await peer.send(upgrade())
            await peer.head()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(peer.send, data)
                assert await peer.close_code() == 1000
            peer.close()

        async with anyio.create_task_group() as tasks:
            for data in floods:
                tasks.start_soon(flood, data)
            for _ in range(20):
                await check_good(good)


async def test_nothing_is_logged_as_an_error_by_what_peers_do(caplog: pytest.LogCaptureFixture) -> None:
    async with websockets_served() as running:
        for sent, _ in HOSTILE:
            peer = await running.connect()
            await peer.send(sent)
            peer.close()
        async with connect_websocket(running.url, PROFILE) as good:
            await check_good(good)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- a stranger ---------------------------------------------------------------------------------------------------


def talk_with_compression(url: str) -> None:
    with stranger_connect(url, subprotocols=[Subprotocol("mcp")]) as stranger:
        check_stranger(stranger)


def talk_without_compression(url: str) -> None:
    with stranger_connect(url, subprotocols=[Subprotocol("mcp")], compression=None) as stranger:
        check_stranger(stranger)


def check_stranger(stranger: ClientConnection) -> None:
    assert stranger.subprotocol == "mcp"
    for message in initialize():
        stranger.send(json.dumps(message))
    assert json.loads(stranger.recv(PATIENCE))["id"] == "init"
    assert stranger.ping().wait(PATIENCE)
    big = "é" * 100_000
    stranger.send(json.dumps(call(1, "redis_set", key="a", value=big), ensure_ascii=False))
    whole = json.dumps(call(2, "redis_get", key="a"))
    stranger.send([whole[start : start + 7] for start in range(0, len(whole), 7)])
    answers = [json.loads(stranger.recv(PATIENCE)) for _ in range(2)]
    assert answers[1]["result"]["structuredContent"]["value"] == big


@pytest.mark.parametrize("talk", [talk_with_compression, talk_without_compression])
@pytest.mark.parametrize("compression", [False, True])
async def test_a_stranger(talk: Callable[[str], None], compression: bool) -> None:
    async with websockets_served(limits=WebSocketLimits(compression=compression)) as running:
        await to_thread.run_sync(talk, running.url)


async def test_a_stranger_sees_why_we_close() -> None:
    def send_binary(url: str) -> int | None:
        with stranger_connect(url) as stranger:
            stranger.send(b"binary")
            return close_code(stranger)

    def wait_for_the_end(url: str) -> int | None:
        with stranger_connect(url) as stranger:
            from_thread.run_sync(running.stop)
            return close_code(stranger)

    async with websockets_served() as running:
        assert await to_thread.run_sync(send_binary, running.url) == 1003
        assert await to_thread.run_sync(wait_for_the_end, running.url) == 1001


def close_code(stranger: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed) as closed:
        stranger.recv(PATIENCE)
    return None if closed.value.rcvd is None else closed.value.rcvd.code


async def test_a_stranger_from_elsewhere_is_refused() -> None:
    def come_from_elsewhere(url: str) -> None:
        with pytest.raises(InvalidStatus), stranger_connect(url, origin=Origin("https://evil.example")):
            pass

    async with websockets_served() as running:
        await to_thread.run_sync(come_from_elsewhere, running.url)
