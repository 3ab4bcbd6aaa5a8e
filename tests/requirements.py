"""What the specification demands of us, one id per demand, in our own words.

A test carries the ids of what it shows: `@pytest.mark.req("ping-answered")`. `tests/test_requirements.py` holds
the two together: every id has a test, and no test names an id that is not here.

Not yet here, because not yet built: HTTP, authorization, tasks.
"""

from typing import Final, Literal, TypeAlias

from msgspec import Struct

Level: TypeAlias = Literal["MUST", "SHOULD", "OURS"]
"""`OURS`: the specification is silent, or asks for less; what we promise instead."""

ALL: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
LEGACY: Final = ALL[:-1]
MODERN: Final = ALL[-1:]
SINCE_2025_06: Final = ALL[2:]


class Requirement(Struct, frozen=True):
    """`source` is the section of the MCP specification (or, for `OURS`, of our design) that it comes from."""

    id: str
    text: str
    revisions: tuple[str, ...]
    source: str
    level: Level = "MUST"


def _server() -> tuple[Requirement, ...]:
    return (
        *_envelope(),
        *_errors(),
        *_eras(),
        *_lifecycles(),
        *_features(),
        *_rounds(),
        *_utilities(),
        *_ours(),
    )


def _envelope() -> tuple[Requirement, ...]:
    messages, batching, stdio = "Base Protocol: Messages", "Base Protocol: Batching", "Transports: stdio"
    return (
        Requirement(
            "envelope-version", "Every message says jsonrpc 2.0; what does not is refused.", ALL, messages
        ),
        Requirement("envelope-utf8", "Messages are UTF-8; other bytes are refused.", ALL, "Transports"),
        Requirement(
            "envelope-id-type",
            "An id is a string or an integer; null and all others are refused.",
            ALL,
            messages,
        ),
        Requirement(
            "envelope-id-echo", "An answer has the id of its request, with its JSON type.", ALL, messages
        ),
        Requirement(
            "envelope-id-unreadable", "An error without a readable id has no id; never null.", ALL, messages
        ),
        Requirement("envelope-notification-silent", "A notification is never answered.", ALL, messages),
        Requirement(
            "envelope-one-of-result-error", "A response has exactly one of result and error.", ALL, messages
        ),
        Requirement("error-code-integer", "Error codes are integers.", ALL, messages),
        Requirement(
            "own-ids-unique", "Ids of our requests are never used again in a session.", LEGACY, messages
        ),
        Requirement("modern-no-server-requests", "A server sends no requests.", MODERN, messages),
        Requirement("modern-result-type", "Every result says its resultType.", MODERN, messages),
        Requirement(
            "batch-receive", "Batches are received and each of their messages answered.", ALL[1:2], batching
        ),
        Requirement(
            "batch-initialize-alone",
            "initialize is no part of a batch.",
            ALL[1:2],
            "Lifecycle: Initialization",
        ),
        Requirement(
            "batch-refused-elsewhere", "A batch is an invalid request.", (*ALL[:1], *ALL[2:]), batching
        ),
        Requirement("stdio-line-per-message", "One message per line, without newlines inside.", ALL, stdio),
        Requirement("stdio-only-messages", "Nothing but valid messages is written.", ALL, stdio),
    )


def _errors() -> tuple[Requirement, ...]:
    codes = "Base Protocol: Error Codes"
    return (
        Requirement(
            "error-parse", "What is not JSON is answered with -32700.", ALL, "JSON-RPC 2.0: Error object"
        ),
        Requirement(
            "error-invalid-request", "JSON that is no message: -32600.", ALL, "JSON-RPC 2.0: Error object"
        ),
        Requirement("error-method-not-found", "An unknown method, or one not offered: -32601.", ALL, codes),
        Requirement(
            "error-unsupported-version", "A version that is not served: -32022 with what is.", MODERN, codes
        ),
        Requirement(
            "error-missing-capability", "A capability that is needed: -32021 says which.", MODERN, codes
        ),
        Requirement("error-no-resource-code", "-32002 is not sent any more.", MODERN, codes),
        Requirement(
            "error-no-invented-codes", "No codes of our own in the specification's range.", MODERN, codes
        ),
    )


