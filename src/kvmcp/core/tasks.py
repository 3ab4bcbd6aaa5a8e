"""The extension `io.modelcontextprotocol/tasks` (SEP-2663, with 2026-07-28): calls that outlive their request.

A tool that opts in answers a client that opts in with a task as soon as it plans a job; what it asks or reads
before that is part of the request. The job then runs here, in exchanges of its own, whoever holds the connection.

    working ⇄ input_required ─▸ completed | failed | cancelled
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from kvmcp.core.asking import needed, read_answer
from kvmcp.core.commands import Ask, Command, Said, Ticket
from kvmcp.core.errors import MISSING_CLIENT_CAPABILITY, LocalProtocolError, RpcError
from kvmcp.core.exchange import Exchange, Exchanges, Phase, Questions
from kvmcp.core.modern import asked_of_client
from kvmcp.core.plan import Caller, Context, Plan, Start, ToolError
from kvmcp.core.service import Service
from kvmcp.core.wire.common import ClientRequest
from kvmcp.core.wire.params import TASKS

TaskId: TypeAlias = str
Status: TypeAlias = Literal["working", "input_required", "completed", "failed", "cancelled"]

FIRST_TICKET: Final[Ticket] = 1 << 40
"""Tickets of tasks are above it: who has the commands of a session and of tasks tells them apart by that."""

_encode = msgspec.json.Encoder().encode


class _Settled(Struct, frozen=True):
    """How an exchange ended, out of the message that it wrote."""

    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


_decode_settled = msgspec.json.Decoder(_Settled).decode


class _Body(Struct, omit_defaults=True, rename="camel"):
    """What is told of a task. Before its creation is answered there is nothing but the first seven members."""

    task_id: TaskId
    status: Status
    created_at: str
    last_updated_at: str
    ttl_ms: int
    poll_interval_ms: int
    status_message: str | UnsetType = UNSET
    input_requests: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class Task(Struct):
    """One task. `Exchanges` keeps its work; this is what a client may know of it."""

    id: TaskId
    owner: str
    exchange: Exchange
    created: float
    updated: float
    status: Status = "working"
    outcome: _Settled = _Settled()
    names: dict[str, str] = {}
    """For each open question: the key that the job gave it, by the key that the client sees."""
    questions: int = 0

    @property
    def is_over(self) -> bool:
        return self.status not in ("working", "input_required")


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


class Tasks:
    """The tasks of a server, or of one connection: their work, their state, and who wants to hear of it.

    `heard` is called with the id of each task that has changed. What there is of a task is forgotten
    `Limits.task_lifetime` after its creation, and before that only if there are too many.
    """

    def __init__(self, service: Service, heard: Callable[[TaskId], object]) -> None:
        self._service = service
        self._limits = limits = service.limits
        self._heard = heard
        self._tasks: dict[TaskId, Task] = {}
        self._out: list[bytes] = []
        waits = {"work_timeout": limits.task_timeout, "ask_timeout": limits.task_timeout}
        bounds = msgspec.structs.replace(limits, open_exchanges=limits.tasks, **waits)
        self._exchanges = Exchanges(bounds, self._out, FIRST_TICKET)
        self._exchanges.asking = self

    # --- what requests do ---

    def create(self, asked: Exchange, job: object, now: float) -> bytes | None:
        """Start a job as a task; gives the answer to the request, None where there are too many tasks."""
        self._exchanges.now = now
        if not self._make_room(now):
            return None
        id = "tk_" + self._service.token()
        work = Exchange(
            _encode(id), asked.method, asked.params, asked.dialect, asked.context, notes=asked.notes
        )
        task = self._tasks[id] = Task(id, asked.context.caller.identity, work, now, now)
        self._exchanges.begin(work, _start, job)
        return self._service.modern.task_created(asked.id, _encode(self._body(task)))

    def find(self, id: TaskId, caller: Caller, now: float) -> Task | None:
        """A task of the caller's; None where there is none, or it is somebody else's: both are the same."""
        self._expire(now)
        task = self._tasks.get(id)
        return task if task is not None and task.owner == caller.identity else None

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
        questions = _questions(task.exchange)
        for key in [key for key in task.names if key in given]:
            name = task.names[key]
            answer = read_answer(questions.asked[name], given[key])
            if answer is not None:
                questions.answers[name] = answer
                del task.names[key]
        if task.status == "input_required" and not task.names:
            self._change(task, "working")
            self._exchanges.resume_client(task.exchange)

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
        """A job asks the client. "Progress and messages are not available for tasks"."""
        self._exchanges.now = now
        exchange = self._exchanges.work(ticket)
        if exchange is None or not isinstance(said, Ask):
            return
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

    def next_deadline(self) -> float | None:
        """The earliest moment at which `handle_timeout` has something to do."""
        return self._exchanges.deadlines.next()

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
        task.questions += 1
        task.names = {key if task.questions == 1 else f"{key}-{task.questions}": key for key in asked}
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
            task.outcome = _decode_settled(message)
            # "completed includes tool results with isError: true; failed only for JSON-RPC errors".
            self._change(task, "completed" if task.outcome.error is UNSET else "failed")

    def _change(self, task: Task, status: Status) -> None:
        task.status = status
        task.updated = self._exchanges.now
        self._heard(task.id)

    def _expire(self, now: float) -> None:
        """Forget tasks that are too old. They stand in order of their creation."""
        while self._tasks:
            task = next(iter(self._tasks.values()))
            if now - task.created < self._limits.task_lifetime:
                return
            self.cancel(task, now)
            del self._tasks[task.id]

    def _make_room(self, now: float) -> bool:
        """Forget one that is over where there are too many; whether one more may begin."""
        self._expire(now)
        if len(self._tasks) < self._limits.tasks:
            return True
        over = next((task for task in self._tasks.values() if task.is_over), None)
        if over is not None:
            del self._tasks[over.id]
        return over is not None

    def _open_questions(self, task: Task) -> dict[str, object]:
        asked = _questions(task.exchange).asked
        return {key: asked_of_client(asked[name]) for key, name in task.names.items()}

    def _body(self, task: Task) -> _Body:
        wall = self._service.sealer.wall
        return _Body(
            task_id=task.id,
            status=task.status,
            created_at=iso_time(wall(task.created)),
            last_updated_at=iso_time(wall(task.updated)),
            ttl_ms=int(self._limits.task_lifetime * 1000),
            poll_interval_ms=self._limits.task_poll_ms,
        )


class _Answered(Struct):
    id: TaskId


def _start(job: object) -> Plan:
    return Start(job)


def _questions(exchange: Exchange) -> Questions:
    return exchange.questions if exchange.questions is not None else Questions()


def iso_time(unix: float) -> str:
    """A moment in ISO 8601, UTC. By hand, as the core has no calendar (days from civil, H. Hinnant)."""
    days, seconds = divmod(int(unix), 86_400)
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (month <= 2)
    hour, minute, second = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
