"""A taken-over connection joined to the streams of an instance or an exec.

Output goes on until its end; the client's end of input is passed on. The session is over when the output ends, when the
client is gone, or when it typed the detach keys. An exec outlives its session: its output is then read and dropped, so
that the process inside does not notice.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

from bireme.api.docker.descriptors import Sink, Source
from bireme.api.docker.detach import KeyWatcher
from bireme.engine.tasks import TaskGroup
from bireme.wire.stdcopy import header


class Connected(Protocol):
    """The client's connection: a RawStream, or a websocket that behaves as one."""

    when_gone: Callable[[], None] | None

    @property
    def gone(self) -> bool: ...
    async def read(self) -> bytes: ...
    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    async def send(self, data: bytes) -> None: ...


OpenSink = Callable[[], Awaitable[Sink | None]]


class Output:
    """One source of output; `stream` is the frame's number, None to send bytes as they are. Muted: only read."""

    __slots__ = ("muted", "source", "stream")

    def __init__(self, source: Source, stream: int | None, *, muted: bool = False) -> None:
        self.source = source
        self.stream = stream
        self.muted = muted

    async def copy(self, raw: Connected) -> None:
        read, stream = self.source.read, self.stream
        try:
            while data := await read():
                if self.muted:
                    continue
                raw.write(data if stream is None else header(stream, len(data)) + data)
                try:
                    await raw.drain()
                except ConnectionResetError:
                    self.muted = True
        finally:
            self.source.close()


class Input:
    """The client's direction. `at_end` runs when it ended its input; `keys` are looked for when given."""

    __slots__ = ("at_end", "keys", "open_sink")

    def __init__(self, open_sink: OpenSink, at_end: Callable[[], Awaitable[None]], keys: KeyWatcher | None) -> None:
        self.open_sink = open_sink
        self.at_end = at_end
        self.keys = keys

    async def copy(self, raw: Connected) -> None:
        sink = await self.open_sink()
        if sink is None:
            return
        keys = self.keys
        try:
            while data := await raw.read():
                if keys is not None:
                    data = keys.feed(data)
                if data and not await sink.write(data):
                    return
                if keys is not None and keys.detached:
                    return
        finally:
            sink.close()
        await self.at_end()


class Session:
    """Runs both directions. `ends_with_input`: the client's end of input ends the session too; `outlived`: what runs
    goes on without the session, its output is read to the end."""

    def __init__(
        self,
        tasks: TaskGroup,
        outputs: Sequence[Output],
        given: Input | None,
        *,
        outlived: bool = False,
        ends_with_input: bool = False,
    ) -> None:
        self._tasks = tasks
        self._outputs = outputs
        self._input = given
        self._outlived = outlived
        self._ends_with_input = ends_with_input or not outputs
        self._left = len(outputs)
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def detached(self) -> bool:
        return self._input is not None and self._input.keys is not None and self._input.keys.detached

    @property
    def reads(self) -> bool:
        """Whether what the client sends is wanted."""
        return self._input is not None

    async def run(self, raw: Connected, before: AsyncIterator[bytes] | None = None) -> None:
        """Serve until the end; `before` is sent first."""
        raw.when_gone = self.leave
        if raw.gone:
            self.leave()
        task = self._tasks.spawn(self._copy_input(raw), "stdin") if self._input is not None else None
        try:
            if before is not None:
                async for data in before:
                    await raw.send(data)
            for output in self._outputs:
                self._tasks.spawn(output.copy(raw), "output").add_done_callback(self._output_ended)
            if self._outputs or task is not None:
                await self._ended
        finally:
            if task is not None:
                task.cancel()
            self.leave()

    def _output_ended(self, _: asyncio.Future[None]) -> None:
        self._left -= 1
        if not self._left:
            self.leave()

    async def _copy_input(self, raw: Connected) -> None:
        assert self._input is not None
        await self._input.copy(raw)
        if self.detached or self._ends_with_input:
            self.leave()

    def leave(self) -> None:
        """End the session: what goes on without it is muted, the rest closed."""
        for output in self._outputs:
            output.muted = True
            if not self._outlived:
                output.source.close()
        if not self._ended.done():
            self._ended.set_result(None)


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)
