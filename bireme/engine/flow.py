"""A worker and one pipe, as the event loop sees them: the worker runs in a thread of its own (those that wait for slow
clients must not use up the ones that everybody shares), the pipe is read and written when it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from bireme.linux.fd import close_quietly
from bireme.storage.files import Task

_CHUNK = 1 << 20

Release = Callable[[], Awaitable[None]]


class Run:
    """One worker under way; `started` and `done` are futures for what it tells first and for its answer."""

    def __init__(self, task: Task) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = task
        self.started: asyncio.Future[Any] = self._loop.create_future()
        self.done: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self.done.add_done_callback(self._ended)
        threading.Thread(target=self._work, name="files", daemon=True).start()

    def _work(self) -> None:
        try:
            answer = self._task.run(lambda words: self._tell(_resolve, self.started, words))
        except BaseException as error:
            self._tell(_reject, self.done, error)
        else:
            self._tell(_resolve, self.done, answer)

    def _tell(self, how: Callable[..., None], future: asyncio.Future[Any], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(how, future, value)

    def _ended(self, done: asyncio.Future[dict[str, Any]]) -> None:
        close_quietly(*self._task.descriptors)
        error = done.exception()
        if self.started.done():
            return
        if error is not None:
            self.started.set_exception(error)
            self.started.exception()
        else:
            self.started.set_result(None)


def _resolve(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


def _reject(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


class Reading:
    """What a worker writes, as an iterator of chunks that ends with the worker's own error if it had one.

    `aclose` may come at any time, also before the first chunk: the worker ends at its next write. `release` is awaited
    once, at the end.
    """

    def __init__(self, task: Task, release: Release) -> None:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self._fd = reader
        self._release: Release | None = release
        self.run = Run(task.with_stream("output", writer))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while self._fd >= 0:
            try:
                data = os.read(self._fd, _CHUNK)
            except BlockingIOError:
                await _ready(self._fd, write=False)
                continue
            if data:
                return data
            try:
                await self.run.done
            finally:
                await self.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        close_quietly(self._fd)
        self._fd = -1
        release, self._release = self._release, None
        if release is not None:
            await asyncio.wait([self.run.done])
            self.run.done.exception()
            await release()


async def feed(task: Task, chunks: AsyncIterator[bytes]) -> dict[str, Any]:
    """Run a worker that reads `chunks`; its answer. What ends the chunks early ends the worker's input."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    run = Run(task.with_stream("input", reader))
    try:
        async for chunk in chunks:
            if not await _write(writer, chunk):
                break
    finally:
        os.close(writer)
        await asyncio.wait([run.done])
        run.done.exception()
    return run.done.result()


async def _write(fd: int, chunk: bytes) -> bool:
    """Whether anybody still reads."""
    view = memoryview(chunk)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await _ready(fd, write=True)
        except BrokenPipeError:
            return False
    return True


async def _ready(fd: int, *, write: bool) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    add(fd, _resolve, ready, None)
    try:
        await ready
    finally:
        remove(fd)
