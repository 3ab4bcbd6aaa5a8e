"""Finds out from a store when watched resources change, whoever changes them, and has that published.

What is watched grows and shrinks all the time, but a store's watch is for a fixed set. So watches come in groups: what
is new begins one, together with the groups that are not larger, which then end. Each thing is so watched anew as often
as the number of things doubles, nothing is unwatched in between, and there are few groups.

Nothing is known of tools and keys: `watch_of` says of which things a resource is made.
"""

import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, cast

import anyio
from anyio.abc import TaskStatus
from msgspec import Struct

from kvmcp.backends.base import Backend
from kvmcp.backends.ops import Change, Event as StoreEvent, Message, NsKey
from kvmcp.core.items import Watch
from kvmcp.core.plan import Caller, Context
from kvmcp.core.subscriptions import Event, ResourceUpdated
from kvmcp.core.wire.common import ClientCapabilities, Done
from kvmcp.io.work import Work

logger = logging.getLogger("kvmcp.io")

GROUP_THINGS: Final = 512
"""Things of one watch. A store may look at all of them for each event (the one in memory looks for what expires
next), and remembers at most about a thousand events for a watcher."""
READY_TIMEOUT: Final = 10.0
"""Seconds that a subscriber waits for its answer where the store cannot be reached; a watch begins by itself after
half of that (`RedisOptions.op_timeout`), and tells of a gap once it can see."""
AFTER_FAILURE: Final = 1.0
"""Seconds before a watch that raised, which is a bug in the store, is tried again."""


class Thing(Struct, frozen=True, gc=False):
    """A key, or a channel."""

    key: NsKey
    is_channel: bool = False


class _Group:
    """The things of one watch; those that nobody wants any more stay in it until it ends."""

    def __init__(self, things: Iterable[Thing]) -> None:
        self.things = tuple(things)
        self.wanted = set(self.things)
        self.scope = anyio.CancelScope()

    @property
    def is_thin(self) -> bool:
        return 2 * len(self.wanted) <= len(self.things)


WatchOf: TypeAlias = Callable[[str], Watch | None]


