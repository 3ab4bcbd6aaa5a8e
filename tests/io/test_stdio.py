"""The stdio transport on real descriptors: pipes, sockets, files; and what it does to descriptors 0 and 1."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from kvmcp.io.stdio import CHUNK, StdioTransport
from tests.patience import PATIENCE

pytestmark = pytest.mark.anyio


def transport_on(channel: tuple[int, int]) -> StdioTransport:
    reader, writer = channel
    return StdioTransport(reader, writer, nonblocking=not os.get_blocking(writer))


async def send_all(transport: StdioTransport, data: bytes) -> None:
    while data:
        data = data[await transport.send_some(data) :]


@pytest.fixture(params=["pipe", "reopened pipe", "socket"])
def channel(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """A readable and a writable descriptor of one channel, as Python (pipes) and Node (sockets) give them."""
    if request.param != "socket":
        reader, writer = os.pipe()
        os.set_blocking(writer, request.param == "pipe")
    else:
        a, b = socket.socketpair()
        reader, writer = a.detach(), b.detach()
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            pass


async def test_chunks_arrive_and_the_end_is_empty(channel: tuple[int, int]) -> None:
    _, writer = channel
    transport = transport_on(channel)
    await transport.send_some(b"hello")
    assert await transport.receive() == b"hello"
    os.close(writer)
    assert await transport.receive() == b""


async def test_a_receive_waits_and_lets_others_run(channel: tuple[int, int]) -> None:
    _, writer = channel
    transport = transport_on(channel)
    received: list[bytes] = []

    async def receive() -> None:
        received.append(await transport.receive())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        assert received == []
        os.write(writer, b"late")
    assert received == [b"late"]


async def test_more_than_the_channel_holds_waits_for_the_reader(channel: tuple[int, int]) -> None:
    transport = transport_on(channel)
    data = os.urandom(4 * 1024 * 1024)
    received = bytearray()

    async def drain() -> None:
        while len(received) < len(data):
            received.extend(await transport.receive())

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_all, transport, data)
            await anyio.wait_all_tasks_blocked()
            assert not received, "the writer waits, and so does nobody else"
            tasks.start_soon(drain)
    assert received == data


async def test_a_cancelled_send_leaves_the_loop_alive(channel: tuple[int, int]) -> None:
    transport = transport_on(channel)
    with anyio.move_on_after(0) as scope:
        await send_all(transport, bytes(8 * 1024 * 1024))
    assert scope.cancelled_caught
    assert len(await transport.receive()) > 0


async def test_o_nonblock_of_the_parent_is_neither_set_nor_needed(channel: tuple[int, int]) -> None:
    reader, writer = channel
    flags = [fcntl.fcntl(descriptor, fcntl.F_GETFL) for descriptor in channel]
    transport = StdioTransport(reader, writer)
    await transport.send_some(b"x")
    await transport.receive()
    assert [fcntl.fcntl(descriptor, fcntl.F_GETFL) for descriptor in channel] == flags

    for descriptor in channel:
        os.set_blocking(descriptor, False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send_all, transport, bytes(1024 * 1024))
        left = 1024 * 1024
        while left:
            left -= len(await transport.receive())


async def test_a_reader_that_is_gone_raises_oserror() -> None:
    reader, writer = os.pipe()
    transport = StdioTransport(reader, writer)
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        await transport.send_some(b"x")
    os.close(writer)


async def test_files_can_stand_for_pipes(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(bytes(CHUNK + 1))
    reader = os.open(source, os.O_RDONLY)
    writer = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    transport = StdioTransport(reader, writer)
    assert [len(await transport.receive()) for _ in range(3)] == [CHUNK, 1, 0]
    await send_all(transport, bytes(100_000))
    assert (tmp_path / "out").stat().st_size == 100_000
    os.close(reader)
    os.close(writer)


async def test_a_pipe_that_takes_nothing_now_is_not_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    transport = StdioTransport(reader, writer, nonblocking=True)
    written = transport.send_now(bytes(1024 * 1024))
    assert 0 < written < 1024 * 1024
    assert transport.send_now(b"x") == 0
    while written:
        written -= len(await transport.receive())
    assert transport.send_now(b"x") == 1
    os.close(reader)
    os.close(writer)


CLAIM = """
import os, subprocess, sys
from kvmcp.io.stdio import claim_stdio
with claim_stdio() as transport:
    print("a stray print", flush=True)
    subprocess.run(["sh", "-c", "echo from a child; cat"], check=True)
    os.write(transport._writer, b"a message\\n")
print("after", flush=True)
"""


def test_only_messages_reach_standard_output() -> None:
    run = subprocess.run(
        [sys.executable, "-c", CLAIM], input=b"input for the server only", capture_output=True, check=True
    )
    assert run.stdout == b"a message\nafter\n"
    assert run.stderr == b"a stray print\nfrom a child\n"


TALK = """
import sys
import anyio
from kvmcp.io.stdio import claim_stdio
from tests.patience import PATIENCE

async def main():
    with claim_stdio() as transport:
        data = await transport.receive() * 200_000
        while data:
            data = data[await transport.send_some(data):]
        await transport.receive()

anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_flags_of_inherited_pipes_stay_while_much_is_written(loop: str) -> None:
    (input_reader, input_writer), (output_reader, output_writer) = os.pipe(), os.pipe()
    child = subprocess.Popen([sys.executable, "-c", TALK, loop], stdin=input_reader, stdout=output_writer)
    os.write(input_writer, b"hello")
    left = 5 * 200_000
    while left:
        left -= len(os.read(output_reader, CHUNK))
        assert os.get_blocking(output_writer) and os.get_blocking(input_reader)
    os.close(input_writer)
    assert child.wait(20) == 0
    for descriptor in (input_reader, output_reader, output_writer):
        os.close(descriptor)
