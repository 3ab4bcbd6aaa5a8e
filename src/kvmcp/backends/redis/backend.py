"""`RedisBackend`: operations ▸ commands ▸ replies, over whichever server holds the keys.

    execute(batch) ▸ one `Job` per operation ▸ rounds, each one pipeline per server ▸ one reply per job

Nearly every batch takes one round. Another one follows for reads whose reply was lost, scans that found too
little, redirections of a cluster and scripts that Redis forgot: always things that did not run or change nothing.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import anyio
import hiredis
from msgspec.structs import replace

from kvmcp.backends.base import Done
from kvmcp.backends.ops import (
    Atomic,
    Event,
    Failure,
    Get,
    Namespace,
    NsKey,
    Op,
    Publish,
    Published,
    Reply,
    is_read,
)
from kvmcp.backends.redis.address import parse_url
from kvmcp.backends.redis.commands import Commands, decode_plain
from kvmcp.backends.redis.errors import (
    CLOSED,
    CONNECTION_LOST,
    ELSEWHERE,
    REPLIES_TOO_LARGE,
    REPLY_TOO_LARGE,
    TIMED_OUT,
    class_of,
)
from kvmcp.backends.redis.host import Host
from kvmcp.backends.redis.job import Job
from kvmcp.backends.redis.lane import Lane
from kvmcp.backends.redis.options import RedisOptions, check_options
from kvmcp.backends.redis.order import next_round
from kvmcp.backends.redis.resp import Call, Lost
from kvmcp.backends.redis.routes import Routes, make_routes
from kvmcp.backends.redis.spread import needs_parts, put_together, take_apart
from kvmcp.backends.redis.watch import WatchHub
from kvmcp.backends.redis.wire import Connect, connect

_NEVER_CAME: Final = (Lost.UNSENT, Lost.UNANSWERED)
_PROBE: Final = Namespace("default").key("ready", kind="probe")
"""A key that is never written: whether it can be read is what a readiness check asks."""


def open_backend(url: str, options: RedisOptions | None = None, connect: Connect = connect) -> "RedisBackend":
    """A backend for `url`; nothing is connected yet. Raises ValueError, one line without any secret."""
    options = options or RedisOptions()
    check_options(options)
    place = parse_url(url)
    return RedisBackend(lambda: make_routes(place, options, connect), options)


class RedisBackend:
    """A `Backend` over Redis or Valkey. Made by `open_backend`; until `aclose` it belongs to the loop that first
    uses it."""

    def __init__(self, make_routes: Callable[[], Routes], options: RedisOptions) -> None:
        self._make_routes = make_routes
        self._options = options
        self._clock = options.clock
        self._renew()

    def _renew(self) -> None:
        """As nothing was connected yet."""
        self._routes = self._make_routes()
        self._commands = Commands(self._options.key_prefix, sharded=self._routes.sharded)
        self._host: Host | None = None
        self._watches = WatchHub(self._routes, self._commands, self._options)
        self._closed = False

    async def start(self) -> None:
        """Begin to connect, in the background."""
        if self._closed:
            self._renew()
        self._begin()

    async def aclose(self) -> None:
        """Calls under way end as if the connection were lost; watchers end."""
        self._closed = True
        self._watches.end()
        if self._host is not None:
            await self._host.aclose()

    @property
    def time_limit(self) -> float:
        return self._options.op_timeout

    async def check(self) -> str | None:
        """A read that finds nothing: the same way that every call goes, to the server that takes writes."""
        (reply,) = await self.execute([Get(_PROBE)])
        return reply.message if isinstance(reply, Failure) else None

    def execute_soon(self, batch: Sequence[Op], done: Done) -> bool:
        """Batches of plain commands for one server, while that takes more."""
        if self._closed or not batch:
            done([CLOSED] * len(batch))
            return True
        self._begin()
        lane = self._routes.only_lane
        plain = None if lane is None or lane.full else self._commands.encode_plain(batch)
        if lane is None or plain is None:
            return False
        call = Call(plain, self._clock() + self._options.op_timeout)
        call.wake = partial(self._finish_plain, lane, batch, call, done)
        lane.submit(call)
        return True

    async def execute(self, batch: Sequence[Op]) -> list[Reply]:
        """One reply per operation, at `op_timeout` seconds at the latest."""
        if self._closed or not batch:
            return [CLOSED] * len(batch)
        self._begin()
        if self._routes.sharded and any(map(needs_parts, batch)):
            return put_together(batch, await self.execute(take_apart(batch)))
        deadline = self._clock() + self._options.op_timeout
        lane = self._routes.only_lane
        if lane is not None and lane.full and not await lane.room(deadline):
            timed_out: list[Reply] = [TIMED_OUT] * len(batch)
            return timed_out
        plain = self._commands.encode_plain(batch) if lane is not None else None
        if lane is not None and plain is not None:
            return await self._execute_plain(lane, batch, Call(plain, deadline))
        jobs = [Job(op, self._commands) for op in batch]
        if lane is not None and all(job.done for job in jobs):
            lane.leave_room()
        return await self._finish(jobs, deadline)

    @asynccontextmanager
    async def watch(
        self, keys: Sequence[NsKey] = (), channels: Sequence[NsKey] = ()
    ) -> AsyncGenerator[AsyncIterator[Event], None]:
        """Changes of `keys`, whoever makes them, and messages on `channels`; see `watch.py`."""
        self._begin()
        async with self._watches.watching(tuple(keys), tuple(channels)) as events:
            yield events

    @property
    def connected(self) -> bool:
        """Whether a server was greeted and has not been lost since: for health checks, costs nothing."""
        return self._routes.connected

    def _begin(self) -> None:
        if self._host is None and not self._closed:
            self._host = Host()
            self._host.start()
            self._routes.start(self._host.spawn)
            self._watches.host(self._host.spawn)

    # --- rounds

    async def _execute_plain(self, lane: Lane, batch: Sequence[Op], call: Call) -> list[Reply]:
        """The hot path: each operation is one command, and nearly always this is all there is to do.

        It does what a round of jobs does, at half the cost (`benchmarks/redis.py`).
        """
        await lane.call(call)
        if call.cause is not None:
            return await self._finish(self._lost_plain(batch, call), call.deadline)
        return self._plain_replies(lane, batch, call)

    def _finish_plain(self, lane: Lane, batch: Sequence[Op], call: Call, done: Done) -> None:
        """The same for who does not wait: reads whose reply was lost are asked again by a task of ours."""
        if call.cause is None:
            done(self._plain_replies(lane, batch, call))
            return
        jobs = self._lost_plain(batch, call)
        host = self._host
        if host is None or self._closed or all(job.done for job in jobs):
            _give(jobs, done)
        else:
            host.spawn(partial(self._finish_later, jobs, call.deadline, done))

    async def _finish_later(self, jobs: list[Job], deadline: float, done: Done) -> None:
        try:
            await self._finish(jobs, deadline)
        finally:
            _give(jobs, done)

    def _plain_replies(self, lane: Lane, batch: Sequence[Op], call: Call) -> list[Reply]:
        replies = decode_plain(batch, call.replies)
        if hiredis.ReplyError in map(type, call.replies):
            for slot in call.replies:
                if isinstance(slot, hiredis.ReplyError) and class_of(slot) in ELSEWHERE:
                    self._routes.mistrust(lane)
        return replies

    def _lost_plain(self, batch: Sequence[Op], call: Call) -> list[Job]:
        """The operations of a call that was lost; those are done of which no more can be known."""
        jobs = [Job(op, self._commands) for op in batch]
        self._lose(call, jobs, list(range(1, len(jobs) + 1)))
        return jobs

    async def _finish(self, jobs: list[Job], deadline: float) -> list[Reply]:
        """Rounds until every job has its reply."""
        waiting = [job for job in jobs if not job.done]
        while waiting:
            await self._round(waiting, deadline)
            waiting = next_round(jobs) if self._routes.sharded else [job for job in jobs if not job.done]
        return [job.reply for job in jobs]

    async def _round(self, jobs: list[Job], deadline: float) -> None:
        lane = self._routes.only_lane
        if lane is not None:
            await self._send(lane, jobs, deadline)
            return
        lanes = await self._routes.group(jobs, deadline)
        if len(lanes) == 1:
            await self._send(*lanes[0], deadline)
            return
        async with anyio.create_task_group() as tasks:  # a batch with several namespaces in a cluster
            for lane, some in lanes:
                tasks.start_soon(self._send, lane, some, deadline)

    async def _send(self, lane: Lane, jobs: list[Job], deadline: float) -> None:
        """One pipeline to one server, and what it means for each job."""
        if self._routes.only_lane is None and lane.full and not await lane.room(deadline):
            for job in jobs:
                job.settle(TIMED_OUT)
            return
        commands: list[bytes] = []
        ends: list[int] = []
        for job in jobs:
            commands += job.to_send(lane.server)
            ends.append(len(commands))
        if not commands:
            return lane.leave_room()
        call = Call(commands, deadline)
        await lane.call(call)
        if call.cause is None:
            self._receive(call, jobs, ends)
        else:
            self._lose(call, jobs, ends)
        await self._follow_up(lane, jobs)

    def _receive(self, call: Call, jobs: list[Job], ends: list[int]) -> None:
        replies = call.replies
        if len(jobs) == 1:
            jobs[0].receive(replies, True)
            return
        last_write = max((index for index, job in enumerate(jobs) if not is_read(job.op)), default=-1)
        start = 0
        for index, (job, end) in enumerate(zip(jobs, ends, strict=True)):
            if end > start:
                job.receive(replies[start:end], index > last_write)
            start = end

    def _lose(self, call: Call, jobs: list[Job], ends: list[int]) -> None:
        """From the last job to the first: a read is asked again only if no later write may have run."""
        in_time = call.end >= 0 and self._clock() < call.deadline
        first_lost = next((index for index, slot in enumerate(call.replies) if slot in _NEVER_CAME), -1)
        for index in range(len(jobs) - 1, -1, -1):
            job, start, end = jobs[index], ends[index - 1] if index else 0, ends[index]
            if job.done or end == start:
                continue
            slots = call.replies[start:end]
            fate = slots[-1]
            if Lost.DROPPED in slots:
                job.lose(Lost.DROPPED, REPLIES_TOO_LARGE, False)
            elif not isinstance(fate, Lost):
                job.receive(slots, False)
            else:
                oversized = call.cause is REPLY_TOO_LARGE and start <= first_lost < end
                cause = REPLY_TOO_LARGE if oversized else self._cause(call)
                job.lose(fate, cause, in_time and not oversized)
            if not is_read(job.op) and fate is not Lost.UNSENT:
                in_time = False

    def _cause(self, call: Call) -> Failure:
        if call.cause is None or call.cause is REPLY_TOO_LARGE:
            return CONNECTION_LOST
        return call.cause

    def _counted(self, op: Op, reply: Reply) -> Reply:
        """With the watchers that Redis does not count, for they share one subscription."""
        if isinstance(op, Publish) and isinstance(reply, Published):
            return replace(reply, receivers=max(0, reply.receivers + self._watches.more_watchers(op.channel)))
        if isinstance(op, Atomic) and isinstance(reply, tuple):
            return tuple(map(self._counted, op.ops, reply))
        return reply

    async def _follow_up(self, lane: Lane, jobs: list[Job]) -> None:
        """Take note of what refusals say about the servers, and ask again what did not run."""
        for index, job in enumerate(jobs):
            if job.error is None:
                job.reply = self._counted(job.op, job.reply)
            elif job.wants_script:
                if all(later.wants_script for later in jobs[index + 1 :]):
                    job.send_script(self._commands)
            elif job.redirected:
                await self._routes.redirect(job)
            elif class_of(job.error) in ELSEWHERE:
                self._routes.mistrust(lane)


def _give(jobs: list[Job], done: Done) -> None:
    """The replies of jobs; what has none yet was a read that will not be asked again."""
    for job in jobs:
        if not job.done:
            job.settle(CLOSED)
    done([job.reply for job in jobs])
