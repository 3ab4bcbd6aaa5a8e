"""What the result of a request means: done, input wanted, or not allowed.

Reference: MCP, multi round-trip requests.
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

from msgspec import UNSET, Raw, Struct

from kvmcp.core.client.asked import refusal
from kvmcp.core.versions import MODERN
from kvmcp.core.wire.common import ClientCapabilities
from kvmcp.core.wire.results import InputRequest, InputRequiredResult, ResultHead, SupportedVersions, read

TASKS: Final = "io.modelcontextprotocol/tasks"
"""The extension whose servers may answer with `resultType` `task`."""

MULTI_ROUND: Final = frozenset(("tools/call", "prompts/get", "resources/read"))
"""The methods that may be answered with `input_required`."""


class Complete(Struct, frozen=True):
    """The result is the answer."""


class Wanted(Struct, frozen=True):
    """The server wants input; `state` is JSON text to be sent back with it, empty where there is none."""

    requests: Mapping[str, InputRequest]
    state: Raw


class Broken(Struct, frozen=True):
    """No answer to this request."""

    reason: str


Meaning: TypeAlias = Complete | Wanted | Broken

_COMPLETE: Final = Complete()


def read_legacy(result: Raw) -> Meaning:
    """A result of the legacy era: any object."""
    return _COMPLETE if bytes(result).startswith(b"{") else Broken("a result must be an object")


def read_modern(method: str, result: Raw, declared: ClientCapabilities, state_bytes: int) -> Meaning:
    """A result of the modern era, by its `resultType`. "Clients MUST treat the absent field as complete".

    `declared` is what the request said the server may ask, `state_bytes` how long a request state may be.
    """
    head = read(result, ResultHead)
    if head is None:
        return Broken("a result must be an object with a string as resultType")
    match head.result_type:
        case "complete":
            return _COMPLETE
        case "input_required":
            return _read_wanted(method, result, declared, state_bytes)
        case "task" if TASKS in _extensions(declared):
            return _COMPLETE
        case kind:
            return Broken(f"resultType {kind[:40]!r} is none that this client asked for")


def _extensions(declared: ClientCapabilities) -> Mapping[str, Raw]:
    return {} if declared.extensions is UNSET else declared.extensions


def _read_wanted(method: str, result: Raw, declared: ClientCapabilities, state_bytes: int) -> Wanted | Broken:
    if method not in MULTI_ROUND:
        return Broken(f"{method} cannot be answered with input_required")
    wanted = read(result, InputRequiredResult)
    if wanted is None:
        return Broken("inputRequests must map keys to objects with method and params")
    requests = {} if wanted.input_requests is UNSET else wanted.input_requests
    state = bytes(wanted.request_state)
    if not requests and not state:
        return Broken("input_required asks for nothing")
    if state and not state.startswith(b'"'):
        return Broken("requestState must be a string")
    if len(state) > state_bytes:
        return Broken(f"requestState of {len(state)} bytes, limit is {state_bytes}")
    for request in requests.values():
        # "Servers MUST NOT" ask for what was not declared, and we could not answer it.
        if (problem := refusal(declared, request.method, request.params)) is not None:
            return Broken(f"the server asks for input that it may not ask for: {problem.message}")
    return Wanted(requests, Raw(state))


def shared_version(data: Raw, known: tuple[str, ...] = MODERN) -> str | None:
    """The newest of the `known` versions that the `data` of a refusal names as supported."""
    refused = read(data, SupportedVersions)
    return None if refused is None else newest_shared(refused.supported, known)


def newest_shared(supported: tuple[str, ...], known: tuple[str, ...]) -> str | None:
    """The newest version that both sides know. `known` is in order of time."""
    shared = [version for version in known if version in supported]
    return shared[-1] if shared else None
