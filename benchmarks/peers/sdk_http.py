"""The server of `sdk_server.py` over Streamable HTTP, for `benchmarks/http.py`.

As the SDK runs it itself, under uvicorn with what that brings by default, in its fastest mode: no sessions, one JSON
body per answer. Arguments: the port, and the URL of the Redis that is to hold the values, if it is not a dict.
"""

import sys

if __name__ == "__main__":
    port = int(sys.argv.pop(1))  # Before the store looks for its URL.
    from benchmarks.peers.sdk_server import new_server

    new_server().run(transport="streamable-http", port=port, stateless_http=True, json_response=True)
