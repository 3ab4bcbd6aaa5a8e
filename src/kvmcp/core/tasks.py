"""The extension `io.modelcontextprotocol/tasks` (SEP-2663, with 2026-07-28): calls that outlive their request.

A tool that opts in answers a client that opts in with a task as soon as it plans a job; what it asks or reads
before that is part of the request. The job then runs here, in exchanges of its own, whoever holds the connection.

    working ⇄ input_required ─▸ completed | failed | cancelled
"""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from kvmcp.core import task_ids
from kvmcp.core.asking import needed, read_answer
from kvmcp.core.commands import Ask, Command, Progress, Said, Ticket
from kvmcp.core.errors import MISSING_CLIENT_CAPABILITY, LocalProtocolError, RpcError
from kvmcp.core.exchange import Exchange, Phase, Questions
from kvmcp.core.exchanges import Exchanges
from kvmcp.core.modern import asked_of_client
from kvmcp.core.plan import Caller, Context, Plan, Start, ToolError
from kvmcp.core.service import Service
from kvmcp.core.task_states import Body, Settled, Status, Task, TaskId, iso_time
from kvmcp.core.wire.common import ClientRequest
from kvmcp.core.wire.params import TASKS

FIRST_TICKET: Final[Ticket] = 1 << 40
"""Tickets of tasks are above it: who has the commands of a session and of tasks tells them apart by that."""

_encode = msgspec.json.Encoder().encode


_decode_settled = msgspec.json.Decoder(Settled).decode


def declares_tasks(context: Context) -> bool:
    """Whether the client listed the extension, on this very request."""
    extensions = context.client_capabilities.extensions
    return extensions is not UNSET and TASKS in extensions


TASKS_REQUIRED: Final = RpcError(
    MISSING_CLIENT_CAPABILITY,
    f"this needs the client capability extensions[{TASKS!r}]",
    Raw(_encode({"requiredCapabilities": {"extensions": {TASKS: {}}}})),
)
"""To a client that did not declare the extension."""


class Copies(Protocol):
    """What other processes, which serve the same clients, are to know of tasks that run here."""

    def keep(self, id: TaskId, state: bytes, seconds: float) -> None:
        """`state` is all that a client may know of a task; it holds for so long, if nothing changes."""
        ...

    def drop(self, id: TaskId) -> None:
        """Nothing is known of a task any more."""
        ...


_HEARD_ELSEWHERE: Final = 64
"""States of tasks of other processes that wait until those who listen here have read them."""


