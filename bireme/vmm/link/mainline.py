"""The line to the VMM's main process: JSON objects, one a line, over a socketpair.

    link                                     main
      {"m": "running", "pid"}     ------->   the program was executed
      {"m": "failed", "stage", "errno", "subject", "message"}     the machine ends, this is why
      {"m": "ended", "code", "signal"}       the first process has ended and its output is delivered; "lost": or why not
      {"m": "pause" | "resume" | "describe", "rid"} ------->
                        <------------------- {"rid", "ok": {...}} or {"rid", "error": {...}}

The link ends when main closes the line.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bireme.errors import BiremeError, Internal, from_wire
from bireme.linux.poll import READ, WRITE

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from bireme.linux.poll import Loop

MAX_LINE = 4 << 20


class MainLine:
    """See the head; the socket is ours."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._in = bytearray()
        self._out = bytearray()
        self._rid = 0
        self._asked: dict[int, Callable[[dict[str, Any] | BiremeError], None]] = {}
        loop.add(sock.fileno(), self._ready)

    def tell(self, **message: object) -> None:
        """Say something that has no answer."""
        self._out += json.dumps(message).encode() + b"\n"
        self._flush()

    def close(self) -> None:
        self._loop.remove(self._sock.fileno())
        self._sock.close()

    def ask(self, what: str, answered: Callable[[dict[str, Any] | BiremeError], None]) -> None:
        """pause, resume or describe."""
        self._rid += 1
        self._asked[self._rid] = answered
        self.tell(m=what, rid=self._rid)

    def _flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._sock.send(self._out)]
        except BlockingIOError:
            self._loop.modify(self._sock.fileno(), READ | WRITE)
            return
        except OSError:
            self._loop.stop()
            return
        self._loop.modify(self._sock.fileno(), READ)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._in += data
        if not data or len(self._in) > MAX_LINE:
            self._loop.stop()
            return
        *lines, rest = bytes(self._in).split(b"\n")
        self._in = bytearray(rest)
        for line in lines:
            self._answer(json.loads(line))

    def _answer(self, message: dict[str, Any]) -> None:
        answered = self._asked.pop(message.get("rid", 0), None)
        if answered is None:
            return
        error = message.get("error")
        if error is None:
            answered(message.get("ok", {}))
        else:
            answered(from_wire(error) if isinstance(error, dict) else Internal(str(error), place="vmm"))
