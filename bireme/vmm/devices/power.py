"""Reset and power-off: the three registers that a machine without fixed ACPI hardware names in its FADT.

| offset | register | meaning |
|---|---|---|
| 0 | reset | writing RESET_VALUE starts the machine anew, which for us is its end |
| 1 | sleep control | bits 2-4: sleep type, bit 5: go to sleep now |
| 2 | sleep status | bit 7: woke up; we never sleep, so it reads 0 |

ACPI 6.5, 4.8.3.7 (sleep registers of hardware-reduced ACPI), 4.8.3.6 (reset register).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

RESET, SLEEP_CONTROL, SLEEP_STATUS, SIZE = 0, 1, 2, 3
RESET_VALUE = 1
SLEEP_TYPE_OFF = 5
_SLEEP_ENABLE = 1 << 5


class Power:
    """`end(kind, detail)` is told of power-off and reset."""

    def __init__(self, end: Callable[[str, str], None]) -> None:
        self._end = end

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == RESET and value & 0xFF == RESET_VALUE:
            self._end("reset", "ACPI reset register")
        elif offset == SLEEP_CONTROL and value & _SLEEP_ENABLE and value >> 2 & 7 == SLEEP_TYPE_OFF:
            self._end("power-off", "ACPI sleep control register")
