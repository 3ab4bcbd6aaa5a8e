"""Drivers: how bytes travel. They attach the core to a transport, on asyncio and on trio, by anyio."""
