"""Streamable HTTP as a pure machine: heads and bodies of requests in, heads and bodies of responses out.

    messages ─ header_values ─ sse            values, and how they are written
    headers ─ agreement ─ admission           what the headers say, whether the body agrees, of which era a POST is
    interests                                 who wants to hear of what
    session_ids ─ streams ─ sessions          what outlives one request, in the legacy era
    relays ─ shared ─ shared_events           what processes that serve the same clients tell and keep in common
    answers ─ legacy_answers                  one response, from the first byte to the last
    remote_streams ─ remote_tasks             responses about what another process runs
    legacy_requests                           messages that find their session, and the process that waits for them
    plain_calls                               the short way of most requests, until something happens to them
    exchange ─ server                         what a driver holds
    guard ─ heads                             who may talk to us at all: Host, Origin, CORS; heads that were read before
    old_sse                                   HTTP+SSE of 2024-11-05

A driver turns each request into inputs, and each input into a turn:

    verdict = guard.check(request)                       Turned: write its parts, and that was all
    exchange = server.open(request, caller, now)
    exchange.receive_body(chunk, now) … end_of_body(now)
    turn:  run exchange.take_commands(), write exchange.take_parts(), again while exchange.wants_turn
    then:  run server.take_commands() (tasks), give a turn to each of server.take_woken(), until there is neither;
           set timers to exchange.next_deadline() and server.next_deadline()
    until exchange.closed, also when the connection is lost (exchange.disconnected(now))

Where heads are remembered (`heads.Heads`), that gives the verdict, and `server.open_read` takes the head; a body that
is there as a whole goes into `exchange.receive_all`. After a turn that leaves `exchange.is_alone` true, nobody else has
anything to do.

Every input ends so: one to an exchange, and one to the server (publish, complete, tell, receive_relay,
handle_timeout, begin_shutdown). A driver stops reading a body when `exchange.wants_input` says no.

Several processes that serve the same clients (`HttpServer(…, replicated=True)`, the same sealing key in all) need
a store of JSON texts with expiry, and a channel that all of them hear. Then every turn also ends with
`server.take_records()`, whose commands are carried out in order,

    KeepRecord(key, value, seconds)    store `value` under `key` for so long
    DropRecords(keys)                  remove them
    LoadRecords(ticket, keys)          read them: server.complete(ticket, [value or None, …], now), or BatchFailed()

and with `server.take_relays()`, JSON texts for the channel: sent in order, behind the records that were taken with
them. Whatever comes from the channel, its own included, goes into `server.receive_relay(data, now)`. Records and
relays are sealed and bounded; keys are visible ASCII, below 128 characters. Losing some is no fault: what a relay
brings is made good by records within `Limits.keep_alive`, but for answers and cancellations, which time out.

No framework: a driver feeds `HttpExchange` and writes what it takes, as it does with a session.
"""
