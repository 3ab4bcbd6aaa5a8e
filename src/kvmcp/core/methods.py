"""What each method does: one function per method, and the table of them (reference: MCP, server features).

Both eras share the functions; a row of `METHODS` says in which era a method exists. Knows params and the
catalog; what it may do with the conversation is `Conversation`, which `session` implements.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

import msgspec
from msgspec import UNSET, Struct

from kvmcp.core import jsonrpc
from kvmcp.core.admission import Admitted
from kvmcp.core.asking import ClientAsking
from kvmcp.core.catalog import Catalog, Feature, ListKind
from kvmcp.core.errors import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, RpcError, clip
from kvmcp.core.exchange import Exchange
from kvmcp.core.exchanges import Exchanges
from kvmcp.core.items import BadArguments, Completer, Parsed, Tool
from kvmcp.core.jsonrpc import Id, Request
from kvmcp.core.legacy import LegacyDialect
from kvmcp.core.modern import ModernDialect
from kvmcp.core.plan import Answer, Context, Plan, Start, ToolError, resource_not_found
from kvmcp.core.service import Dialect, Service
from kvmcp.core.subscriptions import Subscription
from kvmcp.core.task_states import Task
from kvmcp.core.tasks import TASKS_REQUIRED, Tasks, declares_tasks
from kvmcp.core.telling import ClientTelling
from kvmcp.core.wire.common import CompletionResult
from kvmcp.core.wire.params import (
    CallParams,
    CompleteParams,
    GetPromptParams,
    InitializeParams,
    ListenFilter,
    ListenParams,
    ListParams,
    MultiRoundParams,
    Params,
    PromptReference,
    ReadParams,
    SetLevelParams,
    SubscribeParams,
    TaskParams,
    UpdateTaskParams,
)


class Conversation(Protocol):
    """What a method may do with its session."""

    @property
    def service(self) -> Service: ...
    @property
    def exchanges(self) -> Exchanges: ...
    @property
    def asking(self) -> ClientAsking: ...
    @property
    def telling(self) -> ClientTelling: ...
    def send(self, message: bytes) -> None: ...
    def refuse(self, id: Id, error: RpcError) -> None: ...
    @property
    def tasks(self) -> Tasks: ...
    def open_legacy(self, id: Id, params: InitializeParams) -> None: ...


Handle: TypeAlias = Callable[[Conversation, Request, Any, Admitted], None]
"""`Any`: the params type that the same row of the table decodes."""


class Method(Struct, frozen=True):
    """A row: how params are read, what is done, and where the method exists."""

    params: type[Params]
    handle: Handle
    decode: Callable[[msgspec.Raw], Params]
    legacy: bool
    modern: bool
    feature: Feature | None
    for_caller: bool
    """Whether the answer depends on who asks, or on whose behalf."""

    def offered(self, catalog: Catalog, dialect: Dialect) -> bool:
        """Whether the method exists in the era and the server declared its feature."""
        exists = self.legacy if isinstance(dialect, LegacyDialect) else self.modern
        return exists and (self.feature is None or catalog.offers(self.feature))


# --- lifecycle and utilities ---


def initialize(session: Conversation, request: Request, params: InitializeParams, admitted: Admitted) -> None:
    session.open_legacy(request.id, params)


def ping(session: Conversation, request: Request, params: Params, admitted: Admitted) -> None:
    session.send(jsonrpc.response(request.id, b"{}"))


def set_level(session: Conversation, request: Request, params: SetLevelParams, admitted: Admitted) -> None:
    session.telling.set_log_level(params.level)
    session.send(jsonrpc.response(request.id, b"{}"))


def discover(session: Conversation, request: Request, params: Params, admitted: Admitted) -> None:
    service = session.service
    result = service.modern.discover_result(service.catalog, service.instructions)
    session.send(jsonrpc.response(request.id, result))


# --- lists ---


def _list(kind: ListKind) -> Handle:
    def handle(session: Conversation, request: Request, params: ListParams, admitted: Admitted) -> None:
        cursor = None if params.cursor is UNSET else params.cursor
        result = session.service.list_result(admitted.dialect, kind, cursor)
        if result is None:
            problem = "cursor is not a nextCursor of this list; leave it out to start again"
            session.refuse(request.id, RpcError(INVALID_PARAMS, problem))
        else:
            session.send(jsonrpc.response(request.id, result))

    return handle


def list_resources(session: Conversation, request: Request, params: ListParams, admitted: Admitted) -> None:
    """Those of the catalog, then, page by page as the store gives them, those of its listing."""
    service, context = session.service, admitted.context
    listing = service.catalog.listing
    inner = service.catalog.listing_cursor(None if params.cursor is UNSET else params.cursor)
    if listing is None or inner is None:
        _list_static_resources(session, request, params, admitted)
        return
    exchange = _exchange(request, admitted, ())
    session.exchanges.begin(exchange, listing.page, inner, service.limits.list_page, context)


# --- tools, resources, prompts: what may plan ---


def call_tool(session: Conversation, request: Request, params: CallParams, admitted: Admitted) -> None:
    tool = session.service.catalog.tool(params.name)
    if tool is None:
        problem = f"unknown tool: {clip(params.name)}; tools/list names those there are"
        session.refuse(request.id, RpcError(INVALID_PARAMS, problem))
        return
    raw = params.arguments or _NO_ARGUMENTS
    notes: tuple[str, ...] = ()
    try:
        arguments = tool.arguments.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        parsed = _repair(tool, raw)
        if isinstance(parsed, BadArguments):
            refusal = ToolError("INVALID_PARAMS", parsed.message)
            session.send(admitted.dialect.bad_arguments(request.id, refusal))
            return
        arguments, notes = parsed.arguments, parsed.notes
    exchange = Exchange(
        request.id,
        request.method,
        request.params,
        admitted.dialect,
        admitted.context,
        tool.continuations,
        notes,
    )
    if tool.task_support != "forbidden" and not _decides_on_task(session, exchange, tool):
        return
    if not _is_resumed(session, exchange, params):
        session.exchanges.begin(exchange, tool.plan, arguments, admitted.context)


def _decides_on_task(session: Conversation, exchange: Exchange, tool: Tool) -> bool:
    """Whether the call may go on; if the client can do with one, its job becomes a task."""
    if not isinstance(exchange.dialect, ModernDialect):
        return True
    exchange.as_task = declares_tasks(exchange.context)
    if exchange.as_task or tool.task_support == "optional":
        return True
    session.refuse(exchange.id, TASKS_REQUIRED)
    return False


_NO_ARGUMENTS: Final = msgspec.Raw(b"{}")


def _repair(tool: Tool, raw: msgspec.Raw) -> Parsed | BadArguments:
    return tool.arguments.repair(bytes(raw))


def read_resource(session: Conversation, request: Request, params: ReadParams, admitted: Admitted) -> None:
    catalog, context, uri = session.service.catalog, admitted.context, params.uri
    resource = catalog.resource(uri)
    if resource is not None:
        exchange = _exchange(request, admitted, resource.continuations)
        if not _is_resumed(session, exchange, params):
            session.exchanges.begin(exchange, resource.read, uri, context)
        return
    matched = catalog.serving(uri, context)
    if matched is None:
        session.refuse(request.id, resource_not_found(uri).error)
        return
    template, variables = matched
    exchange = _exchange(request, admitted, template.continuations)
    if not _is_resumed(session, exchange, params):
        session.exchanges.begin(exchange, template.read, uri, variables, context)


def get_prompt(session: Conversation, request: Request, params: GetPromptParams, admitted: Admitted) -> None:
    prompt = session.service.catalog.prompt(params.name)
    if prompt is None:
        session.refuse(request.id, RpcError(INVALID_PARAMS, f"unknown prompt: {clip(params.name)}"))
        return
    missing = [a.name for a in prompt.arguments if a.required is True and a.name not in params.arguments]
    if missing:
        problem = f"prompt {prompt.name} needs the arguments {', '.join(missing)}"
        session.refuse(request.id, RpcError(INVALID_PARAMS, problem))
        return
    exchange = _exchange(request, admitted, prompt.continuations)
    if not _is_resumed(session, exchange, params):
        session.exchanges.begin(exchange, prompt.get, params.arguments, admitted.context)


def _exchange(request: Request, admitted: Admitted, continuations: tuple[type[Struct], ...]) -> Exchange:
    return Exchange(
        request.id, request.method, request.params, admitted.dialect, admitted.context, continuations
    )


def _is_resumed(session: Conversation, exchange: Exchange, params: MultiRoundParams) -> bool:
    """Whether a request came back with the client's input (2026-07-28) and is under way, or refused, already."""
    if not params.input_responses and params.request_state is UNSET:
        return False
    # A legacy peer's members of these names mean nothing and are ignored.
    if not isinstance(exchange.dialect, ModernDialect):
        return False
    sealed = None if params.request_state is UNSET else params.request_state
    state = session.asking.open_round(exchange, params.input_responses, sealed)
    return state is None or session.asking.resume_round(exchange, state)


