"""Driving kvmcp.core by hand from trio: one task per connection in a nursery, newline-framed MCP over TCP.

python -m examples.trio_nursery [PORT]
"""

import sys
from contextlib import suppress

import trio

from examples.counter import make_service, run
from kvmcp.core import RunBatch, ServerConnection

SERVICE = make_service()
COUNTS: dict[str, int] = {}


async def serve(stream: trio.SocketStream) -> None:
    connection = ServerConnection(SERVICE)
    async with stream:
        with suppress(trio.BrokenResourceError):  # A client that breaks off hurts only itself.
            while not connection.closed:
                data = await stream.receive_some()
                if data:
                    connection.receive_data(data, trio.current_time())
                else:
                    connection.receive_eof(trio.current_time())
                while connection.wants_turn:
                    for command in connection.take_commands():
                        if isinstance(command, RunBatch):
                            connection.complete(command.ticket, run(command.ops, COUNTS), trio.current_time())
                    await stream.send_all(connection.data_to_send())


async def main(port: int) -> None:
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    print("listening on", listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(serve, listeners)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 0)
