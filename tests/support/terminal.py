"""A program on a pseudo-terminal of its own, driven like a person would: look at the screen, type, resize."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

DEADLINE_S = 60.0


class Terminal:
    """`words` run with all three streams on the terminal, in a session of their own."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str], rows: int = 24, columns: int = 80) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.screen = b""
        self.child = subprocess.Popen(
            list(words),
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=dict(env),
            start_new_session=True,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait(DEADLINE_S)
        os.close(self.master)
        os.close(self.slave)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def tell_resized(self, rows: int, columns: int) -> None:
        """As a terminal emulator does: set the size, and the foreground process gets SIGWINCH."""
        self.resize(rows, columns)
        self.child.send_signal(signal.SIGWINCH)

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def expect(self, text: bytes) -> bytes:
        """Read until `text` is on the screen; all that was read."""
        self._until(lambda: text in self.screen, f"{text!r} on the screen")
        return self.screen

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def until_raw(self) -> None:
        self._until(self.is_raw, "raw mode")

    def is_restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def wait(self) -> int:
        self._until(lambda: self.child.poll() is not None, "the end of the program")
        self._read(0.0)
        return self.child.returncode

    def _until(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain for {what}; screen: {self.screen!r}")
            self._read(0.02)

    def _read(self, patience_s: float) -> None:
        while select.select([self.master], [], [], patience_s)[0]:
            patience_s = 0.0
            with contextlib.suppress(OSError):
                self.screen += os.read(self.master, 65536)
