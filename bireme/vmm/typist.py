"""Typing on a machine's serial port: what comes on standard input goes to the guest, as fast as it takes it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bireme.linux import tty
from bireme.vmm.devices.serial import FIFO_BYTES

if TYPE_CHECKING:
    from bireme.linux.poll import Loop
    from bireme.vmm.machine import Machine

ESCAPE = b"\x1d"
"""Ctrl-] on a terminal stops the machine."""
_AGAIN_S = 0.01


class Typist:
    """Standard input for the serial port; a terminal is raw until `close`."""

    def __init__(self, loop: Loop, machine: Machine, fd: int = 0) -> None:
        self._loop = loop
        self._machine = machine
        self._fd = fd
        self._waiting = b""
        self._settings = tty.make_raw(fd) if os.isatty(fd) else None
        self._listen()

    def _listen(self) -> None:
        try:
            self._loop.add(self._fd, lambda _mask: self._typed())
        except OSError:
            return  # a file or nothing at all: there is nobody to wait for

    def _typed(self) -> None:
        data = os.read(self._fd, FIFO_BYTES)
        if not data:
            self._loop.remove(self._fd)
        elif self._settings is not None and ESCAPE in data:
            self._machine.end("stopped", "from the terminal")
        else:
            self._waiting += data
            self._pass_on()

    def _pass_on(self) -> None:
        """Read no more before the guest has taken what there is."""
        serial = self._machine.serial
        if serial is not None:
            self._waiting = self._waiting[serial.receive(self._waiting) :]
        if not self._waiting:
            if self._fd not in self._loop:
                self._listen()
            return
        self._loop.remove(self._fd)
        self._loop.call_later(_AGAIN_S, self._pass_on)

    def close(self) -> None:
        if self._settings is not None:
            tty.restore(self._fd, self._settings)
            self._settings = None
