"""Changes of keys and messages on channels, over one connection per server for all watchers.

Keys: Redis's own tracking (CLIENT TRACKING). It tells of every change: by kvmcp or another program, by expiry,
eviction, FLUSHDB; it needs no setting of the server and no work in a write. Redis tells once per key and then
forgets, so a key is armed again (by reading its PTTL) before its change is passed on: what happens after is told
again. Several changes in a row may be told as one.

Channels: SUBSCRIBE, or SSUBSCRIBE in a cluster. Redis delivers at most once.

What is not seen: anything while the connection is down. Watchers then get `Gap(0)` once everything is armed again. A
connection that only listens would not notice that it is dead, so the server is asked now and then.
"""

import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Final, TypeAlias, cast

import anyio
import hiredis
from msgspec.structs import replace

from kvmcp.backends.ops import Event, Failure, Message, NsKey
from kvmcp.backends.redis.commands import Commands
from kvmcp.backends.redis.errors import REDIRECTIONS, class_of
from kvmcp.backends.redis.lane import LATE, Lane
from kvmcp.backends.redis.options import RedisOptions
from kvmcp.backends.redis.resp import Call, Push, Slot, pack
from kvmcp.backends.redis.routes import Routes, Spawn
from kvmcp.backends.redis.values import present
from kvmcp.backends.watcher import EventQueue

_Step: TypeAlias = tuple[bytes, ...]
"""A command, unpacked."""

TRACKING_ON: Final[_Step] = (b"CLIENT", b"TRACKING", b"ON")
STILL_THERE: Final[_Step] = (b"TIME",)
"""As good as PING, and the users that we recommend may do it."""
ROUND: Final = 500
"""Commands in one round of arming."""
EXPIRY_SLACK: Final = 0.001
"""Seconds after a key's end that it is looked at, so that Redis notices."""
AFTER_REDIRECT: Final = 0.05
_NUMBERED: Final = re.compile(rb"#([0-9]{1,20}) (.*)", re.DOTALL)
"""What the script sends: the message's number in the channel's log, and its text. No JSON begins so."""


class Watcher:
    """What one watcher watches on one server, as Redis names it, and where its events go."""

    def __init__(self, events: EventQueue, keys: dict[bytes, NsKey], channels: dict[bytes, NsKey]) -> None:
        self.events = events
        self.keys = keys
        self.channels = channels
        self.ready = anyio.Event()
        """Set once everything is armed for the first time."""