def _eras() -> tuple[Requirement, ...]:
    eras = "Versioning: Backward Compatibility"
    return (
        Requirement(
            "era-by-message", "An envelope is served statelessly, initialize opens a session.", ALL, eras
        ),
        Requirement("era-discover-decides-nothing", "A probe leaves initialize possible.", ALL, eras, "OURS"),
        Requirement("removed-methods", "Methods of the legacy era do not exist: -32601.", MODERN, eras),
    )


def _lifecycles() -> tuple[Requirement, ...]:
    opening, negotiation, meta = (
        "Lifecycle: Initialization",
        "Lifecycle: Version Negotiation",
        "Base Protocol: _meta",
    )
    capabilities, discover = "Lifecycle: Capability Negotiation", "Server Features: Discovery"
    return (
        Requirement(
            "legacy-version-echo",
            "A version that we serve is the one that we answer with.",
            LEGACY,
            negotiation,
        ),
        Requirement(
            "legacy-version-other", "Any other is answered with one that we serve.", LEGACY, negotiation
        ),
        Requirement(
            "legacy-initialized",
            "The client says when it is ready; until then it is told nothing.",
            LEGACY,
            opening,
        ),
        Requirement(
            "legacy-negotiated-features",
            "Only what revision and capabilities allow is used.",
            LEGACY,
            capabilities,
        ),
        Requirement(
            "capabilities-declared",
            "What is offered is declared; what is not is not found.",
            ALL,
            capabilities,
        ),
        Requirement(
            "undeclared-capabilities", "Nothing is asked that the client did not declare.", ALL, capabilities
        ),
        Requirement(
            "modern-meta-required",
            "Without version or capabilities a request is refused: -32602.",
            MODERN,
            meta,
        ),
        Requirement("modern-client-info-optional", "A client need not say who it is.", MODERN, meta),
        Requirement("modern-trace-context", "Trace context is passed on as it came.", MODERN, meta),
        Requirement(
            "modern-stateless", "Nothing is derived from earlier requests or the connection.", MODERN, meta
        ),
        Requirement(
            "modern-lists-constant", "Lists do not vary with what happened on a connection.", MODERN, meta
        ),
        Requirement("modern-discover", "server/discover is implemented.", MODERN, discover),
    )


def _features() -> tuple[Requirement, ...]:
    listen, tools, resources = (
        "Server Features: Subscriptions",
        "Server Features: Tools",
        "Server Features: Resources",
    )
    asked, schema = "Client Features: Elicitation", "Base Protocol: JSON Schema"
    return (
        Requirement(
            "ping-answered", "A ping is answered at once with an empty result.", LEGACY, "Utilities: Ping"
        ),
        Requirement(
            "empty-results", "Results without content are {} exactly.", LEGACY, "Schema: EmptyResult"
        ),
        Requirement("methods-served", "Each method is answered in the shape of its revision.", ALL, "Schema"),
        Requirement("list-order", "Lists have one order.", ALL, tools, "SHOULD"),
        Requirement("tools-unknown", "A call of an unknown tool is a protocol error: -32602.", ALL, tools),
        Requirement("inputs-validated", "All inputs of tools are validated.", ALL, f"{tools}: Security"),
        Requirement(
            "resource-not-found", "A missing resource is an error, never an empty result.", ALL, resources
        ),
        Requirement(
            "prompts-unknown",
            "Unknown prompts and missing arguments: -32602.",
            ALL,
            "Server Features: Prompts",
            "SHOULD",
        ),
        Requirement("completion-maximum", "At most 100 values.", ALL, "Utilities: Completion"),
        Requirement("json-schema-keywords", "Schemas are passed on with every keyword.", ALL, schema),
        Requirement(
            "listen-ack-first", "The acknowledgement is a subscription's first message.", MODERN, listen
        ),
        Requirement("listen-only-asked", "Only what was asked for is delivered.", MODERN, listen),
        Requirement("listen-subscription-id", "All that travels on a listen names it.", MODERN, listen),
        Requirement("listen-no-progress", "Progress and logs do not travel on a listen.", MODERN, listen),
        Requirement(
            "elicitation-url-id", "URL elicitations have an id at 2025-11-25, and none later.", ALL[3:], asked
        ),
        Requirement(
            "sampling-tools-capability",
            "Tools in sampling need sampling.tools.",
            ALL[3:],
            "Client Features: Sampling",
        ),
    )


