"""Redis Cluster: one lane per primary, a map of slots, redirections.

One namespace is one slot (its braces), so a batch of one tenant is one pipeline to one node.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import anyio
from msgspec.structs import replace

from kvmcp.backends.ops import (
    Atomic,
    Delete,
    Exists,
    Failure,
    GetMany,
    Op,
    Publish,
    QueueAck,
    QueueClaim,
    QueueExtend,
    QueueHolds,
    ReadLog,
    Scan,
)
from kvmcp.backends.redis.address import Endpoint
from kvmcp.backends.redis.errors import NO_CLUSTER, TIMED_OUT, class_of
from kvmcp.backends.redis.greeting import Refused
from kvmcp.backends.redis.job import Job
from kvmcp.backends.redis.lane import Lane, LaneSettings
from kvmcp.backends.redis.routes import Reach, Spawn
from kvmcp.backends.redis.topology import SlotMap, find_slots, slot_of

LOOK_AGAIN: Final = 0.2
"""Seconds between two questions about the slots while something is wrong."""
_REDIRECTION: Final = re.compile(r"\w+ ([0-9]{1,5}) (\S*):([0-9]{1,5})", re.ASCII)
IMPATIENT: Final = 0.02
"""Seconds before a redirection is followed once more, from the second one on."""


class ClusterRoutes:
    """Finds the node of each operation. Follows what nodes say, and asks for the whole map when they say it."""

    sharded = True
    only_lane: Lane | None = None

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._spawn: Spawn | None = None
        self._slots: SlotMap = []
        self._moved: dict[int, Endpoint] = {}
        """What MOVED said since the map was read."""
        self._lanes: dict[Endpoint, Lane] = {}
        self._fault: Failure | None = None
        """Why there is no map."""
        self._stale = anyio.Event()
        self._news = anyio.Event()

    @property
    def connected(self) -> bool:
        return any(lane.connected for lane in self._lanes.values())

    def start(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._stale.set()
        spawn(self._keep_map)

    async def group(self, jobs: Sequence[Job], deadline: float) -> list[tuple[Lane, list[Job]]]:
        groups: dict[Endpoint, list[Job]] = {}
        for job in jobs:
            try:
                endpoint = job.asked or await self._owner(space_of(job.op), deadline)
            except Refused as refused:
                job.settle(refused.failure)
            else:
                groups.setdefault(endpoint, []).append(job)
        return [(self._lane(endpoint), some) for endpoint, some in groups.items()]

    async def redirect(self, job: Job) -> None:
        assert job.error is not None
        kind = class_of(job.error)
        slot, endpoint = _destination(str(job.error))
        if job.redirects:
            await anyio.sleep(IMPATIENT)
        if kind == "MOVED":
            if endpoint is not None:
                self._moved[slot] = endpoint
            self._stale.set()
        job.follow(endpoint if kind == "ASK" else None)

    def mistrust(self, lane: Lane) -> None:
        del lane
        self._stale.set()

    def settings_for(self, space: str) -> LaneSettings:
        return self._reach.settings(partial(self._find, space))

    # --- the map

    async def _find(self, space: str) -> Endpoint:
        self._stale.set()  # a new connection is wanted, perhaps because the slot has moved
        options = self._reach.options
        return await self._owner(space, options.clock() + options.connect_timeout)

    async def _owner(self, space: str, deadline: float) -> Endpoint:
        """The node of a space. Raises `Refused`."""
        slot = slot_of(f"{self._reach.options.key_prefix}:{space}")
        while True:
            if slot in self._moved:
                return self._moved[slot]
            for first, last, endpoint in self._slots:
                if first <= slot <= last:
                    return endpoint
            if self._slots or self._fault is not None:
                self._stale.set()
                raise Refused(self._fault or NO_CLUSTER)
            if not await self._hear(deadline):
                raise Refused(TIMED_OUT)

    async def _hear(self, deadline: float) -> bool:
        """Wait for a map; False at the deadline."""
        with anyio.move_on_after(deadline - self._reach.options.clock()):
            await self._news.wait()
            return True
        return False

    async def _keep_map(self) -> None:
        while True:
            await self._stale.wait()
            self._stale = anyio.Event()
            try:
                slots = await find_slots(self._reach, list(self._lanes))
            except (Refused, OSError) as error:
                self._fault = error.failure if isinstance(error, Refused) else NO_CLUSTER
                self._stale.set()
            else:
                self._slots, self._fault = slots, None
                self._moved.clear()
                self._close_unused({endpoint for _, _, endpoint in slots})
            self._news.set()
            self._news = anyio.Event()
            await anyio.sleep(LOOK_AGAIN)

    # --- lanes

    def _lane(self, endpoint: Endpoint) -> Lane:
        lane = self._lanes.get(endpoint)
        if lane is None:
            assert self._spawn is not None, "started before"
            if len(self._lanes) >= self._reach.options.max_connections - 1:
                self._close_idle()
            find: Callable[[], Awaitable[Endpoint]] = partial(_fixed, endpoint)
            settings = replace(self._reach.settings(find), lost=self._lost)
            lane = self._lanes[endpoint] = Lane(settings)
            self._spawn(lane.run)
        else:
            self._lanes[endpoint] = self._lanes.pop(endpoint)  # the last in line is the last used
        return lane

    def _lost(self, cause: Failure) -> None:
        del cause
        self._stale.set()

    def _close_unused(self, primaries: set[Endpoint]) -> None:
        for endpoint in [endpoint for endpoint in self._lanes if endpoint not in primaries]:
            if self._lanes[endpoint].idle:
                self._lanes.pop(endpoint).stop()

    def _close_idle(self) -> None:
        """Make room: the idle lane that was not used for longest."""
        for endpoint, lane in self._lanes.items():
            if lane.idle:
                del self._lanes[endpoint]
                lane.stop()
                return


async def _fixed(endpoint: Endpoint) -> Endpoint:
    return endpoint


def space_of(op: Op) -> str:
    """The space of an operation's (first) key; they all are in one namespace, and that is one slot."""
    match op:
        case Scan():
            return op.space
        case Delete() | Exists() | GetMany():
            return op.keys[0].space if op.keys else ""
        case Publish() | ReadLog():
            return op.channel.space
        case QueueClaim() | QueueAck() | QueueExtend() | QueueHolds():
            return op.queue.space
        case Atomic():
            if op.conditions:
                return op.conditions[0].key.space
            return next((space for space in map(space_of, op.ops) if space), "")
        case _:
            return op.key.space


def _destination(text: str) -> tuple[int, Endpoint | None]:
    """`MOVED 3999 127.0.0.1:6381`: the slot and where it is; None where the node does not know a name."""
    match = _REDIRECTION.fullmatch(text)
    if match is None:
        return -1, None
    slot, host, port = int(match[1]), match[2], int(match[3])
    return slot, Endpoint(host, port) if host not in ("", "?") and 0 < port < 65536 else None
