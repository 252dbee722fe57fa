"""What happened, in order: a bounded history and live subscribers.

A subscriber that does not read is cut off rather than waited for; it sees its stream end.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping

import msgspec

HISTORY = 256
BACKLOG = 4096


class Event(msgspec.Struct, frozen=True):
    """One thing that happened to `id`: `type` is container, image, network, ..."""

    type: str
    action: str
    id: str
    attributes: dict[str, str]
    time_ns: int


class Events:
    """Publish to everybody, remember the last few for `since`."""

    def __init__(self) -> None:
        self._history: deque[Event] = deque(maxlen=HISTORY)
        self._subscribers: set[asyncio.Queue[Event | None]] = set()

    def publish(self, kind: str, action: str, identity: str, attributes: Mapping[str, str]) -> None:
        event = Event(kind, action, identity, dict(attributes), time.time_ns())
        self._history.append(event)
        for queue in list(self._subscribers):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._cut(queue)

    def _cut(self, queue: asyncio.Queue[Event | None]) -> None:
        self._subscribers.discard(queue)
        queue.get_nowait()
        queue.put_nowait(None)

    def subscribe(self, since_ns: int | None = None, until_ns: int | None = None) -> AsyncIterator[Event]:
        """Events after `since_ns` from the history, then live ones until `until_ns`; registered at once."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(BACKLOG)
        past = [e for e in self._history if since_ns is not None and e.time_ns >= since_ns]
        self._subscribers.add(queue)
        return self._stream(queue, past, until_ns)

    async def _stream(
        self, queue: asyncio.Queue[Event | None], past: list[Event], until_ns: int | None
    ) -> AsyncIterator[Event]:
        try:
            for event in past:
                if until_ns is None or event.time_ns <= until_ns:
                    yield event
            while (event_ := await _next(queue, until_ns)) is not None:
                yield event_
        finally:
            self._subscribers.discard(queue)


async def _next(queue: asyncio.Queue[Event | None], until_ns: int | None) -> Event | None:
    if until_ns is None:
        return await queue.get()
    left = (until_ns - time.time_ns()) / 1e9
    if left <= 0:
        return queue.get_nowait() if not queue.empty() else None
    try:
        return await asyncio.wait_for(queue.get(), left)
    except TimeoutError:
        return None
