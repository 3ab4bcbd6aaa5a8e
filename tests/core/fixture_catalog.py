"""What the harness's server offers: one thing of each kind that the core treats differently.

The store is a dict of strings; its operations are `Get`, `Put` and `Delete`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from kvmcp.core.catalog import Catalog
from kvmcp.core.errors import RpcError
from kvmcp.core.items import BadArguments, Parsed, Prompt, Resource, ResourceTemplate, Tool
from kvmcp.core.plan import (
    Answer,
    AskBackend,
    AskClient,
    Context,
    Fail,
    Plan,
    Start,
    resource_not_found,
    tool_error,
)
from kvmcp.core.uritemplate import UriTemplate
from kvmcp.core.wire.common import (
    Annotations,
    AudioContent,
    ClientAnswer,
    ClientRequest,
    CompletionResult,
    ElicitForm,
    ElicitResult,
    ElicitUrl,
    EmbeddedResource,
    Icon,
    ImageContent,
    ListRoots,
    PromptArgument,
    PromptMessage,
    PromptResult,
    ReadResult,
    ResourceContents,
    ResourceLink,
    RootsResult,
    Sample,
    SampleResult,
    TextContent,
    ToolAnnotations,
    ToolResult,
)

# --- the store ---


class Get(Struct, frozen=True):
    key: str


class Put(Struct, frozen=True):
    key: str
    value: str


class Delete(Struct, frozen=True):
    key: str


def run_op(op: object, store: dict[str, str]) -> object:
    """The reply to one operation."""
    match op:
        case Get(key):
            return store.get(key)
        case Put(key, value):
            store[key] = value
            return True
        case Delete(key):
            return store.pop(key, None) is not None
    raise AssertionError(f"no operation of this store: {op!r}")


# --- arguments ---


class Key(Struct, frozen=True, forbid_unknown_fields=True):
    key: str


class KeyValue(Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    value: str


class Keys(Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[str, ...] = ()


class Nothing(Struct, frozen=True):
    pass


class Number(Struct, frozen=True):
    number: int


class Anything(Struct, frozen=True):
    value: Raw = Raw(b"null")


class JsonArguments:
    """Arguments that a struct describes. Mends `number` where it came as a string; that is all."""

    def __init__(self, struct_type: type[Struct], schema: bytes) -> None:
        self.schema = schema
        self._decoder: msgspec.json.Decoder[Struct] = msgspec.json.Decoder(struct_type)

    def decode(self, raw: bytes) -> object:
        return self._decoder.decode(raw)

    def repair(self, raw: bytes) -> Parsed | BadArguments:
        try:
            lax = msgspec.json.decode(raw, type=Number, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return BadArguments("the arguments do not fit; look at the schema")
        return Parsed(lax, ("note: number was read as an integer",))


def arguments(struct_type: type[Struct], **properties: str) -> JsonArguments:
    """`properties` name each member's JSON type."""
    members = {name: {"type": kind} for name, kind in properties.items()}
    return JsonArguments(struct_type, msgspec.json.encode({"type": "object", "properties": members}))


# --- continuations ---


class ShowValue(Struct, frozen=True):
    """`found` and `value` as structured content, the value as text."""

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        (value,) = replies
        found = {"found": value is not None, "value": value}
        return Answer(ToolResult((TextContent(str(value)),), structured=msgspec.json.encode(found)))


class ShowAll(Struct, frozen=True):
    """The replies as structured content only."""

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        return Answer(ToolResult(structured=msgspec.json.encode({"values": list(replies)})))


class ShowContents(Struct, frozen=True):
    uri: str

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        (value,) = replies
        if value is None:
            return resource_not_found(self.uri)
        return Answer(ReadResult((ResourceContents(self.uri, text=str(value)),), ttl_ms=1000, public=True))


class Raises(Struct, frozen=True, tag=True):
    """A continuation with a bug."""

    def resume(self, replies: object, context: Context) -> Plan:
        raise ZeroDivisionError("a bug in a continuation")


FORM: Final = b'{"type":"object","properties":{"yes":{"type":"boolean"}},"required":["yes"]}'
NAME_FORM: Final = b'{"type":"object","properties":{"name":{"type":"string"}},"required":["name"]}'
SAMPLE: Final = b'{"messages":[{"role":"user","content":{"type":"text","text":"Name one."}}],"maxTokens":10}'


