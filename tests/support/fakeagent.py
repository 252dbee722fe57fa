"""An agent in the test's process: says what the test wants, over the unix sockets of a `Linked`."""

from __future__ import annotations

import socket
from typing import Any

from bireme.wire import agent
from bireme.wire.agent import Kind
from tests.support.linked import Linked

HELLO = {"version": 1, "oldest": 1, "software": "fake", "kernel": "6.0"}


class FakeAgent:
    """Requests it got are in `requests` as (kind, rid, fields)."""

    def __init__(self, bench: Linked) -> None:
        self._bench = bench
        self._decoder = agent.Decoder(agent.MAX_TO_AGENT)
        self.requests: list[tuple[Kind, int, dict[str, Any]]] = []
        self.streams: dict[str, socket.socket] = {}
        self.gone = False
        self.control = self._connect(agent.CONTROL_PORT)

    def _connect(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(f"{self._bench.socket_path}.{port}")
        sock.setblocking(False)
        return sock

    def say(self, kind: Kind, rid: int = 0, **fields: Any) -> None:
        self.raw(agent.encode(kind, rid, fields))

    def raw(self, data: bytes) -> None:
        self.control.sendall(data)

    def hear(self) -> bool:
        """Take what has come; for `until`."""
        try:
            data = self.control.recv(1 << 20)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.gone = True
        for frame in self._decoder.feed(data):
            self.requests.append((Kind(frame.kind), frame.rid, agent.decode(frame.body)))
        return True

    def wait(self, kind: Kind) -> tuple[int, dict[str, Any]]:
        """The next request of this kind, which must be the first one waiting."""
        self._bench.until(lambda: self.hear() and self.requests)
        found, rid, fields = self.requests.pop(0)
        assert found is kind
        return rid, fields

    def stream(self, token: bytes) -> socket.socket:
        sock = self._connect(agent.STREAM_PORT)
        sock.sendall(token)
        return sock

    def boot(self) -> dict[str, Any]:
        """Hello and configure, up to a running first process; its streams are connected."""
        self.say(Kind.HELLO, **HELLO)
        rid, fields = self.wait(Kind.CONFIGURE)
        self.connect_streams(fields)
        self.say(Kind.OK, rid, pid=1)
        self._bench.until(lambda: self._bench.said("running"))
        return fields

    def connect_streams(self, fields: dict[str, Any]) -> None:
        """Those of a process, instead of the ones there were."""
        self.close_output()
        for name in ("stdin", "stdout", "stderr", "console"):
            if f"{name}_token" in fields:
                self.streams[name] = self.stream(fields[f"{name}_token"])

    def close_output(self) -> None:
        for name in ("stdout", "stderr"):
            if name in self.streams:
                self.streams.pop(name).close()

    def end(self, code: int = 0, signal: int = 0) -> None:
        """The first process ends."""
        self.close_output()
        self.say(Kind.EXITED, number=0, code=code, signal=signal)

    def close(self) -> None:
        self.control.close()
        for sock in self.streams.values():
            sock.close()
