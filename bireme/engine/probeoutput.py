"""The output of a health check's command: the beginning is kept, the rest read away."""

from __future__ import annotations

import asyncio
import os

MAX_OUTPUT_BYTES = 4096
END_DEADLINE_S = 2.0
_BLOCK = 65536


class ProbeOutput:
    """Reads both streams, which are its own from now on, as they come."""

    def __init__(self, *streams: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._kept = bytearray()
        self._truncated = False
        self._open = {fd for fd in streams if fd >= 0}
        self._ended = asyncio.Event()
        for fd in self._open:
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._readable, fd)

    def _readable(self, fd: int) -> None:
        try:
            data = os.read(fd, _BLOCK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(fd)
            return
        room = MAX_OUTPUT_BYTES - len(self._kept)
        self._kept += data[:room]
        self._truncated |= len(data) > room

    def _drop(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        os.close(fd)
        self._open.discard(fd)
        if not self._open:
            self._ended.set()

    async def ended(self) -> None:
        """Until everything was read; what the command left in the background may keep the streams open, which is not
        waited for."""
        try:
            async with asyncio.timeout(END_DEADLINE_S):
                await self._ended.wait()
        except TimeoutError:
            pass

    def text(self) -> str:
        """What is kept, with "..." when it is not all."""
        return self._kept.decode(errors="replace") + ("..." if self._truncated else "")

    def close(self) -> None:
        for fd in list(self._open):
            self._drop(fd)