class DeleteConfirmed(Struct, frozen=True, tag=True):
    """Round one of one: delete where the person said yes."""

    key: str

    def resume(self, answers: Mapping[str, ClientAnswer], context: Context) -> Plan:
        answer = answers["confirm"]
        assert isinstance(answer, ElicitResult)
        if answer.action != "accept":
            return Answer(ToolResult((TextContent(f"kept: {answer.action}"),)))
        return AskBackend((Delete(self.key),), ShowAll(), writes=True)


class Greet(Struct, frozen=True, tag=True):
    """Round one of two: a name came, ask for roots and a word from the model."""

    def resume(self, answers: Mapping[str, ClientAnswer], context: Context) -> Plan:
        answer = answers["name"]
        assert isinstance(answer, ElicitResult)
        if isinstance(answer.content, msgspec.UnsetType):
            return Answer(ToolResult((TextContent("nobody"),)))
        name = msgspec.json.decode(answer.content)["name"]
        return AskClient({"roots": ListRoots(), "word": Sample(SAMPLE)}, Conclude(name))


class Conclude(Struct, frozen=True, tag=True):
    """Round two of two."""

    name: str

    def resume(self, answers: Mapping[str, ClientAnswer], context: Context) -> Plan:
        roots, word = answers.get("roots"), answers.get("word")
        told = [self.name]
        if isinstance(roots, RootsResult):
            told += [root.uri for root in roots.roots]
        if isinstance(word, SampleResult):
            told.append(word.model)
        return Answer(ToolResult((TextContent(" ".join(told)),)))


class CountAnswers(Struct, frozen=True, tag=True):
    def resume(self, answers: Mapping[str, ClientAnswer], context: Context) -> Plan:
        return Answer(ToolResult((TextContent(f"answers: {sorted(answers)}"),)))


class ReadAnyway(Struct, frozen=True, tag=True):
    uri: str

    def resume(self, answers: Mapping[str, ClientAnswer], context: Context) -> Plan:
        return Answer(ReadResult((ResourceContents(self.uri, text="as you wish"),)))


class PromptAnyway(Struct, frozen=True, tag=True):
    def resume(self, answers: Mapping[str, ClientAnswer], context: Context) -> Plan:
        return Answer(PromptResult((PromptMessage("user", TextContent("as you wish")),)))


# --- tools ---


def _get(given: object, context: Context) -> Plan:
    assert isinstance(given, Key)
    return AskBackend((Get(given.key),), ShowValue())


def _put(given: object, context: Context) -> Plan:
    assert isinstance(given, KeyValue)
    return AskBackend((Put(given.key, given.value),), ShowAll(), writes=True)


def _get_many(given: object, context: Context) -> Plan:
    assert isinstance(given, Keys)
    return AskBackend(tuple(map(Get, given.keys)), ShowAll())


def _delete(given: object, context: Context) -> Plan:
    assert isinstance(given, Key)
    return AskClient({"confirm": ElicitForm(f"Delete {given.key}?", FORM)}, DeleteConfirmed(given.key))


def _interview(given: object, context: Context) -> Plan:
    return AskClient({"name": ElicitForm("Your name?", NAME_FORM)}, Greet())


def ask_many(**requests: ClientRequest) -> Plan:
    return AskClient(requests, CountAnswers())


def _ask_all(given: object, context: Context) -> Plan:
    return ask_many(
        form=ElicitForm("Sure?", FORM),
        url=ElicitUrl("Sign in", "https://kv.example/sign-in"),
        word=Sample(SAMPLE),
        roots=ListRoots(),
    )


def _add(given: object, context: Context) -> Plan:
    assert isinstance(given, Number)
    return Answer(ToolResult(structured=msgspec.json.encode({"sum": given.number + 1})))


def _echo(given: object, context: Context) -> Plan:
    assert isinstance(given, Anything)
    return Answer(ToolResult(structured=bytes(given.value)))


def _who(given: object, context: Context) -> Plan:
    """What the context says, as text."""
    seen = {
        "principal": context.caller.principal,
        "version": context.protocol_version,
        "info": context.client_info.name if context.client_info else None,
        "token": context.progress_token,
        "level": context.log_level,
        "trace": dict(context.trace),
        "roots": context.client_capabilities.offers(ListRoots()),
    }
    return Answer(ToolResult((TextContent(msgspec.json.encode(seen).decode()),)))


