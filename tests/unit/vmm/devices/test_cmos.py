"""The real-time clock."""

from __future__ import annotations

import calendar

from bireme.vmm.devices.cmos import Cmos


def registers(seconds: float) -> dict[int, int]:
    cmos = Cmos(lambda: seconds)
    found = {}
    for index in range(128):
        cmos.write(0, 1, index | 0x80)
        found[index] = cmos.read(1, 1)
    return found


def test_the_time_is_bcd_in_utc() -> None:
    found = registers(calendar.timegm((2031, 12, 24, 23, 59, 58)))
    assert [found[index] for index in (0x32, 0x09, 0x08, 0x07, 0x04, 0x02, 0x00)] == [
        *(0x20, 0x31, 0x12, 0x24),
        *(0x23, 0x59, 0x58),
    ]
    assert found[0x06] == 4
    assert (found[0x0A] & 0x80, found[0x0B] & 0x06, found[0x0D]) == (0, 0x02, 0x80)


def test_nothing_can_be_set() -> None:
    cmos = Cmos(lambda: 0.0)
    cmos.write(0, 1, 0x09)
    cmos.write(1, 1, 0x55)
    assert cmos.read(1, 1) == 0x70
    assert cmos.read(0, 1) == 0xFF
