"""A taken-over connection after a websocket's handshake, as a stream of the bytes in its messages."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from bireme.api.http.raw import HIGH_WATER_BYTES, RawStream
from bireme.api.http.websocket import (
    CloseCode,
    FrameReader,
    Opcode,
    Piece,
    Refused,
    close_code,
    close_frame,
    frame_header,
)


class WebSocketStream:
    """Reads and writes as RawStream does.

    `pump` must run beside whoever uses it: it reads the socket, answers pings and the close. With `reads` false what
    the client sends is dropped. A websocket has no half-close: the client's close ends both directions, but what it
    sent before is read to its end first (for up to `GRACE_S`).
    """

    GRACE_S = 2.0

    def __init__(self, raw: RawStream, opcode: Opcode, *, reads: bool) -> None:
        self._raw = raw
        self._opcode = opcode
        self._reads = reads
        self._reader = FrameReader()
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._closing = False
        self._changed = asyncio.Event()

    @property
    def gone(self) -> bool:
        return self._raw.gone

    @property
    def when_gone(self) -> Callable[[], None] | None:
        return self._raw.when_gone

    @when_gone.setter
    def when_gone(self, callback: Callable[[], None] | None) -> None:
        self._raw.when_gone = callback

    async def read(self) -> bytes:
        while not self._chunks:
            if self._ended:
                return b""
            self._changed.clear()
            await self._changed.wait()
        data = self._chunks.popleft()
        self._size -= len(data)
        self._changed.set()
        return data

    def write(self, data: bytes) -> None:
        """One message; nothing once a close was sent."""
        if not self._closing and data:
            self._raw.write(frame_header(self._opcode, len(data)) + data)

    async def drain(self) -> None:
        await self._raw.drain()

    async def send(self, data: bytes) -> None:
        self.write(data)
        await self._raw.drain()

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Say goodbye, once."""
        if not self._closing:
            self._closing = True
            self._raw.write(close_frame(code, reason))

    async def pump(self) -> None:
        """Until the client closes, breaks the protocol or is gone."""
        try:
            while data := await self._raw.read():
                for piece in self._reader.feed(data):
                    if piece.opcode is Opcode.CLOSE:
                        self.close(close_code(piece.data))
                        await self._end(self.GRACE_S)
                        return
                    await self._handle(piece)
        except Refused as refused:
            self.close(refused.code, str(refused))
            await self._end(0.0)
        except ConnectionResetError:
            pass
        else:
            await self._end(self.GRACE_S)

    async def _handle(self, piece: Piece) -> None:
        if piece.opcode is Opcode.PING:
            if not self._closing:
                await self._raw.send(frame_header(Opcode.PONG, len(piece.data)) + piece.data)
        elif piece.opcode is not Opcode.PONG and self._reads:
            self._chunks.append(piece.data)
            self._size += len(piece.data)
            self._changed.set()
            while self._size > HIGH_WATER_BYTES:
                self._changed.clear()
                await self._changed.wait()

    async def _end(self, grace_s: float) -> None:
        """No input follows: whoever reads may end by it, else is told that the client is gone."""
        self._ended = True
        self._changed.set()
        if self._reads and grace_s:
            await asyncio.sleep(grace_s)
        if self.when_gone is not None:
            self.when_gone()
