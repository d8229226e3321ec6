"""A TCP proxy that injects faults: slow, stalled, cut or refused connections."""

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Stream]]


class Proxies:
    """The event loop of all proxies, in its own thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._made: list[FaultProxy] = []

    def to_port(self, port: int) -> "FaultProxy":
        return self._start(lambda: asyncio.open_connection("127.0.0.1", port))

    def to_socket(self, path: str) -> "FaultProxy":
        return self._start(lambda: asyncio.open_unix_connection(path))

    def heal(self) -> None:
        for proxy in self._made:
            proxy.heal()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        for proxy in self._made:
            await proxy.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _start(self, connect: Connect) -> "FaultProxy":
        proxy = FaultProxy(self._loop, connect)
        asyncio.run_coroutine_threadsafe(proxy.listen(), self._loop).result(5)
        self._made.append(proxy)
        return proxy


class FaultProxy:
    """Listens on `port` and forwards to another address."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connect: Connect):
        self.port = 0
        self._loop, self._connect = loop, connect
        self._latency, self._refusing = 0.0, False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._open: set[asyncio.StreamWriter] = set()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        self._cut()
        await self._server.wait_closed()

    def slow(self, seconds: float) -> None:
        """Delay each piece of data by `seconds`."""
        self._latency = seconds

    def stall(self) -> None:
        """Forward nothing, and keep connections open."""
        self._do(self._flowing.clear)

    def refuse(self) -> None:
        """Reset every new connection."""
        self._refusing = True

    def cut(self) -> None:
        """Reset every connection that is open."""
        self._do(self._cut)

    def heal(self) -> None:
        self._latency, self._refusing = 0.0, False
        self._do(self._flowing.set)

    def _do(self, change: Callable[[], Any]) -> None:
        self._loop.call_soon_threadsafe(change)

    def _cut(self) -> None:
        for writer in list(self._open):
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        if self._refusing:
            _reset(writer)
            return
        try:
            there, back = await self._connect()
        except OSError:
            _reset(writer)
            return
        both = {writer, back}
        self._open |= both
        try:
            await asyncio.gather(self._pipe(reader, back), self._pipe(there, writer))
        finally:
            self._open -= both
            for end in both:
                end.close()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self._latency:
                    await asyncio.sleep(self._latency)
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset, as when the other machine has restarted."""
    transport: Any = writer.transport
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_INET:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
