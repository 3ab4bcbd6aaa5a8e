"""Who watches which keys and channels of the memory store, and how an expiry is told though nobody calls."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeAlias

import anyio

from kvmcp.backends.ops import Event, Message, NsKey
from kvmcp.backends.watcher import EventQueue

_Watched: TypeAlias = dict[tuple[str, str], dict[EventQueue, NsKey]]
"""Who watches a space's name, and the key as that watcher gave it: stores make no keys of their own."""
_Wanted: TypeAlias = tuple[tuple[_Watched, tuple[NsKey, ...]], ...]
"""What one watcher is registered for: keys and channels, each with the table that they are in."""


class UntilExpiry:
    """A watcher's events, where whoever waits for one looks at the keys again when the next of them ends.

    So an expiry is told on time without any task of the store's, and costs nothing where nobody waits. It wakes
    for its own keys only: a key that is given another end is a change, which ends the wait as well.
    """

    def __init__(self, watcher: EventQueue, look: Callable[[], float]) -> None:
        """`look` expires what is due among the watched keys and gives the seconds until the next of them is."""
        self._watcher = watcher
        self._look = look

    def __aiter__(self) -> "UntilExpiry":
        return self

    async def __anext__(self) -> Event:
        while not self._watcher.ready:
            with anyio.move_on_after(self._look()):
                return await anext(self._watcher)
        return await anext(self._watcher)


class Watchers:
    """The watchers of one store, until `end`."""

    def __init__(self) -> None:
        self._all: set[EventQueue] = set()
        self._by_key: _Watched = {}
        self._by_channel: _Watched = {}
        self._ended = False

    @contextmanager
    def registered(self, keys: tuple[NsKey, ...], channels: tuple[NsKey, ...]) -> Generator[EventQueue]:
        """A watcher that hears of these while the context lasts."""
        watcher = EventQueue()
        wanted = ((self._by_key, keys), (self._by_channel, channels))
        self._register(watcher, wanted)
        try:
            yield watcher
        finally:
            self._unregister(watcher, wanted)

    def changed(self, space: str, name: str) -> None:
        if self._by_key:
            for watcher, key in self._by_key.get((space, name), {}).items():
                watcher.changed(key)

    def published(self, message: Message) -> int:
        """How many watchers get it."""
        watchers = self._by_channel.get((message.channel.space, message.channel.name), {})
        for watcher in watchers:
            watcher.published(message)
        return len(watchers)

    def listening(self, channel: NsKey) -> int:
        """How many watchers would get a message."""
        return len(self._by_channel.get((channel.space, channel.name), {}))

    def begin(self) -> None:
        """Take watchers again."""
        self._ended = False

    def end(self) -> None:
        """End those there are, and at once those that come later."""
        self._ended = True
        for watcher in self._all:
            watcher.end()
        for table in (self._all, self._by_key, self._by_channel):
            table.clear()

    @property
    def watched(self) -> int:
        """Keys and channels that somebody watches."""
        return len(self._by_key) + len(self._by_channel)

    def _register(self, watcher: EventQueue, wanted: _Wanted) -> None:
        if self._ended:
            watcher.end()
            return
        self._all.add(watcher)
        for watched, keys in wanted:
            for key in keys:
                watched.setdefault((key.space, key.name), {})[watcher] = key

    def _unregister(self, watcher: EventQueue, wanted: _Wanted) -> None:
        """Undo `_register`; harmless where that did nothing, or did it twice because a key was named twice."""
        watcher.end()
        self._all.discard(watcher)
        for watched, keys in wanted:
            for key in keys:
                remaining = watched.get((key.space, key.name), {})
                remaining.pop(watcher, None)
                if not remaining:
                    watched.pop((key.space, key.name), None)