def _rounds() -> tuple[Requirement, ...]:
    rounds, state = "Multi Round-Trip Requests", "Multi Round-Trip Requests: Request State"
    return (
        Requirement(
            "mrtr-methods-only", "Only tools/call, prompts/get and resources/read ask.", MODERN, rounds
        ),
        Requirement("mrtr-one-of-two", "input_required has requests, a state, or both.", MODERN, rounds),
        Requirement("mrtr-keys-unique", "Keys are unique within a request.", MODERN, rounds),
        Requirement(
            "mrtr-declared-only", "Only what the client declared on this request is asked.", MODERN, rounds
        ),
        Requirement("state-protected", "A state is protected against changes.", MODERN, state),
        Requirement(
            "state-rejected", "A state that fails its check is refused with an error.", MODERN, state
        ),
        Requirement(
            "state-bound", "A state is bound to principal, request and time.", MODERN, state, "SHOULD"
        ),
    )


def _utilities() -> tuple[Requirement, ...]:
    progress, cancelling, logging = "Utilities: Progress", "Utilities: Cancellation", "Utilities: Logging"
    caching, pages = "Utilities: Caching", "Utilities: Pagination"
    return (
        Requirement("progress-opt-in", "Progress only for a request that gave a token.", ALL, progress),
        Requirement("progress-increases", "Progress increases with each notification.", ALL, progress),
        Requirement("progress-active-only", "No progress after the request is over.", ALL, progress),
        Requirement("cancellation-silent", "Nothing more is sent for a cancelled request.", ALL, cancelling),
        Requirement(
            "cancellation-unknown-ignored",
            "Cancelling what is not in flight is ignored.",
            ALL,
            cancelling,
            "SHOULD",
        ),
        Requirement("logging-opt-in", "No log messages for a request that named no level.", MODERN, logging),
        Requirement(
            "logging-level",
            "A legacy client sets the level; a wrong one is refused.",
            LEGACY,
            logging,
            "SHOULD",
        ),
        Requirement(
            "pagination-cursor", "Cursors lead on; one that is not ours is refused.", ALL, pages, "SHOULD"
        ),
        Requirement("caching-members", "Results that can be kept say how long and by whom.", MODERN, caching),
        Requirement("caching-same-scope", "All pages of a list have the same scope.", MODERN, caching),
        Requirement("caching-not-input-required", "A question is not cached.", MODERN, caching),
        Requirement(
            "projection-modern-members", "resultType, server info and caching: modern only.", ALL, "Schema"
        ),
        Requirement("projection-definitions", "Definitions have the members of the revision.", ALL, "Schema"),
        Requirement(
            "projection-structured-content", "Structured content where the revision knows it.", ALL, "Schema"
        ),
        Requirement("projection-content", "Content blocks that a revision lacks become text.", ALL, "Schema"),
        Requirement("projection-last-modified", "lastModified since 2025-06-18.", ALL, "Schema"),
        Requirement("projection-progress-message", "A message of progress since 2025-03-26.", ALL, "Schema"),
        Requirement(
            "projection-bad-arguments",
            "Bad arguments: a result since 2025-11-25, else -32602.",
            ALL,
            "Server Features: Tools",
        ),
    )


