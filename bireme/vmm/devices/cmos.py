"""CMOS memory with the real-time clock (MC146818), for a kernel that reads the time from it.

| port | offset | meaning |
|---|---|---|
| 0x70 | 0 | write: which byte (bit 7, the NMI mask, is not ours) |
| 0x71 | 1 | that byte |

Of the 128 bytes only the clock answers: seconds 0x00, minutes 0x02, hours 0x04, weekday 0x06, day 0x07, month 0x08,
year 0x09, century 0x32, in BCD and UTC; status A without "update in progress", B for 24 hours, D for a good battery.
All others read 0 and what is written is forgotten: a guest cannot set the host's clock. Linux under KVM has a better
one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 2
_INDEX, _DATA = 0, 1
_FIELDS: dict[int, Callable[[time.struct_time], int]] = {
    0x00: lambda now: now.tm_sec,
    0x02: lambda now: now.tm_min,
    0x04: lambda now: now.tm_hour,
    0x06: lambda now: (now.tm_wday + 1) % 7 + 1,
    0x07: lambda now: now.tm_mday,
    0x08: lambda now: now.tm_mon,
    0x09: lambda now: now.tm_year % 100,
    0x32: lambda now: now.tm_year // 100,
}
_STATUS = {0x0A: 0x26, 0x0B: 0x02, 0x0D: 0x80}


def bcd(value: int) -> int:
    return value // 10 << 4 | value % 10


class Cmos:
    """`clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._index = 0

    def read(self, offset: int, size: int) -> int:
        if offset != _DATA:
            return 0xFF
        field = _FIELDS.get(self._index)
        if field is not None:
            return bcd(field(time.gmtime(self._clock())))
        return _STATUS.get(self._index, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == _INDEX:
            self._index = value & 0x7F
