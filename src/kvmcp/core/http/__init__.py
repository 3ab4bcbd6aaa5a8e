"""Streamable HTTP as a pure machine: heads and bodies of requests in, heads and bodies of responses out.

    messages ─ header_values ─ sse            values, and how they are written
    headers ─ agreement ─ admission           what the headers say, whether the body agrees, of which era a POST is
    session_ids ─ streams ─ sessions          what outlives one request, in the legacy era
    answers ─ legacy_answers                  one response, from the first byte to the last
    relays ─ legacy_requests                  messages that find their session, and the process that waits for them
    exchange ─ server                         what a driver holds
    guard                                     who may talk to us at all: Host, Origin, CORS
    old_sse                                   HTTP+SSE of 2024-11-05

A driver turns each request into inputs, and each input into a turn:

    verdict = guard.check(request)                       Turned: write its parts, and that was all
    exchange = server.open(request, caller, now)
    exchange.receive_body(chunk, now) … end_of_body(now)
    turn:  run exchange.take_commands(), write exchange.take_parts(), again while exchange.wants_turn
    then:  run server.take_commands() (tasks), give a turn to each of server.take_woken(), pass on
           server.take_relays(); set timers to exchange.next_deadline() and server.next_deadline()
    until exchange.closed, also when the connection is lost (exchange.disconnected(now))

No framework: a driver feeds `HttpExchange` and writes what it takes, as it does with a session.
"""