class Feed:
    """All watchers of one server.

    What should be armed follows from the watchers; what is armed is known from Redis's answers; each round sends
    the difference.
    """

    def __init__(self, commands: Commands, options: RedisOptions) -> None:
        self._subscribe = b"SSUBSCRIBE" if commands.sharded else b"SUBSCRIBE"
        self._unsubscribe = b"SUNSUBSCRIBE" if commands.sharded else b"UNSUBSCRIBE"
        self._options = options
        self._lane: Lane | None = None
        self._watchers: set[Watcher] = set()
        self._entering: set[Watcher] = set()
        self._blinded: set[Watcher] = set()
        """Watchers that missed something and are told when they can see again."""
        self._by_key: dict[bytes, set[Watcher]] = {}
        self._by_channel: dict[bytes, set[Watcher]] = {}
        self._losses = 0
        """How often the connection was lost: what an older one has said is not true of a newer one."""
        self._tracking = False
        self._armed: set[bytes] = set()
        self._subscribed: set[bytes] = set()
        self._dirty: set[bytes] = set()
        """Keys whose change is told once they are armed again."""
        self._spent: set[bytes] = set()
        """Keys that Redis told of during the current round: not armed, whatever the round says."""
        self._expiries: dict[bytes, float] = {}
        self._wake = anyio.Event()
        self._stopped = anyio.Event()

    @property
    def empty(self) -> bool:
        return not self._watchers

    def uncounted(self, channel: bytes) -> int:
        """Watchers of a channel that Redis does not count, for all share one subscription; -1 if none is left."""
        return len(self._by_channel.get(channel, ())) - 1 if channel in self._subscribed else 0

    @contextmanager
    def registered(self, watcher: Watcher) -> Generator[None]:
        self._watchers.add(watcher)
        self._entering.add(watcher)
        for key in watcher.keys:
            self._by_key.setdefault(key, set()).add(watcher)
        for channel in watcher.channels:
            self._by_channel.setdefault(channel, set()).add(watcher)
        self._wake.set()
        try:
            yield
        finally:
            self._unregister(watcher)

    def missed(self, watcher: Watcher) -> None:
        """Tell the watcher of a gap as soon as it can see."""
        self._blinded.add(watcher)

    async def run(self, routes: Routes, space: str) -> None:
        """Keep the server's connection and everything armed on it, until cancelled."""
        settings = replace(
            routes.settings_for(space), connected=self._connected, lost=self._lost, pushed=self._pushed
        )
        lane = self._lane = Lane(settings)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lane.run)
            tasks.start_soon(self._work, lane)
            await self._stopped.wait()
            tasks.cancel_scope.cancel()

    async def _work(self, lane: Lane) -> None:
        while True:
            await self._something_to_do(lane)
            await self._round(lane)

    def stop(self) -> None:
        self._stopped.set()

    def _unregister(self, watcher: Watcher) -> None:
        for watchers in (self._watchers, self._entering, self._blinded):
            watchers.discard(watcher)
        for table, names in ((self._by_key, watcher.keys), (self._by_channel, watcher.channels)):
            for name in names:
                remaining = table.get(name, set())
                remaining.discard(watcher)
                if not remaining:
                    table.pop(name, None)
        for key in watcher.keys.keys() - self._by_key.keys():
            self._armed.discard(key)
            self._expiries.pop(key, None)
        self._wake.set()

    # --- what Redis says

    def _connected(self) -> None:
        self._wake.set()

    def _lost(self, cause: Failure) -> None:
        del cause
        self._losses += 1
        self._tracking = False
        for known in (self._armed, self._subscribed, self._dirty, self._expiries):
            known.clear()
        self._blinded |= self._watchers - self._entering

    def _pushed(self, pushes: list[Push]) -> None:
        for push in pushes:
            if push.kind == b"invalidate" and push.items:
                self._invalidated(push.items[0])
            elif push.kind in (b"message", b"smessage") and len(push.items) == 2:
                self._message(*push.items)
            elif push.kind == b"sunsubscribe" and isinstance(push.items[0], bytes):
                self._subscribed.discard(push.items[0])
                self._wake.set()

    def _invalidated(self, names: object) -> None:
        keys = list(self._by_key) if names is None else names  # None: the whole database was flushed
        for key in cast(list[object], keys) if isinstance(keys, list) else ():
            if isinstance(key, bytes) and key in self._by_key:
                self._armed.discard(key)
                self._spent.add(key)
                self._dirty.add(key)
                self._wake.set()

    def _message(self, channel: object, payload: object) -> None:
        if isinstance(channel, bytes) and isinstance(payload, bytes):
            numbered = _NUMBERED.fullmatch(payload)
            number, message = (numbered[1].decode(), numbered[2]) if numbered else ("", payload)
            for watcher in self._by_channel.get(channel, ()):
                watcher.events.published(Message(watcher.channels[channel], present(message), number))

    # --- rounds

    async def _something_to_do(self, lane: Lane) -> None:
        options = self._options
        while not self._due():
            self._open_eyes()  # a newcomer may find everything armed already
            self._wake = anyio.Event()
            next_expiry = min(self._expiries.values(), default=math.inf)
            with anyio.move_on_after(min(next_expiry - options.clock(), options.watch_heartbeat)) as silence:
                await self._wake.wait()
            if silence.cancelled_caught and lane.connected and not self._due():
                # Without an answer the lane ends the connection and makes another.
                await lane.call(Call([pack(*STILL_THERE)], options.clock() + options.op_timeout))

    def _due(self) -> list[_Step]:
        """What brings Redis's view up to date; nothing without a connection."""
        if self._lane is None or not self._lane.connected:
            return []
        self._expire()
        steps: list[_Step] = [] if self._tracking or not self._by_key else [TRACKING_ON]
        steps += [(b"PTTL", key) for key in self._by_key.keys() - self._armed]
        steps += [(self._subscribe, channel) for channel in self._by_channel.keys() - self._subscribed]
        steps += [(self._unsubscribe, channel) for channel in self._subscribed - self._by_channel.keys()]
        return steps[:ROUND]

    def _expire(self) -> None:
        """Look again at keys whose time is up."""
        now = self._options.clock()
        for key in [key for key, moment in self._expiries.items() if moment <= now]:
            del self._expiries[key]
            self._armed.discard(key)

    async def _round(self, lane: Lane) -> None:
        steps = self._due()
        dirty = set(self._dirty)
        self._spent.clear()
        losses = self._losses
        call = Call([pack(*step) for step in steps], self._options.clock() + self._options.op_timeout)
        await lane.call(call)
        if call.cause is not None or losses != self._losses:
            return
        for step, reply in zip(steps, call.replies, strict=True):
            if isinstance(reply, hiredis.ReplyError) and class_of(reply) in REDIRECTIONS:
                await anyio.sleep(AFTER_REDIRECT)
                return lane.drop_link()  # the keys live elsewhere now
            self._learn(step, reply)
        self._tell(dirty)
        self._open_eyes()

    def _learn(self, step: _Step, reply: Slot) -> None:
        """Take note of an answer. What the user may not watch counts as armed, with a gap for its watchers."""
        verb, name = step[0], step[1]
        refused = isinstance(reply, hiredis.ReplyError)
        if step is TRACKING_ON:
            self._tracking = True
            self._blinded |= self._watchers if refused else set()
        elif verb == self._subscribe:
            self._subscribed.add(name)
            self._blinded |= self._by_channel.get(name, set()) if refused else set()
        elif verb == self._unsubscribe:
            self._subscribed.discard(name)
        elif name not in self._spent:
            self._armed.add(name)
            self._blinded |= self._by_key.get(name, set()) if refused else set()
        if verb == b"PTTL":
            self._expect_expiry(name, reply)

    def _expect_expiry(self, key: bytes, left: Slot) -> None:
        if isinstance(left, int) and left >= 0 and key in self._by_key:
            self._expiries[key] = self._options.clock() + left / 1000 + EXPIRY_SLACK
        else:
            self._expiries.pop(key, None)

    def _tell(self, dirty: set[bytes]) -> None:
        """Pass on what had changed before this round: its keys are armed again, or spent once more."""
        self._dirty -= dirty - self._spent
        for key in dirty:
            for watcher in self._by_key.get(key, ()):
                watcher.events.changed(watcher.keys[key])

    def _open_eyes(self) -> None:
        """Let watchers in that can see everything by now, and tell those that could not for a while."""
        seen = self._armed | self._spent
        for watcher in self._entering | self._blinded:
            if watcher.keys.keys() <= seen and watcher.channels.keys() <= self._subscribed:
                watcher.ready.set()
                self._entering.discard(watcher)
                if watcher in self._blinded:
                    self._blinded.discard(watcher)
                    watcher.events.was_blind()