# --- completion ---


def complete(session: Conversation, request: Request, params: CompleteParams, admitted: Admitted) -> None:
    found = _completer(session.service.catalog, params)
    if isinstance(found, RpcError):
        session.refuse(request.id, found)
        return
    argument, chosen = params.argument, params.context.arguments
    exchange = _exchange(request, admitted, ())
    session.exchanges.begin(exchange, found, argument.name, argument.value, chosen, admitted.context)


def _completer(catalog: Catalog, params: CompleteParams) -> Completer | RpcError:
    reference, name = params.ref, params.argument.name
    if isinstance(reference, PromptReference):
        prompt = catalog.prompt(reference.name)
        if prompt is None:
            return RpcError(INVALID_PARAMS, f"unknown prompt: {clip(reference.name)}")
        return _named(prompt.complete, name, [argument.name for argument in prompt.arguments])
    template = catalog.template(reference.uri)
    if template is not None:
        return _named(template.complete, name, template.uri_template.variables)
    if catalog.resource(reference.uri) is not None:
        return _no_suggestions
    return RpcError(INVALID_PARAMS, f"unknown resource or template: {clip(reference.uri)}")


def _named(
    completer: Completer | None, name: str, names: "list[str] | tuple[str, ...]"
) -> Completer | RpcError:
    if name not in names:
        known = ", ".join(names) or "none"
        return RpcError(INVALID_PARAMS, f"no argument {clip(name)}; there are: {known}")
    return _no_suggestions if completer is None else completer


