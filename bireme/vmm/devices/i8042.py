"""The keyboard controller of the PC, of which one wire matters: the one that resets the processor.

| port | offset | read | write |
|---|---|---|---|
| 0x60 | 0 | data: nothing was typed, 0 | ignored: no keyboard is attached |
| 0x64 | 4 | status: 0, neither buffer full | command; 0xfe pulses the reset line |

A kernel that finds no better way to restart writes 0xfe here (`reboot=k`). The ports between belong to KVM's timer
(0x61, the speaker) or to nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DATA, COMMAND = 0, 4
SIZE = 5
_PULSE_RESET = 0xFE


class I8042:
    """`end(kind, detail)` is told of a reset."""

    def __init__(self, end: Callable[[str, str], None]) -> None:
        self._end = end

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == COMMAND and value & 0xFF == _PULSE_RESET:
            self._end("reset", "keyboard controller")
