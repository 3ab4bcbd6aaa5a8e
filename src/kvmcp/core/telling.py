"""Telling the client what it did not ask for just now: how its requests go on, and changes that it wants to hear of.

Progress and log messages leave at once, or are dropped where the client is slow to read. Changes are kept as sets
of what is dirty (`subscriptions`) and written when the transport takes messages, so that they cost no more memory
the longer the client does not read.
"""

from collections.abc import Callable
from math import inf, isfinite
from typing import TypeAlias

import msgspec
from msgspec import UNSET, Struct

from kvmcp.core.admission import Admitted
from kvmcp.core.commands import Log, Progress
from kvmcp.core.exchange import Exchange
from kvmcp.core.exchanges import Exchanges
from kvmcp.core.jsonrpc import Id
from kvmcp.core.legacy import DEFAULT_LOG_LEVEL, LegacyDialect
from kvmcp.core.modern import ModernDialect
from kvmcp.core.notices import log_notice, progress_notice
from kvmcp.core.plan import Caller
from kvmcp.core.service import Service
from kvmcp.core.subscriptions import LIST_NAMES, Event, Subscription
from kvmcp.core.task_states import TaskId
from kvmcp.core.wire.common import LogLevel


class Wishes(Struct):
    """What a legacy client told the server that it wants to hear of, for all its requests to come."""

    changes: Subscription
    log_level: LogLevel = DEFAULT_LOG_LEVEL


StateOf: TypeAlias = Callable[[TaskId, Caller], bytes | None]
"""`(task, who listens) -> its state now`, as JSON text; None where it is gone, or not theirs."""


class ClientTelling:
    """Tells the client of one session.

    `wishes` are remembered elsewhere where they outlive the session; `state_of` looks a task up.
    """

    def __init__(
        self,
        service: Service,
        exchanges: Exchanges,
        out: list[bytes],
        wishes: Wishes | None,
        state_of: StateOf,
    ) -> None:
        self._service = service
        self._exchanges = exchanges
        self._out = out
        self._owns_wishes = wishes is None
        self._wishes = wishes if wishes is not None else Wishes(Subscription(service.watched))
        self._state_of = state_of
        self._listens: dict[Id, Subscription] = {}
        self.changes = self._wishes.changes
        """What a legacy client is told of."""
        self._legacy: LegacyDialect | None = None
        """How it is told; None until it may be."""

    # --- how requests go on ---

    def tell_progress(self, exchange: Exchange, progress: Progress) -> None:
        token = exchange.context.progress_token
        # "The progress value MUST increase with each notification": what does not is no news.
        if token is None or not exchange.progress < progress.progress < inf or self._is_behind():
            return
        if progress.total is not UNSET and not isfinite(progress.total):  # JSON has no word for it.
            progress = msgspec.structs.replace(progress, total=UNSET)
        exchange.progress = progress.progress
        self._out.append(progress_notice(token, progress, exchange.dialect.version))

    def tell_log(self, exchange: Exchange, log: Log) -> None:
        modern = isinstance(exchange.dialect, ModernDialect)
        least = exchange.context.log_level if modern else self._wishes.log_level
        notice = log_notice(log, least)
        if notice is not None and not self._is_behind():
            self._out.append(notice)

    def _is_behind(self) -> bool:
        """Whether so much waits to be written that notifications of work are dropped."""
        return len(self._out) >= self._service.limits.log_messages

    # --- what the client wants to hear of ---

    def set_log_level(self, level: LogLevel) -> None:
        self._wishes.log_level = level

    def want_lists(self) -> None:
        """From `initialize` on: a legacy client is told of the lists that there are."""
        # "Only use capabilities that were successfully negotiated": a list that comes later is not told of.
        self.changes.lists.update(name for name in LIST_NAMES if self._service.catalog.offers(name))

    def begin_legacy(self, admitted: Admitted | None) -> None:
        """`notifications/initialized` came: from now on a legacy client may be told, where there is one."""
        if admitted is not None:
            assert isinstance(admitted.dialect, LegacyDialect), "a legacy conversation has a legacy dialect"
            self._legacy = admitted.dialect

    def has_room_for(self, uris: int) -> bool:
        watched = len(self.changes.uris) + sum(len(listen.uris) for listen in self._listens.values())
        limits = self._service.limits
        return (
            watched + uris <= limits.subscribed_resources
            and len(self._service.watched) + uris <= limits.watched_uris
        )

    def open_listen(self, exchange: Exchange, subscription: Subscription) -> None:
        """Begin a modern listen: it is acknowledged once all changes that it is about are noticed."""
        job = self._service.watched.job(subscription.uris)
        if not self._exchanges.hold(exchange, job):
            subscription.close()
            return
        self._listens[exchange.id] = subscription
        subscription.is_held = True
        if job is None:
            self.acknowledge(exchange)

    def acknowledge(self, exchange: Exchange) -> None:
        """The first message of a listen; what has changed since it was asked for comes behind."""
        subscription = self._listens[exchange.id]
        subscription.is_held = False
        self._out.append(self._service.modern.acknowledged(exchange.id, subscription.granted))

    @property
    def listens_to(self) -> set[Event | TaskId]:
        """What the listens were granted."""
        return {topic for listen in self._listens.values() for topic in listen.topics()}

    def end_listen(self, id: Id) -> None:
        """The request `id` was cancelled; whether or not it was a listen."""
        if (listen := self._listens.pop(id, None)) is not None:
            listen.close()

    def answer_listens(self) -> None:
        """End all listens with their answer."""
        for id in self._listens:
            self._exchanges.stop(self._exchanges.open[id], self._service.modern.listen_ended(id))

    def close(self) -> None:
        """Nobody is told of changes any more."""
        for listen in self._listens.values():
            listen.close()
        self._listens.clear()
        if self._owns_wishes:
            self.changes.close()

    # --- changes ---

    def note(self, event: Event) -> bool:
        """Something changed: whoever wants to know is told at the next `render`. Whether somebody does."""
        noted = [subscription.note(event) for subscription in self._listens.values()]
        return self.changes.note(event) or any(noted)

    def note_task(self, id: TaskId) -> bool:
        """As `note`, for a task."""
        noted = [subscription.note_task(id) for subscription in self._listens.values()]
        return any(noted)

    def has_news(self) -> bool:
        """Whether `render` has something to write."""
        if self._legacy is not None and self.changes.is_dirty:
            return True
        return any(listen.is_dirty for listen in self._listens.values())

    def render(self) -> None:
        """Write what has changed since the last time."""
        if self._legacy is not None:
            self._out.extend(self._legacy.changed(event) for event in self.changes.take())
        for id, subscription in self._listens.items():
            self._out.extend(self._service.modern.changed(event, id) for event in subscription.take())
            for task in subscription.take_tasks():
                self._tell_task(id, self._exchanges.open[id].context.caller, task)

    def _tell_task(self, listen: Id, listener: Caller, id: TaskId) -> None:
        state = self._state_of(id, listener)
        if state is not None:
            self._out.append(self._service.modern.task_changed(state, listen))
