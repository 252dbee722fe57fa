"""The engine's end of the supervision protocol, on the event loop.

One seqpacket connection carries every request; answers come in any order and are matched by `rid`. When the supervisor
is replaced the connection ends: every pending call fails with LinkLost, and `ready` waits for the next connection,
which repeats hello and configure before anybody else may speak.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from bireme.errors import BiremeError, Unavailable
from bireme.instance.driver import StartError
from bireme.linux.fd import close_quietly, read_sealed, recv_fds, sealed_memfd, send_fds
from bireme.wire import supervision

log = logging.getLogger(__name__)
RETRY_S = 0.05
REVIVE_AFTER = 20
"""Failed connections before somebody should look whether there still is a keeper."""
SEND_BUFFER_BYTES = 1 << 20


class LinkLost(Unavailable):
    """The supervisor went away before it answered; what was asked may or may not have happened."""


class LaunchRefused(BiremeError):
    """An error reply that says where a launch or exec failed."""

    def __init__(self, error: BiremeError, stage: str, errno: int) -> None:
        super().__init__(error.message, subject=error.subject, place=error.place, hint=error.hint)
        self.error = error
        self.stage = stage
        self.errno = errno


Event = dict[str, Any]
Greeting = Callable[["SupervisorLink"], Awaitable[None]]


class SupervisorLink:
    """Calls to one supervisor socket; reconnects for ever until `close`."""

    def __init__(
        self, path: str, on_event: Callable[[Event], None], greet: Greeting, revive: Callable[[], None] | None = None
    ) -> None:
        self._path = path
        self._on_event = on_event
        self._greet = greet
        self._revive = revive
        self._socket: socket.socket | None = None
        self._pending: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._outgoing: deque[supervision.Packet] = deque()
        self._next = 0
        self._greeted = asyncio.Event()
        self._lost = asyncio.Event()
        self._closed = False

    async def run(self, on_first: asyncio.Future[None]) -> None:
        """Keep connected; `on_first` resolves after the first greeting. `revive` is called while nobody answers."""
        failures = 0
        while not self._closed:
            try:
                await self._connect()
                await self._greet(self)
            except (OSError, BiremeError) as error:
                self._drop()
                log.debug("supervisor is not there yet: %s", error)
                failures += 1
                if failures % REVIVE_AFTER == 0 and self._revive is not None:
                    self._revive()
                await asyncio.sleep(RETRY_S)
                continue
            failures = 0
            self._greeted.set()
            if not on_first.done():
                on_first.set_result(None)
            await self._lost.wait()
            if not self._closed:
                log.warning("the supervisor went away, connecting again")

    async def _connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            await asyncio.get_running_loop().sock_connect(connection, self._path)
        except BaseException:
            connection.close()
            raise
        self._socket = connection
        self._lost.clear()
        asyncio.get_running_loop().add_reader(connection.fileno(), self._readable)

    async def ready(self, timeout_s: float = 30.0) -> None:
        """Wait until there is a greeted connection."""
        try:
            await asyncio.wait_for(self._greeted.wait(), timeout_s)
        except TimeoutError:
            raise Unavailable("the supervisor does not answer", place=self._path, hint="see the engine's log") from None

    async def call(self, op: str, fds: Sequence[int] = (), **fields: Any) -> tuple[dict[str, Any], list[int]]:
        """Ask and wait for the answer; its descriptors are the caller's. Errors of the supervisor are raised."""
        if not self._greeted.is_set():
            await self.ready()
        return await self.ask(op, fds, **fields)

    async def ask(self, op: str, fds: Sequence[int] = (), **fields: Any) -> tuple[dict[str, Any], list[int]]:
        """`call` for the greeting itself: does not wait for it."""
        self._next += 1
        rid = self._next
        packet = supervision.encode(supervision.request(rid, op, **fields), fds, spill=_spill)
        future: asyncio.Future[tuple[dict[str, Any], list[int]]] = asyncio.get_running_loop().create_future()
        self._pending[rid] = future
        try:
            self._send(packet)
            message, received = await future
        finally:
            self._pending.pop(rid, None)
        refused = supervision.refused(message)
        if refused is None:
            return message.get("ok") or {}, received
        close_quietly(*received)
        if refused.stage:
            raise LaunchRefused(refused.error, refused.stage, refused.errno)
        raise refused.error

    def _send(self, packet: supervision.Packet) -> None:
        if self._socket is None:
            close_quietly(*packet.owned)
            raise LinkLost("the supervisor is being replaced", place=self._path)
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
            raise LinkLost(f"the supervisor went away: {error}", place=self._path) from error

    def _queue(self, packet: supervision.Packet) -> None:
        """Keep a message for later, with duplicates of its descriptors: the caller closes its own."""
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
        while self._socket is not None:
            try:
                data, fds = recv_fds(self._socket, supervision.RECEIVE_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("supervisor connection: %s", error)
                data, fds = b"", []
            if not data:
                self._drop()
                return
            try:
                message, own = supervision.decode(data, fds, unspill=read_and_close)
            except BiremeError as error:
                close_quietly(*fds)
                log.error("supervisor sent nonsense: %s", error)
                continue
            self._deliver(message, own)

    def _deliver(self, message: dict[str, Any], fds: list[int]) -> None:
        if "event" in message:
            close_quietly(*fds)
            self._on_event(message)
            return
        future = self._pending.get(message.get("rid", -1))
        if future is None or future.done():
            close_quietly(*fds)
            return
        future.set_result((message, fds))

    def _drop(self) -> None:
        self._greeted.clear()
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket.fileno())
            loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None
        for packet in self._outgoing:
            close_quietly(*packet.owned)
        self._outgoing.clear()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(LinkLost("the supervisor went away before it answered", place=self._path))
        self._lost.set()

    def close(self) -> None:
        self._closed = True
        self._drop()


def start_error(refused: LaunchRefused, command: str) -> BiremeError:
    """Docker's error for a launch that failed in `stage`: 127 not found, 126 not executable, else 128."""
    text = f"failed to create task for container: unable to start container process: {_told(refused)}"
    exit_code = 128
    if refused.stage == "exec":
        exit_code = 127 if refused.errno == 2 else 126
    return StartError(text, exit_code, subject=command, place=refused.stage, hint=refused.error.hint)


def _told(refused: LaunchRefused) -> str:
    """The child's own words; with the stage and the subject where those would say nothing."""
    message, subject = refused.error.message, refused.error.subject
    if refused.stage in ("exec", "user", "cwd") or (subject and subject in message):
        return message
    return f"{refused.stage}: {subject}: {message}" if subject else f"{refused.stage}: {message}"


def read_and_close(fd: int, limit: int) -> bytes:
    """The text of a long message; its descriptor is closed either way."""
    try:
        return read_sealed(fd, limit)
    finally:
        os.close(fd)


def _spill(text: bytes) -> int:
    return sealed_memfd("bireme-message", text)
