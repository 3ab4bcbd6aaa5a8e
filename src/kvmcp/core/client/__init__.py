"""The client's side of the core, the mirror of `kvmcp.core.session`: for a duplex channel, in both eras.

ClientConnection   framing and time around a session (stdio, TCP and Unix sockets)
ClientSession      one conversation: connect, request, listen, answer, reply, cancel; `take_events`
 ├─ opening        which era the server speaks
 ├─ calls          the requests that are open, `answers` what their results mean
 ├─ asked          what the server asks
 └─ notices        notifications and listens
ClientProfile      who the client is and what it offers; `ClientLimits`
"""
