"""Redis URLs: where the servers are and which credentials they want. Pure; messages never hold a secret.

    redis://[[user]:password@][host[:port]][/db]               one server, localhost if none is named
    rediss://…                                                  the same over TLS
    unix://[[user]:password@]/path/to/socket[?db=N]             a Unix socket
    redis+sentinel://[[user]:password@]host[:port],…/service[/db]
    redis+cluster://[[user]:password@]host[:port],…             (`rediss+sentinel`, `rediss+cluster` over TLS)

User, password, path and service are percent-decoded. Written here rather than taken from the redis package,
whose import alone takes longer (0.13 s) than the rest of a start; a test holds both to the same answers.
"""

from typing import Final, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote

from msgspec import Struct

REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379

Topology: TypeAlias = Literal["standalone", "sentinel", "cluster"]


class Endpoint(Struct, frozen=True, gc=False):
    """One server: host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Address(Struct, frozen=True):
    """A parsed URL."""

    topology: Topology
    endpoints: tuple[Endpoint, ...]
    tls: bool = False
    username: str = ""
    password: str = ""
    db: int | None = None
    service: str = ""
    """The name of the primary that Sentinels watch."""

    def __repr__(self) -> str:
        """Without secrets."""
        hosts = ",".join(map(str, self.endpoints))
        return f"Address({self.topology}, {hosts}, tls={self.tls}, db={self.db}, service={self.service!r})"


_SCHEMES: Final[dict[str, tuple[Topology, bool]]] = {
    "redis": ("standalone", False),
    "rediss": ("standalone", True),
    "unix": ("standalone", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}


def parse_url(url: str) -> Address:
    """Raises ValueError, one line without any secret."""
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _SCHEMES:
        raise ValueError("Redis URL: must begin with one of " + ", ".join(f"{name}://" for name in _SCHEMES))
    if any(character <= " " or character == "\x7f" for character in url):
        raise ValueError("Redis URL: spaces and control characters must be percent-encoded")
    if "#" in rest:
        raise ValueError("Redis URL: '#' must be percent-encoded (%23)")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    credentials, _, hosts = authority.rpartition("@")
    username, _, password = credentials.partition(":")
    topology, tls = _SCHEMES[scheme]
    db = _query_db(query)
    service = ""
    endpoints: tuple[Endpoint, ...]
    if scheme == "unix":
        endpoints = (_socket_path(hosts, slash + path),)
    else:
        default_port = SENTINEL_PORT if topology == "sentinel" else REDIS_PORT
        endpoints = tuple(_endpoint(host, default_port) for host in hosts.split(","))
        service, db = _path_parts(topology, path, db)
    if topology == "standalone" and len(endpoints) > 1:
        raise ValueError("Redis URL: several hosts need redis+sentinel:// or redis+cluster://")
    return Address(topology, endpoints, tls, _decode(username), _decode(password), db, service)


def _path_parts(topology: Topology, path: str, db: int | None) -> tuple[str, int | None]:
    """Service and database out of what follows the hosts."""
    service = ""
    if topology == "sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise ValueError("Redis URL: redis+sentinel://host,host/SERVICE/db needs the service's name")
    path = path.removesuffix("/")
    if path:
        db = _database(path)
    if topology == "cluster" and db:
        raise ValueError("Redis URL: a cluster has database 0 only")
    return _decode(service), db


def _socket_path(hosts: str, path: str) -> Endpoint:
    if hosts or len(path) < 2:
        raise ValueError("Redis URL: unix:// needs an absolute path, as in unix:///run/redis.sock")
    return Endpoint(path=_decode_place(path))


def _endpoint(text: str, default_port: int) -> Endpoint:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
        bad = not bracket or (rest != "" and not rest.startswith(":"))
    else:
        host, colon, port = text.partition(":")
        bad = ":" in port or bool(colon and not port)
    if bad or (not host and (port or default_port == SENTINEL_PORT)):
        raise ValueError("Redis URL: a host is missing or malformed (IPv6 goes in brackets: [::1]:6379)")
    return Endpoint(_decode_place(host) or "localhost", _port(port) if port else default_port)


def _port(text: str) -> int:
    # Not quoted in the message: an unescaped '/' or '@' puts a piece of the password here.
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise ValueError(
            "Redis URL: a port is not a number from 1 to 65535 (a password's / ? # @ : need %-codes)"
        )
    return int(text)


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise ValueError("Redis URL: the database is not a number (a password's / ? # @ need %-codes)")
    return int(text)


def _query_db(query: str) -> int | None:
    db = None
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name != "db":
            raise ValueError("Redis URL: the only parameter is ?db=N; TLS files and timeouts are options")
        db = _database(value)
    return db


def _decode_place(text: str) -> str:
    place = _decode(text)
    if "\0" in place:
        raise ValueError("Redis URL: a host or path has a NUL in it")
    return place


def _decode(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("Redis URL: a percent-encoded part is not UTF-8") from None