def _ours() -> tuple[Requirement, ...]:
    limits, lives, input_ = "Design: Limits", "Design: Exchange", "Design: The core's surface"
    return (
        Requirement(
            "envelope-one-meaning",
            "A member of the envelope that stands twice is refused.",
            ALL,
            input_,
            "OURS",
        ),
        Requirement("settles-once", "Every admitted request settles exactly once.", ALL, lives, "OURS"),
        Requirement(
            "handler-exceptions", "A bug of a handler is an internal error and a report.", ALL, lives, "OURS"
        ),
        Requirement(
            "bounds-any-bytes", "Any bytes: documented answers, and serving goes on.", ALL, input_, "OURS"
        ),
        Requirement(
            "bounds-message", "A message above the limit is thrown away as it arrives.", ALL, limits, "OURS"
        ),
        Requirement("bounds-nesting", "Nesting above the limit is refused.", ALL, limits, "OURS"),
        Requirement("bounds-state", "A request state has a maximal size.", MODERN, limits, "OURS"),
        Requirement(
            "bounds-subscriptions", "Listens and watched resources are limited.", ALL, limits, "OURS"
        ),
    )


def _client() -> tuple[Requirement, ...]:
    opening, eras = "Lifecycle: Initialization", "Versioning: Backward Compatibility"
    rounds, messages = "Multi Round-Trip Requests", "Base Protocol: Messages"
    return (
        Requirement(
            "client-initialize-first",
            "initialize comes first, with a version that we speak.",
            LEGACY,
            opening,
        ),
        Requirement("client-initialized", "notifications/initialized follows the answer.", LEGACY, opening),
        Requirement(
            "client-initialize-not-cancelled",
            "initialize is never cancelled.",
            LEGACY,
            "Utilities: Cancellation",
        ),
        Requirement(
            "client-negotiated-features", "Only what was negotiated is used and answered.", LEGACY, opening
        ),
        Requirement(
            "client-fallback-any-error", "The fallback does not depend on one error code.", ALL, eras
        ),
        Requirement(
            "client-envelope",
            "Version and capabilities are on every request.",
            MODERN,
            "Base Protocol: _meta",
        ),
        Requirement("client-never-answers", "A client sends no responses.", MODERN, messages),
        Requirement("client-ids-unique", "An id is never one that is still unanswered.", ALL, messages),
        Requirement("client-result-type-missing", "A missing resultType is complete.", MODERN, messages),
        Requirement(
            "client-result-type-unknown", "An unknown resultType is an invalid response.", MODERN, messages
        ),
        Requirement("client-batch-receive", "Batches are received.", ALL[1:2], "Base Protocol: Batching"),
        Requirement("client-ping-answered", "Pings of the server are answered.", LEGACY, "Utilities: Ping"),
        Requirement(
            "client-undeclared-refused",
            "Requests for what was not declared are refused.",
            LEGACY,
            "Client Features",
        ),
        Requirement("client-mrtr-all", "Every question is answered before the retry.", MODERN, rounds),
        Requirement("client-mrtr-new-id", "The retry has a new id.", MODERN, rounds),
        Requirement("client-mrtr-state-echoed", "The state goes back byte for byte.", MODERN, rounds),
        Requirement("client-mrtr-no-state", "No state is sent where none came.", MODERN, rounds),
        Requirement(
            "client-mrtr-unrelated", "Neither state nor answers reach another request.", MODERN, rounds
        ),
        Requirement(
            "client-progress-token-unique",
            "Progress tokens are unique among open requests.",
            ALL,
            "Utilities: Progress",
        ),
        Requirement(
            "client-cancel-notifies",
            "A cancelled request is cancelled by notification.",
            ALL,
            "Utilities: Cancellation",
        ),
        Requirement("client-empty-cursor", "An empty cursor is a cursor.", ALL, "Utilities: Pagination"),
        Requirement(
            "client-listen-by-id",
            "Notifications are matched by subscription id.",
            MODERN,
            "Server Features: Subscriptions",
        ),
    )


REQUIREMENTS: Final = (*_server(), *_client())
