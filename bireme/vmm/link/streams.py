"""One stream between the guest and a descriptor of the host: stdin, stdout, stderr, or a terminal (both directions).

    guest ==connection==> pending --write--> descriptor      credit goes back only for what was written: a host pipe
                                                             that is full stops the process inside, as a pipe does
    guest <==connection== --read---- descriptor              is read only while the guest has room

A stream exists before its connection: the agent claims it with a token. A host reader that went away (EPIPE) is no
reason to stop the process: its output is consumed to nowhere. The end of a host's stdin is passed on; a guest that
takes no more input closes our end of that pipe, so that the host's writer learns of it. A terminal is the slave of a
pty in raw mode; when the other side of it is closed the guest's terminal hangs up.

Once the process has ended, what it wrote has to leave a machine that is about to end, read or not: the host's pipe,
which others hold too, is made large enough for all that can wait on the way (`make_room`). A terminal has no such room.

Descriptors are ours alone, so they are made non-blocking. Regular files and /dev/null cannot be watched by epoll: they
are always ready.
"""

from __future__ import annotations

import os
import termios
from collections import deque
from typing import TYPE_CHECKING

from bireme.errors import Invalid
from bireme.linux import fd as fdlib
from bireme.linux import tty
from bireme.linux.poll import READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable

    from bireme.linux.poll import Loop
    from bireme.vmm.link.contract import Connection

CHUNK = 65536
LAST_BYTES = 1 << 20
"""The largest pipe that needs no privilege. It takes a pipe of the guest (64 KiB unless its process made it larger),
the agent's buffer (32 KiB), a connection's window (256 KiB) and what was in it before (64 KiB)."""


class Stream:
    """See above. `on_progress` is called when something was written, or the stream ended."""

    def __init__(
        self, loop: Loop, fd: int, *, reads: bool, writes: bool, on_progress: Callable[[], None] = lambda: None
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._reads = reads
        self._writes = writes
        self._interest = 0
        self._pending: deque[memoryview] = deque()
        self._nowhere = False
        self._ended = not writes
        self._connection: Connection | None = None
        self._on_progress = on_progress
        self.bytes_in = 0
        self.bytes_out = 0
        try:
            os.set_blocking(fd, False)
            if reads and writes:
                tty.make_raw(fd)
        except (OSError, termios.error) as error:
            os.close(fd)
            raise Invalid(f"descriptor that is no stream: {error}", place="link") from error

    @property
    def silent(self) -> bool:
        """Nothing waits to be written."""
        return not self._pending

    @property
    def drained(self) -> bool:
        """Nothing will be written any more."""
        return self._ended and not self._pending

    def attach(self, connection: Connection) -> None:
        """The agent has connected it."""
        self._connection = connection
        if self._reads:
            self._read()

    def make_room(self) -> None:
        """The process has ended, and a reader that is slow shall not keep its output here."""
        if not self._pending or self._reads:
            return
        try:
            fdlib.set_pipe_size(self._fd, LAST_BYTES)
        except OSError:
            return
        self._write()

    # From the guest.

    def on_data(self, data: bytes) -> None:
        if not self._writes or self._nowhere or self._fd < 0:
            self._consume(len(data))
            return
        self._pending.append(memoryview(data))
        if len(self._pending) == 1:
            self._write()

    def on_end(self) -> None:
        self._ended = True
        self._settle()

    def on_writable(self) -> None:
        self._read()

    def on_close(self) -> None:
        self._connection = None
        self._ended = True
        self._reads = False
        self._settle()

    def _consume(self, count: int) -> None:
        if self._connection is not None:
            self._connection.consume(count)

    def _write(self) -> None:
        while self._pending:
            try:
                count = os.write(self._fd, self._pending[0])
            except BlockingIOError:
                self._watch()
                return
            except OSError:
                self._lose_reader()
                return
            self.bytes_out += count
            self._take(count)
        self._settle()

    def _take(self, count: int) -> None:
        """The first `count` bytes are written."""
        first = self._pending.popleft()
        if count < len(first):
            self._pending.appendleft(first[count:])
        self._consume(count)
        self._on_progress()

    def _lose_reader(self) -> None:
        """The host does not read any more: from now on to nowhere."""
        self._nowhere = True
        waiting = sum(len(data) for data in self._pending)
        self._pending.clear()
        self._consume(waiting)
        if self._reads:
            self._hang_up()
        self._settle()

    # From the host.

    def _read(self) -> None:
        connection = self._connection
        if connection is None or not self._reads or self._fd < 0:
            return
        room = connection.sendable
        if not room:
            self._watch()
            return
        try:
            data = os.read(self._fd, min(room, CHUNK))
        except BlockingIOError:
            self._watch()
            return
        except OSError:
            data = b""
        if not data:
            self._end_of_input(connection)
            return
        self.bytes_in += len(data)
        connection.send(data)
        self._watch()

    def _end_of_input(self, connection: Connection) -> None:
        self._reads = False
        if self._writes:
            self._hang_up()
        else:
            connection.shutdown()
            self.close()

    def _hang_up(self) -> None:
        """A terminal whose other side is gone: the guest's terminal goes too, and with it the connection."""
        connection, self._connection = self._connection, None
        self._reads = False
        self._ended = True
        if connection is not None:
            connection.reset()
        self._settle()

    # Both.

    def _ready(self, _events: int) -> None:
        if self._pending:
            self._write()
        self._read()

    def _watch(self) -> None:
        """Watch for what we wait for, and for nothing else: hang-ups are reported as long as anything is watched."""
        wanted = WRITE if self._pending else 0
        if self._reads and self._connection is not None and self._connection.sendable:
            wanted |= READ
        if self._fd < 0 or wanted == self._interest:
            return
        before, self._interest = self._interest, wanted
        if not wanted:
            self._loop.remove(self._fd)
        elif before:
            self._loop.modify(self._fd, wanted)
        else:
            self._add(wanted)

    def _add(self, wanted: int) -> None:
        try:
            self._loop.add(self._fd, self._ready, wanted)
        except PermissionError:
            self._interest = 0
            self._loop.call_soon(lambda: self._ready(0))

    def _settle(self) -> None:
        """Close the descriptor when nothing more can happen to it."""
        if not self._pending and self._ended and not (self._reads and self._connection is not None):
            self.close()
        else:
            self._watch()
        self._on_progress()

    def close(self) -> None:
        """Give the descriptor up; idempotent. What comes from now on goes nowhere."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if self._interest:
                self._loop.remove(fd)
                self._interest = 0
            os.close(fd)

    def abandon(self) -> None:
        """The process never came to be: close everything."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.reset()
        self._pending.clear()
        self._ended = True
        self.close()

    def describe(self) -> dict[str, object]:
        return {
            "connected": self._connection is not None,
            "waiting_bytes": sum(len(data) for data in self._pending),
            "to_guest_bytes": self.bytes_in,
            "from_guest_bytes": self.bytes_out,
            "nowhere": self._nowhere,
        }
