"""The life of requests: from an admitted request to exactly one answer, or none where it was cancelled.

        begin ─▸ plan ─┬─ Answer, Fail ───────────────────────────────▸ settled
                       ├─ AskBackend ─▸ waiting for a batch ─▸ resume ─▸ plan …
                       ├─ AskClient ──▸ waiting for the client ▸ resume ─▸ plan …   (see `asking`)
                       └─ Start ──────▸ working ─▸ WorkDone, WorkFailed ▸ settled

An exchange is settled by whatever comes first: its outcome, a cancellation, its deadline, the end. What comes
later finds it settled and is dropped. Knows plans, tickets and time; neither methods nor eras, but for the one
place where the eras differ: how a client is asked.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol, cast

import msgspec
from msgspec import Raw

from kvmcp.core.batches import Batch, Batches, Replied
from kvmcp.core.commands import (
    AnswerWork,
    BatchFailed,
    Command,
    Report,
    StartWork,
    StopWork,
    Ticket,
    WorkDone,
    WorkFailed,
)
from kvmcp.core.deadlines import Deadlines
from kvmcp.core.errors import INTERNAL_ERROR, LocalProtocolError, RpcError
from kvmcp.core.exchange import INTERNAL, SETTLED, WAITING_FOR_BACKEND, Exchange, Phase
from kvmcp.core.jsonrpc import Id
from kvmcp.core.limits import Limits
from kvmcp.core.plan import (
    Answer,
    AskBackend,
    AskClient,
    Fail,
    Plan,
    Start,
    ToolError,
    WatchUntil,
    error_result,
)
from kvmcp.core.wire.common import ClientRequest, Result, ToolResult

_encode = msgspec.json.Encoder().encode

TIMEOUT: Final = "TIMEOUT"
UNKNOWN_OUTCOME: Final = "UNKNOWN_OUTCOME"

_LARGE: Final = 2048
"""Answers up to this size are not counted against `Limits.output_bytes`: `pending_calls` bounds them well enough."""


class Asking(Protocol):
    """How the client is asked in each era; see `kvmcp.core.asking`."""

    def ask(self, exchange: Exchange, requests: Mapping[str, ClientRequest]) -> None: ...

    def forget(self, exchange: Exchange) -> None: ...


class Exchanges:
    """The requests of one session that are not settled, and the commands that they need.

    `out` is the session's outbox: rendered messages, in order.
    """

    def __init__(self, limits: Limits, out: list[bytes], first_ticket: Ticket = 0) -> None:
        self._limits = limits
        self._out = out
        self.open: dict[Id, Exchange] = {}
        self.asking: Asking
        self.start_task: Callable[[Exchange, object], None]
        """What becomes of a job that is to run as a task (`Exchange.as_task`)."""
        self.held_is_ready: Callable[[Exchange], None]
        """What becomes of a request that is held, once its job has ended."""
        self.commands: list[Command] = []
        self.deadlines: Deadlines[Ticket] = Deadlines()
        self.now = 0.0
        self.batches = Batches(limits.batch_calls)
        self._slow: dict[Ticket, Exchange] = {}
        self._first_ticket = self._tickets = first_ticket
        self.rendered = 0
        """Bytes of large answers that were not taken yet."""
        self._replied: deque[Replied] = deque()

    # --- beginning and going on ---

    def hold(self, exchange: Exchange, job: object | None = None) -> bool:
        """Keep a request open that ends from outside (a listen); False where it was refused.

        With a job `held_is_ready` is called when that has ended, however.
        """
        if not self._has_room(exchange):
            return False
        exchange.phase = Phase.HELD
        exchange.ticket = self.mint()
        self._slow[exchange.ticket] = exchange
        self.open[exchange.id] = exchange
        if job is not None:
            exchange.job = True
            self.commands.append(StartWork(exchange.ticket, job))
        return True

    def begin(self, exchange: Exchange, handler: Callable[..., Plan], *arguments: object) -> None:
        """Run a request's handler and carry out what it plans. The session lets no id in that is in flight."""
        self._run(exchange, handler, arguments)

    def _run(self, exchange: Exchange, handler: Callable[..., Plan], arguments: tuple[object, ...]) -> None:
        """Run a handler and carry out its plan."""
        try:
            plan = handler(*arguments)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises becomes an answer and a report
            plan = self.failed(exchange.method, error)
        self.carry_out(exchange, plan)

    def failed(self, method: str, error: Exception) -> Fail:
        """What a handler has planned that raised: a report for us, an internal error for the peer."""
        self.commands.append(Report(method, error))
        return Fail(INTERNAL)

    def carry_out(self, exchange: Exchange, plan: Plan) -> None:
        if isinstance(plan, AskBackend):
            self.ask_backend(exchange, plan)
        elif isinstance(plan, Answer):
            self.answer(exchange, plan.result)
        elif isinstance(plan, Fail):
            self.refuse(exchange, plan.error)
        elif isinstance(plan, AskClient):
            self._ask_client(exchange, plan)
        else:
            self._start(exchange, plan)

    def resume_client(self, exchange: Exchange) -> None:
        """All that the client was asked has been answered: go on."""
        questions = exchange.questions
        assert questions is not None, "an exchange that waits for the client has questions"
        if exchange.job:
            exchange.phase = Phase.WORKING
            self._wait_slowly(exchange, self._limits.work_timeout)
            self.commands.append(AnswerWork(exchange.ticket, questions.answers))
            return
        exchange.phase = Phase.PLANNING
        if exchange.ticket:
            self.deadlines.clear(exchange.ticket)  # It was for the client, not for what comes next.
        then = exchange.client_then
        assert then is not None, "an exchange that waits for the client has a continuation"
        self._run(exchange, then.resume, (questions.answers, exchange.context))

    def ask_backend(self, exchange: Exchange, plan: AskBackend) -> None:
        """Let an exchange wait for the batch that is due next."""
        ops, due = plan.ops, self.batches.due
        exchange.phase = WAITING_FOR_BACKEND
        exchange.backend_then = plan.then
        if plan.writes:
            exchange.writes = True
        self.open[exchange.id] = exchange
        due.exchanges.append(exchange)
        due.counts.append(len(ops))
        due.ops += ops

    def _ask_client(self, exchange: Exchange, plan: AskClient) -> None:
        if not self._has_room(exchange):
            return
        exchange.client_then = plan.then
        self.open[exchange.id] = exchange
        self.asking.ask(exchange, plan.requests)

    def _start(self, exchange: Exchange, plan: object) -> None:
        if not isinstance(plan, Start):  # Handlers of users without a type checker return what they like.
            self.blame(exchange, TypeError(f"a handler returned {type(plan).__name__}, which is no plan"))
            return
        if exchange.as_task:
            self.start_task(exchange, plan.job)
            return
        if not self._has_room(exchange):
            return
        exchange.phase = Phase.WORKING
        exchange.job = True
        exchange.only_looks = isinstance(plan.job, WatchUntil) and not plan.job.writes
        self.open[exchange.id] = exchange
        self._wait_slowly(exchange, self._limits.work_timeout)
        self.commands.append(StartWork(exchange.ticket, plan.job))

    def _has_room(self, exchange: Exchange) -> bool:
        if len(self._slow) < self._limits.open_exchanges or exchange.ticket:
            return True
        self.refuse_for_room(exchange)
        return False

    def refuse_for_room(self, exchange: Exchange) -> None:
        """Settle a request for which there is no room."""
        limit = self._limits.open_exchanges
        problem = f"{limit} requests wait already, which is the limit; try again when some are answered"
        self.fail(exchange, ToolError("TOO_MANY_REQUESTS", problem, retryable=True))

    # --- commands and their completion ---

    def mint(self) -> Ticket:
        self._tickets += 1
        return self._tickets

    def take_commands(self) -> list[Command]:
        """What is to be done, each exactly once; all operations due go into one batch."""
        if self._replied:
            self._resume_replied()
        commands = self.commands
        self.commands = []
        if self.batches.due.exchanges:
            batch = self.batches.take(self.mint())
            self.deadlines.set(batch.ticket, self.now + self._limits.backend_timeout)
            commands.append(batch)
        return commands

    @property
    def wants_turn(self) -> bool:
        """Whether there are commands to take, or replies that wait for what was rendered to leave."""
        return bool(self.commands or self.batches.due.exchanges or self._replied)

    @property
    def calls_out(self) -> int:
        """Requests whose operations the backend has, or is about to get."""
        batches = self.batches
        return batches.calls_out + len(batches.due.exchanges) + len(self._replied)

    def complete(self, ticket: Ticket, outcome: object) -> None:
        """Raises LocalProtocolError for a ticket that was never given, or an outcome that does not fit it."""
        batch = self.batches.out.get(ticket)
        if batch is not None:
            self._complete_batch(ticket, batch, outcome)
            return
        if not self._first_ticket < ticket <= self._tickets:
            raise LocalProtocolError(f"ticket {ticket} was never given")
        if not isinstance(outcome, WorkDone | WorkFailed):
            raise LocalProtocolError(f"work ends as WorkDone or WorkFailed, not {type(outcome).__name__}")
        exchange = self._slow.get(ticket)
        if exchange is None or not exchange.job:
            return  # Stopped: cancelled, too late, or the session is over.
        exchange.job = False
        self._drop_work(exchange)
        if exchange.phase is Phase.HELD:
            self.held_is_ready(exchange)
        elif isinstance(outcome, WorkDone):
            self.answer(exchange, outcome.result)
        elif isinstance(outcome.error, ToolError):
            self.fail(exchange, outcome.error)
        else:
            self.refuse(exchange, outcome.error)

    def _complete_batch(self, ticket: Ticket, batch: Batch, outcome: object) -> None:
        if isinstance(outcome, BatchFailed):
            self._close_batch(ticket)
            self._give_up_batch(batch, "the store failed")
            return
        if not isinstance(outcome, Sequence) or len(cast(Sequence[object], outcome)) != batch.size:
            raise LocalProtocolError(f"batch {ticket} needs a sequence of {batch.size} replies")
        self._close_batch(ticket)
        replied = batch.shares(cast(Sequence[object], outcome))
        if self._replied:
            self._replied.extend(replied)
        else:
            self._resume(replied)

    def _resume_replied(self) -> None:
        """Go on with replies that had to wait."""
        replied, self._replied = self._replied, deque()
        self._resume(iter(replied))

    def _resume(self, replied: Iterator[Replied]) -> None:
        """Go on with each exchange, as far as there is room to render what it answers; the rest waits."""
        limit, open, out = self._limits.output_bytes, self.open, self._out
        for exchange, replies in replied:
            if self.rendered >= limit:
                self._replied.append((exchange, replies))
                self._replied.extend(replied)
                return
            if exchange.phase is SETTLED:
                continue
            then = exchange.backend_then
            assert then is not None, "an exchange that waits for the backend has a continuation"
            try:
                plan = then.resume(replies, exchange.context)
            except Exception as error:  # noqa: BLE001  # as in _run
                plan = self.failed(exchange.method, error)
            if type(plan) is not Answer or exchange.notes or exchange.ticket:
                self.carry_out(exchange, plan)
                continue
            # The common end, as `answer` and `settle` do it, without their calls (benchmarks/core.py).
            try:
                message = exchange.dialect.render(exchange.id, plan.result)
            except Exception as error:  # noqa: BLE001  # as in answer
                self.blame(exchange, error)
                continue
            exchange.phase = SETTLED
            del open[exchange.id]
            out.append(message)
            if len(message) > _LARGE:
                self.rendered += len(message)

    def _close_batch(self, ticket: Ticket) -> None:
        self.batches.close(ticket)
        self.deadlines.clear(ticket)

    def _give_up_batch(self, batch: Batch, reason: str) -> None:
        for exchange in batch.exchanges:
            if not exchange.settled:
                self.give_up(exchange, reason)

    # --- settling ---

    def answer(self, exchange: Exchange, result: Result) -> None:
        if exchange.notes and isinstance(result, ToolResult):
            result = msgspec.structs.replace(result, notes=(*result.notes, *exchange.notes))
        try:
            message = exchange.dialect.render(exchange.id, result)
        except Exception as error:  # noqa: BLE001  # a result that cannot be written is the handler's fault
            self.blame(exchange, error)
            return
        self.settle(exchange, message)

    def blame(self, exchange: Exchange, error: Exception) -> None:
        """Settle what a handler got wrong: a report for us, an internal error for the peer."""
        self.commands.append(Report(exchange.method, error))
        self.stop(exchange, exchange.dialect.error(exchange.id, INTERNAL))

    def refuse(self, exchange: Exchange, error: RpcError) -> None:
        """Settle with a protocol error."""
        self.settle(exchange, exchange.dialect.error(exchange.id, error))

    def fail(self, exchange: Exchange, problem: ToolError) -> None:
        """Settle with a failure: as a tool's result where it is a tool's call, else as a protocol error."""
        if exchange.method == "tools/call":
            self.answer(exchange, error_result(problem))
        else:
            self.refuse(exchange, RpcError(INTERNAL_ERROR, problem.message, Raw(_encode(problem))))

    def settle(self, exchange: Exchange, message: bytes | None) -> None:
        """End an exchange with its answer; without one where the peer wants none any more."""
        exchange.phase = SETTLED
        if self.open.get(exchange.id) is exchange:
            del self.open[exchange.id]
        if exchange.ticket:
            self._slow.pop(exchange.ticket, None)
            self.deadlines.clear(exchange.ticket)
        if message is not None:
            self._out.append(message)
            if len(message) > _LARGE:
                self.rendered += len(message)

    def stop(self, exchange: Exchange, message: bytes | None) -> None:
        """Settle an exchange from outside: its work and its questions are not needed any more."""
        self._drop_work(exchange)
        self.settle(exchange, message)

    def _drop_work(self, exchange: Exchange) -> None:
        if exchange.job:
            exchange.job = False
            self.commands.append(StopWork(exchange.ticket))
        if exchange.phase is Phase.WAITING_FOR_CLIENT:
            self.asking.forget(exchange)

    def cancel(self, id: Id) -> None:
        """The peer wants no answer any more ("send no response"). Ids of no open request are ignored."""
        exchange = self.open.get(id)
        if exchange is not None:
            self.stop(exchange, None)

    # --- time ---

    def wait_for_client(self, exchange: Exchange) -> None:
        """The client was asked; give it until the deadline."""
        exchange.phase = Phase.WAITING_FOR_CLIENT
        self._wait_slowly(exchange, self._limits.ask_timeout)

    def _wait_slowly(self, exchange: Exchange, timeout: float) -> None:
        if not exchange.ticket:
            exchange.ticket = self.mint()
        self._slow[exchange.ticket] = exchange
        self.deadlines.set(exchange.ticket, self.now + timeout)

    def handle_due(self, ticket: Ticket) -> None:
        """The deadline of a ticket has passed."""
        batch = self.batches.out.get(ticket)
        if batch is not None:
            self._give_up_batch(batch, "the store did not answer in time")
        # None where the end of the grace, due at the same moment, has settled it just now.
        elif (slow := self._slow.get(ticket)) is not None:
            late = "the client" if slow.phase is Phase.WAITING_FOR_CLIENT else "the work"
            self.give_up(slow, f"{late} took too long")

    def give_up(self, exchange: Exchange, reason: str) -> None:
        """Settle without an outcome: honest about a change that may have happened."""
        if exchange.writes or (exchange.job and not exchange.only_looks):
            text = f"{reason}; the change may have happened: look before you try again"
            problem = ToolError(UNKNOWN_OUTCOME, text)
        else:
            problem = ToolError(TIMEOUT, f"{reason}; nothing was changed", retryable=True)
        self.drop(exchange, problem)

    def drop(self, exchange: Exchange, problem: ToolError) -> None:
        """Settle with a failure that came from outside its work."""
        self._drop_work(exchange)
        self.fail(exchange, problem)

    def give_up_all(self, reason: str) -> None:
        """Settle whatever is open."""
        for exchange in list(self.open.values()):
            self.give_up(exchange, reason)

    def work(self, ticket: Ticket) -> Exchange | None:
        """The exchange of a running job; None where it is settled. Raises LocalProtocolError as `complete` does."""
        if not self._first_ticket < ticket <= self._tickets:
            raise LocalProtocolError(f"ticket {ticket} was never given")
        exchange = self._slow.get(ticket)
        return exchange if exchange is not None and exchange.job else None
