"""Notifications of a server, read and told as events.

Modern change notifications are routed to the listen whose `subscriptionId` they carry; what belongs to a
request or a listen that is over comes late, and is ignored.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

from msgspec import UNSET, Raw, Struct, UnsetType, field

from kvmcp.core import jsonrpc
from kvmcp.core.client.asked import ServerAsks
from kvmcp.core.client.calls import Call, Calls
from kvmcp.core.client.events import (
    Event,
    ListChanged,
    ListenAcknowledged,
    ListenEnded,
    LogReceived,
    NotificationReceived,
    ProgressReceived,
    ProtocolViolated,
    ResourceUpdated,
)
from kvmcp.core.jsonrpc import Notification
from kvmcp.core.limits import Limits
from kvmcp.core.subscriptions import ListName
from kvmcp.core.wire.common import LogLevel
from kvmcp.core.wire.params import SUBSCRIPTION_ID, CancelledParams, ListenFilter
from kvmcp.core.wire.results import read


class _ProgressParams(Struct, rename="camel"):
    progress_token: Raw
    progress: float
    total: float | UnsetType = UNSET
    message: str | UnsetType = UNSET


class _LogParams(Struct):
    level: LogLevel
    data: Raw
    logger: str | UnsetType = UNSET


class _SubscriptionMeta(Struct, frozen=True):
    subscription_id: Raw = field(name=SUBSCRIPTION_ID, default=Raw())


class _ChangedParams(Struct):
    meta: _SubscriptionMeta = field(name="_meta", default=_SubscriptionMeta())


class _UpdatedParams(_ChangedParams, kw_only=True):
    uri: str


class _AcknowledgedParams(_ChangedParams, kw_only=True):
    notifications: ListenFilter


class Notices:
    """What becomes of notifications in one session."""

    def __init__(self, calls: Calls, asks: ServerAsks, events: list[Event], limits: Limits) -> None:
        self._calls = calls
        self._asks = asks
        self._events = events
        self._limits = limits
        self.modern = False

    def receive(self, notification: Notification, now: float) -> None:
        """Tell what a notification says. Unknown ones are handed on, malformed ones are violations."""
        handle = _HANDLERS.get(notification.method)
        if handle is None:
            self._events.append(NotificationReceived(notification.method, notification.params))
        elif not handle(self, notification.params, now):
            self._violated(f"params of {notification.method} do not fit")

    def _violated(self, reason: str) -> None:
        self._events.append(ProtocolViolated(reason))

    # Each handler says whether it could read the params.

    def progress(self, params: Raw, now: float) -> bool:
        said = read(params, _ProgressParams)
        if said is None:
            return False
        token = jsonrpc.read_id(said.progress_token, self._limits)
        call = None if token is None else self._calls.by_id.get(token)
        # "The progress value MUST increase with each notification": what does not is no news, and buys no time.
        if call is not None and call.wants_progress and said.progress > call.progress:
            call.progress = said.progress
            self._calls.extend(call, now)
            self._events.append(ProgressReceived(call.ticket, said.progress, said.total, said.message))
        return True

    def log(self, params: Raw, now: float) -> bool:
        said = read(params, _LogParams)
        if said is None:
            return False
        self._events.append(LogReceived(said.level, said.data, said.logger))
        return True

    def list_changed(self, name: ListName, params: Raw) -> bool:
        said = read(params, _ChangedParams)
        if said is None:
            return False
        if not self.modern:
            self._events.append(ListChanged(name))
        elif (listen := self._listen(said)) is not None and listen.listening is not None:
            if getattr(listen.listening, f"{name}_list_changed"):
                self._events.append(ListChanged(name, listen.ticket))
            else:
                self._violated(f"a change of {name}, which the listen did not ask for")
        return True

    def updated(self, params: Raw, now: float) -> bool:
        said = read(params, _UpdatedParams)
        if said is None:
            return False
        if not self.modern:
            self._events.append(ResourceUpdated(said.uri))
        elif (listen := self._listen(said)) is not None and listen.listening is not None:
            # Not compared with the URIs asked for: it "might be a sub-resource" of one of them.
            if listen.listening.resource_subscriptions:
                self._events.append(ResourceUpdated(said.uri, listen.ticket))
            else:
                self._violated("an update of a resource, which the listen did not ask for")
        return True

    def acknowledged(self, params: Raw, now: float) -> bool:
        said = read(params, _AcknowledgedParams)
        if said is None:
            return False
        listen = self._routed(said)
        if listen is None:
            return True
        if listen.acknowledged:
            self._violated("a listen was acknowledged twice")
            return True
        listen.acknowledged = True
        self._calls.deadlines.clear(listen.ticket)
        self._events.append(ListenAcknowledged(listen.ticket, said.notifications))
        return True

    def cancelled(self, params: Raw, now: float) -> bool:
        said = read(params, CancelledParams)
        id = None if said is None else jsonrpc.read_id(said.request_id, self._limits)
        if id is None:
            return False
        if not self.modern:
            self._asks.cancel(id)
        elif (call := self._calls.by_id.get(id)) is not None:
            self._cancelled_call(call)
        return True

    def _cancelled_call(self, call: Call) -> None:
        """In the modern era a server may cancel one thing: a listen."""
        if call.listening is None:
            self._violated("the server cancelled a request of ours")
        elif self.began(call):
            self._calls.settle(call)
            self._events.append(ListenEnded(call.ticket))

    # --- listens ---

    def began(self, listen: Call) -> bool:
        """Whether a listen was acknowledged. Anything else before that is the end of it."""
        if listen.acknowledged:
            return True
        self._calls.withdraw(listen)
        problem = "the first message of a listen was not its acknowledgement"
        self._events.append(ProtocolViolated(problem, listen.ticket))
        return False

    def _listen(self, params: _ChangedParams) -> Call | None:
        """The running listen that a notification belongs to."""
        listen = self._routed(params)
        return listen if listen is not None and self.began(listen) else None

    def _routed(self, params: _ChangedParams) -> Call | None:
        """The listen that a notification names; None where it is over, or there never was one."""
        id = jsonrpc.read_id(params.meta.subscription_id, self._limits)
        call = None if id is None else self._calls.by_id.get(id)
        if call is not None and call.listening is not None:
            return call
        if id is None or call is not None or not self._calls.was_sent(id):
            self._violated("a notification of a listen that never was")
        return None


_Handler: TypeAlias = Callable[[Notices, Raw, float], bool]


def _list_changed(name: ListName) -> _Handler:
    return lambda notices, params, now: notices.list_changed(name, params)


_HANDLERS: Final[dict[str, _Handler]] = {
    "notifications/progress": Notices.progress,
    "notifications/message": Notices.log,
    "notifications/tools/list_changed": _list_changed("tools"),
    "notifications/resources/list_changed": _list_changed("resources"),
    "notifications/prompts/list_changed": _list_changed("prompts"),
    "notifications/resources/updated": Notices.updated,
    "notifications/subscriptions/acknowledged": Notices.acknowledged,
    "notifications/cancelled": Notices.cancelled,
}
