"""Validation of JSON-RPC messages against the schema of the MCP revision that is spoken.

The schemas are the published ones, `<revision>.schema.json`, in the folder `$KVMCP_MCP_SCHEMA` or else in
`../shared/mcp-schema` beside the checkout. Where they are absent `validator` gives None, `validate_…` does
nothing, and tests that are about the schemas alone skip.

A message is validated against the definition that its kind, method or error code picks, never against the
union of all messages: a union says "matches none of 17", a definition says what is wrong. On top of the
schema a few rules are enforced that it cannot express, each with its reason where it stands below.

The file is also a pytest plugin (see conftest.py): it gives the fixtures `revision` and `mcp_schema`.
"""

import json
import os
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeAlias

import pytest
from jsonschema.exceptions import best_match
from jsonschema.protocols import Validator as CompiledSchema
from jsonschema.validators import validator_for

REVISIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
"""Every revision that has a schema, oldest first."""

BATCHING: Final = "2025-03-26"
FIRST_ID_LESS_ERROR: Final = "2025-11-25"
"""From here on the schema lets an error go without an id."""
FIRST_MODERN: Final = "2026-07-28"
"""From here on servers send no requests and clients no responses."""

SCHEMAS: Final = Path(
    os.environ.get("KVMCP_MCP_SCHEMA") or Path(__file__).parents[2] / "shared" / "mcp-schema"
)
available: Final = all((SCHEMAS / f"{revision}.schema.json").is_file() for revision in REVISIONS)
needs_schemas: Final = pytest.mark.skipif(
    not available,
    reason=f"no MCP schemas in {SCHEMAS}: set KVMCP_MCP_SCHEMA to the folder that holds <revision>.schema.json",
)

Side: TypeAlias = Literal["Server", "Client"]
Json: TypeAlias = Any  # JSON of any shape: a schema or a message, looked at with isinstance before use
JsonObject: TypeAlias = dict[str, Any]


class SchemaViolation(AssertionError):
    """A message is not what the schema of its revision allows."""


