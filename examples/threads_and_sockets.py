"""Driving kvmcp.core by hand without any event loop: a thread per connection, blocking sockets.

python -m examples.threads_and_sockets [PORT]
"""

import socket
import sys
import threading
import time
from contextlib import suppress

from examples.counter import make_service, run
from kvmcp.core import RunBatch, ServerConnection

SERVICE = make_service()
COUNTS: dict[str, int] = {}
LOCK = threading.Lock()


def serve(client: socket.socket) -> None:
    connection = ServerConnection(SERVICE)
    with client, suppress(ConnectionError):  # A client that breaks off hurts only itself.
        while not connection.closed:
            data = client.recv(65536)
            if data:
                connection.receive_data(data, time.monotonic())
            else:
                connection.receive_eof(time.monotonic())
            while connection.wants_turn:
                for command in connection.take_commands():
                    if isinstance(command, RunBatch):
                        with LOCK:
                            replies = run(command.ops, COUNTS)
                        connection.complete(command.ticket, replies, time.monotonic())
                client.sendall(connection.data_to_send())


def main(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as listener:
        print("listening on", listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(client,), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
