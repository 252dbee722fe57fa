"""The caller's side of a container that runs in the foreground: its terminal, its signals, its end.

With a terminal the master is either sent to --console-socket (one message, SCM_RIGHTS) or, in the foreground, joined
to our own: raw mode, bytes both ways, the window's size kept the same. Signals we get go to the process, all but those
that are about us.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from typing import TYPE_CHECKING

from bireme.errors import Internal, Invalid
from bireme.linux import process, tty

if TYPE_CHECKING:
    from bireme.runtime.launch import Started
    from bireme.runtime.main import Options

_NOT_PASSED_ON = {signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU}
_NEVER = {signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
_CHUNK = 1 << 16


def check(options: Options, *, terminal: bool, detach: bool) -> None:
    """Whether --console-socket and the terminal fit together; Invalid with runc's words."""
    given = bool(options.text("console-socket"))
    if terminal and detach and not given:
        raise Invalid("cannot allocate tty if runc will detach without setting console socket", place="console-socket")
    if given and not (terminal and detach):
        raise Invalid(
            "cannot use console socket if runc will not detach or allocate tty",
            place="console-socket",
        )


def send(path: str, fd: int, data: bytes) -> None:
    """One descriptor to a listening unix stream socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect(path)
        socket.send_fds(sock, [data], [fd])


def own_size() -> tuple[int, int]:
    """(rows, columns) of our own terminal, (0, 0) without one."""
    for fd in (0, 1, 2):
        if os.isatty(fd):
            return tty.get_size(fd)
    return 0, 0


class SignalPipe:
    """While it is open every signal that can be caught arrives as a byte of `fd`, so none is lost before there is
    somebody to pass it on to, and waiting for one is like waiting for any other descriptor."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before = {}
        for number in set(signal.Signals) - _NEVER:
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGPIPE:
                self._before[number] = signal.signal(number, _noted)

    def __enter__(self) -> SignalPipe:
        return self

    def take(self) -> list[int]:
        """The signals that came since the last time."""
        try:
            return list(os.read(self.fd, 256))
        except BlockingIOError:
            return []

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self.fd)
        os.close(self._writer)


def _noted(number: int, frame: object) -> None:
    """The byte in the pipe is all."""


def attend(started: Started, signals: SignalPipe, *, terminal: bool) -> int:
    """Stay with a process of ours until it ends: terminal and signals; its exit code (128 + signal)."""
    settings = None
    if terminal and os.isatty(0):
        settings = tty.make_raw(0)
    try:
        return _Attendance(started, signals).run()
    finally:
        if settings is not None:
            tty.restore(0, settings)
        if started.console >= 0:
            os.close(started.console)


class _Attendance:
    def __init__(self, started: Started, signals: SignalPipe) -> None:
        self.pidfd = started.pidfd
        self.master = started.console
        self.signals = signals
        self.poll = select.poll()
        self.poll.register(self.pidfd, select.POLLIN)
        self.poll.register(signals.fd, select.POLLIN)
        self.typed = b""
        """Read from us and not yet taken by the terminal."""
        if self.master >= 0:
            os.set_blocking(self.master, False)
            self.poll.register(self.master, select.POLLIN)
            self.poll.register(0, select.POLLIN)

    def run(self) -> int:
        while True:
            ready = dict(self.poll.poll())
            self._pass_signals()
            if self.master >= 0 and ready.get(self.master, 0) & ~select.POLLOUT:
                self._show()
            if self.master >= 0 and self.typed:
                self._type()
            elif self.master >= 0 and 0 in ready:
                self._read_typed()
            if self.pidfd in ready:
                while self.master >= 0 and self._show():
                    continue
                ended = process.wait_pidfd(self.pidfd)
                if ended is None:
                    raise Internal("the process ended twice", place="wait")
                return ended.code

    def _pass_signals(self) -> None:
        for number in self.signals.take():
            if number == signal.SIGWINCH and self.master >= 0:
                rows, columns = own_size()
                if rows:
                    tty.set_size(self.master, rows, columns)
            elif number not in _NOT_PASSED_ON:
                process.pidfd_send_signal(self.pidfd, number)

    def _show(self) -> bool:
        """Output of the container to ours; False when there is none (any more)."""
        try:
            data = os.read(self.master, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._forget_master()
            return False
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]
        return True

    def _read_typed(self) -> None:
        data = os.read(0, _CHUNK)
        if not data:
            self.poll.unregister(0)
            data = b"\x04"
        self.typed = data
        self._type()

    def _type(self) -> None:
        try:
            self.typed = self.typed[os.write(self.master, self.typed) :]
        except BlockingIOError:
            pass
        except OSError:
            self.typed = b""
        self.poll.modify(self.master, select.POLLIN | (select.POLLOUT if self.typed else 0))

    def _forget_master(self) -> None:
        self.poll.unregister(self.master)
        with contextlib.suppress(KeyError):
            self.poll.unregister(0)
        self.master = -1
