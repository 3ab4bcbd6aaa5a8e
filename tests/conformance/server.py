"""The server that the official conformance suite is run against, built on kvmcp's public API alone.

    python -m tests.conformance.server --port N --loop asyncio|trio

What its tools, resources and prompts do is what the scenarios of the suite look for; it serves all eras at once.
The suite calls the first tool of the list without arguments, so that is `test_simple_text`.
"""

import argparse
import base64
import logging
import struct
import sys
import zlib
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Final

import anyio
from msgspec import Meta, Struct, field

from kvmcp import (
    Completing,
    HttpOptions,
    RequestFailed,
    Server,
    ToolFailed,
    Work,
    filled,
    form,
    said,
    sample,
    start_work,
)
from kvmcp.core import (
    AskClient,
    AudioContent,
    ClientAnswer,
    Context,
    ElicitForm,
    EmbeddedResource,
    ImageContent,
    ListChanged,
    ListRoots,
    Plan,
    PromptMessage,
    ResourceContents,
    RootsResult,
    StructArguments,
    TextContent,
    Tool,
    ToolResult,
)

STEP: Final = 0.05
"""Seconds between the notifications of a tool: the suite wants to see them arrive one by one."""


def _png() -> bytes:
    """One red pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0\xff\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


def _wav() -> bytes:
    """A hundredth of a second of silence: 8 kHz, mono, 8 bits."""
    samples = b"\x80" * 80
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    sound = struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(sound), b"WAVE") + form + sound


PNG: Final = _png()
IMAGE: Final = ImageContent(base64.b64encode(PNG).decode(), "image/png")
AUDIO: Final = AudioContent(base64.b64encode(_wav()).decode(), "audio/wav")

server = Server("kvmcp-conformance", version="1", instructions="For the conformance suite only.")


# --- content ----------------------------------------------------------------------------------------------------


@server.tool()
async def test_simple_text(work: Work) -> str:
    """Answers with a text."""
    return "This is a simple text response for testing."


@server.tool()
async def test_image_content(work: Work) -> ToolResult:
    """Answers with an image."""
    return ToolResult((IMAGE,))


@server.tool()
async def test_audio_content(work: Work) -> ToolResult:
    """Answers with a sound."""
    return ToolResult((AUDIO,))


@server.tool()
async def test_embedded_resource(work: Work) -> ToolResult:
    """Answers with a resource."""
    contents = ResourceContents(
        "test://embedded-resource", "text/plain", text="This is an embedded resource content."
    )
    return ToolResult((EmbeddedResource(contents),))


@server.tool()
async def test_multiple_content_types(work: Work) -> ToolResult:
    """Answers with a text, an image and a resource."""
    contents = ResourceContents(
        "test://mixed-content-resource", "application/json", text='{"test":"data","value":123}'
    )
    return ToolResult((TextContent("Multiple content types test:"), IMAGE, EmbeddedResource(contents)))


@server.tool()
async def test_error_handling(work: Work) -> ToolResult:
    """Always fails."""
    return ToolResult((TextContent("This tool intentionally returns an error for testing"),), is_error=True)


# --- while a tool runs ------------------------------------------------------------------------------------------


@server.tool()
async def test_tool_with_progress(work: Work) -> str:
    """Says how far it is."""
    for done in (0, 50, 100):
        await work.report_progress(done, 100, f"Completed step {done} of 100")
        await anyio.sleep(STEP)
    return "Tool with progress executed successfully"


@server.tool()
async def test_tool_with_logging(work: Work) -> str:
    """Writes to the client's log."""
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await work.log("info", message)
        await anyio.sleep(STEP)
    return "Tool with logging executed successfully"


@server.tool()
async def test_logging_tool(work: Work) -> str:
    """Writes to the log of clients that asked for it."""
    await work.log("info", "Only for those who asked")
    return "Logged"


@server.tool()
async def test_reconnection(work: Work) -> str:
    """Lets go of the connection; the client comes back for the answer."""
    await work.hang_up()
    await anyio.sleep(4 * STEP)
    return "Reconnection test completed successfully"


# --- what the client is asked -----------------------------------------------------------------------------------


class SampleArguments(Struct, forbid_unknown_fields=True):
    prompt: str


