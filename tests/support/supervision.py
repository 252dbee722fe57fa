"""A synchronous client of the supervisor, for tests: one request at a time, events kept in arrival order."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

from bireme.linux import fd as fdlib
from bireme.wire import supervision

if TYPE_CHECKING:
    from collections.abc import Callable


class Failure(Exception):
    """An error reply: `.error` is the BiremeError, `.stage` and `.errno` say where a launch failed."""

    def __init__(self, refused: supervision.Refused) -> None:
        super().__init__(f"{refused.error} (stage {refused.stage!r}, errno {refused.errno})")
        self.error = refused.error
        self.stage = refused.stage
        self.errno = refused.errno


def spill(text: bytes) -> int:
    return fdlib.sealed_memfd("supervision", text)


def unspill(fd: int, limit: int) -> bytes:
    try:
        return fdlib.read_sealed(fd, limit)
    finally:
        os.close(fd)


class Client:
    """`call` sends and waits for the answer; `event` waits for the first event that fits."""

    def __init__(self, path: str, timeout_s: float = 60.0) -> None:
        self.timeout_s = timeout_s
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self.socket.settimeout(timeout_s)
        try:
            self.socket.connect(path)
        except BaseException:
            self.socket.close()
            raise
        self.events: list[dict[str, Any]] = []
        self.replies: dict[int, tuple[dict[str, Any], list[int]]] = {}
        self.rid = 0

    def send(self, op: str, fds: tuple[int, ...] = (), **fields: Any) -> int:
        self.rid += 1
        packet = supervision.encode(supervision.request(self.rid, op, **fields), fds, spill=spill)
        fdlib.send_fds(self.socket, packet.data, packet.fds)
        fdlib.close_quietly(*packet.owned)
        return self.rid

    def receive(self) -> None:
        """Take one message in; EOFError when the supervisor is gone."""
        data, fds = fdlib.recv_fds(self.socket, supervision.RECEIVE_SIZE)
        if not data:
            raise EOFError("the supervisor closed the connection")
        message, own = supervision.decode(data, fds, unspill=unspill)
        if "event" in message:
            self.events.append(message)
        else:
            self.replies[message["rid"]] = (message, own)

    def answer(self, rid: int) -> tuple[dict[str, Any], list[int]]:
        while rid not in self.replies:
            self.receive()
        message, fds = self.replies.pop(rid)
        refused = supervision.refused(message)
        if refused is not None:
            raise Failure(refused)
        return message["ok"], fds

    def call_fds(self, op: str, fds: tuple[int, ...] = (), **fields: Any) -> tuple[dict[str, Any], list[int]]:
        return self.answer(self.send(op, fds, **fields))

    def call(self, op: str, **fields: Any) -> dict[str, Any]:
        ok, fds = self.call_fds(op, **fields)
        fdlib.close_quietly(*fds)
        return ok

    def hello(self, execs: tuple[str, ...] = ()) -> dict[str, Any]:
        return self.call("hello", version=supervision.VERSION, client="test", execs=list(execs))

    def event(self, fits: Callable[[dict[str, Any]], bool], timeout_s: float | None = None) -> dict[str, Any]:
        """The first event that fits, removed from the queue."""
        deadline = time.monotonic() + (timeout_s or self.timeout_s)
        while True:
            for index, event in enumerate(self.events):
                if fits(event):
                    return self.events.pop(index)
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                self.receive()
            finally:
                self.socket.settimeout(self.timeout_s)

    def exited(self, instance: str) -> dict[str, Any]:
        """Wait for the exit of an instance and acknowledge it."""
        event = self.event(lambda e: e["event"] == "exited" and e["id"] == instance)
        self.call("acknowledge", id=instance)
        return event

    def exec_exited(self, exec_id: str) -> dict[str, Any]:
        event = self.event(lambda e: e["event"] == "exec_exited" and e["exec_id"] == exec_id)
        self.call("exec_acknowledge", exec_id=exec_id)
        return event

    def close(self) -> None:
        for _, fds in self.replies.values():
            fdlib.close_quietly(*fds)
        self.socket.close()
