"""Streamable HTTP as a pure machine: heads and bodies of requests in, heads and bodies of responses out.

    messages ─ header_values ─ sse            values, and how they are written
    headers ─ agreement                       what the headers of a modern request say, and whether the body agrees
    admission                                 which era a POST is of, or why it is refused
    session_ids ─ streams ─ sessions          what outlives one request, in the legacy era
    answers ─ legacy_answers                  one response, from the first byte to the last
    exchange ─ server                         what a driver holds
    guard                                     who may talk to us at all: Host, Origin, CORS

No framework: a driver feeds `HttpExchange` and writes what it takes, as it does with a session.
"""