class Validator:
    """One revision's schema, each definition compiled when it is first needed."""

    def __init__(self, revision: str, document: JsonObject) -> None:
        self.revision = revision
        self.is_modern = revision >= FIRST_MODERN
        self._document = document
        self._section = "$defs" if "$defs" in document else "definitions"
        self._compiled: dict[str, CompiledSchema] = {}
        self.requests = {side: self._by_method(f"{side}Request") for side in ("Server", "Client")}
        self.notifications = {side: self._by_method(f"{side}Notification") for side in ("Server", "Client")}
        self._errors = dict(self._errors_by_code())

    # --- questions ---------------------------------------------------------------------------------------

    def definition(self, name: str) -> JsonObject:
        """The schema called `name`; empty (admits all) where this revision has none."""
        definition: JsonObject = self._document[self._section].get(name, {})
        return definition

    def check(self, name: str, value: Json) -> None:
        """Raise `SchemaViolation` unless `value` is a `name`."""
        compiled = self._compiled.get(name)
        if compiled is None:
            compiled = self._compiled[name] = self._compile(name)
        if error := best_match(compiled.iter_errors(value)):
            place = "".join(f"[{step!r}]" for step in error.absolute_path)
            raise SchemaViolation(f"{self.revision} {name}{place}: {error.message}")

    def check_message(self, side: Side, message: Json, request_method: str | None) -> None:
        """Raise `SchemaViolation` unless `side` may send `message` (a batch is an array of such)."""
        match message:
            case list() if message and self.revision == BATCHING:
                for member in message:
                    self.check_message(side, member, None)
            case {"method": str(method), "id": _}:
                self._check_call(f"{side} request", self.requests[side], "JSONRPCRequest", method, message)
            case {"method": str(method)}:
                known = self.notifications[side]
                self._check_call(f"{side} notification", known, "JSONRPCNotification", method, message)
            case {"result": _, "error": _}:
                self._refuse("a response has either `result` or `error`, not both")
            case {"result": result}:
                self._check_result(side, message, result, request_method)
            case {"error": error}:
                self._check_error(side, message, error)
            case _:
                self._refuse(f"neither request, notification nor response: {_shape(message)}")

    # --- the kinds of message ----------------------------------------------------------------------------

    def _check_call(
        self, what: str, known: Mapping[str, str], envelope: str, method: str, message: JsonObject
    ) -> None:
        if method not in known:
            self._refuse(f"no {what} is called {method!r}")
        name = known[method]
        if "jsonrpc" not in self.definition(name)["properties"]:
            self.check(envelope, message)  # before 2025-11-25 the definitions leave the envelope out
        self.check(name, message)

    def _check_result(self, side: Side, message: JsonObject, result: Json, method: str | None) -> None:
        self._check_may_respond(side)
        self.check(
            "JSONRPCResultResponse" if self._has("JSONRPCResultResponse") else "JSONRPCResponse", message
        )
        if method is None:
            return
        asked = self.requests["Client" if side == "Server" else "Server"]
        if method not in asked:
            self._refuse(f"a result for {method!r}, which is no request to the {side.lower()}")
        self.check(self._result_name(asked[method], result), result)
        # The schema has no words for this, the specification and the conformance suite have: what answers
        # ping, logging/setLevel and (un)subscribe is `{}`, and no member may be added to it.
        if self._answers_empty(asked[method]) and result != {}:
            self._refuse(f"the result of {method} is {{}}, not {_shape(result)}")

    def _check_error(self, side: Side, message: JsonObject, error: Json) -> None:
        self._check_may_respond(side)
        envelope = "JSONRPCErrorResponse" if self._has("JSONRPCErrorResponse") else "JSONRPCError"
        if "id" not in message and self.revision < FIRST_ID_LESS_ERROR:
            # Where the id could not be read there is none to send; these schemas do not foresee that.
            self.check(envelope, {**message, "id": 0})
        else:
            self.check(envelope, message)
        if specific := self._errors.get(error["code"]):
            self.check(specific, message)

    def _check_may_respond(self, side: Side) -> None:
        if side == "Client" and self.is_modern:
            self._refuse("clients MUST NOT send responses")

    def _result_name(self, request: str, result: Json) -> str:
        """The definition of the result to a request whose definition is called `request`."""
        stem = request.removesuffix("Request")
        # In an `anyOf` with InputRequiredResult anything passes, for that has no required member but the type.
        may_ask = "InputRequiredResult" in str(self.definition(f"{stem}ResultResponse"))
        result_type = result.get("resultType") if isinstance(result, dict) else None
        if may_ask and result_type == "input_required":
            if "inputRequests" not in result and "requestState" not in result:
                self._refuse("input_required needs at least one of inputRequests and requestState")
            return "InputRequiredResult"
        if self.is_modern and result_type not in ("complete", None):  # the schema reports a missing one
            self._refuse(f"resultType {result_type!r} cannot answer a {request}")
        return "EmptyResult" if self._answers_empty(request) else f"{stem}Result"

    def _answers_empty(self, request: str) -> bool:
        return not self._has(f"{request.removesuffix('Request')}Result")

    # --- reading the document ----------------------------------------------------------------------------

    def _has(self, name: str) -> bool:
        return name in self._document[self._section]

    def _by_method(self, union: str) -> dict[str, str]:
        """Method to name of definition, for each member of a union such as `ClientRequest`."""
        definition = self.definition(union)
        names = [option["$ref"].rsplit("/", 1)[1] for option in definition.get("anyOf", ())]
        if definition and not names:
            names = [union]  # a union of one
        return {self.definition(name)["properties"]["method"]["const"]: name for name in names}

    def _errors_by_code(self) -> Iterator[tuple[int, str]]:
        """The errors whose `data` the revision defines; each definition is a whole response."""
        for name, definition in self._document[self._section].items():
            for part in definition.get("properties", {}).get("error", {}).get("allOf", ()):
                if code := part.get("properties", {}).get("code", {}).get("const"):
                    yield code, name

    def _compile(self, name: str) -> CompiledSchema:
        if not self._has(name):
            raise LookupError(f"the schema of {self.revision} defines no {name}")
        root = {
            "$schema": self._document["$schema"],
            self._section: self._document[self._section],
            "$ref": f"#/{self._section}/{name}",
        }
        return validator_for(root)(root)

    def _refuse(self, problem: str) -> NoReturn:
        raise SchemaViolation(f"{self.revision}: {problem}")


