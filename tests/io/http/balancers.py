"""Load balancers in front of replicas: nginx, haproxy, and one of our own for machines that have neither.

Each sends every request to another replica than the one before, or to a random one: there is no stickiness, and no
connection to a replica is used twice. A replica that refuses connections is passed over.
"""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from tests.backends.redis.servers import free_port, wait_until

NGINX: Final = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream kvmcp {{
        random;
        {servers}
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://kvmcp;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_read_timeout 60s;
        }}
    }}
}}
"""

HAPROXY: Final = """
global
    maxconn 1000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    retries 3
    option redispatch 1
    option http-server-close
    http-reuse never
frontend clients
    bind 127.0.0.1:{port}
    default_backend kvmcp
backend kvmcp
    balance random(1)
    {servers}
"""


def need(binary: str) -> str:
    """The path of a balancer; skips the test, loudly, where the machine has none."""
    path = shutil.which(binary, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"NO {binary} ON THIS MACHINE: install Debian's {binary} (nginx-light or haproxy)")
    return path


class Program:
    """nginx or haproxy, as a process of ours."""

    def __init__(self, name: str, folder: Path, ports: Sequence[int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        config = folder / f"{name}.conf"
        if name == "nginx":
            servers = " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in ports)
            config.write_text(NGINX.format(folder=folder, port=self.port, servers=servers))
            command = [need("nginx"), "-p", str(folder), "-c", str(config), "-e", f"{folder}/error.log"]
        else:
            servers = "\n    ".join(f"server s{port} 127.0.0.1:{port}" for port in ports)
            config.write_text(HAPROXY.format(port=self.port, servers=servers))
            command = [need("haproxy"), "-db", "-f", str(config)]
        self._output = folder / "output"
        with open(self._output, "wb") as output:
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        wait_until(self._listens, f"{name} on port {self.port}")

    def _listens(self) -> bool:
        assert self._child.poll() is None, self._output.read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def close(self) -> None:
        self._child.kill()
        self._child.wait()


class OwnBalancer:
    """Every connection goes to the next replica: for clients that use each for one request."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._numbers = count()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            server = self._connect()
            if server is not None:
                with server:
                    back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                    back.start()
                    _copy(client, server)
                    back.join()

    def _connect(self) -> socket.socket | None:
        first = next(self._numbers)
        for number in range(len(self._ports)):
            with suppress(OSError):
                port = self._ports[(first + number) % len(self._ports)]
                return socket.create_connection(("127.0.0.1", port))
        return None


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Until one of the two has ended; then the other ends, too."""
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for sock in (source, target):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


Balancer = Program | OwnBalancer


def open_balancer(name: str, folder: Path, ports: Sequence[int]) -> Balancer:
    """`name` is nginx, haproxy or own."""
    return OwnBalancer(ports) if name == "own" else Program(name, folder, ports)
