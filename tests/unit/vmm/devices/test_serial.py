"""The serial port as a driver uses it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bireme.vmm.devices.serial import (
    DATA,
    FIFO_BYTES,
    INTERRUPT_ENABLE,
    INTERRUPT_ID,
    LINE_CONTROL,
    LINE_STATUS,
    MODEM_CONTROL,
    MODEM_STATUS,
    SCRATCH,
    Serial,
)
from bireme.vmm.irq import make_eventfd


class Port:
    def __init__(self, interrupt: int) -> None:
        self.sent = bytearray()
        self.serial = Serial(self.sent.extend, interrupt)
        self.interrupt = interrupt

    def read(self, offset: int) -> int:
        return self.serial.read(offset, 1)

    def write(self, offset: int, value: int) -> None:
        self.serial.write(offset, 1, value)

    def interrupts(self) -> int:
        try:
            return int.from_bytes(os.read(self.interrupt, 8), "little")
        except BlockingIOError:
            return 0


@pytest.fixture
def port() -> Iterator[Port]:
    interrupt = make_eventfd()
    yield Port(interrupt)
    os.close(interrupt)


def test_what_is_written_leaves_at_once(port: Port) -> None:
    for byte in b"hello":
        assert port.read(LINE_STATUS) == 0x60
        port.write(DATA, byte)
    assert port.sent == b"hello"
    assert port.interrupts() == 0


def test_a_driver_finds_a_port(port: Port) -> None:
    port.write(SCRATCH, 0x5A)
    assert port.read(SCRATCH) == 0x5A
    port.write(MODEM_CONTROL, 0x1F)
    assert port.read(MODEM_STATUS) & 0xF0 == 0xF0
    port.write(MODEM_CONTROL, 0x1A)
    assert port.read(MODEM_STATUS) & 0xF0 == 0x90
    port.write(MODEM_CONTROL, 0)
    assert port.read(MODEM_STATUS) == 0xB0


def test_the_divisor_hides_behind_a_bit(port: Port) -> None:
    port.write(LINE_CONTROL, 0x83)
    port.write(DATA, 0x0C)
    port.write(INTERRUPT_ENABLE, 0x01)
    assert (port.read(DATA), port.read(INTERRUPT_ENABLE)) == (0x0C, 0x01)
    port.write(LINE_CONTROL, 0x03)
    assert port.read(INTERRUPT_ENABLE) == 0
    assert port.sent == b""


def test_received_bytes_wait_and_interrupt(port: Port) -> None:
    assert port.serial.receive(b"ab") == 2
    assert port.interrupts() == 0
    port.write(INTERRUPT_ENABLE, 1)
    assert port.interrupts() == 1
    assert port.read(INTERRUPT_ID) == 0xC4
    assert port.read(LINE_STATUS) == 0x61
    assert [port.read(DATA), port.read(DATA), port.read(DATA)] == [ord("a"), ord("b"), 0]
    assert port.read(INTERRUPT_ID) == 0xC1
    port.serial.receive(b"c")
    assert port.interrupts() == 1


def test_the_fifo_is_bounded_and_can_be_cleared(port: Port) -> None:
    assert port.serial.receive(b"x" * 100) == FIFO_BYTES
    assert port.serial.receive(b"y") == 0
    port.write(INTERRUPT_ID, 0x07)
    assert port.read(LINE_STATUS) == 0x60


def test_the_transmit_interrupt_comes_when_it_is_asked_for(port: Port) -> None:
    port.write(INTERRUPT_ENABLE, 2)
    assert port.interrupts() == 1
    assert port.read(INTERRUPT_ID) == 0xC2
    assert port.read(INTERRUPT_ID) == 0xC1
    port.write(DATA, ord("a"))
    assert port.interrupts() == 1
    assert port.read(INTERRUPT_ID) == 0xC2


def test_loopback_receives_what_is_sent(port: Port) -> None:
    port.write(MODEM_CONTROL, 0x10)
    port.write(DATA, ord("a"))
    assert port.sent == b""
    assert port.read(DATA) == ord("a")


def test_read_only_registers_are(port: Port) -> None:
    port.write(LINE_STATUS, 0)
    port.write(MODEM_STATUS, 0)
    assert port.read(LINE_STATUS) == 0x60


def test_wide_and_large_accesses_do_no_harm(port: Port) -> None:
    for offset in range(8):
        port.serial.write(offset, 4, 0xFFFFFFFF)
        assert port.serial.read(offset, 4) >= 0
