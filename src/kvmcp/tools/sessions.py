"""Sessions: working state under a handle that the server mints, with a life of its own.

A session is a hash in a space of its own (`KIND_SESSION`), so no tool for keys sees it. Each top-level field of its
data is a field of the hash, which is why concurrent updates lose nothing; what the session itself has to remember
has names that no field of the data can have.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.backends.ops import (
    KIND_SESSION,
    MAX_FIELD_BYTES,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Delete,
    Exists,
    Expire,
    HashExpire,
    HashGetAll,
    HashSet,
    KeyExists,
    KeyIs,
    NsKey,
    Reply,
    Ttl,
    TtlReply,
    Unmet,
)
from kvmcp.core.plan import Context
from kvmcp.tools.answers import (
    CONFLICT,
    SESSION_NOT_FOUND,
    TOO_LARGE,
    Fault,
    Rendered,
    Shown,
    encode,
    of_type,
)
from kvmcp.tools.definition import CREATE, OVERWRITE, READ, Call, DryRun, Reader, Row, Step, tool
from kvmcp.tools.hashes import members_of, object_of
from kvmcp.tools.keys import Detail, Seconds, key_fault, stored_value, text_fault
from kvmcp.tools.keyspace import GoneReader, GoneResult
from kvmcp.tools.room import FRAME, Truncated, fits, members_that_fit, named
from kvmcp.tools.strings import seconds_left
from kvmcp.tools.uris import SESSION, link
from kvmcp.tools.wall import iso

MAX_SESSION_FIELDS: Final = 500
"""Top-level fields of one create or update: well below what a store takes in one operation."""
_DATA: Final = "."
"""Before the names of the data's fields in the hash; the names below have none."""
_TTL: Final = "ttl"
"""Seconds that the session was made for, by which an update prolongs it."""
_CREATED: Final = "created"
"""Unix time in seconds."""

SessionId: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1, max_length=MAX_KEY_BYTES, description="The `session_id` that redis_session_create gave."
    ),
]
Data: TypeAlias = dict[str, Raw]

NOT_FOUND: Final = Fault(
    SESSION_NOT_FOUND,
    "there is no session of this session_id: it has expired or was deleted, or the id is not complete; begin a new one "
    "with redis_session_create and keep the session_id that it gives",
)


def data_of(members: Iterable[tuple[str, bytes]]) -> tuple[tuple[str, bytes], ...]:
    """The data of a session, out of the fields of its hash."""
    return tuple((name.removeprefix(_DATA), value) for name, value in members if name.startswith(_DATA))


class SessionResult(Struct, frozen=True):
    session_id: str
    data: Annotated[dict[str, Raw], Meta(description="The session's data, all fields.")]
    ttl: Annotated[int, Meta(ge=0, description="Seconds until it expires, unless an update prolongs it.")]
    created_at: Annotated[str, Meta(description="Detailed: when it was made.")] | UnsetType = UNSET
    size: Annotated[int, Meta(description="Detailed: how many fields there are.")] | UnsetType = UNSET
    truncated: Truncated = UNSET


class SessionReader(Reader, frozen=True):
    """Reads a session out of the last two replies: its hash, its time to live.

    For a dry run `changes` are not stored yet, and where `prolonged` its time to live has not begun anew yet.
    """

    session_id: str
    detailed: bool = False
    changes: tuple[tuple[str, bytes], ...] = ()
    prolonged: bool = False

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        members, ttl = members_of(replies[-2]), of_type(replies[-1], TtlReply)
        if not members:
            return NOT_FOUND
        more = b',"ttl":%d' % (int(dict(members)[_TTL]) if self.prolonged else seconds_left(ttl) or 0)
        data = tuple(dict(data_of((*members, *self.changes))).items())
        if self.detailed:
            created = iso(msgspec.json.decode(dict(members)[_CREATED], type=float))
            more += b',"created_at":%b,"size":%d' % (encode(created), len(data))
        return self._fitted(data, more, context, room)

    def _fitted(
        self, data: Sequence[tuple[str, bytes]], more: bytes, context: Context, room: int
    ) -> Rendered:
        id = encode(self.session_id)
        json = b'{"session_id":%b,"data":%b%b}' % (id, object_of(data), more)
        if fits(json, room):
            return json
        kept, missing = members_that_fit(data, room - FRAME - len(id))
        problem = (
            f"{len(missing)} of {len(data)} fields are left out, for all are too long for one result: "
            f"{named(missing)}; read the resource linked here"
        )
        json = b'{"session_id":%b,"data":%b%b,"truncated":%b}' % (
            id,
            object_of(kept.items()),
            more,
            encode(problem),
        )
        return Shown(json, (link(SESSION, context, id=self.session_id),))

    def unmet(self, unmet: Unmet) -> Rendered:
        return NOT_FOUND


def session_key(session_id: str, call: Call) -> NsKey | Fault:
    return key_fault(session_id) or call.namespace.key(session_id, KIND_SESSION)


def _fields(data: Mapping[str, Raw]) -> tuple[tuple[str, bytes], ...] | Fault:
    """The data as fields of the hash."""
    if len(data) > MAX_SESSION_FIELDS:
        problem = (
            f"`data` with {len(data)} fields, limit is {MAX_SESSION_FIELDS}; put some together in an object"
        )
        return Fault(TOO_LARGE, problem)
    fields: list[tuple[str, bytes]] = []
    for name, raw in data.items():
        fault = text_fault("the name of a field of `data`", name, MAX_FIELD_BYTES - len(_DATA))
        value = fault or stored_value(raw, "a field of `data`")
        if isinstance(value, Fault):
            return value
        fields.append((_DATA + name, value))
    if (size := sum(len(value) for _, value in fields)) > MAX_VALUE_BYTES:
        return Fault(
            TOO_LARGE, f"`data` of {size} bytes of JSON, limit is {MAX_VALUE_BYTES}; send it in parts"
        )
    return tuple(fields)