ICONS: Final = (Icon("https://kv.example/icon.png", mime_type="image/png", sizes=("48x48",)),)
NOTED: Final = Annotations(audience=("user",), priority=0.5, last_modified="2026-01-01T00:00:00Z")
OWN: Final = Raw(b'{"example.com/a":1}')
PIXEL: Final = "iVBORw0KGgo="


def _media(given: object, context: Context) -> Plan:
    return Answer(
        ToolResult(
            (
                TextContent("text", NOTED, OWN),
                ImageContent(PIXEL, "image/png", NOTED, OWN),
                AudioContent("UklGRg==", "audio/wav", NOTED, OWN),
                EmbeddedResource(ResourceContents("kv://a", text="1", meta=OWN), NOTED, OWN),
                ResourceLink("kv://b", "b", title="B", annotations=NOTED, icons=ICONS, meta=OWN),
            ),
            structured=b'{"count":5}',
            notes=("a note",),
            meta=OWN,
        )
    )


def _structured_array(given: object, context: Context) -> Plan:
    return Answer(ToolResult(structured=b'["a","b"]'))


def _tool_fails(given: object, context: Context) -> Plan:
    return tool_error("WRONG_TYPE", "the key holds a list", retryable=False)


def _refuses(given: object, context: Context) -> Plan:
    return Fail(RpcError(-31000, "not today", Raw(b'{"tomorrow":true}')))


def _raises(given: object, context: Context) -> Plan:
    raise ZeroDivisionError("a bug in a tool")


def _raises_later(given: object, context: Context) -> Plan:
    return AskBackend((Get("a"),), Raises())


def _unwritable(given: object, context: Context) -> Plan:
    return Answer(ToolResult((TextContent("\ud800"),)))


def _job(given: object, context: Context) -> Plan:
    return Start("a job")


# --- resources, prompts, completions ---


def _read_config(uri: str, context: Context) -> Plan:
    blob = ResourceContents(uri, mime_type="image/png", blob=PIXEL, meta=OWN)
    return Answer(ReadResult((ResourceContents(uri, mime_type="text/plain", text="on"), blob)))


def _read_asking(uri: str, context: Context) -> Plan:
    return AskClient({"sure": ElicitForm("Read it?", FORM)}, ReadAnyway(uri))


def _read_carefully(uri: str, variables: Mapping[str, str], context: Context) -> Plan:
    return AskClient({"sure": ElicitForm(f"Read {variables['key']}?", FORM)}, ReadAnyway(uri))


def _read_key(uri: str, variables: Mapping[str, str], context: Context) -> Plan:
    return AskBackend((Get(variables["key"]),), ShowContents(uri))


def _greet(given: Mapping[str, str], context: Context) -> Plan:
    messages = (
        PromptMessage("user", TextContent(f"Greet {given['name']}", NOTED, OWN)),
        PromptMessage("assistant", AudioContent("UklGRg==", "audio/wav")),
    )
    return Answer(PromptResult(messages, description="A greeting"))


def _prompt_asking(given: Mapping[str, str], context: Context) -> Plan:
    return AskClient({"sure": ElicitForm("Really?", FORM)}, PromptAnyway())


def _prompt_job(given: Mapping[str, str], context: Context) -> Plan:
    return Start("a prompt's job")


def _complete_name(name: str, value: str, chosen: Mapping[str, str], context: Context) -> Plan:
    known = ("Ada", "Alan", *chosen.values())
    return Answer(CompletionResult(tuple(one for one in known if one.startswith(value))))


class ManyLater(Struct, frozen=True, tag=True):
    def resume(self, replies: object, context: Context) -> Plan:
        return Answer(CompletionResult(tuple(f"key-{n}" for n in range(150))))


def _complete_key(name: str, value: str, chosen: Mapping[str, str], context: Context) -> Plan:
    """`later…` is answered by the store, `ask…` wants the client, `few…` says how many there are."""
    if value.startswith("later"):
        return AskBackend((Get("a"),), ManyLater())
    if value.startswith("ask"):
        return AskClient({"sure": ElicitForm("Complete it?", FORM)}, ManyLater())
    if value.startswith("few"):
        return Answer(CompletionResult(("one",), total=7, has_more=True))
    return Answer(CompletionResult(tuple(f"{value}{n}" for n in range(150))))


