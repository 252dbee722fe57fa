"""A 16550 serial port: eight registers that every PC kernel can talk to before it knows anything else.

| offset | read | write | with DLAB (line control, bit 7) |
|---|---|---|---|
| 0 | receive buffer | transmit holding | divisor, low byte |
| 1 | interrupt enable | interrupt enable | divisor, high byte |
| 2 | interrupt identification | FIFO control | |
| 3 | line control | line control | |
| 4 | modem control | modem control | |
| 5 | line status | | |
| 6 | modem status | | |
| 7 | scratch | scratch | |

What is transmitted leaves at once, so the transmitter is always empty: a kernel that waits for "empty" never waits, and
one that enables the transmit interrupt gets it at once. Received bytes wait in a FIFO of 64 bytes; `receive` says how
many it took. The line is an edge: a pulse whenever a cause appears. (National Semiconductor PC16550D.)

Each byte costs the guest an exit, which is why it is for looking at a boot, and the virtio console for work.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from bireme.vmm.irq import signal

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 8
FIFO_BYTES = 64

DATA, INTERRUPT_ENABLE, INTERRUPT_ID, LINE_CONTROL, MODEM_CONTROL, LINE_STATUS, MODEM_STATUS, SCRATCH = range(SIZE)
_DLAB = 0x80
_LOOP = 0x10
_ENABLE_RECEIVE, _ENABLE_TRANSMIT = 0x01, 0x02
_ID_NONE, _ID_TRANSMIT, _ID_RECEIVE, _ID_FIFO = 0x01, 0x02, 0x04, 0xC0
_DATA_READY, _TRANSMITTER_EMPTY = 0x01, 0x60
_CARRIER = 0xB0
"""Modem status: carrier, ready and clear to send."""
_FIFO_CLEAR_RECEIVE = 0x02
_RESET_LINE_CONTROL = 0x03


class Serial:
    """`send` gets what the guest writes, on the vCPU's thread: it has to be quick. `receive` may be called from any."""

    def __init__(self, send: Callable[[bytes], object], interrupt: int = -1) -> None:
        self._send = send
        self._interrupt = interrupt
        self._lock = threading.Lock()
        self._received: deque[int] = deque()
        self._transmit_pending = False
        self._divisor = [1, 0]
        self._registers = bytearray(SIZE)
        self._registers[LINE_CONTROL] = _RESET_LINE_CONTROL
        self._reads: dict[int, Callable[[], int]] = {
            DATA: self._read_data,
            INTERRUPT_ID: self._read_id,
            LINE_STATUS: lambda: _TRANSMITTER_EMPTY | (_DATA_READY if self._received else 0),
            MODEM_STATUS: self._read_modem_status,
        }
        self._writes: dict[int, Callable[[int], None]] = {
            DATA: self._write_data,
            INTERRUPT_ENABLE: self._write_enable,
            INTERRUPT_ID: self._write_fifo,
            LINE_STATUS: lambda value: None,
            MODEM_STATUS: lambda value: None,
        }

    def receive(self, data: bytes) -> int:
        """Bytes for the guest; how many fitted."""
        with self._lock:
            taken = data[: FIFO_BYTES - len(self._received)]
            self._received.extend(taken)
        self._announce()
        return len(taken)

    def read(self, offset: int, size: int) -> int:
        if offset < 2 and self._registers[LINE_CONTROL] & _DLAB:
            return self._divisor[offset]
        action = self._reads.get(offset)
        return action() if action is not None else self._registers[offset & 7]

    def write(self, offset: int, size: int, value: int) -> None:
        value &= 0xFF
        if offset < 2 and self._registers[LINE_CONTROL] & _DLAB:
            self._divisor[offset] = value
            return
        action = self._writes.get(offset)
        if action is not None:
            action(value)
        else:
            self._registers[offset & 7] = value

    def _read_data(self) -> int:
        with self._lock:
            return self._received.popleft() if self._received else 0

    def _cause(self) -> int:
        enabled = self._registers[INTERRUPT_ENABLE]
        if self._received and enabled & _ENABLE_RECEIVE:
            return _ID_RECEIVE
        if self._transmit_pending and enabled & _ENABLE_TRANSMIT:
            return _ID_TRANSMIT
        return _ID_NONE

    def _read_id(self) -> int:
        cause = self._cause()
        if cause == _ID_TRANSMIT:
            self._transmit_pending = False
        return cause | _ID_FIFO

    def _read_modem_status(self) -> int:
        control = self._registers[MODEM_CONTROL]
        if not control & _LOOP:
            return _CARRIER
        # In loopback the outputs are wired to the inputs: kernels test for a port that way.
        return (control & 0x0C) << 4 | (control & 0x02) << 3 | (control & 0x01) << 5

    def _write_data(self, value: int) -> None:
        byte = bytes([value])
        if self._registers[MODEM_CONTROL] & _LOOP:
            self.receive(byte)
        else:
            self._send(byte)
        self._transmit_pending = True
        self._announce()

    def _write_enable(self, value: int) -> None:
        appeared = value & ~self._registers[INTERRUPT_ENABLE] & _ENABLE_TRANSMIT
        self._registers[INTERRUPT_ENABLE] = value & 0x0F
        self._transmit_pending |= bool(appeared)
        self._announce()

    def _write_fifo(self, value: int) -> None:
        if value & _FIFO_CLEAR_RECEIVE:
            with self._lock:
                self._received.clear()

    def _announce(self) -> None:
        if self._interrupt >= 0 and self._cause() != _ID_NONE:
            signal(self._interrupt)
