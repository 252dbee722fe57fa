"""The control socket of a machine: clients of wire/vmcontrol, normally one, the engine's driver.

Clients are trusted with the machine (the socket is root's), not with our time: their number is bounded, one that does
not read its answers is dropped. Whatever they ask for wrongly is refused in the answer.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from bireme.errors import BiremeError, Invalid
from bireme.linux import fd as fdlib
from bireme.linux.poll import READ, WRITE
from bireme.wire import vmcontrol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bireme.linux.poll import Loop

    Operation = Callable[["Request", dict[str, Any], list[int]], Mapping[str, Any] | None]

MAX_CLIENTS = 16
MAX_WAITING = 4096
"""Packets that wait for a client which does not read."""


class Request:
    """Where an answer goes; `answer` may come much later, and is dropped when the client is gone."""

    def __init__(self, client: Client, rid: int) -> None:
        self.client = client
        self._rid = rid

    def ok(self, **fields: Any) -> None:
        self.client.send(vmcontrol.reply(self._rid, fields))

    def fail(self, error: BaseException) -> None:
        self.client.send(vmcontrol.refusal(self._rid, error))

    def answer(self, result: dict[str, Any] | BiremeError) -> None:
        """What a question to somebody else came to."""
        if isinstance(result, BiremeError):
            self.fail(result)
        else:
            self.ok(**result)


class Client:
    """One connection. `greeted` after its hello: only then it gets events."""

    def __init__(self, server: ControlServer, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.greeted = False
        self._server = server
        self._sock = sock
        self._waiting: deque[vmcontrol.Packet] = deque()
        server.loop.add(sock.fileno(), self._ready)

    def send(self, message: Mapping[str, Any]) -> None:
        if self._sock.fileno() < 0:
            return
        try:
            self._waiting.append(vmcontrol.encode(message, spill=lambda text: fdlib.sealed_memfd("vmcontrol", text)))
        except (OSError, Invalid):
            self.close()
            return
        self._flush()

    def _flush(self) -> None:
        try:
            while self._waiting:
                packet = self._waiting[0]
                fdlib.send_fds(self._sock, packet.data, packet.fds)
                fdlib.close_quietly(*packet.owned)
                self._waiting.popleft()
        except BlockingIOError:
            if len(self._waiting) > MAX_WAITING:
                self.close()
            else:
                self._server.loop.modify(self._sock.fileno(), READ | WRITE)
            return
        except OSError:
            self.close()
            return
        self._server.loop.modify(self._sock.fileno(), READ)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if self._sock.fileno() < 0 or not events & ~WRITE:
            return
        try:
            data, fds = fdlib.recv_fds(self._sock, vmcontrol.RECEIVE_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if data:
            self._server.handle(self, data, fds)
        else:
            self.close()

    def close(self) -> None:
        """Hang up; idempotent."""
        if self._sock.fileno() < 0:
            return
        self._server.loop.remove(self._sock.fileno())
        self._sock.close()
        for packet in self._waiting:
            fdlib.close_quietly(*packet.owned)
        self._waiting.clear()
        self._server.clients.discard(self)


class ControlServer:
    """The listener and its clients; `operations` answer with the fields of `ok`, or None to answer later."""

    def __init__(self, loop: Loop, listener: socket.socket, operations: Mapping[str, Operation]) -> None:
        listener.setblocking(False)
        self.loop = loop
        self.clients: set[Client] = set()
        self._listener = listener
        self._operations = operations
        loop.add(listener.fileno(), self._accept)

    def _accept(self, _events: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if len(self.clients) >= MAX_CLIENTS:
            sock.close()
            return
        self.clients.add(Client(self, sock))

    def handle(self, client: Client, data: bytes, fds: list[int]) -> None:
        """One packet: answered, or the client is none. An operation takes the descriptors it keeps out of `fds`."""
        try:
            message, fds = vmcontrol.decode(data, fds, unspill=_unspill)
            request = Request(client, int(message["rid"]))
        except (BiremeError, KeyError, TypeError, ValueError, OSError):
            fdlib.close_quietly(*fds)
            client.close()
            return
        try:
            result = self._operation(client, message)(request, message, fds)
            if result is not None:
                request.ok(**result)
        except BiremeError as error:
            request.fail(error)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            request.fail(Invalid(f"malformed {message.get('op')!r}: {error!r}", place="vmcontrol"))
        except OSError as error:
            request.fail(error)
        finally:
            fdlib.close_quietly(*fds)

    def _operation(self, client: Client, message: Mapping[str, Any]) -> Operation:
        name = message.get("op")
        operation = self._operations.get(name) if isinstance(name, str) else None
        if operation is None:
            raise Invalid(f"unknown operation {name!r}", place="vmcontrol")
        if not client.greeted and name != "hello":
            raise Invalid("hello comes first", place="vmcontrol")
        return operation

    def close(self) -> None:
        """Hang up on everybody."""
        self.loop.remove(self._listener.fileno())
        self._listener.close()
        for client in tuple(self.clients):
            client.close()

    def broadcast(self, message: Mapping[str, Any]) -> None:
        """An event for every client that said hello."""
        for client in tuple(self.clients):
            if client.greeted:
                client.send(message)


def _unspill(fd: int, limit: int) -> bytes:
    try:
        return fdlib.read_sealed(fd, limit)
    finally:
        fdlib.close_quietly(fd)
