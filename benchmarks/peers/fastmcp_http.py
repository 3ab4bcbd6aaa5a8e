"""The server of `fastmcp_server.py` over Streamable HTTP, for `benchmarks/http.py`; as `sdk_http.py`."""

import sys

if __name__ == "__main__":
    port = int(sys.argv.pop(1))  # Before the store looks for its URL.
    from benchmarks.peers.fastmcp_server import new_server

    new_server().run(
        transport="http",
        port=port,
        stateless_http=True,
        json_response=True,
        show_banner=False,
        log_level="WARNING",
    )
