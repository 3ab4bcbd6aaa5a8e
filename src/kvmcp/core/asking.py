"""Asking the client, in both eras: the one plan that they treat differently.

Legacy: each question becomes a request to the client, and the exchange waits for the responses. Modern: the
answer to the request is `input_required`; what must be remembered is sealed into `requestState`, the exchange
is over, and the client sends the request again with `inputResponses`. A job that asks is then run again from
its start, and its earlier questions are answered at once from the state.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Union, cast

import msgspec
from msgspec import Raw, Struct

from kvmcp.core import jsonrpc
from kvmcp.core.errors import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    MISSING_CLIENT_CAPABILITY,
    LocalProtocolError,
    RpcError,
)
from kvmcp.core.exchange import Exchange, Phase, Questions
from kvmcp.core.exchanges import Exchanges
from kvmcp.core.jsonrpc import Id
from kvmcp.core.modern import ModernDialect
from kvmcp.core.plan import AskClient, ClientThen, ToolError
from kvmcp.core.request_state import State, digest
from kvmcp.core.service import Service
from kvmcp.core.wire.common import (
    ClientAnswer,
    ClientRequest,
    ElicitForm,
    ElicitResult,
    ElicitUrl,
    ListRoots,
    RootsResult,
    Sample,
    SampleResult,
)

_encode = msgspec.json.Encoder().encode
_decode_answers = msgspec.json.Decoder(dict[str, Raw]).decode
_DECODE_ANSWER: Final[Mapping[type[ClientRequest], Callable[[Raw], ClientAnswer]]] = {
    ElicitForm: msgspec.json.Decoder(ElicitResult).decode,
    ElicitUrl: msgspec.json.Decoder(ElicitResult).decode,
    Sample: msgspec.json.Decoder(SampleResult).decode,
    ListRoots: msgspec.json.Decoder(RootsResult).decode,
}


MULTI_ROUND: Final = ("tools/call", "resources/read", "prompts/get")
"""The methods whose handlers may ask the client."""

_decode_requests = msgspec.json.Decoder(dict[str, ClientRequest]).decode


def read_answer(request: ClientRequest, raw: Raw) -> ClientAnswer | None:
    """What the client answered; None where it has not the form of an answer to `request`."""
    try:
        return _DECODE_ANSWER[type(request)](raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def needed(requests: Mapping[str, ClientRequest]) -> bytes:
    """The ClientCapabilities object, as JSON text, that `requests` need."""
    members: dict[str, dict[str, object]] = {}
    for request in requests.values():
        match request:
            case ListRoots():
                members.setdefault("roots", {})
            case Sample(tools=tools):
                members.setdefault("sampling", {}).update({"tools": {}} if tools else {})
            case ElicitUrl():
                members.setdefault("elicitation", {})["url"] = {}
            case _:
                members.setdefault("elicitation", {})["form"] = {}
    return _encode(members)


class ClientAsking:
    """Carries out `AskClient` and `Ask` for the exchanges of one session.

    `name` goes into the ids of our requests where they must differ from those of other sessions (HTTP).
    """

    def __init__(self, service: Service, exchanges: Exchanges, out: list[bytes], name: str = "") -> None:
        self._service = service
        self._exchanges = exchanges
        self._out = out
        self._sent: dict[Id, tuple[Exchange, str]] = {}
        self._count = 0
        self._id = b'"' + name.encode() + b'-%d"' if name else b"%d"
        self._unanswered: ToolError | None = None

    def ask(self, exchange: Exchange, requests: Mapping[str, ClientRequest]) -> None:
        """Ask what the client can answer; refuse the request where that is nothing."""
        # "Servers MUST NOT send InputRequiredResult on any other requests"; one rule for both eras.
        if exchange.method not in MULTI_ROUND:
            misuse = LocalProtocolError(f"{exchange.method} cannot ask the client")
            self._exchanges.blame(exchange, misuse)
            return
        capabilities = exchange.context.client_capabilities
        # "MUST NOT" ask for what the client did not declare, in the modern era on this very request.
        questions = _questions(exchange)
        questions.asked = {key: asked for key, asked in requests.items() if capabilities.offers(asked)}
        questions.answers = {}
        if requests and not questions.asked:
            self._refuse(exchange, requests)
        elif isinstance(exchange.dialect, ModernDialect):
            self._use_given(exchange, questions)
        elif self._unanswered is not None:
            self._exchanges.drop(exchange, self._unanswered)
        else:
            self._send(exchange, questions)

    def lose_client(self, problem: ToolError) -> None:
        """The client will answer nothing more: neither what it was asked nor what it would be asked."""
        self._unanswered = problem
        for exchange in [e for e in self._exchanges.open.values() if e.phase is Phase.WAITING_FOR_CLIENT]:
            self._exchanges.drop(exchange, problem)

    def forget(self, exchange: Exchange) -> None:
        """Nobody waits for the answers any more: tell the client, and drop them when they come."""
        for id in [id for id, (waiting, _) in self._sent.items() if waiting is exchange]:
            del self._sent[id]
            self._out.append(jsonrpc.notification("notifications/cancelled", b'{"requestId":%b}' % id))

    def _refuse(self, exchange: Exchange, requests: Mapping[str, ClientRequest]) -> None:
        required = needed(requests)
        if isinstance(exchange.dialect, ModernDialect):
            data = Raw(b'{"requiredCapabilities":%b}' % required)
            problem = f"this needs client capabilities that were not declared: {required.decode()}"
            message = exchange.dialect.error(exchange.id, RpcError(MISSING_CLIENT_CAPABILITY, problem, data))
            self._exchanges.stop(exchange, message)
            return
        problem = f"this needs a client with the capabilities {required.decode()}"
        self._exchanges.drop(exchange, ToolError("MISSING_CLIENT_CAPABILITY", problem))

    # --- legacy ---

    def _send(self, exchange: Exchange, questions: Questions) -> None:
        dialect = exchange.dialect
        assert not isinstance(dialect, ModernDialect), "the modern era has no requests to the client"
        try:
            asked = {
                key: dialect.ask(request, self._service.token()) for key, request in questions.asked.items()
            }
        except Exception as error:  # noqa: BLE001  # a question that cannot be written is the handler's fault
            self._exchanges.blame(exchange, error)
            return
        for key, (method, params) in asked.items():
            self._count += 1
            id = self._id % self._count
            self._sent[id] = (exchange, key)
            self._out.append(jsonrpc.request(id, method, params))
        if asked:
            self._exchanges.wait_for_client(exchange)
        else:
            self._exchanges.resume_client(exchange)

    def awaits(self, id: Id | None) -> bool:
        """Whether `id` is that of a request of ours that the client has not answered."""
        return id in self._sent

    def receive(self, id: Id, result: Raw) -> None:
        """The client answered one of our requests. Unknown ids are late answers, and ignored."""
        exchange, key = self._sent.pop(id, (None, ""))
        if exchange is None:
            return
        questions = _questions(exchange)
        answer = read_answer(questions.asked[key], result)
        if answer is None:
            self._give_up(exchange, "the client's answer has not the form that the protocol asks for")
            return
        questions.answers[key] = answer
        if len(questions.answers) == len(questions.asked):
            self._exchanges.resume_client(exchange)

    def receive_error(self, id: Id | None, error: RpcError) -> None:
        """The client refused one of our requests."""
        exchange, _ = self._sent.pop(id, (None, "")) if id is not None else (None, "")
        if exchange is not None:
            self._give_up(exchange, f"the client refused: {error.message} ({error.code})")

    def _give_up(self, exchange: Exchange, problem: str) -> None:
        self._exchanges.drop(exchange, ToolError("CLIENT_REFUSED", problem))

    # --- modern ---

    def open_round(self, exchange: Exchange, responses: Raw, state: str | None) -> State | None:
        """Read what a repeated request brought. None where it was refused (the exchange is then settled).

        A request without a state may bring answers, too: they serve the first questions that fit.
        """
        given: dict[str, Raw] = {}
        try:
            if len(responses):
                given = _decode_answers(responses)
        except msgspec.ValidationError:
            self._exchanges.refuse(exchange, RpcError(INVALID_PARAMS, "inputResponses must be an object"))
            return None
        exchange.questions = Questions(given=given)
        if state is None:
            return State()
        opened = None
        if len(state) <= self._service.limits.state_bytes:
            caller = exchange.context.caller.identity
            request = digest(exchange.method, exchange.params)
            opened = self._service.sealer.open(state, caller, request, self._exchanges.now)
        if opened is None:
            problem = "requestState was not given for this request, was changed, or is too old"
            self._exchanges.refuse(exchange, RpcError(INVALID_PARAMS, problem))
            return None
        for key, answer in opened.answers.items():
            given.setdefault(key, answer)
        return opened

    def resume_round(self, exchange: Exchange, state: State) -> bool:
        """Go on behind the continuation in `state`; False where there is none and the handler starts anew."""
        if bytes(state.then) == b"null":
            return False
        try:
            exchange.client_then = _read_then(exchange.continuations, state.then)
            requests = _decode_requests(state.requests)
        except msgspec.DecodeError:
            problem = "requestState is of an older version of this server; send the request without it"
            self._exchanges.refuse(exchange, RpcError(INVALID_PARAMS, problem))
            return True
        self._exchanges.begin(exchange, AskClient, requests, exchange.client_then)
        return True

    def _use_given(self, exchange: Exchange, questions: Questions) -> None:
        """Take answers from what the request brought; ask for those that are missing or make no sense."""
        used: dict[str, Raw] = {}
        for key, request in questions.asked.items():
            raw = questions.given.get(key)
            answer = None if raw is None else read_answer(request, raw)
            if raw is not None and answer is not None:
                questions.answers[key] = answer
                used[key] = raw
        questions.kept.update(used)
        missing = {key: asked for key, asked in questions.asked.items() if key not in questions.answers}
        if missing:
            self._require_input(exchange, questions, missing)
            return
        for key in used:
            del questions.given[key]  # Each answer serves one question.
        self._exchanges.resume_client(exchange)

    def _require_input(
        self, exchange: Exchange, questions: Questions, missing: Mapping[str, ClientRequest]
    ) -> None:
        """Answer `input_required` with what must be remembered."""
        dialect = exchange.dialect
        assert isinstance(dialect, ModernDialect), "only the modern era has input_required"
        try:
            sealed = self._seal(exchange, questions)
            message = dialect.input_required(exchange.id, missing, sealed)
        except Exception as error:  # noqa: BLE001  # what cannot be written is the handler's fault
            self._exchanges.blame(exchange, error)
            return
        limit = self._service.limits.state_bytes
        if len(sealed) > limit:
            problem = RpcError(INTERNAL_ERROR, f"request state of {len(sealed)} bytes, limit is {limit}")
            message = dialect.error(exchange.id, problem)
        self._exchanges.stop(exchange, message)

    def _seal(self, exchange: Exchange, questions: Questions) -> str:
        """A job remembers all its answers, a continuation those of this round."""
        state = State(answers=questions.kept)
        if not exchange.job:
            answers = {key: questions.kept[key] for key in questions.answers}
            state = State(Raw(_encode(exchange.client_then)), Raw(_encode(questions.asked)), answers)
        return self._service.sealer.seal(
            state,
            exchange.context.caller.identity,
            digest(exchange.method, exchange.params),
            self._exchanges.now + self._service.limits.state_lifetime,
            self._service.token(),
        )


def _questions(exchange: Exchange) -> Questions:
    if exchange.questions is None:
        exchange.questions = Questions()
    return exchange.questions


def _read_then(types: tuple[type[Struct], ...], raw: Raw) -> ClientThen:
    """Raises msgspec.ValidationError where `raw` is none of `types`."""
    union = cast(Any, Union)[(*types, None)]  # Made at run time; null itself was looked for before.
    return cast(ClientThen, msgspec.json.decode(raw, type=union))
