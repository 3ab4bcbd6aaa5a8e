"""Who watches which keys and channels of the memory store."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeAlias

from kvmcp.backends.ops import Message, NsKey
from kvmcp.backends.watcher import Watcher

_Watched: TypeAlias = dict[tuple[str, str], dict[Watcher, NsKey]]
"""Who watches a space's name, and the key as that watcher gave it: stores make no keys of their own."""
_Wanted: TypeAlias = tuple[tuple[_Watched, tuple[NsKey, ...]], ...]
"""What one watcher is registered for: keys and channels, each with the table that they are in."""


class Watchers:
    """The watchers of one store, until `end`."""

    def __init__(self) -> None:
        self._all: set[Watcher] = set()
        self._by_key: _Watched = {}
        self._by_channel: _Watched = {}
        self._ended = False

    @contextmanager
    def registered(self, keys: tuple[NsKey, ...], channels: tuple[NsKey, ...]) -> Generator[Watcher]:
        """A watcher that hears of these while the context lasts."""
        watcher = Watcher()
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

    def _register(self, watcher: Watcher, wanted: _Wanted) -> None:
        if self._ended:
            watcher.end()
            return
        self._all.add(watcher)
        for watched, keys in wanted:
            for key in keys:
                watched.setdefault((key.space, key.name), {})[watcher] = key

    def _unregister(self, watcher: Watcher, wanted: _Wanted) -> None:
        """Undo `_register`; harmless where that did nothing, or did it twice because a key was named twice."""
        watcher.end()
        self._all.discard(watcher)
        for watched, keys in wanted:
            for key in keys:
                remaining = watched.get((key.space, key.name), {})
                remaining.pop(watcher, None)
                if not remaining:
                    watched.pop((key.space, key.name), None)
