"""Descriptors of an instance's streams read and written in the event loop.

A stdin pipe or a console may be shared with the processes that keep it alive, and O_NONBLOCK belongs to the open file,
not to the descriptor: so a pipe is opened again through /proc/self/fd, which gives an open file of our own. The master
of a terminal cannot be opened twice, and a socket not at all; those who share them poll, and do not mind.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat

CHUNK_BYTES = 64 << 10


def _own(fd: int, flags: int) -> int:
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        again = os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
        os.close(fd)
        return again
    os.set_blocking(fd, False)
    return fd


class Source:
    """The reading end of a descriptor; owns it."""

    __slots__ = ("_fd", "_loop", "_waiter")

    def __init__(self, fd: int) -> None:
        self._fd = _own(fd, os.O_RDONLY)
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    async def read(self, size: int = CHUNK_BYTES) -> bytes:
        """Some bytes, b"" at the end. The end of a terminal is EIO."""
        while self._fd >= 0:
            try:
                return os.read(self._fd, size)
            except BlockingIOError:
                await self._ready()
            except OSError as error:
                if error.errno == errno.EIO:
                    return b""
                raise
        return b""

    async def _ready(self) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiter = waiter
        self._loop.add_reader(self._fd, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            if self._fd >= 0:
                self._loop.remove_reader(self._fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if self._waiter is not None:
            self._loop.remove_reader(fd)
            _wake(self._waiter)
        os.close(fd)


class Sink:
    """The writing end of a descriptor; owns it."""

    __slots__ = ("_fd", "_loop", "_waiter")

    def __init__(self, fd: int) -> None:
        self._fd = _own(fd, os.O_WRONLY)
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> bool:
        """Write everything; False once nobody reads any more."""
        view = memoryview(data)
        while view:
            if self._fd < 0:
                return False
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await self._ready()
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.EIO, errno.ECONNRESET):
                    return False
                raise
        return True

    async def _ready(self) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiter = waiter
        self._loop.add_writer(self._fd, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            if self._fd >= 0:
                self._loop.remove_writer(self._fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if self._waiter is not None:
            self._loop.remove_writer(fd)
            _wake(self._waiter)
        os.close(fd)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