OUTPUT: Final = b'{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object"}'

ADD: Final = Tool(
    name="add",
    title="Add one",
    description="Adds one to a number.",
    arguments=JsonArguments(
        Number,
        b'{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object",'
        b'"properties":{"number":{"type":"integer"}},"required":["number"]}',
    ),
    plan=_add,
    output_schema=OUTPUT,
    annotations=ToolAnnotations(title="Adder", read_only_hint=True, destructive_hint=False),
    icons=ICONS,
    meta=OWN,
)
"""A tool with everything that a definition can have."""

HIDDEN: Final = Tool(name="hidden", arguments=arguments(Nothing), plan=_raises, listed=False)


def _tools() -> tuple[Tool, ...]:
    nothing = arguments(Nothing)
    one_key = arguments(Key, key="string")
    return (
        Tool(name="get", arguments=one_key, plan=_get, description="Reads a key."),
        Tool(name="put", arguments=arguments(KeyValue, key="string", value="string"), plan=_put),
        Tool(name="get_many", arguments=arguments(Keys, keys="array"), plan=_get_many),
        ADD,
        Tool(name="echo", arguments=arguments(Anything), plan=_echo),
        Tool(name="delete", arguments=one_key, plan=_delete, continuations=(DeleteConfirmed,)),
        Tool(name="interview", arguments=nothing, plan=_interview, continuations=(Greet, Conclude)),
        Tool(name="ask_all", arguments=nothing, plan=_ask_all, continuations=(CountAnswers,)),
        Tool(name="who", arguments=nothing, plan=_who),
        Tool(name="media", arguments=nothing, plan=_media),
        Tool(name="array", arguments=nothing, plan=_structured_array, output_schema=b'{"type":"array"}'),
        Tool(name="fails", arguments=nothing, plan=_tool_fails),
        Tool(name="refuses", arguments=nothing, plan=_refuses),
        Tool(name="raises", arguments=nothing, plan=_raises),
        Tool(name="raises_later", arguments=nothing, plan=_raises_later),
        Tool(name="unwritable", arguments=nothing, plan=_unwritable),
        Tool(name="job", arguments=nothing, plan=_job),
        HIDDEN,
    )


CONFIG: Final = Resource(
    uri="kv://config",
    name="config",
    title="Configuration",
    description="How the store is set up.",
    mime_type="text/plain",
    size=2,
    read=_read_config,
    annotations=NOTED,
    icons=ICONS,
    meta=OWN,
)
ASKING: Final = Resource(uri="kv://asking", name="asking", read=_read_asking, continuations=(ReadAnyway,))
KEYS: Final = ResourceTemplate(
    uri_template=UriTemplate("kv://keys/{key}"),
    name="keys",
    title="Keys",
    description="One key.",
    mime_type="text/plain",
    read=_read_key,
    complete=_complete_key,
    annotations=NOTED,
    icons=ICONS,
    meta=OWN,
)
PLAIN_KEYS: Final = ResourceTemplate(
    uri_template=UriTemplate("kv://plain/{key}"), name="plain", read=_read_key
)
CAREFUL_KEYS: Final = ResourceTemplate(
    uri_template=UriTemplate("kv://careful/{key}"),
    name="careful",
    read=_read_carefully,
    continuations=(ReadAnyway,),
)
GREET: Final = Prompt(
    name="greet",
    title="Greet",
    description="Greets somebody.",
    get=_greet,
    arguments=(
        PromptArgument("name", title="Name", description="Whom", required=True),
        PromptArgument("tone"),
    ),
    complete=_complete_name,
    icons=ICONS,
    meta=OWN,
)
ASK_FIRST: Final = Prompt(name="ask-first", get=_prompt_asking, continuations=(PromptAnyway,))
LONG: Final = Prompt(name="long", get=_prompt_job)


def fixture_catalog() -> Catalog:
    """A new catalog with everything above."""
    return Catalog(*_tools(), CONFIG, ASKING, KEYS, PLAIN_KEYS, CAREFUL_KEYS, GREET, ASK_FIRST, LONG)
