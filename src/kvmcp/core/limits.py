"""Every limit of the core, each with a unit and the reason for its number."""

from msgspec import Struct


class Limits(Struct, frozen=True):
    """What a peer may ask for at most. All sizes are bytes, all times seconds."""

    message_bytes: int = 4 * 1024 * 1024
    """One message (a line, a frame, a body). 4 MiB: ten times the largest value, and what peers accept."""
    nesting_depth: int = 128
    """Levels of arrays and objects in one message. Every common parser takes 128; people rarely reach 20."""
    id_bytes: int = 1024
    """A request id as written. SDKs use integers and UUIDs; 1 KiB keeps a table of them small."""
    batch_messages: int = 256
    """Messages in one 2025-03-26 batch: four times the pipelining depth that was useful in measurements."""
    output_bytes: int = 4 * 1024 * 1024
    """Large answers that are rendered before they are taken. Above it replies of the store wait as they are: a
    client that asks for much and reads little costs this, and one batch of replies."""
    batch_calls: int = 128
    """Calls whose operations go into one batch: bounds what its replies can weigh. Pipelines of 64 are common."""
    pending_calls: int = 4096
    """Calls that wait for the backend. Above it the peer is not read from until some are answered."""
    open_exchanges: int = 1024
    """Requests that wait for the client, for a coroutine or for changes. Above it new ones are refused."""
    subscribed_resources: int = 1024
    """Resource URIs that one connection watches, over all its subscriptions."""
    backend_timeout: float = 30.0
    """The longest wait for a batch; a backend has its own, shorter deadlines, so this one catches bugs."""
    work_timeout: float = 300.0
    """The longest run of a tool's coroutine, waits for the client not counted."""
    ask_timeout: float = 600.0
    """The longest wait for the client's answer. A person may have to read a form: ten minutes."""
    state_lifetime: float = 3600.0
    """How long a sealed `requestState` is accepted: an hour lets a person come back from lunch."""
    state_bytes: int = 64 * 1024
    """A sealed `requestState`, encoded. It holds a continuation and earlier answers, not values."""
    shutdown_grace: float = 4.0
    """From the order to stop until accepted requests that have no answer are given up. Supervisors give 5 to 10 s
    before they kill; a second is left for writing the last answers."""
    list_page: int = 250
    """Items on one page of a list. Hosts load all pages at start, so few pages; 250 tools are ~250 kB."""
    log_messages: int = 256
    """Log and progress notifications of one coroutine that wait for the peer to read; more are dropped."""
