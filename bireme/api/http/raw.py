"""A connection that was taken over: bytes in both directions, each of which may end before the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

HIGH_WATER_BYTES = 128 << 10


class Wire(Protocol):
    """The connection underneath."""

    def raw_write(self, data: bytes) -> None: ...

    def raw_write_eof(self) -> None: ...

    def raw_paused(self, paused: bool) -> None: ...

    async def drain(self) -> None: ...


class RawStream:
    """What a Hijack handler reads and writes.

    Reading: `read` gives the bytes as they come, those sent early included, and b"" for ever after the client's
    half-close. Writing: `send` waits while the client does not read. `gone` once the client is away altogether; `send`
    and `drain` then raise ConnectionResetError, `read` gives what it had sent before, and `when_gone` was called.
    """

    __slots__ = ("_chunks", "_eof", "_paused", "_size", "_waiter", "_wire", "gone", "when_gone")

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._eof = False
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self.gone = False
        self.when_gone: Callable[[], None] | None = None

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._wire.raw_paused(True)
        self._wake()

    def feed_eof(self) -> None:
        self._eof = True
        self._wake()

    def lose(self) -> None:
        self._eof = True
        self._wake()
        if not self.gone:
            self.gone = True
            if self.when_gone is not None:
                self.when_gone()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def read(self) -> bytes:
        while not self._chunks:
            if self._eof:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = self._chunks.popleft()
        self._size -= len(data)
        if self._paused and self._size < HIGH_WATER_BYTES // 2:
            self._paused = False
            self._wire.raw_paused(False)
        return data

    def write(self, data: bytes) -> None:
        """Send without waiting; the caller drains."""
        self._wire.raw_write(data)

    async def drain(self) -> None:
        """Wait until the client has read enough of what was written."""
        await self._wire.drain()

    async def send(self, data: bytes) -> None:
        self._wire.raw_write(data)
        await self._wire.drain()

    def write_eof(self) -> None:
        """Tell the client that nothing follows; reading goes on."""
        self._wire.raw_write_eof()
