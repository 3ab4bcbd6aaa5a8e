"""Our frames and our upgrade as an echo server, for Autobahn's fuzzing client: `python -m tests.autobahn.echo PORT`.

The suite wants its messages back, which no MCP server can give. So this is everything below the session: listener,
transport, upgrade, frames, deflate, with an echo on top. Messages are text here as well; `run.py` leaves the cases
out that send binary ones.
"""

import sys

import anyio
from wsproto.connection import ConnectionType

from kvmcp.core.http.guard import Guard
from kvmcp.io.listening import Acceptor, Peer, listen_tcp
from kvmcp.io.transport import Transport
from kvmcp.io.websocket.deflate import Deflate
from kvmcp.io.websocket.frames import Closed, Frames, Violated
from kvmcp.io.websocket.upgrade import Door, Upgrade, Upgraded

LIMIT = 32 << 20
"""The largest message of the suite has 16 MiB."""

door = Door(Guard("127.0.0.1"), paths=frozenset({"/"}))


async def send(transport: Transport, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[await transport.send_some(view) :]


async def echo(transport: Transport, peer: Peer) -> None:
    upgrade, outcome = Upgrade(door, Deflate(LIMIT)), None
    while outcome is None:
        if not (data := await transport.receive()):
            return
        outcome = upgrade.receive(data)
    await send(transport, outcome.response)
    if isinstance(outcome, Upgraded):
        await converse(transport, Frames(ConnectionType.SERVER, LIMIT, outcome.deflate), outcome.trailing)


async def converse(transport: Transport, frames: Frames, data: bytes) -> None:
    is_over = False
    while not is_over:
        out: list[bytes] = []
        for incoming in frames.receive(data):
            out += frames.take_answers()
            if isinstance(incoming, bytes):
                out.append(frames.text([incoming]))
            elif isinstance(incoming, Closed | Violated):
                out.append(frames.close(incoming.code))
                is_over = True
        await send(transport, b"".join(out))
        if not is_over:
            data = await transport.receive()
            is_over = not data


async def main() -> None:
    await Acceptor(await listen_tcp("127.0.0.1", int(sys.argv[1])), echo).run()


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[2] if len(sys.argv) > 2 else "asyncio")