class WatchHub:
    """Who watches what, on all servers: one `Feed` for each server, or in a cluster for each namespace."""

    def __init__(self, routes: Routes, commands: Commands, options: RedisOptions) -> None:
        self._routes = routes
        self._commands = commands
        self._options = options
        self._spawn: Spawn | None = None
        self._feeds: dict[str, Feed] = {}
        self._queues: set[EventQueue] = set()
        self._ended = False

    def host(self, spawn: Spawn) -> None:
        """Where feeds run; before the first `watching`."""
        self._spawn = spawn

    def end(self) -> None:
        """Watchers read what waits for them, then end."""
        self._ended = True
        for queue in self._queues:
            queue.end()

    def more_watchers(self, channel: NsKey) -> int:
        """What to add to Redis's count of the watchers of a channel; see `Feed.uncounted`."""
        feed = self._feeds.get(self._place(channel.space)) if self._feeds else None
        return feed.uncounted(self._commands.key(channel)) if feed is not None else 0

    @asynccontextmanager
    async def watching(
        self, keys: tuple[NsKey, ...], channels: tuple[NsKey, ...]
    ) -> AsyncGenerator[AsyncIterator[Event], None]:
        """Entered once Redis has confirmed everything, or after `op_timeout`: then a `Gap` follows later."""
        events = EventQueue()
        self._queues.add(events)
        if self._ended:
            events.end()
            keys = channels = ()
        try:
            with ExitStack() as stack:
                watchers = self._register(events, keys, channels, stack)
                await self._until_ready([watcher for _, watcher in watchers])
                for feed, watcher in watchers:
                    if not watcher.ready.is_set():
                        feed.missed(watcher)
                yield events
        finally:
            events.end()
            self._queues.discard(events)

    async def _until_ready(self, watchers: list[Watcher]) -> None:
        """Until Redis has confirmed everything, or has had `op_timeout` for it.

        Where our own event loop stood still at its end, Redis may have answered in time: then it is waited for once
        more, half as long.
        """
        for patience in (self._options.op_timeout, self._options.op_timeout / 2):
            due = anyio.current_time() + patience
            with anyio.move_on_after(patience):
                for watcher in watchers:
                    await watcher.ready.wait()
                return
            if anyio.current_time() < due + LATE:
                return

    def _register(
        self, events: EventQueue, keys: tuple[NsKey, ...], channels: tuple[NsKey, ...], stack: ExitStack
    ) -> list[tuple[Feed, Watcher]]:
        wanted: dict[str, Watcher] = {}
        for names, is_key in ((keys, True), (channels, False)):
            for name in names:
                watcher = wanted.setdefault(self._place(name.space), Watcher(events, {}, {}))
                (watcher.keys if is_key else watcher.channels)[self._commands.key(name)] = name
        registered: list[tuple[Feed, Watcher]] = []
        for place, watcher in wanted.items():
            feed = self._feed(place)
            stack.callback(self._leave, place, feed)
            stack.enter_context(feed.registered(watcher))
            registered.append((feed, watcher))
        return registered

    def _place(self, space: str) -> str:
        """What decides which feed: in a cluster a namespace is one slot, which has one server."""
        return space.partition(":")[0] if self._routes.sharded else ""

    def _feed(self, place: str) -> Feed:
        feed = self._feeds.get(place)
        if feed is None:
            assert self._spawn is not None, "hosted before"
            feed = self._feeds[place] = Feed(self._commands, self._options)
            self._spawn(partial(feed.run, self._routes, place))
        return feed

    def _leave(self, place: str, feed: Feed) -> None:
        """In a cluster a feed that nobody needs ends; the single one elsewhere is kept for the next watcher."""
        if feed.empty and place:
            del self._feeds[place]
            feed.stop()
