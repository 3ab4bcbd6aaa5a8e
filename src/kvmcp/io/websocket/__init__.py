"""MCP over WebSocket (RFC 6455), both sides: one JSON-RPC message per text message, subprotocol `mcp`.

    frames ▸ upgrade ▸ server (a machine for `kvmcp.io.driver`)
       └──▸ client (for `kvmcp.core.client`) ▸ calling
    asgi  the same rules where an ASGI server speaks the protocol

HTTP/1.1 is parsed by h11, the protocol spoken by wsproto; nothing that they raise leaves this package.
"""
