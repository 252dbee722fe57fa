"""Standard input, output and error on this side, one socket on the other.

One loop over poll(2), no threads. At most one piece of input and one of output is held, so a pipe of any length passes
in bounded memory; input goes on while output waits for a slow reader and the other way round, which a filter between
two pipes needs. End of input half-closes the socket, end of the socket ends the loop.
"""

from __future__ import annotations

import os
import select

from bireme.client.errors import BrokenReply
from bireme.client.transport import SHUT_WR, waiting
from bireme.wire.stdcopy import STDERR, STDOUT, Decoder, FrameError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bireme.cli.terminal import DetachFilter
    from bireme.client.engine import HijackedStream

_SIZE = 64 << 10
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


class AttachedStreams:
    """Connects a hijacked stream with descriptors of ours; -1 is a stream that is not attached."""

    def __init__(
        self, hijacked: HijackedStream, *, raw: bool, stdin: int, stdout: int, stderr: int, detach: DetachFilter | None
    ) -> None:
        self._socket = hijacked.stream
        self._first = hijacked.first
        self._decoder = None if raw else Decoder()
        self._stdin = stdin
        self._targets = {STDOUT: stdout, STDERR: stderr}
        self._detach = detach
        self._input = b""
        self._input_open = stdin >= 0
        self._write_open = True
        self._output: list[tuple[int, bytes]] = []
        self._output_open = True
        self._unsent = False
        self.detached = False

    def run(self) -> bool:
        """Copy until the other side ends; True when the user typed the detach keys instead."""
        self._socket.setblocking(False)
        if self._first:
            self._take(self._first)
        while (self._output_open or self._output) and not self.detached:
            self._step(self._wait())
            if not self._input_open and not self._input and self._write_open:
                self._close_write()
        if self._input and self.detached:
            self._send_input()
        return self.detached

    def _wait(self) -> dict[int, int]:
        poller = select.poll()
        network = 0 if self._output or not self._output_open else select.POLLIN
        readable, self._unsent = waiting(self._socket)
        if (self._input and self._write_open) or self._unsent:
            network |= select.POLLOUT
        if network:
            poller.register(self._socket.fileno(), network)
        if self._output:
            poller.register(self._output[0][0], select.POLLOUT)
        if self._input_open and not self._input:
            poller.register(self._stdin, select.POLLIN)
        if not readable or self._output or not self._output_open:
            return dict(poller.poll())
        ready = dict(poller.poll(0))
        return ready | {self._socket.fileno(): ready.get(self._socket.fileno(), 0) | select.POLLIN}

    def _step(self, ready: dict[int, int]) -> None:
        if self._output and self._output[0][0] in ready:
            self._write_output()
        if ready.get(self._stdin, 0) and self._input_open and not self._input:
            self._read_input()
        events = ready.get(self._socket.fileno(), 0)
        if (self._input or self._unsent) and events & (select.POLLOUT | _GONE):
            self._send_input()
        if events & (select.POLLIN | _GONE) and not self._output and self._output_open:
            self._receive()

    def _read_input(self) -> None:
        try:
            data = os.read(self._stdin, _SIZE)
        except OSError:
            data = b""
        if not data:
            self._input_open = False
            return
        if self._detach is not None:
            data, self.detached = self._detach.feed(data)
        self._input = data

    def _send_input(self) -> None:
        try:
            sent = self._socket.send(self._input)
        except BlockingIOError:
            return
        except OSError:
            self._input, self._input_open, self._write_open = b"", False, False
            return
        self._input = self._input[sent:]

    def _close_write(self) -> None:
        self._write_open = False
        if self._stdin < 0:
            return
        try:
            self._socket.shutdown(SHUT_WR)
        except OSError:
            pass

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_SIZE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if data:
            self._take(data)
            return
        self._output_open = False
        if self._decoder is not None and not self._decoder.complete:
            raise BrokenReply("the engine closed the connection in the middle of the output")

    def _take(self, data: bytes) -> None:
        for stream, payload in self._decode(data):
            target = self._targets[STDERR if stream >= STDERR else STDOUT]
            if target >= 0:
                self._output.append((target, payload))

    def _decode(self, data: bytes) -> list[tuple[int, bytes]]:
        if self._decoder is None:
            return [(STDOUT, data)]
        try:
            return self._decoder.feed(data)
        except FrameError as error:
            raise BrokenReply(str(error)) from error

    def _write_output(self) -> None:
        target, data = self._output[0]
        try:
            written = os.write(target, data)
        except BlockingIOError:
            return
        if written == len(data):
            del self._output[0]
        else:
            self._output[0] = (target, data[written:])
