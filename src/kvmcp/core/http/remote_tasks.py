"""Tasks that another process runs: its id says whose a task is, a common record says what has become of it.

`tasks/get` is answered from the record. `tasks/update` and `tasks/cancel` are passed on to whoever runs the task,
and acknowledged when it has told of the change, or after a moment: "cooperative" is all that the protocol asks.
A record of a task that runs is renewed; when it is gone before the task is over, so is the process that ran it.
"""

import hashlib
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from kvmcp.core.admission import Admitted
from kvmcp.core.commands import Ticket
from kvmcp.core.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from kvmcp.core.http.admission import status_of
from kvmcp.core.http.answers import Answer, Quiet, earliest, nobody_to_wake
from kvmcp.core.http.interests import Interests
from kvmcp.core.http.messages import Part, json_response
from kvmcp.core.http.relays import TaskAsked, TaskTold
from kvmcp.core.http.shared import Loaded, Shared
from kvmcp.core.jsonrpc import Id, Request
from kvmcp.core.methods import METHODS
from kvmcp.core.service import Service
from kvmcp.core.task_states import Status, TaskId
from kvmcp.core.tasks import Tasks, declares_tasks
from kvmcp.core.wire.params import TaskParams, UpdateTaskParams

_METHODS: Final = ("tasks/get", "tasks/update", "tasks/cancel")

_FRESH: Final = 2.0
"""Age in seconds up to which the record of a task may still be on its way."""
_LOOK_EVERY: Final = 0.1
"""Seconds between looks for a record that is on its way."""
_TOLD_WITHIN: Final = 1.0
"""Seconds in which a process tells of a change that it was asked for; after that it is acknowledged unheard."""


class _State(Struct):
    status: Status


_decode_state = msgspec.json.Decoder(_State).decode


def record_key(id: TaskId) -> str:
    return f"t.{hashlib.sha256(id.encode()).hexdigest()[:32]}"


class RemoteTasks:
    """What this process tells of its tasks, and asks about those of others (`kvmcp.core.tasks.Copies`)."""

    def __init__(self, service: Service, shared: Shared) -> None:
        self._service = service
        self._shared = shared
        self.waiting: Interests[TaskId, RemoteTask] = Interests()
        """Requests that wait until a change of a task is told."""

    def keep(self, id: TaskId, state: bytes, seconds: float) -> None:
        self._shared.keep(record_key(id), state, seconds)
        self._shared.tell(TaskTold(id, state))

    def drop(self, id: TaskId) -> None:
        self._shared.drop(record_key(id))

    def told(self, told: TaskTold) -> None:
        """A process has told of a task of its own."""
        for request in self.waiting.of(told.id):
            request.told()

    def answer(self, tasks: Tasks, request: Request, admitted: Admitted, now: float) -> Answer | None:
        """The response to a request about a task of another process; None where it is no such request."""
        if request.method not in _METHODS or not self._service.catalog.offers("tasks"):
            return None
        try:
            params = METHODS[request.method].decode(request.params)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None  # Said by whoever reads it next.
        assert isinstance(params, TaskParams), "the params of these methods"
        if not declares_tasks(admitted.context):
            return None
        age = tasks.age_elsewhere(params.task_id, admitted.context.caller, now)
        if age is None:
            return None
        return RemoteTask(self, self._service, self._shared, request, _asked(request, params), age, now)


_Asked: TypeAlias = tuple[TaskId, TaskAsked | None]


def _asked(request: Request, params: TaskParams) -> _Asked:
    """The task, and what whoever runs it is asked for."""
    id = params.task_id
    if isinstance(params, UpdateTaskParams):
        return id, TaskAsked(id, {key: bytes(raw) for key, raw in params.input_responses.items()})
    return id, TaskAsked(id, None) if request.method == "tasks/cancel" else None


class RemoteTask(Quiet):
    """The response to one request about a task that another process runs."""

    def __init__(
        self,
        home: RemoteTasks,
        service: Service,
        shared: Shared,
        request: Request,
        asked: _Asked,
        age: float,
        now: float,
    ) -> None:
        self.wake: Callable[[], None] = nobody_to_wake
        self.streams = False
        self._home = home
        self._modern = service.modern
        self._shared = shared
        self._id: Id = request.id
        self._task, self._asked = asked
        self._fresh_until = now + _FRESH - age
        self._give_up_at = now + service.limits.backend_timeout
        self._due_at: float | None = None
        self._load: Ticket | None = None
        self._parts: list[Part] = []
        self._is_told = self._closed = False
        self._look()

    def _look(self) -> None:
        self._load = self._shared.load((record_key(self._task),), self._found)

    def _found(self, loaded: Loaded, now: float) -> None:
        self._load = None
        if loaded is None:
            self._fail(INTERNAL_ERROR, "what is known of the task cannot be read now; try again")
        elif loaded[0] is not None:
            self._take(loaded[0], now)
        elif now < self._fresh_until:
            self._due_at = now + _LOOK_EVERY
        else:
            self._fail(INVALID_PARAMS, "no such task, or the process that ran it is gone")
        self.wake()

    def _take(self, state: bytes, now: float) -> None:
        if self._asked is None:
            self._end(self._modern.task_state(self._id, state))
        elif _decode_state(state).status not in ("working", "input_required"):
            self._end(self._modern.done(self._id))
        else:
            self._home.waiting.set(self, [self._task])
            self._shared.tell(self._asked)
            self._is_told = True
            self._due_at = now + _TOLD_WITHIN

    def told(self) -> None:
        """The task has changed."""
        self._end(self._modern.done(self._id))
        self.wake()

    def _fail(self, code: int, problem: str) -> None:
        self._end(self._modern.error(self._id, RpcError(code, problem)))

    def _end(self, message: bytes) -> None:
        self._parts = json_response(status_of(message, self._id), message)
        self._leave()

    def _leave(self) -> None:
        self._home.waiting.drop(self)
        self._due_at = None
        if self._load is not None:
            self._shared.forget(self._load)

    # --- the response ---

    def take_parts(self) -> list[Part]:
        parts, self._parts = self._parts, []
        self._closed = self._closed or len(parts) > 0
        return parts

    def disconnected(self, now: float) -> None:
        self._parts, self._closed = [], True
        self._leave()

    def begin_shutdown(self, now: float) -> None:
        """It ends soon anyway."""

    def handle_timeout(self, now: float) -> None:
        if self._closed or self._parts:
            return
        if self._due_at is not None and now >= self._due_at:
            self._due_at = None
            if self._is_told:
                self.told()
            else:
                self._look()
        elif now >= self._give_up_at:
            self._fail(INTERNAL_ERROR, "what is known of the task was not read in time; try again")

    def next_deadline(self) -> float | None:
        return None if self._closed or self._parts else earliest(self._due_at, self._give_up_at)

    @property
    def closed(self) -> bool:
        return self._closed
