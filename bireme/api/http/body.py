"""The body of a request while it arrives: bounded when read whole, with back-pressure when read in chunks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

from bireme.api.http.message import HttpProblem

HIGH_WATER_BYTES = 256 << 10
LOW_WATER_BYTES = 64 << 10


class Source(Protocol):
    """The connection as the body sees it."""

    def body_wanted(self, whole: bool) -> None:
        """Somebody waits for body bytes: answer `Expect: 100-continue`, start the clock for a slow client."""
        ...

    def body_arrived(self) -> None:
        """Bytes came: the clock of an idle client stops."""
        ...

    def body_paused(self, paused: bool) -> None:
        """Stop or go on reading from the client."""
        ...


class BodyLost(HttpProblem):
    """The client went away, broke the framing, or was too slow, before the body was complete."""


class Body:
    """Filled by the connection, drained by one handler. `length` is the announced one, -1 when chunked."""

    __slots__ = ("_chunks", "_complete", "_error", "_paused", "_size", "_source", "_waiter", "length")

    def __init__(self, source: Source, length: int) -> None:
        self.length = length
        self._source = source
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._complete = length == 0
        self._error: HttpProblem | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False

    @property
    def complete(self) -> bool:
        """Everything has arrived (not necessarily been read)."""
        return self._complete

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._source.body_paused(True)
        self._wake()

    def finish(self) -> None:
        self._complete = True
        self._wake()

    def fail(self, error: HttpProblem) -> None:
        if not self._complete and self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def take(self, limit_bytes: int) -> bytes:
        """The whole body when it has arrived completely."""
        if self._size > limit_bytes:
            raise HttpProblem(413, f"request body is larger than {limit_bytes} bytes")
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._size = 0
        self._flow()
        return data

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body; HttpProblem(413) past the limit, BodyLost when it never completes."""
        if self.length > limit_bytes:
            raise HttpProblem(413, f"request body is larger than {limit_bytes} bytes")
        parts: list[bytes] = []
        size = 0
        while True:
            size += self._size
            if size > limit_bytes:
                raise HttpProblem(413, f"request body is larger than {limit_bytes} bytes")
            parts.append(self.take(limit_bytes))
            if self._complete:
                return parts[0] if len(parts) == 1 else b"".join(parts)
            await self._wait(whole=True)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; reading slowly slows the client down."""
        while True:
            while self._chunks:
                data = self._chunks.popleft()
                self._size -= len(data)
                self._flow()
                yield data
            if self._complete:
                return
            await self._wait(whole=False)

    def _flow(self) -> None:
        if self._paused and self._size <= LOW_WATER_BYTES:
            self._paused = False
            self._source.body_paused(False)

    async def _wait(self, whole: bool) -> None:
        self._raise_lost()
        self._waiter = asyncio.get_running_loop().create_future()
        self._source.body_wanted(whole)
        try:
            await self._waiter
        finally:
            self._waiter = None
        if not whole:
            self._source.body_arrived()
        if not self._chunks:
            self._raise_lost()

    def _raise_lost(self) -> None:
        if self._error is not None:
            raise self._error