class StoreLookout:
    """`kvmcp.core.subscriptions.Lookout` over a backend, which is up while `run` runs; `publish` tells all clients."""

    def __init__(self, watch_of: WatchOf, backend: Backend, publish: Callable[[Event], None]) -> None:
        self._watch_of = watch_of
        self._backend = backend
        self._publish = publish
        self._things: dict[str, tuple[Thing, ...]] = {}
        self._uris: dict[Thing, dict[str, None]] = {}
        self._new: dict[Thing, None] = {}
        """Things that no group has."""
        self._home: dict[Thing, _Group] = {}
        self._groups: list[_Group] = []
        self._missed: set[Thing] = set()
        """Things that were watched before `run` ran anew."""
        self._runs = 0
        self._work = anyio.Lock()
        self._wanted = anyio.Event()
        self._settled = anyio.Event()

    # --- for the core ---

    def begin(self, uri: str) -> None:
        """Somebody watches `uri` now."""
        watch = self._watch_of(uri)
        if watch is None:
            return
        # The engine hands on what the tools made of keys of the store.
        keys, channels = cast("tuple[NsKey, ...]", watch.keys), cast("tuple[NsKey, ...]", watch.channels)
        things = (*map(Thing, keys), *(Thing(channel, is_channel=True) for channel in channels))
        self._things[uri] = things
        for thing in things:
            if thing not in self._uris:
                self._uris[thing] = {}
                self._new[thing] = None
                self._wanted.set()
            self._uris[thing][uri] = None

    def end(self, uri: str) -> None:
        """Nobody watches `uri` any more."""
        for thing in self._things.pop(uri, ()):
            uris = self._uris[thing]
            uris.pop(uri, None)
            if not uris:
                del self._uris[thing]
                self._let_go(thing)

    def _let_go(self, thing: Thing) -> None:
        self._new.pop(thing, None)
        self._missed.discard(thing)
        group = self._home.pop(thing, None)
        if group is not None:
            group.wanted.discard(thing)
            self._wanted.set()

    def job(self, uris: Iterable[str]) -> "Readiness | None":
        """Wait until changes of all these are noticed; None where they are, or where nothing runs that would."""
        if not self._runs:
            return None
        things = {thing for uri in uris for thing in self._things.get(uri, ())}
        return None if things <= self._home.keys() else Readiness(self, frozenset(things))

    async def settle(self, things: frozenset[Thing]) -> None:
        """Until each of these is watched, or wanted no more; not for ever."""
        with anyio.move_on_after(READY_TIMEOUT):
            while any(thing in self._new for thing in things):
                await self._settled.wait()

    # --- watching ---

    async def run(self) -> None:
        """Until cancelled. Where it runs several times at once, one works, and the next takes over from it."""
        if not self._runs:  # It may be another event loop than the last time.
            self._work, self._wanted, self._settled = anyio.Lock(), anyio.Event(), anyio.Event()
        self._runs += 1
        try:
            async with self._work:
                try:
                    await self._run()
                finally:
                    self._stop()
        finally:
            self._runs -= 1

    async def _run(self) -> None:
        async with anyio.create_task_group() as tasks:
            while True:
                things, replaced = self._next_group()
                if not things:
                    self._wanted = anyio.Event()
                    await self._wanted.wait()
                    continue
                group = _Group(things)
                await tasks.start(self._watch, group)
                for old in replaced:
                    self._drop(old)

    def _stop(self) -> None:
        """Whoever takes over begins anew; what happens until then is missed."""
        self._missed.update(self._home)
        self._new.update(dict.fromkeys(self._home))
        self._home.clear()
        self._groups.clear()

    def _next_group(self) -> tuple[dict[Thing, None], list[_Group]]:
        """What the next watch is for, and the groups whose place it takes."""
        for group in [group for group in self._groups if not group.wanted]:
            self._drop(group)
        things = dict.fromkeys(list(self._new)[:GROUP_THINGS])
        replaced: list[_Group] = []
        for group in sorted(self._groups, key=lambda group: len(group.wanted)):
            small = 0 < len(things) >= len(group.wanted)
            if (small or group.is_thin) and len(things) + len(group.wanted) <= GROUP_THINGS:
                things.update(dict.fromkeys(group.wanted))
                replaced.append(group)
        return things, replaced

    async def _watch(self, group: _Group, *, task_status: TaskStatus[None]) -> None:
        """One watch, until it is replaced. Started once the store tells of changes, or has said that it cannot yet."""
        keys = [thing.key for thing in group.things if not thing.is_channel]
        channels = [thing.key for thing in group.things if thing.is_channel]
        started = False
        with group.scope:
            try:
                async with self._backend.watch(keys, channels) as events:
                    self._arrive(group)
                    task_status.started()
                    started = True
                    async for event in events:
                        self._tell(group, event)
            except Exception:  # the contract forbids it; a client must not pay for it
                logger.exception("a watch of the store failed, which is a bug in it")
                await anyio.sleep(AFTER_FAILURE)
                self._lose(group)
        if not started:
            task_status.started()

    def _arrive(self, group: _Group) -> None:
        """The watch sees what happens from now on."""
        group.wanted.intersection_update(self._uris)  # Some were given up while it began.
        self._groups.append(group)
        missed = group.wanted & self._missed
        for thing in group.wanted:
            self._new.pop(thing, None)
            self._home[thing] = group
        self._missed -= missed
        settled, self._settled = self._settled, anyio.Event()
        settled.set()
        self._publish_all(missed)

    def _drop(self, group: _Group) -> None:
        """Another group has taken its place, or nobody wants anything of it."""
        group.scope.cancel()
        if group in self._groups:
            self._groups.remove(group)

    def _lose(self, group: _Group) -> None:
        """It is over before its time: begin anew, as after a gap."""
        self._drop(group)
        for thing in group.things:
            if thing in self._uris and self._home.get(thing, group) is group:
                self._home.pop(thing, None)
                self._new[thing] = None
                self._missed.add(thing)
        self._wanted.set()

    def _tell(self, group: _Group, event: StoreEvent) -> None:
        match event:
            case Change(key=key):
                self._publish_all((Thing(key),))
            case Message(channel=channel):
                self._publish_all((Thing(channel, is_channel=True),))
            case _:
                self._publish_all(group.wanted)

    def _publish_all(self, things: Iterable[Thing]) -> None:
        for uri in dict.fromkeys(uri for thing in things for uri in self._uris.get(thing, ())):
            self._publish(ResourceUpdated(uri))


class Readiness(Struct, frozen=True):
    """The job of a subscriber: its answer waits until it misses nothing."""

    lookout: StoreLookout
    things: frozenset[Thing]

    @property
    def context(self) -> Context:
        """Asks no client, and is about none."""
        return _NOBODY

    async def run(self, work: Work) -> Done:
        await self.lookout.settle(self.things)
        return Done()


_NOBODY: Final = Context(Caller(), "", ClientCapabilities())


@asynccontextmanager
async def beside(work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncGenerator[None]:
    """`work` runs beside what is inside this context, and is cancelled behind it. Exceptions pass as they are."""
    failure: Exception | KeyboardInterrupt | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # raised below: the task group would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