def _no_suggestions(name: str, value: str, chosen: Mapping[str, str], context: Context) -> Plan:
    return Answer(CompletionResult(()))


# --- subscriptions ---


def subscribe(session: Conversation, request: Request, params: SubscribeParams, admitted: Admitted) -> None:
    """Answered once changes are noticed: what happens after the answer is told."""
    catalog, uri, context = session.service.catalog, params.uri, admitted.context
    is_new = uri not in session.telling.changes.uris
    if not catalog.can_watch(uri, context):
        session.refuse(request.id, _cannot_watch(catalog, uri, context))
    elif is_new and not session.telling.has_room_for(1):
        session.refuse(request.id, _too_many(session))
    else:
        session.telling.changes.watch(uri)
        job = session.service.watched.job((uri,))
        if job is None:
            session.send(jsonrpc.response(request.id, b"{}"))
            return
        exchange = _exchange(request, admitted, ())
        session.exchanges.begin(exchange, Start, job)
        if exchange.settled and is_new:  # There was no room for one more request that waits.
            session.telling.changes.forget(uri)


def unsubscribe(session: Conversation, request: Request, params: SubscribeParams, admitted: Admitted) -> None:
    session.telling.changes.forget(params.uri)
    session.send(jsonrpc.response(request.id, b"{}"))


def listen(session: Conversation, request: Request, params: ListenParams, admitted: Admitted) -> None:
    catalog, wanted = session.service.catalog, params.notifications
    context = admitted.context
    uris = tuple(
        uri for uri in dict.fromkeys(wanted.resource_subscriptions) if catalog.can_watch(uri, context)
    )
    granted = ListenFilter(
        tools_list_changed=wanted.tools_list_changed and catalog.offers("tools"),
        prompts_list_changed=wanted.prompts_list_changed and catalog.offers("prompts"),
        resources_list_changed=wanted.resources_list_changed and catalog.offers("resources"),
        resource_subscriptions=uris,
        task_ids=_known_tasks(session, wanted.task_ids, admitted.context),
    )
    exchange = _exchange(request, admitted, ())
    if wanted.task_ids and not declares_tasks(admitted.context):
        session.refuse(request.id, TASKS_REQUIRED)
        return
    if not any(map(catalog.offers, _SUBSCRIBABLE)):
        session.refuse(request.id, RpcError(METHOD_NOT_FOUND, "nothing here can be subscribed to"))
    elif not session.telling.has_room_for(len(uris)):
        session.refuse(request.id, _too_many(session))
    else:
        session.telling.open_listen(exchange, Subscription.of(granted, session.service.watched))


