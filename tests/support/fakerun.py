"""A scripted engine for run, start, attach and exec: what the container says, and what it hears."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from tests.support.fakeserver import NO_CONTENT, Conversation, FakeServer, Reply, Request

CONTAINER = "c0ffee" + "1" * 58
Process = Callable[["Streams"], int]


class Streams:
    """The container's side of the attached connection."""

    def __init__(self, conversation: Conversation, terminal: bool) -> None:
        self._conversation = conversation
        self._terminal = terminal

    def out(self, data: bytes) -> None:
        self._write(1, data)

    def err(self, data: bytes) -> None:
        self._write(2, data)

    def _write(self, stream: int, data: bytes) -> None:
        if self._terminal:
            self._conversation.socket.sendall(data)
        else:
            self._conversation.frame(stream, data)

    def read(self, size: int) -> bytes:
        return self._conversation.read(size)

    def read_all(self) -> bytes:
        return self._conversation.read_rest()


class FakeContainer:
    """Plays one container on `server`: attach and wait are answered, `process` runs once it has been started."""

    def __init__(self, server: FakeServer, process: Process, *, terminal: bool = False, started: bool = False) -> None:
        self.signals: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self._changed = threading.Condition()
        self._process = process
        self._terminal = terminal
        self._running = threading.Event()
        self._ended = threading.Event()
        self._code = 0
        if started:
            self._running.set()
        self._over = False
        self.server = server
        server.at_exit.append(self._give_up)
        base = f"/containers/{CONTAINER}"
        server.on("POST /containers/create", Reply({"Id": CONTAINER, "Warnings": []}, "201 Created"))
        server.on(f"POST {base}/attach", self._attach)
        server.on(f"POST {base}/wait", self._wait)
        server.on(f"POST {base}/start", self._start)
        server.on(f"POST {base}/kill", self._kill)
        server.on(f"POST {base}/resize", self._resize)

    def expect(self, what: Callable[[], bool]) -> None:
        """Wait until a signal or a size makes `what` true."""
        with self._changed:
            assert self._changed.wait_for(what, 30), (self.signals, self.sizes)

    def _attach(self, request: Request, conversation: Conversation) -> None:
        kind = "raw" if self._terminal else "multiplexed"
        conversation.take_over(f"application/vnd.docker.{kind}-stream")
        if self._running.wait(60) and not self._over:
            self._code = self._process(Streams(conversation, self._terminal))
        self._ended.set()

    def _wait(self, request: Request, conversation: Conversation) -> None:
        conversation.socket.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        if self._ended.wait(60) and not self._over:
            body = json.dumps({"StatusCode": self._code}).encode()
            conversation.socket.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    def _give_up(self) -> None:
        self._over = True
        self._running.set()
        self._ended.set()

    def _start(self, request: Request, conversation: Conversation) -> Reply:
        self._running.set()
        return NO_CONTENT

    def _kill(self, request: Request, conversation: Conversation) -> Reply:
        with self._changed:
            self.signals.append(request.query["signal"])
            self._changed.notify_all()
        return NO_CONTENT

    def _resize(self, request: Request, conversation: Conversation) -> Reply:
        with self._changed:
            self.sizes.append((int(request.query["h"]), int(request.query["w"])))
            self._changed.notify_all()
        return Reply(status="200 OK")


def fake_exec(server: FakeServer, process: Process, *, terminal: bool = False) -> dict[str, Any]:
    """Plays `exec` in container x; the returned mapping gets the exit code."""
    state: dict[str, Any] = {"Running": False, "ExitCode": None, "sizes": []}

    def start(request: Request, conversation: Conversation) -> Reply | None:
        state["Running"] = True
        if request.json().get("Detach"):
            return Reply()
        conversation.take_over(f"application/vnd.docker.{'raw' if terminal else 'multiplexed'}-stream")
        state["ExitCode"] = process(Streams(conversation, terminal))
        state["Running"] = False
        return None

    def resize(request: Request, conversation: Conversation) -> Reply:
        state["sizes"].append((int(request.query["h"]), int(request.query["w"])))
        return Reply(status="201 Created")

    server.on("POST /containers/x/exec", Reply({"Id": "e1"}, "201 Created"))
    server.on("POST /exec/e1/start", start)
    server.on("POST /exec/e1/resize", resize)
    server.on("GET /exec/e1/json", lambda request, conversation: Reply({k: state[k] for k in ("Running", "ExitCode")}))
    return state