class Tasks:
    """The tasks of a server, or of one connection: their work, their state, and who wants to hear of it.

    `heard` is called with the id of each task that has changed. What there is of a task is forgotten
    `Limits.task_lifetime` after its creation, and before that only if there are too many. `copies` is there where
    clients may ask other processes for them.
    """

    def __init__(
        self, service: Service, heard: Callable[[TaskId], object], copies: Copies | None = None
    ) -> None:
        self._service = service
        self._limits = limits = service.limits
        self._heard = heard
        self._copies = copies
        self._tasks: dict[TaskId, Task] = {}
        self._size = 0
        """Bytes of all outcomes."""
        self._elsewhere: dict[TaskId, bytes] = {}
        self._renew_at: float | None = None
        self._out: list[bytes] = []
        waits = {"work_timeout": limits.task_timeout, "ask_timeout": limits.task_timeout}
        bounds = msgspec.structs.replace(limits, open_exchanges=limits.tasks, **waits)
        self._exchanges = Exchanges(bounds, self._out, FIRST_TICKET)
        self._exchanges.asking = self

    # --- what requests do ---

    def create(self, asked: Exchange, job: object, now: float) -> bytes | None:
        """Start a job as a task; gives the answer to the request, None where there are too many tasks."""
        self._exchanges.now = now
        caller = asked.context.caller
        if not self._make_room(caller.identity if caller.principal else "", now):
            return None
        id = task_ids.seal(self._service, asked.context.caller, now)
        work = Exchange(
            _encode(id), asked.method, asked.params, asked.dialect, asked.context, notes=asked.notes
        )
        task = self._tasks[id] = Task(id, asked.context.caller.identity, work, now, now)
        self._exchanges.begin(work, _start, job)
        self._copy(task)
        return self._service.modern.task_created(asked.id, _encode(self._body(task)))

    def find(self, id: TaskId, caller: Caller, now: float) -> Task | None:
        """A task of the caller's; None where there is none, or it is somebody else's: both are the same."""
        self._expire(now)
        task = self._tasks.get(id)
        return task if task is not None and task.owner == caller.identity else None

    def knows(self, id: TaskId, caller: Caller, now: float) -> bool:
        """Whether there is, or may be in another process, such a task of the caller's."""
        return self.find(id, caller, now) is not None or self.age_elsewhere(id, caller, now) is not None

    def age_elsewhere(self, id: TaskId, caller: Caller, now: float) -> float | None:
        """How long ago a task of the caller's began that only another process can know; None where it is none."""
        if self._copies is None or id in self._tasks:
            return None
        return task_ids.age(self._service, id, caller, now)

    def note_elsewhere(self, id: TaskId, state: bytes) -> None:
        """What another process told of a task, for those who listen here."""
        self._elsewhere.pop(id, None)
        self._elsewhere[id] = state
        if len(self._elsewhere) > _HEARD_ELSEWHERE:
            del self._elsewhere[next(iter(self._elsewhere))]

    def ask_for_other(self, id: TaskId, given: Mapping[str, Raw] | None, now: float) -> None:
        """Another process has checked that a task may be given input, or be cancelled (None)."""
        task = self._tasks.get(id)
        if task is None:
            return
        if given is None:
            self.cancel(task, now)
        else:
            self.answer(task, given, now)

    def state_for(self, id: TaskId, caller: Caller, now: float) -> bytes | None:
        """What is told of a task that has changed to a caller who listens."""
        task = self.find(id, caller, now)
        if task is not None:
            return self.state(task)
        return None if self.age_elsewhere(id, caller, now) is None else self._elsewhere.get(id)

    def state(self, task: Task) -> bytes:
        """All that is told of a task, as a JSON object."""
        body = self._body(task)
        if task.status == "input_required":
            body.input_requests = Raw(_encode(self._open_questions(task)))
        body.result, body.error = task.outcome.result, task.outcome.error
        return _encode(body)

    def cancel(self, task: Task, now: float) -> None:
        """ "Cooperative; idempotent on terminal tasks"."""
        if not task.is_over:
            self._exchanges.now = now
            self._exchanges.stop(task.exchange, None)
            self._change(task, "cancelled")

    def answer(self, task: Task, given: Mapping[str, Raw], now: float) -> None:
        """Take what answers open questions; all else is ignored, and so is what makes no sense."""
        self._exchanges.now = now
        questions, were_open = _questions(task.exchange), len(task.names)
        for key in [key for key in task.names if key in given]:
            name = task.names[key]
            answer = read_answer(questions.asked[name], given[key])
            if answer is not None:
                questions.answers[name] = answer
                del task.names[key]
        if task.status == "input_required" and not task.names:
            self._change(task, "working")
            self._exchanges.resume_client(task.exchange)
        elif len(task.names) < were_open:
            self._copy(task)

    def stop(self, now: float) -> None:
        """Nobody will ask for anything any more: cancel what still runs."""
        for task in list(self._tasks.values()):
            self.cancel(task, now)

    # --- what the driver does ---

    def take_commands(self) -> list[Command]:
        """What the driver is to do, each exactly once."""
        return self._exchanges.take_commands()

    @property
    def wants_turn(self) -> bool:
        """Whether there are commands to take."""
        return self._exchanges.wants_turn

    def complete(self, ticket: Ticket, outcome: object, now: float) -> None:
        """A job finished."""
        self._exchanges.now = now
        self._exchanges.complete(ticket, outcome)
        self._settle()

    def tell(self, ticket: Ticket, said: Said, now: float) -> None:
        """A job asks the client, or says how far it is. "Progress and messages are not available for tasks"."""
        self._exchanges.now = now
        exchange = self._exchanges.work(ticket)
        if exchange is None:
            return
        if isinstance(said, Progress):
            self._note(self._of(exchange), said.message)
        elif isinstance(said, Ask):
            if exchange.phase is Phase.WAITING_FOR_CLIENT:
                raise LocalProtocolError("a job asks the client one thing at a time")
            self.ask(exchange, said.requests)

    def handle_timeout(self, now: float) -> None:
        """`next_deadline` has passed. Early and repeated calls do nothing."""
        self._exchanges.now = now
        for ticket in self._exchanges.deadlines.due(now):
            self._exchanges.handle_due(ticket)
        self._settle()
        self._expire(now)
        self._renew(now)

    def next_deadline(self) -> float | None:
        """The earliest moment at which `handle_timeout` has something to do."""
        oldest = next(iter(self._tasks.values()), None)
        ends = None if oldest is None else oldest.created + self._limits.task_lifetime
        moments = (self._exchanges.deadlines.next(), ends, self._renew_at)
        return min((moment for moment in moments if moment is not None), default=None)

    # --- the client's input (`Asking`) ---

    def ask(self, exchange: Exchange, requests: Mapping[str, ClientRequest]) -> None:
        """Ask what the client can answer. "Keys MUST be unique over the lifetime of the task"."""
        task = self._of(exchange)
        capabilities = exchange.context.client_capabilities
        asked = {key: request for key, request in requests.items() if capabilities.offers(request)}
        if requests and not asked:
            problem = f"this needs a client with the capabilities {needed(requests).decode()}"
            self._exchanges.drop(exchange, ToolError("MISSING_CLIENT_CAPABILITY", problem))
            self._settle()
            return
        exchange.questions = Questions(asked=asked, answers={})
        task.names = {_fresh(key, task.used): key for key in asked}
        self._exchanges.wait_for_client(exchange)
        if asked:
            self._change(task, "input_required")
        else:
            self._exchanges.resume_client(exchange)

    def forget(self, exchange: Exchange) -> None:
        """Its questions are open no more."""
        self._of(exchange).names = {}

    # --- inside ---

    def _of(self, exchange: Exchange) -> Task:
        return self._tasks[msgspec.json.decode(exchange.id, type=str)]

    def _settle(self) -> None:
        """What exchanges have answered is the outcome of their tasks."""
        messages = self._out[:]
        self._out.clear()
        for message in messages:
            task = self._tasks[msgspec.json.decode(message, type=_Answered).id]
            task.outcome, task.size = _decode_settled(message), len(message)
            self._size += task.size
            # "completed includes tool results with isError: true; failed only for JSON-RPC errors".
            self._change(task, "completed" if task.outcome.error is UNSET else "failed")
        while self._size > self._limits.task_bytes and (over := self._oldest_over()) is not None:
            self._drop(over)

    def _change(self, task: Task, status: Status) -> None:
        task.status = status
        task.updated = self._exchanges.now
        self._copy(task)
        self._heard(task.id)

    def _note(self, task: Task, message: str | UnsetType) -> None:
        """The message of a progress report is what the client is told of a task's status."""
        if message is not UNSET and message != task.message:
            task.message = message
            self._change(task, task.status)

    def _copy(self, task: Task) -> None:
        """Let the other processes know. What is said of a task that runs must be said again, or holds no more."""
        if self._copies is None:
            return
        left = task.created + self._limits.task_lifetime - self._exchanges.now
        if not task.is_over:
            left = min(left, self._limits.stored_seconds)
            self._renew_at = self._renew_at or self._exchanges.now + self._limits.stored_seconds / 3
        self._copies.keep(task.id, self.state(task), max(left, 1.0))

    def _renew(self, now: float) -> None:
        if self._renew_at is None or now < self._renew_at:
            return
        self._renew_at = None
        for task in self._tasks.values():
            if not task.is_over:
                self._copy(task)

    def _expire(self, now: float) -> None:
        """Forget tasks that are too old. They stand in order of their creation."""
        while self._tasks:
            task = next(iter(self._tasks.values()))
            if now - task.created < self._limits.task_lifetime:
                return
            self.cancel(task, now)
            self._drop(task)

    def _drop(self, task: Task) -> None:
        del self._tasks[task.id]
        self._size -= task.size
        if self._copies is not None:
            self._copies.drop(task.id)

    def _make_room(self, owner: str, now: float) -> bool:
        """Forget one that is over where there are too many; whether one more may begin.

        A caller who is known has a bound of their own, and what they begin displaces only what is theirs.
        """
        self._expire(now)
        theirs = sum(task.owner == owner for task in self._tasks.values()) if owner else 0
        is_bounded = theirs >= self._limits.caller_tasks
        if not is_bounded and len(self._tasks) < self._limits.tasks:
            return True
        over = self._oldest_over(owner if is_bounded else None)
        if over is not None:
            self._drop(over)
        return over is not None

    def _oldest_over(self, owner: str | None = None) -> Task | None:
        """The one that was over first: its client has had the longest time to fetch it."""
        over = [task for task in self._tasks.values() if task.is_over and owner in (None, task.owner)]
        return min(over, key=_updated, default=None)

    def _open_questions(self, task: Task) -> dict[str, object]:
        asked = _questions(task.exchange).asked
        return {key: asked_of_client(asked[name]) for key, name in task.names.items()}

    def _body(self, task: Task) -> Body:
        wall = self._service.sealer.wall
        return Body(
            task_id=task.id,
            status=task.status,
            created_at=iso_time(wall(task.created)),
            last_updated_at=iso_time(wall(task.updated)),
            ttl_ms=int(self._limits.task_lifetime * 1000),
            poll_interval_ms=self._limits.task_poll_ms,
            status_message=UNSET if task.is_over else task.message,
        )


class _Answered(Struct):
    id: TaskId


def _fresh(key: str, used: set[str]) -> str:
    """`key`, or where the client has seen that before, the first of its kind that it has not."""
    fresh, number = key, 1
    while fresh in used:
        number += 1
        fresh = f"{key}-{number}"
    used.add(fresh)
    return fresh


def _updated(task: Task) -> float:
    return task.updated


def _start(job: object) -> Plan:
    return Start(job)


def _questions(exchange: Exchange) -> Questions:
    return exchange.questions if exchange.questions is not None else Questions()
