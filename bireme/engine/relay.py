"""Between the event loop and worker threads: progress one way, an uploaded stream the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from bireme.image.model import Progress

Emit = Callable[[Mapping[str, Any]], None]
CHUNK = 1 << 20


class Relay:
    """Progress from a worker thread to `emit` in the event loop, in Docker's message shape."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._loop = asyncio.get_running_loop()

    def report(self, progress: Progress) -> None:
        message: dict[str, Any] = {"status": progress.action}
        if progress.id:
            message["id"] = progress.id
        if progress.total:
            message["progressDetail"] = {"current": progress.current, "total": progress.total}
        self._loop.call_soon_threadsafe(self._emit, message)


class Source:
    """A stream of the event loop as the blocking `read(n)` of a worker thread."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._loop = asyncio.get_running_loop()
        self._rest = b""

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end."""
        if not self._rest:
            self._rest = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    async def _next(self) -> bytes:
        """The next chunks joined: a hand-over between threads costs more than a copy."""
        parts, length = [], 0
        async for chunk in self._chunks:
            parts.append(chunk)
            length += len(chunk)
            if length >= CHUNK:
                break
        return b"".join(parts)
