"""Requests and answers over one seqpacket connection, on the event loop; for wire/supervision and wire/vmcontrol.

Answers come in any order and are matched by `rid`. When the connection ends, every pending request fails with LinkLost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from bireme.errors import BiremeError, Unavailable
from bireme.linux.fd import close_quietly, read_sealed, recv_fds, sealed_memfd, send_fds
from bireme.wire import supervision

log = logging.getLogger(__name__)
SEND_BUFFER_BYTES = 1 << 20
_encoder = msgspec.json.Encoder()
MESSAGES_PER_TURN = 64
"""Then the event loop does something else: nobody may keep it busy by talking."""
MAX_QUEUED = 4096
"""Requests that wait for the other side to read; more fail."""

Event = dict[str, Any]
Answer = tuple[dict[str, Any], list[int]]


class LinkLost(Unavailable):
    """The supervisor went away before it answered; what was asked may or may not have happened."""


class LaunchRefused(BiremeError):
    """An error reply that says where a launch or exec failed."""

    def __init__(self, error: BiremeError, stage: str, errno: int) -> None:
        super().__init__(error.message, subject=error.subject, place=error.place, hint=error.hint)
        self.error = error
        self.stage = stage
        self.errno = errno


class Channel:
    """One connection at a time; `peer` is what error texts call the other side."""

    def __init__(
        self,
        path: str,
        peer: str,
        on_event: Callable[[Event], None],
        on_lost: Callable[[], None] = lambda: None,
        max_queued: int = MAX_QUEUED,
    ) -> None:
        self.path = path
        self._peer = peer
        self._on_event = on_event
        self._on_lost = on_lost
        self._max_queued = max_queued
        self._socket: socket.socket | None = None
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._outgoing: deque[supervision.Packet] = deque()
        self._next = 0

    @property
    def connected(self) -> bool:
        return self._socket is not None

    async def connect(self) -> None:
        """OSError when nobody listens."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            await asyncio.get_running_loop().sock_connect(connection, self.path)
        except BaseException:
            connection.close()
            raise
        self._socket = connection
        asyncio.get_running_loop().add_reader(connection.fileno(), self._readable)

    def post(self, op: str, fds: Sequence[int] = (), **fields: Any) -> asyncio.Future[Answer]:
        """Send a request now; the raw answer comes later."""
        self._next += 1
        rid = self._next
        packet = _encode(supervision.request(rid, op, **fields), fds)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: self._pending.pop(rid, None))
        self._pending[rid] = future
        try:
            self._send(packet)
        except BaseException:
            del self._pending[rid]
            raise
        return future

    async def ask(self, op: str, fds: Sequence[int] = (), **fields: Any) -> Answer:
        """Ask and wait for the answer; its descriptors are the caller's. The other side's errors are raised."""
        message, received = await self.post(op, fds, **fields)
        refused = supervision.refused(message)
        if refused is None:
            return _fields(message.get("ok")), received
        close_quietly(*received)
        if refused.stage:
            raise LaunchRefused(refused.error, refused.stage, refused.errno)
        raise refused.error

    def _send(self, packet: supervision.Packet) -> None:
        if self._socket is None:
            close_quietly(*packet.owned)
            raise LinkLost(f"{self._peer} is not connected", place=self.path)
        if self._outgoing:
            self._queue(packet)
            return
        try:
            send_fds(self._socket, packet.data, packet.fds)
            close_quietly(*packet.owned)
        except BlockingIOError:
            self._queue(packet)
            asyncio.get_running_loop().add_writer(self._socket.fileno(), self._writable)
        except OSError as error:
            close_quietly(*packet.owned)
            raise LinkLost(f"{self._peer} went away: {error}", place=self.path) from error

    def _queue(self, packet: supervision.Packet) -> None:
        """Keep a message for later, with duplicates of its descriptors: the caller closes its own."""
        if len(self._outgoing) >= self._max_queued:
            close_quietly(*packet.owned)
            raise Unavailable(f"{self._peer} does not listen", place=self.path)
        kept = tuple(os.dup(fd) for fd in packet.fds)
        close_quietly(*packet.owned)
        self._outgoing.append(supervision.Packet(packet.data, kept, kept))

    def _writable(self) -> None:
        while self._outgoing and self._socket is not None:
            packet = self._outgoing[0]
            try:
                send_fds(self._socket, packet.data, packet.fds)
            except BlockingIOError:
                return
            except OSError:
                self._drop()
                return
            close_quietly(*packet.owned)
            self._outgoing.popleft()
        if self._socket is not None:
            asyncio.get_running_loop().remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        for _ in range(MESSAGES_PER_TURN):
            if self._socket is None:
                return
            try:
                data, fds = recv_fds(self._socket, supervision.RECEIVE_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("connection to %s: %s", self._peer, error)
                data, fds = b"", []
            if not data:
                self._drop()
                return
            try:
                message, own = supervision.decode(data, fds, unspill=read_and_close)
            except BiremeError as error:
                close_quietly(*fds)
                log.error("%s sent nonsense: %s", self._peer, error)
                continue
            self._deliver(message, own)

    def _deliver(self, message: dict[str, Any], fds: list[int]) -> None:
        if "event" in message:
            close_quietly(*fds)
            self._on_event(message)
            return
        rid = message.get("rid")
        future = self._pending.get(rid) if isinstance(rid, int) else None
        if future is None or future.done():
            close_quietly(*fds)
            return
        future.set_result((message, fds))

    def _drop(self) -> None:
        if self._socket is None:
            return
        self._forget()
        self._on_lost()

    def _forget(self) -> None:
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket.fileno())
            loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None
        for packet in self._outgoing:
            close_quietly(*packet.owned)
        self._outgoing.clear()
        for future in list(self._pending.values()):
            if not future.done():
                future.set_exception(LinkLost(f"{self._peer} went away before it answered", place=self.path))

    def close(self) -> None:
        """Hang up; pending requests fail. Does not call `on_lost`."""
        self._forget()


def _fields(answer: object) -> dict[str, Any]:
    return answer if isinstance(answer, dict) else {}


def read_and_close(fd: int, limit: int) -> bytes:
    """The text of a long message; its descriptor is closed either way."""
    try:
        return read_sealed(fd, limit)
    finally:
        os.close(fd)


def _encode(message: Mapping[str, Any], fds: Sequence[int]) -> supervision.Packet:
    """`supervision.encode`, five times as fast; what is no UTF-8, such as an odd path, takes the longer way."""
    try:
        return supervision.pack(_encoder.encode(message), fds, spill=_spill)
    except UnicodeEncodeError:
        return supervision.encode(message, fds, spill=_spill)


def _spill(text: bytes) -> int:
    return sealed_memfd("bireme-message", text)
