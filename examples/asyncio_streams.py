"""Driving kvmcp.core by hand from asyncio streams: a server of newline-framed MCP on a TCP port.

python -m examples.asyncio_streams [PORT]
"""

import asyncio
import sys
from contextlib import suppress

from examples.counter import make_service, run
from kvmcp.core import RunBatch, ServerConnection

SERVICE = make_service()
COUNTS: dict[str, int] = {}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    now = asyncio.get_running_loop().time
    connection = ServerConnection(SERVICE)
    with suppress(ConnectionError):  # A client that breaks off hurts only itself.
        while not connection.closed:
            data = await reader.read(65536)
            if data:
                connection.receive_data(data, now())
            else:
                connection.receive_eof(now())
            while connection.wants_turn:
                for command in connection.take_commands():
                    if isinstance(command, RunBatch):
                        connection.complete(command.ticket, run(command.ops, COUNTS), now())
                writer.write(connection.data_to_send())
                await writer.drain()
    writer.close()


async def main(port: int) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    print("listening on", server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
