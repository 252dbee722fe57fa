"""What ends a machine: ACPI registers, the keyboard controller, the debug port."""

from __future__ import annotations

import pytest

from bireme.vmm.devices.debugexit import DebugExit
from bireme.vmm.devices.i8042 import COMMAND, DATA, I8042
from bireme.vmm.devices.power import RESET, SLEEP_CONTROL, SLEEP_STATUS, Power


class Ends:
    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def __call__(self, *end: object) -> None:
        self.seen.append((end[0], *end[2:]))


@pytest.mark.parametrize(
    ("offset", "value", "end"),
    [
        (RESET, 1, "reset"),
        (RESET, 0, None),
        (SLEEP_CONTROL, 0x34, "power-off"),
        (SLEEP_CONTROL, 0x14, None),
        (SLEEP_CONTROL, 0x30, None),
        (SLEEP_STATUS, 0x80, None),
    ],
)
def test_power_registers(offset: int, value: int, end: str | None) -> None:
    ends = Ends()
    power = Power(ends)
    power.write(offset, 1, value)
    assert ends.seen == ([] if end is None else [(end,)])
    assert power.read(offset, 1) == 0


@pytest.mark.parametrize(("offset", "value", "resets"), [(COMMAND, 0xFE, 1), (COMMAND, 0xFF, 0), (DATA, 0xFE, 0)])
def test_the_keyboard_controller_resets(offset: int, value: int, resets: int) -> None:
    ends = Ends()
    controller = I8042(ends)
    controller.write(offset, 1, value)
    assert ends.seen == [("reset",)] * resets
    assert controller.read(offset, 1) == 0


def test_the_debug_port_has_a_number() -> None:
    ends = Ends()
    DebugExit(ends).write(0, 4, 77)
    assert ends.seen == [("debug-exit", 77)]
