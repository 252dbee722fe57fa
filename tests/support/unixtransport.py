"""Connections of the link over AF_UNIX, with a window as virtio-vsock has one: for an agent without a machine.

What was sent first on any connection comes first, as in a virtqueue: before the control connection is read, every
stream is.

The agent's `--socket PATH` connects to PATH.1024 and PATH.1025.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from bireme.linux.poll import READ, WRITE, Loop
from bireme.vmm.link.contract import Connection, Handler
from bireme.wire.agent import CONTROL_PORT, STREAM_PORT

WINDOW = 65536


class UnixConnection:
    """Reads while less than a window is unconsumed; `sendable` is what fits into a window of our own."""

    handler: Handler

    def __init__(self, loop: Loop, sock: socket.socket, earlier: Callable[[], None]) -> None:
        self._loop = loop
        self._earlier = earlier
        self._sock: socket.socket | None = sock
        self._unconsumed = 0
        self._out = bytearray()
        self._was_full = False
        self._ended = False
        self._shut = self._shutting = False
        sock.setblocking(False)

    def start(self, handler: Handler) -> None:
        assert self._sock is not None
        self.handler = handler
        self._loop.add(self._sock.fileno(), self._ready)

    @property
    def sendable(self) -> int:
        room = 0 if self._sock is None or self._shut else WINDOW - len(self._out)
        self._was_full = self._was_full or not room
        return room

    def send(self, data: bytes | memoryview) -> int:
        part = bytes(data[: self.sendable])
        self._out += part
        self._update()
        return len(part)

    def consume(self, count: int) -> None:
        self._unconsumed -= count
        self._update()

    def shutdown(self) -> None:
        self._shut = self._shutting = True
        self._update()

    def reset(self) -> None:
        if self._sock is not None:
            self._loop.remove(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def _update(self) -> None:
        if self._sock is None:
            return
        wanted = 0 if self._ended or self._unconsumed >= WINDOW else READ
        if self._out or self._shutting:
            wanted |= WRITE
        fd = self._sock.fileno()
        if not wanted:
            self._loop.remove(fd)
        elif fd in self._loop:
            self._loop.modify(fd, wanted)
        else:
            self._loop.add(fd, self._ready, wanted)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._write()
        if events & ~WRITE:
            self._earlier()
            self.read()
        self._update()

    def _write(self) -> None:
        assert self._sock is not None
        try:
            del self._out[: self._sock.send(self._out)]
        except BlockingIOError:
            return
        except OSError:
            self._gone()
            return
        if not self._out and self._shutting:
            self._shutting = False
            self._sock.shutdown(socket.SHUT_WR)
        if self._was_full and not self._shut:
            self._was_full = False
            self.handler.on_writable()

    def read(self) -> None:
        """Deliver what has come, up to the window."""
        if self._sock is None or self._ended or self._unconsumed >= WINDOW:
            return
        try:
            data = self._sock.recv(WINDOW - self._unconsumed)
        except BlockingIOError:
            return
        except OSError:
            self._gone()
            return
        if data:
            self._unconsumed += len(data)
            self.handler.on_data(data)
        elif not self._ended:
            self._ended = True
            self.handler.on_end()
            self._gone()

    def _gone(self) -> None:
        """A unix socket that was closed looks like one that was shut down: the agent closes all of its streams."""
        if self._sock is not None:
            self.reset()
            self.handler.on_close()


class UnixTransport:
    """Listeners below PATH; `loop` is the link's."""

    def __init__(self, loop: Loop, path: str) -> None:
        self._loop = loop
        self._path = path
        self._listeners: list[socket.socket] = []
        self._streams: list[UnixConnection] = []
        self._accept_streams: Callable[[], None] = lambda: None

    def listen(self, port: int, accept: Callable[[Connection], Handler | None]) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(f"{self._path}.{port}")
        listener.listen(64)
        listener.setblocking(False)
        self._listeners.append(listener)

        def accept_all(_events: int = 0) -> None:
            while self._accept(port, listener, accept):
                pass

        if port == STREAM_PORT:
            self._accept_streams = accept_all
        self._loop.add(listener.fileno(), accept_all)

    def _accept(self, port: int, listener: socket.socket, accept: Callable[[Connection], Handler | None]) -> bool:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return False
        control = port == CONTROL_PORT
        connection = UnixConnection(self._loop, sock, self._read_streams if control else lambda: None)
        handler = accept(connection)
        if handler is None:
            sock.close()
            return True
        connection.start(handler)
        if not control:
            self._streams.append(connection)
        return True

    def _read_streams(self) -> None:
        self._accept_streams()
        for connection in self._streams:
            connection.read()

    def close(self) -> None:
        for connection in self._streams:
            connection.reset()
        for listener in self._listeners:
            self._loop.remove(listener.fileno())
            listener.close()
