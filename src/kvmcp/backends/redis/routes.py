"""Which server an operation goes to, and how a server is reached.

Routes          the contract
 ├─ OneServer   standalone, or the primary that Sentinels name
 └─ cluster.ClusterRoutes
"""

import os
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

from msgspec.structs import replace

from kvmcp.backends.redis.address import Address, Endpoint
from kvmcp.backends.redis.greeting import Greeting
from kvmcp.backends.redis.host import Work
from kvmcp.backends.redis.job import Job
from kvmcp.backends.redis.lane import Lane, LaneSettings
from kvmcp.backends.redis.options import RedisOptions
from kvmcp.backends.redis.wire import Connect

Spawn: TypeAlias = Callable[[Work], None]
"""Runs something in the background."""


class Routes(Protocol):
    """Where keys are."""

    sharded: bool
    """Whether keys are spread over servers, so that channels must be, too."""
    only_lane: Lane | None
    """The lane for everything, where there is only one."""

    @property
    def connected(self) -> bool: ...

    def start(self, spawn: Spawn) -> None: ...

    async def group(self, jobs: Sequence[Job], deadline: float) -> list[tuple[Lane, list[Job]]]:
        """The jobs of each lane, in order. Settles those that have none."""
        ...

    async def redirect(self, job: Job) -> None:
        """Follow the MOVED, ASK or TRYAGAIN that the job got, unless it was one too many."""
        ...

    def mistrust(self, lane: Lane) -> None:
        """The lane's server says that it is not the primary."""
        ...

    def settings_for(self, space: str) -> LaneSettings:
        """How to reach the server that holds a space, now and after every reconnection."""
        ...


class Reach:
    """Makes lane settings out of what the user configured."""

    def __init__(self, address: Address, options: RedisOptions, connect: Connect) -> None:
        self.address = address
        self.options = options
        self._connect = connect
        self._tls: ssl.SSLContext | None = None
        self._tls_files: tuple[int, ...] = ()

    def settings(self, find: Callable[[], Awaitable[Endpoint]]) -> LaneSettings:
        options = self.options
        return LaneSettings(
            find=find,
            tls=self.tls,
            greeting=self.greeting,
            connect=self._connect,
            op_timeout=options.op_timeout,
            connect_timeout=options.connect_timeout,
            patience=min(options.patience, options.op_timeout),
            longest_pause=options.reconnect_pause,
            clock=options.clock,
            random=options.random,
        )

    def greeting(self) -> Greeting:
        """Raises OSError where the password's file cannot be read."""
        username, password = self.credentials()
        cluster = self.address.topology == "cluster"
        db = self.options.db if self.address.db is None else self.address.db
        return Greeting(
            username=username,
            password=password,
            db=0 if cluster else db,
            name=self.options.client_name,
            primary_only=self.address.topology == "sentinel",
        )

    def credentials(self) -> tuple[str, str]:
        """User and password: the URL's, or the options'. Raises OSError."""
        username = self.address.username or self.options.username
        return username, self.address.password or read_password(self.options)

    def tls(self) -> ssl.SSLContext | None:
        """The TLS settings, read again when a file changes. Raises OSError."""
        if not self.address.tls:
            return None
        options = self.options
        files = (options.tls_ca, options.tls_cert, options.tls_key)
        stamps = tuple(os.stat(file).st_mtime_ns for file in files if file)
        if self._tls is None or stamps != self._tls_files:
            self._tls, self._tls_files = tls_context(options), stamps
        return self._tls


def read_password(options: RedisOptions) -> str:
    """The password, from its file if one is named. Raises OSError."""
    if not options.password_file:
        return options.password
    with open(options.password_file, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().removesuffix("\n").removesuffix("\r")


def tls_context(options: RedisOptions) -> ssl.SSLContext:
    """Verifies the server's certificate and name unless told otherwise. Raises OSError."""
    context = ssl.create_default_context(cafile=options.tls_ca or None)
    if options.tls_cert:
        context.load_cert_chain(options.tls_cert, options.tls_key or None)
    if not options.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class OneServer:
    """Everything on one server: the configured one, or whichever `find` names."""

    sharded = False

    def __init__(self, reach: Reach, find: Callable[[], Awaitable[Endpoint]]) -> None:
        self._settings = reach.settings(find)
        self.only_lane: Lane | None = None

    @property
    def connected(self) -> bool:
        return self.only_lane is not None and self.only_lane.connected

    def start(self, spawn: Spawn) -> None:
        self.only_lane = Lane(self._settings)
        spawn(self.only_lane.run)

    async def group(self, jobs: Sequence[Job], deadline: float) -> list[tuple[Lane, list[Job]]]:
        assert self.only_lane is not None, "started before"
        return [(self.only_lane, list(jobs))]

    async def redirect(self, job: Job) -> None:
        """A cluster's node under a plain URL: say so by the refusal that the job already has."""

    def mistrust(self, lane: Lane) -> None:
        lane.retire_link()

    def settings_for(self, space: str) -> LaneSettings:
        return replace(self._settings)


def make_routes(address: Address, options: RedisOptions, connect: Connect) -> Routes:
    reach = Reach(address, options, connect)
    if address.topology == "standalone":

        async def configured() -> Endpoint:
            return address.endpoints[0]

        return OneServer(reach, configured)
    # The rest needs the redis package; a plain URL does not wait for its import.
    from kvmcp.backends.redis.topology import make_discovered_routes

    return make_discovered_routes(reach)