@cache
def validator(revision: str) -> Validator | None:
    """The validator of a revision, or None where its schema is absent."""
    path = SCHEMAS / f"{revision}.schema.json"
    return Validator(revision, json.loads(path.read_bytes())) if path.is_file() else None


def validate_server_message(revision: str, message: bytes, request_method: str | None = None) -> None:
    """Raise `SchemaViolation` unless a server may send `message`, one JSON text, at `revision`.

    `request_method` is the method of the request that a response answers; without it the result is held to
    the generic `Result` only.
    """
    if not _is_of_tasks(revision, bytes(message), request_method):
        _validate("Server", revision, bytes(message), request_method)


def validate_client_message(revision: str, message: bytes, request_method: str | None = None) -> None:
    """Raise `SchemaViolation` unless a client may send `message`; see `validate_server_message`."""
    _validate("Client", revision, bytes(message), request_method)


def _is_of_tasks(revision: str, message: bytes, request_method: str | None) -> bool:
    """Whether a message is of the tasks extension, which has no schema: then it is checked here."""
    parsed = _parse(revision, message) if revision >= FIRST_MODERN else None
    if not isinstance(parsed, dict):
        return False
    result = parsed.get("result")
    if request_method in ("tasks/update", "tasks/cancel") and isinstance(result, dict):
        if result.keys() > {"resultType", "_meta"} or result.get("resultType") != "complete":
            raise SchemaViolation(f"{request_method} is acknowledged with nothing else: {_shape(result)}")
        return True
    task = parsed.get("params") if parsed.get("method") == "notifications/tasks" else result
    if not isinstance(task, dict) or "taskId" not in task:
        return False
    _check_task(task)
    return True


def _check_task(task: JsonObject) -> None:
    """A task as SEP-2663 has it: flat, with the members that its status asks for, and no others of them."""
    needed = {"taskId", "status", "createdAt", "lastUpdatedAt", "ttlMs"}
    if not needed <= task.keys() or task["ttlMs"] <= 0:
        raise SchemaViolation(f"a task needs {sorted(needed)}: {_shape(task)}")
    by_status = {"input_required": {"inputRequests"}, "completed": {"result"}, "failed": {"error"}}
    allowed = set() if task.get("resultType") == "task" else by_status.get(task["status"], set())
    if {"inputRequests", "result", "error", "requestState", "task"} & task.keys() != allowed:
        raise SchemaViolation(f"a {task['status']} task has {sorted(allowed)}: {_shape(task)}")


@lru_cache(maxsize=4096)
def _validate(side: Side, revision: str, message: bytes, request_method: str | None) -> None:
    """Cached, because the same lists and handshakes pass by thousands of times in the property tests."""
    if checker := validator(revision):
        checker.check_message(side, _parse(revision, message), request_method)


def _parse(revision: str, message: bytes) -> Json:
    """JSON to the letter of RFC 8259: UTF-8, no NaN, no member twice, no half of a surrogate pair."""
    try:
        text = message.decode("utf-8")
        parsed = json.loads(text, parse_constant=_not_json, object_pairs_hook=_members_once)
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except ValueError as error:
        raise SchemaViolation(f"{revision}: not JSON: {error}") from None
    return parsed


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _members_once(pairs: list[tuple[str, Json]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has the same member twice")
    return members


def _shape(value: Json) -> str:
    """What `value` is, without its content: an object's member names, or a type."""
    return f"object with {sorted(value)}" if isinstance(value, dict) else type(value).__name__


# --- fixtures -------------------------------------------------------------------------------------------------


@pytest.fixture(params=REVISIONS)
def revision(request: pytest.FixtureRequest) -> str:
    """Each revision of the protocol in turn."""
    name: str = request.param
    return name


@pytest.fixture
def mcp_schema(revision: str) -> Validator:
    """The schema of `revision`; skips where it is absent."""
    found = validator(revision)
    if found is None:
        pytest.skip(f"no MCP schema of {revision} in {SCHEMAS}: set KVMCP_MCP_SCHEMA")
    return found
