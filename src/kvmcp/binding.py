"""The sockets of a server on the network: bound as the settings name them, before any event loop runs."""

import logging
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from kvmcp.assembly import StartError
from kvmcp.config import DEFAULT_PORTS, Settings
from kvmcp.io.listening import Listener, bind_tcp, listen_unix

logger = logging.getLogger("kvmcp.server")


class Bound(Struct, frozen=True):
    """The sockets of one process, bound before its event loop and those of other processes began."""

    transports: list[tuple[str, list[Listener]]]
    """In the order of the settings; those at standard input have none."""
    admin: list[Listener]

    def ports(self) -> list[int]:
        """Of TCP, in the order in which they were bound."""
        return [at[0].port for at in (*(at for _, at in self.transports), self.admin) if at and at[0].address]

    def close(self) -> None:
        for listeners in (*(listeners for _, listeners in self.transports), self.admin):
            for listener in listeners:
                listener.close()


def bind(settings: Settings, shared: Iterable[int] = ()) -> Bound:
    """All that the settings name; with `shared`, at these ports, where other processes listen, too.

    Raises StartError where an address is taken or none is given.
    """
    ports = iter(shared)
    transports: list[tuple[str, list[Listener]]] = []
    admin: list[Listener] = []
    bound = Bound(transports, admin)
    try:
        for transport in settings.transport:
            name, _, port = transport.partition(":")
            if name == "stdio":
                transports.append((name, []))
            elif name == "unix":
                transports.append((name, [_bind_unix(settings)]))
            else:
                number = _port(settings, name, port)
                transports.append((name, _bind_tcp(settings.host, number, next(ports, None))))
        if settings.admin_bind is not None:
            host, _, port = settings.admin_bind.rpartition(":")
            admin += _bind_tcp(host.strip("[]"), int(port), next(ports, None))
    except BaseException:
        bound.close()
        raise
    return bound


def _port(settings: Settings, name: str, port: str) -> int:
    if port:
        return int(port)
    return settings.port if settings.port is not None else DEFAULT_PORTS[name]


def _bind_tcp(host: str, port: int, shared: int | None) -> list[Listener]:
    try:
        return bind_tcp(host, port if shared is None else shared, reuse_port=shared is not None)
    except OSError as error:
        raise StartError(
            f"cannot listen on {_shown(host, port)}: {error.strerror or error}; choose another --port or --host"
        ) from None


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind_unix(settings: Settings) -> Listener:
    if not settings.path:
        raise StartError("--transport unix needs --path, where its socket is to be")
    try:
        return listen_unix(settings.path)
    except OSError as error:
        raise StartError(f"cannot listen on {settings.path}: {error.strerror or error}") from None


_SPOKEN: Final = {"http": "MCP over HTTP", "websocket": "MCP over WebSocket", "tcp": "MCP in lines"}


def announce(settings: Settings, bound: Bound) -> None:
    """Tell the log where clients find what is bound."""
    secure = "s" if settings.tls_cert else ""
    schemes = {"http": f"http{secure}://%s/mcp", "websocket": f"ws{secure}://%s/mcp"}
    for name, listeners in bound.transports:
        for listener in listeners:
            address = schemes.get(name, "%s") % listener.name
            logger.info("%s: %s", _SPOKEN.get(name, "MCP in lines"), address)
    for listener in bound.admin:
        logger.info("health and metrics: http://%s/", listener.name)
