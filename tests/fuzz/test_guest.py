"""Guests of random instructions: whatever they do, their machine ends with a reason that is not our failure."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bireme.vmm.machine import Machine
from bireme.vmm.registers import Entry

pytestmark = pytest.mark.needs_kvm

PLACE = 0x1000
ENDS = {"stopped", "triple-fault", "kvm-error", "reset", "power-off", "debug-exit"}

ports = st.sampled_from([0x20, 0x21, 0x40, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0xF4, 0x92])
wide = st.sampled_from([0x3F8, 0x3F9, 0x3FA, 0x3FC, 0x3FD, 0x3FF, 0x600, 0x601, 0x602, 0xCF8, 0xFFFF])
byte = st.integers(0, 255)
near_port = st.builds(
    lambda code, port, value: bytes([0xB0, value, code, port]), st.sampled_from([0xE4, 0xE5, 0xE6, 0xE7]), ports, byte
)
any_port = st.builds(
    lambda prefix, code, port, value: bytes([0xBA, *port.to_bytes(2, "little"), 0xB0, value, *prefix, code]),
    st.sampled_from([b"", b"\x66", b"\xb9\x05\x00\xf3"]),
    st.sampled_from([0xEC, 0xED, 0xEE, 0xEF, 0x6C, 0x6D, 0x6E, 0x6F]),
    wide,
    byte,
)
program = st.lists(st.one_of(near_port, any_port, st.binary(max_size=6)), max_size=20).map(b"".join)


@settings(max_examples=60)
@given(program, st.sampled_from(["real", "protected"]))
def test_random_guests(code: bytes, mode: str) -> None:
    sent = bytearray()
    machine = Machine(1 << 20, 1, serial=sent.extend, debug_exit=True)
    try:
        machine.memory.write(PLACE, code + b"\xeb\xfe")
        machine.enter_at(Entry(mode, {"rip": PLACE, "rsp": 0xF000}))  # type: ignore[arg-type]
        machine.run()
        end = machine.wait(0.02) or machine.stop()
        assert end.kind in ENDS, end
        assert machine.describe()["ended"]["kind"] == end.kind
    finally:
        machine.close()
