"""A link in the test's own process: fake main, a control client, pipes for stdio. The test turns the loop.

with Linked(tmp_path) as bench:
    bench.until(lambda: bench.said("running"))
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from bireme.linux.fd import recv_fds, send_fds
from bireme.linux.poll import Loop
from bireme.linux.tty import Terminal, open_terminal
from bireme.vmm.link import Link, LinkFiles
from bireme.vmm.link.contract import Transport
from bireme.wire import vmcontrol
from bireme.wire.agent import GuestConfig
from tests.support.pace import patience
from tests.support.unixtransport import UnixTransport


class Client:
    """A control client that speaks without blocking; answers and events are collected when the loop turns."""

    def __init__(self, bench: Linked) -> None:
        self._bench = bench
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.connect(bench.control_path)
        self._sock.setblocking(False)
        self._rid = 0
        self.replies: dict[int, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.closed = False

    def ask(self, op: str, fds: list[int] | None = None, **fields: Any) -> int:
        self._rid += 1
        packet = vmcontrol.encode(vmcontrol.request(self._rid, op, **fields), fds or (), spill=lambda _text: -1)
        send_fds(self._sock, packet.data, packet.fds)
        return self._rid

    def call(self, op: str, fds: list[int] | None = None, **fields: Any) -> dict[str, Any]:
        """The whole reply."""
        rid = self.ask(op, fds, **fields)
        self._bench.until(lambda: rid in self.replies)
        return self.replies.pop(rid)

    def ok(self, op: str, fds: list[int] | None = None, **fields: Any) -> dict[str, Any]:
        reply = self.call(op, fds, **fields)
        assert "ok" in reply, reply
        return cast("dict[str, Any]", reply["ok"])

    def collect(self) -> None:
        while not self.closed:
            try:
                data, fds = recv_fds(self._sock)
            except (BlockingIOError, OSError):
                return
            if not data:
                self.closed = True
                return
            message, _ = vmcontrol.decode(data, fds, unspill=lambda fd, limit: os.pread(fd, limit, 0))
            if "event" in message:
                self.events.append(message)
            else:
                self.replies[message["rid"]] = message

    def close(self) -> None:
        self._sock.close()


class Linked:
    """See the head. `stdin` is our writing end, `output` and `errors` what was read from our reading ends."""

    def __init__(
        self,
        directory: Path,
        guest: GuestConfig,
        *,
        transport: Callable[[Loop], Transport] | None = None,
        boot_timeout_s: float = 0.0,
    ) -> None:
        self.loop = Loop()
        self.socket_path = str(directory / "agent")
        self.control_path = str(directory / "control")
        self.terminal: Terminal | None = None
        self.stdin = self.stdout = self.stderr = -1
        self.read_output = True
        self.output = b""
        self.errors = b""
        self.messages: list[dict[str, Any]] = []
        self.answers: dict[str, dict[str, Any]] = {"pause": {}, "resume": {}, "describe": {"vcpus": 1}}
        self.refusals: dict[str, dict[str, Any]] = {}
        self.clients: list[Client] = []
        self._main, theirs = socket.socketpair()
        self._main.setblocking(False)
        self._said = b""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(self.control_path)
        listener.listen(16)
        self.transport = transport(self.loop) if transport else UnixTransport(self.loop, self.socket_path)
        files = LinkFiles(theirs, listener, self._make_stdio(guest))
        self.link = Link(self.loop, self.transport, files, guest, boot_timeout_s=boot_timeout_s or patience(20))

    def _make_stdio(self, guest: GuestConfig) -> tuple[int, ...]:
        if guest["process"]["terminal"]:
            self.terminal = open_terminal("/dev/ptmx")
            os.set_blocking(self.terminal.master, False)
            return (self.terminal.slave,)
        stdin, self.stdin = os.pipe()
        self.stdout, stdout = os.pipe()
        self.stderr, stderr = os.pipe()
        for fd in (self.stdout, self.stderr, self.stdin):
            os.set_blocking(fd, False)
        return (stdin, stdout, stderr)

    def __enter__(self) -> Linked:
        return self

    def __exit__(self, *_exc: object) -> None:
        for client in self.clients:
            client.close()
        self.link.close()
        self._main.close()
        if self.terminal is not None:
            os.close(self.terminal.master)
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        if isinstance(self.transport, UnixTransport):
            self.transport.close()
        self.loop.close()

    def client(self) -> Client:
        """A client that has said hello."""
        client = Client(self)
        self.clients.append(client)
        client.ok("hello", version=vmcontrol.VERSION)
        return client

    def close_stdin(self) -> None:
        os.close(self.stdin)
        self.stdin = -1

    def said(self, what: str) -> dict[str, Any] | None:
        """The first message of this kind that main was told."""
        return next((message for message in self.messages if message["m"] == what), None)

    def until(self, condition: Callable[[], object]) -> None:
        """Turn the loop until it holds; AssertionError with what is known otherwise."""
        limit = time.monotonic() + patience(30)
        while not condition():
            self.turn()
            if time.monotonic() > limit:
                raise AssertionError(
                    f"messages {self.messages}\noutput {self.output!r}\nerrors {self.errors!r}\n"
                    f"link {self.link.describe()}\nagent {self.link._session.describe()}"
                )

    def turn(self, timeout_s: float = 0.01) -> None:
        self.loop.run_once(timeout_s)
        self._hear()
        for client in self.clients:
            client.collect()
        if self.read_output:
            self._read()

    def _read(self) -> None:
        if self.terminal is not None:
            self.output += drain(self.terminal.master)
            return
        self.output += drain(self.stdout)
        self.errors += drain(self.stderr)

    def _hear(self) -> None:
        self._said += drain(self._main.fileno())
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            message = json.loads(line)
            self.messages.append(message)
            if "rid" in message:
                self._answer(message["rid"], message["m"])

    def _answer(self, rid: int, what: str) -> None:
        refusal = self.refusals.get(what)
        answer = {"rid": rid, "error": refusal} if refusal else {"rid": rid, "ok": self.answers[what]}
        self._main.send(json.dumps(answer).encode() + b"\n")


def drain(fd: int) -> bytes:
    """Everything that can be read now."""
    found = b""
    while fd >= 0:
        try:
            data = os.read(fd, 65536)
        except OSError:
            break
        if not data:
            break
        found += data
    return found