def _known_tasks(session: Conversation, ids: tuple[str, ...], context: Context) -> tuple[str, ...]:
    """Those of the caller's; others are left out of the acknowledgement."""
    now = session.exchanges.now
    return tuple(id for id in dict.fromkeys(ids) if session.tasks.knows(id, context.caller, now))


_SUBSCRIBABLE: Final[tuple[Feature, ...]] = ("tools", "resources", "prompts", "tasks")


def _cannot_watch(catalog: Catalog, uri: str, context: Context) -> RpcError:
    if catalog.serving(uri, context) is None:
        return resource_not_found(uri).error
    return RpcError(INVALID_PARAMS, "this resource cannot be subscribed to: nothing tells when it changes")


def _too_many(session: Conversation) -> RpcError:
    limits = session.service.limits
    one, all = limits.subscribed_resources, limits.watched_uris
    return RpcError(
        INVALID_REQUEST, f"{one} resources are watched at most on one connection, {all} on all together"
    )


# --- tasks ---


def get_task(session: Conversation, request: Request, params: TaskParams, admitted: Admitted) -> None:
    task = _task(session, request, params, admitted)
    if task is not None:
        session.send(session.service.modern.task_state(request.id, session.tasks.state(task)))


def update_task(
    session: Conversation, request: Request, params: UpdateTaskParams, admitted: Admitted
) -> None:
    task = _task(session, request, params, admitted)
    if task is not None:
        session.tasks.answer(task, params.input_responses, session.exchanges.now)
        session.send(session.service.modern.done(request.id))


def cancel_task(session: Conversation, request: Request, params: TaskParams, admitted: Admitted) -> None:
    task = _task(session, request, params, admitted)
    if task is not None:
        session.tasks.cancel(task, session.exchanges.now)
        session.send(session.service.modern.done(request.id))


def _task(session: Conversation, request: Request, params: TaskParams, admitted: Admitted) -> Task | None:
    """The task that a request names; None where it was refused."""
    if not declares_tasks(admitted.context):
        session.refuse(request.id, TASKS_REQUIRED)
        return None
    task = session.tasks.find(params.task_id, admitted.context.caller, session.exchanges.now)
    if task is None:
        session.refuse(request.id, RpcError(INVALID_PARAMS, "no such task"))
    return task


def _row(
    params: type[Params],
    handle: Handle,
    *,
    legacy: bool = True,
    modern: bool = True,
    feature: Feature | None = None,
    for_caller: bool = True,
) -> Method:
    return Method(params, handle, msgspec.json.Decoder(params).decode, legacy, modern, feature, for_caller)


_list_static_resources = _list("resources")


METHODS: Final[Mapping[str, Method]] = {
    "tools/call": _row(CallParams, call_tool, feature="tools"),
    "tools/list": _row(ListParams, _list("tools"), feature="tools", for_caller=False),
    "resources/list": _row(ListParams, list_resources, feature="resources"),
    "resources/templates/list": _row(ListParams, _list("templates"), feature="resources", for_caller=False),
    "resources/read": _row(ReadParams, read_resource, feature="resources"),
    "prompts/list": _row(ListParams, _list("prompts"), feature="prompts", for_caller=False),
    "prompts/get": _row(GetPromptParams, get_prompt, feature="prompts"),
    "completion/complete": _row(CompleteParams, complete, feature="completions"),
    "initialize": _row(InitializeParams, initialize, modern=False, for_caller=False),
    "ping": _row(Params, ping, modern=False, for_caller=False),
    "logging/setLevel": _row(SetLevelParams, set_level, modern=False, for_caller=False),
    "resources/subscribe": _row(SubscribeParams, subscribe, modern=False, feature="resources"),
    "resources/unsubscribe": _row(SubscribeParams, unsubscribe, modern=False, feature="resources"),
    "server/discover": _row(Params, discover, legacy=False, for_caller=False),
    "tasks/get": _row(TaskParams, get_task, legacy=False, feature="tasks"),
    "tasks/update": _row(UpdateTaskParams, update_task, legacy=False, feature="tasks"),
    "tasks/cancel": _row(TaskParams, cancel_task, legacy=False, feature="tasks"),
    "subscriptions/listen": _row(ListenParams, listen, legacy=False),
}
"""Every request that a server answers."""