# --- redis_session_create ---


class CreateArguments(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=MAX_KEY_BYTES,
                description="Leave out: the server makes one that nobody can guess. One that exists is a CONFLICT.",
            ),
        ]
        | UnsetType
    ) = UNSET
    data: Annotated[Data, Meta(description='What to begin with, for example {"goal": "book a flight"}.')] = {}
    ttl: Annotated[Seconds, Meta(description="Seconds until it expires if nothing updates it.")] = 3600
    dry_run: DryRun = False


class CreateResult(Struct, frozen=True):
    session_id: Annotated[str, Meta(description="Keep it: it is the only way to the session.")]
    ttl: Annotated[int, Meta(ge=1, description="Seconds until it expires.")]
    expires_at: Annotated[str, Meta(description="When that is, in UTC.")]


class NewSession(Reader, frozen=True):
    session_id: str
    ttl: int
    expires_at: str

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return CreateResult(self.session_id, self.ttl, self.expires_at)

    def unmet(self, unmet: Unmet) -> Rendered:
        return Fault(
            CONFLICT,
            "a session of this session_id exists already and was left alone; leave session_id out to get a new one, or "
            "go on with the old one by redis_session_get and redis_session_update",
        )


def step_create(arguments: CreateArguments, call: Call) -> Step | Fault:
    chosen = arguments.session_id
    session_id = call.environment.token() if chosen is UNSET else chosen
    key, fields, now = session_key(session_id, call), _fields(arguments.data), call.environment.wall()
    if isinstance(key, Fault):
        return key
    if isinstance(fields, Fault):
        return fields
    reader = NewSession(session_id, arguments.ttl, iso(now + arguments.ttl))
    is_free = (KeyIs(key, None),)
    if arguments.dry_run:
        return Step((Exists((key,)),), reader, is_free)
    own = ((_TTL, b"%d" % arguments.ttl), (_CREATED, b"%d" % int(now)))
    return Step((HashSet(key, (*own, *fields)), Expire(key, arguments.ttl * 1000)), reader, is_free)


# --- redis_session_get ---


class SessionGetArguments(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    detail: Detail = "concise"


def step_session_get(arguments: SessionGetArguments, call: Call) -> Step | Fault:
    key = session_key(arguments.session_id, call)
    if isinstance(key, Fault):
        return key
    return Step(
        (HashGetAll(key), Ttl(key)), SessionReader(arguments.session_id, arguments.detail == "detailed")
    )


# --- redis_session_update ---


class UpdateArguments(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    data: Annotated[
        Data,
        Meta(
            description="Fields to write; the others stay as they are. A field is replaced as a whole, null is a value."
        ),
    ]
    extend_ttl: Annotated[bool, Meta(description="Whether its full time to live begins anew.")] = True
    dry_run: DryRun = False


def step_update(arguments: UpdateArguments, call: Call) -> Step | Fault:
    key, fields = session_key(arguments.session_id, call), _fields(arguments.data)
    if isinstance(key, Fault):
        return key
    if isinstance(fields, Fault):
        return fields
    there = (KeyExists(key),)
    if arguments.dry_run:
        reader = SessionReader(arguments.session_id, changes=fields, prolonged=arguments.extend_ttl)
        return Step((HashGetAll(key), Ttl(key)), reader, there)
    write = (HashSet(key, fields),) if fields else ()
    prolong = (HashExpire(key, _TTL),) if arguments.extend_ttl else ()
    ops = (*write, *prolong, HashGetAll(key), Ttl(key))
    return Step(ops, SessionReader(arguments.session_id), there)


# --- redis_session_delete ---


class SessionDeleteArguments(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    dry_run: DryRun = False


def step_session_delete(arguments: SessionDeleteArguments, call: Call) -> Step | Fault:
    key = session_key(arguments.session_id, call)
    if isinstance(key, Fault):
        return key
    return Step((Exists((key,)) if arguments.dry_run else Delete((key,)),), GoneReader())


SESSIONS: Final[tuple[Row, ...]] = (
    tool(
        "redis_session_create", CreateArguments, CreateResult, step=step_create, hints=CREATE,
        title="Begin a session",
        description="Begin a session: working state that lives outside of all keys, under a handle that nobody can "
        "guess, until its ttl is over. Use it for what a conversation or a task must remember or hand over. Gives "
        '`session_id`, `ttl` and `expires_at`. Example: {"data": {"goal": "book a flight"}, "ttl": 7200}.',
    ),
    tool(
        "redis_session_get", SessionGetArguments, SessionResult, step=step_session_get, hints=READ,
        title="Read a session",
        description="Read the data of a session and the seconds that it still lives; reading does not prolong it. "
        'SESSION_NOT_FOUND when it has expired. Example: {"session_id": "…"}.',
    ),
    tool(
        "redis_session_update", UpdateArguments, SessionResult, step=step_update, hints=OVERWRITE,
        title="Update a session",
        description="Write fields of a session's data and prolong its life; fields that are not named stay, and "
        "concurrent updates of different fields lose nothing. Gives the whole `data` and the `ttl`. "
        'Example: {"session_id": "…", "data": {"step": 2}}.',
    ),
    tool(
        "redis_session_delete", SessionDeleteArguments, GoneResult, step=step_session_delete, hints=OVERWRITE,
        title="End a session",
        description="Delete a session with its data, for good, when its work is done. Gives `deleted: false` when it "
        'had expired already. Example: {"session_id": "…"}.',
    ),
)  # fmt: skip
"""The tools for sessions, in the order in which they are listed."""
