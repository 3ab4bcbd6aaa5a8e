"""The table of what is offered as resources: URI templates with their documents, watches and suggestions; the list."""

from typing import Final

from kvmcp.core.items import ResourceListing, ResourceTemplate
from kvmcp.tools import completion, uris
from kvmcp.tools.documents import (
    JSON,
    LAST_MESSAGES,
    read_channel,
    read_field,
    read_key,
    read_session,
    read_stats,
)
from kvmcp.tools.listing import list_page

RESOURCES: Final = (
    ResourceTemplate(
        uri_template=uris.KEY,
        name="key",
        title="What a key holds",
        description="The JSON value of a key; for a list, hash, set, sorted set or stream a document with its type "
        "and elements. Subscribe to hear of every change, whoever makes it, and of its expiry.",
        mime_type=JSON,
        read=read_key,
        serves=uris.serves,
        watch=uris.watch_key,
        complete=completion.complete_resource,
    ),
    ResourceTemplate(
        uri_template=uris.FIELD,
        name="field",
        title="One field of a hash",
        description="The JSON value of one field. Subscribers hear of changes of any field of the hash.",
        mime_type=JSON,
        read=read_field,
        serves=uris.serves,
        watch=uris.watch_key,
        complete=completion.complete_resource,
    ),
    ResourceTemplate(
        uri_template=uris.SESSION,
        name="session",
        title="A session",
        description="The data of a session and the seconds it still lives. Subscribe to hear of updates and of its "
        "end.",
        mime_type=JSON,
        read=read_session,
        serves=uris.serves,
        watch=uris.watch_session,
        complete=completion.complete_resource,
    ),
    ResourceTemplate(
        uri_template=uris.CHANNEL,
        name="channel",
        title="A channel",
        description=f"The last {LAST_MESSAGES} messages of a channel, the oldest first, and the cursor from which "
        "redis_subscribe goes on. Subscribe to hear of new ones.",
        mime_type=JSON,
        read=read_channel,
        serves=uris.serves,
        watch=uris.watch_channel,
        complete=completion.complete_resource,
    ),
    ResourceTemplate(
        uri_template=uris.STATS,
        name="stats",
        title="How much there is",
        description="How many keys, sessions and channels the namespace has.",
        mime_type=JSON,
        read=read_stats,
        serves=uris.serves,
        watch=uris.watch_nothing,
        complete=completion.complete_resource,
    ),
    ResourceListing(list_page),
)
