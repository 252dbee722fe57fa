"""The supervisor's socket: who may connect, requests in, answers and events out.

Every operation is a function of (caller, message, descriptors). It returns the answer, or None when the answer follows
later through `Caller.answer`; it raises what the client is to be told. Descriptors that came with a request belong to
the operation; those given with an answer are closed after sending unless they are kept.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from bireme.errors import BiremeError, Invalid
from bireme.linux import fd as fdlib
from bireme.linux.poll import READ, WRITE
from bireme.supervisor import program
from bireme.supervisor.service import spill, unspill
from bireme.wire import supervision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bireme.linux.poll import Loop

_MAX_QUEUED = 10_000
_SO_SNDBUF = 1 << 20
_ucred = struct.Struct("=iII")


class Answer(NamedTuple):
    """An `ok` with descriptors; the ones in `owned` are closed once sent."""

    ok: Mapping[str, Any]
    fds: Sequence[int] = ()
    owned: Sequence[int] = ()


class Caller(NamedTuple):
    """Where an answer goes."""

    client: Client
    rid: int

    def answer(self, answer: Answer) -> None:
        self.client.send(supervision.reply(self.rid, answer.ok), answer.fds)
        fdlib.close_quietly(*answer.owned)

    def refuse(self, error: BaseException) -> None:
        self.client.send(supervision.refusal(self.rid, error))


class Client:
    """One connection. What it does not take at once is queued with duplicates of the descriptors."""

    def __init__(self, server: Server, sock: socket.socket, pid: int) -> None:
        self._server = server
        self.sock = sock
        self.pid = pid
        self.greeted = False
        self._queue: deque[supervision.Packet] = deque()

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        if self.sock.fileno() < 0:
            return
        packet = supervision.encode(message, fds, spill=spill)
        if not self._queue and self._try(packet):
            return
        kept = tuple(os.dup(fd) for fd in packet.fds)
        fdlib.close_quietly(*packet.owned)
        self._queue.append(supervision.Packet(packet.data, kept, kept))
        if len(self._queue) > _MAX_QUEUED:
            program.log("supervisor", f"client {self.pid} takes nothing and is dropped")
            self._server.drop(self)
        elif self.sock.fileno() >= 0:
            self._server.loop.modify(self.sock.fileno(), READ | WRITE)

    def _try(self, packet: supervision.Packet) -> bool:
        try:
            fdlib.send_fds(self.sock, packet.data, packet.fds)
        except BlockingIOError:
            return False
        except OSError:
            self._server.drop(self)
        fdlib.close_quietly(*packet.owned)
        return True

    def flush(self) -> None:
        """The socket takes more."""
        while self._queue:
            if not self._try(self._queue[0]):
                return
            if self._queue:
                self._queue.popleft()
        if self.sock.fileno() >= 0:
            self._server.loop.modify(self.sock.fileno(), READ)

    def close(self) -> None:
        while self._queue:
            fdlib.close_quietly(*self._queue.popleft().owned)
        self.sock.close()


Operation = "Callable[[Caller, dict[str, Any], list[int]], Answer | Mapping[str, Any] | None]"


class Server:
    """Accepts, decodes, dispatches."""

    def __init__(self, loop: Loop, listener: socket.socket) -> None:
        self.loop = loop
        self._listener = listener
        self._operations: dict[str, Callable[[Caller, dict[str, Any], list[int]], Any]] = {}
        self.clients: list[Client] = []
        self.on_disconnect: Callable[[Client], None] = lambda client: None
        listener.setblocking(False)

    def start(self) -> None:
        self.loop.add(self._listener.fileno(), self._on_connect)

    def register(self, operations: Mapping[str, Callable[[Caller, dict[str, Any], list[int]], Any]]) -> None:
        self._operations.update(operations)

    def _on_connect(self, _mask: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        pid, uid, _ = _ucred.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _ucred.size))
        if uid not in (0, os.geteuid()):
            program.log("supervisor", f"user {uid} (process {pid}) is turned away")
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SO_SNDBUF)
        client = Client(self, sock, pid)
        self.clients.append(client)
        self.loop.add(sock.fileno(), lambda mask: self._on_ready(client, mask))

    def _on_ready(self, client: Client, mask: int) -> None:
        if mask & WRITE:
            client.flush()
        if mask & ~WRITE and client in self.clients:
            self._receive(client)

    def _receive(self, client: Client) -> None:
        try:
            data, fds = fdlib.recv_fds(client.sock)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self.drop(client)
            return
        try:
            message, own = supervision.decode(data, fds, unspill=unspill)
        except BiremeError as error:
            program.log("supervisor", f"client {client.pid}: {error}")
            fdlib.close_quietly(*fds)
            self.drop(client)
            return
        self._dispatch(client, message, own)

    def _dispatch(self, client: Client, message: dict[str, Any], fds: list[int]) -> None:
        rid = message.get("rid")
        caller = Caller(client, rid if isinstance(rid, int) else 0)
        try:
            operation = self._operations.get(message.get("op", ""))
            if operation is None:
                raise Invalid(f"unknown operation {message.get('op')!r}", place="supervision")
            if not client.greeted and message["op"] not in ("hello", "ping"):
                raise Invalid("hello comes first", place="supervision")
            answer = operation(caller, message, fds)
        except BiremeError as error:
            caller.refuse(error)
        except (KeyError, TypeError, ValueError) as error:
            text = f"malformed {message.get('op')}: {type(error).__name__} {error}"
            program.log_traceback("supervisor", text)
            caller.refuse(Invalid(text, place="supervision"))
        except OSError as error:
            caller.refuse(error)
        else:
            if answer is not None:
                caller.answer(answer if isinstance(answer, Answer) else Answer(answer))

    def drop(self, client: Client) -> None:
        """The connection is over; instances do not notice."""
        if client not in self.clients:
            return
        self.clients.remove(client)
        self.loop.remove(client.sock.fileno())
        client.close()
        self.on_disconnect(client)

    def broadcast(self, event: Mapping[str, Any]) -> None:
        """To everyone who said hello."""
        for client in list(self.clients):
            if client.greeted:
                client.send(event)

    def close(self) -> None:
        self.loop.remove(self._listener.fileno())
        for client in list(self.clients):
            self.drop(client)
