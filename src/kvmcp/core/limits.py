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
    watched_uris: int = 131_072
    """Resource URIs that all connections of one process watch together, each counted once. A store holds about 1 KiB
    for each, and Redis forgets the oldest of a million keys that it tracks."""
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
    tasks: int = 1024
    """Tasks of which the state is kept; those that are over go first."""
    task_bytes: int = 64 * 1024 * 1024
    """Outcomes of tasks that are kept; those that are over go first, the oldest before the others."""
    caller_tasks: int = 256
    """Tasks of one caller, where callers are known: a quarter of all."""
    task_timeout: float = 2700.0
    """The longest run of a task's coroutine, and the longest wait for the client's input to it: 45 minutes."""
    task_lifetime: float = 3600.0
    """How long a task is known from its creation on, its outcome included: a quarter of an hour to fetch it."""
    task_poll_ms: int = 1000
    """How often a client shall ask for the state of a task. A status change is told at once to those who listen."""
    log_messages: int = 256
    """Log and progress notifications of one coroutine that wait for the peer to read; more are dropped."""
    body_timeout: float = 30.0
    """HTTP: from the head of a request to the end of its body. 4 MiB at 1.1 Mbit/s, or a sender that trickles."""
    arriving_bytes: int = 64 * 1024 * 1024
    """HTTP: bodies of one process that have arrived in part. Sixteen of the largest messages at once, or thousands
    of common ones; without it `open_requests` senders that never finish would hold 16 GiB."""
    keep_alive: float = 15.0
    """HTTP: seconds of waiting after which a response becomes a stream, and between the comments on one.
    Proxies cut a silent connection after 30 to 60 s."""
    open_requests: int = 4096
    """HTTP: requests that are open at once, in one process, streams included: as many as `pending_calls`."""
    open_streams: int = 1024
    """HTTP: listens and GET streams that are open at once, in one process. Each holds a connection for hours."""
    sessions: int = 10_000
    """HTTP: legacy sessions of which this process remembers something; about 2 KiB each."""
    watched_resources: int = 65_536
    """HTTP: resource URIs that all legacy sessions of one process watch together: six for each of `sessions`,
    and at most 0.5 GiB of the longest URIs. Above it sessions that are not open are ended, the oldest first."""
    session_lifetime: float = 86_400.0
    """HTTP: how long a legacy session id is accepted. A client that is told 404 initializes again."""
    session_idle: float = 3600.0
    """HTTP: how long something is remembered of a legacy session that sends nothing."""
    stored_streams: int = 1024
    """HTTP: legacy streams whose events are kept for `Last-Event-ID`; about a thousand breaks at once."""
    stored_session_streams: int = 64
    """HTTP: streams kept of one session, the newest: one client must not displace what all others may need."""
    stored_events: int = 256
    """HTTP: events kept of one stream, the newest. Progress once a second makes 256 in four minutes."""
    stored_bytes: int = 64 * 1024 * 1024
    """HTTP: events kept of all streams together: a sixteenth of the memory of a small container."""
    stored_seconds: float = 300.0
    """HTTP: how long a stream is kept after its last event. Clients come back within seconds."""
    retry_ms: int = 1000
    """HTTP: when a client whose stream ends shall come back. A second is no burden and no wait."""