@server.tool()
async def test_sampling(arguments: SampleArguments, work: Work) -> str:
    """Asks the client's model."""
    answers = await work.ask({"llm": sample(arguments.prompt, 100)})
    return f"LLM response: {said(answers['llm'])}"


class ElicitArguments(Struct, forbid_unknown_fields=True):
    message: str


class Account(Struct):
    username: Annotated[str, Meta(description="User's response")]
    email: Annotated[str, Meta(description="User's email address")]


@server.tool()
async def test_elicitation(arguments: ElicitArguments, work: Work) -> str:
    """Asks the person."""
    answers = await work.ask({"account": form(arguments.message, Account)})
    account = filled(answers["account"], Account)
    return f"User response: {'none' if account is None else f'{account.username} <{account.email}>'}"


class WithDefaults(Struct):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Annotated[
        str, Meta(extra_json_schema={"type": "string", "enum": ["active", "inactive", "pending"]})
    ] = "active"
    verified: bool = True


@server.tool()
async def test_elicitation_sep1034_defaults(work: Work) -> str:
    """Asks with a default for each field."""
    answers = await work.ask({"form": form("Please review and update the form fields", WithDefaults)})
    return f"Elicitation completed: {answers['form']}"


CHOICES: Final = ("option1", "option2", "option3")
TITLED: Final = [{"const": choice, "title": choice.capitalize()} for choice in CHOICES]
ENUMS: Final[Mapping[str, object]] = {
    "type": "object",
    "properties": {
        "untitledSingle": {"type": "string", "enum": CHOICES},
        "titledSingle": {"type": "string", "oneOf": TITLED},
        "legacyEnum": {"type": "string", "enum": CHOICES, "enumNames": ["One", "Two", "Three"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": CHOICES}},
        "titledMulti": {"type": "array", "items": {"anyOf": TITLED}},
    },
    "required": [],
}


@server.tool()
async def test_elicitation_sep1330_enums(work: Work) -> str:
    """Asks with all forms of choices."""
    answers = await work.ask({"choices": form("Please select options", ENUMS)})
    return f"Elicitation completed: {answers['choices']}"


@server.tool()
async def test_missing_capability(work: Work) -> str:
    """Needs a client with a model."""
    answers = await work.ask({"llm": sample("Are you there?", 10)})
    return f"LLM response: {said(answers['llm'])}"


@server.tool()
async def test_streaming_elicitation(work: Work) -> str:
    """Asks in the middle of its work."""
    answers = await work.ask({"account": form("Who are you?", Account)})
    return f"User response: {answers['account']}"


# --- requests in several rounds ---------------------------------------------------------------------------------


class Name(Struct):
    name: str


class Colour(Struct):
    color: str


class Confirmed(Struct):
    ok: bool


class UserContext(Struct):
    context: str


def _name_of(answer: ClientAnswer | None) -> str:
    person = filled(answer, Name)
    return "stranger" if person is None else person.name


@server.tool()
async def test_input_required_result_elicitation(work: Work) -> str:
    """Asks for a name."""
    answers = await work.ask({"user_name": form("What is your name?", Name)})
    return f"Hello, {_name_of(answers['user_name'])}!"


@server.tool()
async def test_input_required_result_sampling(work: Work) -> str:
    """Asks the client's model for a capital."""
    answers = await work.ask({"capital_question": sample("What is the capital of France?", 100)})
    return f"The model says: {said(answers['capital_question'])}"


def _roots(answer: ClientAnswer) -> str:
    assert isinstance(answer, RootsResult)
    return ", ".join(root.uri for root in answer.roots)


@server.tool()
async def test_input_required_result_list_roots(work: Work) -> str:
    """Asks for the client's roots."""
    answers = await work.ask({"client_roots": ListRoots()})
    return f"Roots: {_roots(answers['client_roots'])}"


@server.tool()
async def test_input_required_result_request_state(work: Work) -> str:
    """Asks for a confirmation, and remembers that it did."""
    answers = await work.ask({"confirm": form("Please confirm", Confirmed)})
    return f"state-ok {filled(answers['confirm'], Confirmed)}"


@server.tool()
async def test_input_required_result_multiple_inputs(work: Work) -> str:
    """Asks for three things at once."""
    answers = await work.ask(
        {
            "user_name": form("What is your name?", Name),
            "greeting": sample("Generate a greeting", 50),
            "client_roots": ListRoots(),
        }
    )
    greeting, roots = said(answers["greeting"]), _roots(answers["client_roots"])
    return f"{greeting}, {_name_of(answers['user_name'])}. Roots: {roots}"


@server.tool()
async def test_input_required_result_multi_round(work: Work) -> str:
    """Asks for a name, then for a colour."""
    first = await work.ask({"step1": form("What is your name?", Name)})
    second = await work.ask({"step2": form("What is your favorite color?", Colour)})
    colour = filled(second["step2"], Colour)
    return f"{_name_of(first['step1'])} likes {colour.color if colour else 'nothing'}"


@server.tool()
async def test_input_required_result_tampered_state(work: Work) -> str:
    """Asks for a confirmation; what it remembers cannot be changed."""
    answers = await work.ask({"confirm": form("Please confirm", Confirmed)})
    return f"Confirmed: {filled(answers['confirm'], Confirmed)}"


@server.tool()
async def test_input_required_result_capabilities(work: Work) -> str:
    """Asks only for what the client can answer."""
    answers = await work.ask(
        {"user_name": form("What is your name?", Name), "greeting": sample("Generate a greeting", 50)}
    )
    return f"{said(answers.get('greeting'))}, {_name_of(answers.get('user_name'))}"


# --- schemas and headers ----------------------------------------------------------------------------------------


class Region(Struct, forbid_unknown_fields=True):
    region: Annotated[str, Meta(extra_json_schema={"x-mcp-header": "Region"})]


@server.tool()
async def test_x_mcp_header(arguments: Region, work: Work) -> str:
    """Echoes an argument that HTTP clients repeat in a header."""
    return arguments.region


CONTACT: Final[Mapping[str, object]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@server.tool(schema=CONTACT)
async def json_schema_2020_12_tool(arguments: dict[str, object], work: Work) -> str:
    """Takes arguments that a JSON Schema of its own describes."""
    return f"JSON Schema 2020-12 tool called with: {', '.join(arguments)}"


# --- changes ----------------------------------------------------------------------------------------------------


@server.tool()
async def test_trigger_tool_change(work: Work) -> str:
    """Tells all who listen that the list of tools has changed."""
    server.publish(ListChanged("tools"))
    return "Told"


@server.tool()
async def test_trigger_prompt_change(work: Work) -> str:
    """Tells all who listen that the list of prompts has changed."""
    server.publish(ListChanged("prompts"))
    return "Told"


# --- tasks ------------------------------------------------------------------------------------------------------


class GreetArguments(Struct, forbid_unknown_fields=True):
    name: str


@server.tool()
async def greet(arguments: GreetArguments, work: Work) -> str:
    """Greets; never a task."""
    return f"Hello, {arguments.name}!"


class Computation(Struct, forbid_unknown_fields=True):
    seconds: float = 1.0
    label: str = "result"


@server.tool(task_support="optional")
async def slow_compute(arguments: Computation, work: Work) -> str:
    """Takes its time."""
    await work.report_progress(0, arguments.seconds, f"computing {arguments.label}")
    await anyio.sleep(arguments.seconds)
    return f"{arguments.label}: computed in {arguments.seconds} s"


@server.tool(task_support="required")
async def failing_job(work: Work) -> str:
    """Fails as a tool does, after a while."""
    await anyio.sleep(1)
    raise ToolFailed("JOB_FAILED", "this job always fails")


@server.tool(task_support="optional")
async def protocol_error_job(work: Work) -> str:
    """Fails with a protocol error."""
    raise RequestFailed(-32603, "this job ends with a protocol error")


class Deletion(Struct, forbid_unknown_fields=True):
    filename: str


class Sure(Struct):
    confirm: bool


@server.tool(task_support="optional")
async def confirm_delete(arguments: Deletion, work: Work) -> str:
    """Asks before it deletes."""
    answers = await work.ask({"confirm": form(f"Delete {arguments.filename}?", Sure)})
    sure = filled(answers["confirm"], Sure)
    return f"{'Deleted' if sure is not None and sure.confirm else 'Kept'} {arguments.filename}"


@server.tool(task_support="optional")
async def multi_input(work: Work) -> str:
    """Asks two things at once."""
    answers = await work.ask(
        {"name": form("What is your name?", Name), "color": form("Your favorite color?", Colour)}
    )
    colour = filled(answers["color"], Colour)
    return f"{_name_of(answers['name'])} likes {colour.color if colour else 'nothing'}"


NAME_FORM: Final[ElicitForm] = form("What is your name?", Name)


class GreetSlowly(Struct, frozen=True, tag=True):
    """Once the name is there, the rest is a task."""

    def resume(self, answers: Mapping[str, ClientAnswer], context: Context) -> Plan:
        return start_work(_greet_slowly, _name_of(answers["user_name"]), context)


async def _greet_slowly(name: str, work: Work) -> str:
    await anyio.sleep(STEP)
    return f"Hello, {name}, from a task!"


class Nothing(Struct, forbid_unknown_fields=True):
    pass


def _plan_greeting(arguments: Nothing, context: Context) -> Plan:
    return AskClient({"user_name": NAME_FORM}, GreetSlowly())


server.add(
    Tool(
        name="test_tool_with_task",
        description="Asks for a name, then greets in a task.",
        arguments=StructArguments(Nothing),
        plan=_plan_greeting,
        continuations=(GreetSlowly,),
        task_support="optional",
    )
)


# --- resources --------------------------------------------------------------------------------------------------


@server.resource("test://static-text", mime_type="text/plain")
async def static_text(work: Work) -> str:
    """A text."""
    return "This is the content of the static text resource."


@server.resource("test://static-binary", mime_type="image/png")
async def static_binary(work: Work) -> bytes:
    """An image."""
    return PNG


@server.resource("test://watched-resource", mime_type="text/plain")
async def watched_resource(work: Work) -> str:
    """A text that can be watched."""
    return "Watched resource content"


class DataId(Struct):
    id: str


@server.template("test://template/{id}/data", mime_type="application/json")
async def template_data(variables: DataId, work: Work) -> dict[str, object]:
    """Data by its id."""
    return {"id": variables.id, "templateTest": True, "data": f"Data for ID: {variables.id}"}


# --- prompts ----------------------------------------------------------------------------------------------------


@server.prompt()
async def test_simple_prompt(work: Work) -> str:
    """A prompt without arguments."""
    return "This is a simple prompt for testing."


class TwoArguments(Struct):
    arg1: Annotated[str, Meta(description="First test argument")]
    arg2: Annotated[str, Meta(description="Second test argument")]


async def complete_argument(asked: Completing, work: Work) -> list[str]:
    """What an argument might become."""
    return [value for value in ("test-one", "test-two", "paris") if value.startswith(asked.value)]


@server.prompt(complete=complete_argument)
async def test_prompt_with_arguments(arguments: TwoArguments, work: Work) -> str:
    """A prompt with two arguments."""
    return f"Prompt with arguments: arg1='{arguments.arg1}', arg2='{arguments.arg2}'"


class ResourceArgument(Struct):
    resource_uri: Annotated[str, Meta(description="URI of the resource to embed")] = field(name="resourceUri")


@server.prompt()
async def test_prompt_with_embedded_resource(arguments: ResourceArgument, work: Work) -> list[PromptMessage]:
    """A prompt that carries a resource."""
    contents = ResourceContents(
        arguments.resource_uri, "text/plain", text="Embedded resource content for testing."
    )
    return [
        PromptMessage("user", EmbeddedResource(contents)),
        PromptMessage("user", TextContent("Please process the embedded resource above.")),
    ]


@server.prompt()
async def test_prompt_with_image(work: Work) -> list[PromptMessage]:
    """A prompt that carries an image."""
    return [
        PromptMessage("user", IMAGE),
        PromptMessage("user", TextContent("Please analyze the image above.")),
    ]


@server.prompt()
async def test_input_required_result_prompt(work: Work) -> str:
    """A prompt that asks for what it needs."""
    answers = await work.ask({"user_context": form("What context should the prompt use?", UserContext)})
    given = filled(answers["user_context"], UserContext)
    return f"Context: {given.context if given else 'none'}"


# --- running it -------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="The server for the conformance suite.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--loop", choices=("asyncio", "trio"), default="asyncio")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    # The suite looks at streams where there are any; with JSON answers it has one check less to make.
    http = HttpOptions(resumable=True)
    anyio.run(partial(server.serve_http, port=options.port, options=http), backend=options.loop)


if __name__ == "__main__":
    main()
