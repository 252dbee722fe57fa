"""Typing on the serial port: nothing is lost when the guest is slow, and the end of input is no end of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import cast

import pytest

from bireme.linux.poll import Loop
from bireme.vmm.devices.serial import DATA, FIFO_BYTES, Serial
from bireme.vmm.machine import Machine
from bireme.vmm.typist import ESCAPE, Typist


class Typed:
    """A machine as far as a typist sees it."""

    def __init__(self) -> None:
        self.serial = Serial(lambda data: None)
        self.ends: list[str] = []

    def end(self, kind: str, detail: str = "") -> None:
        self.ends.append(kind)


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def taken(machine: Typed) -> bytes:
    found = b""
    while machine.serial.read(5, 1) & 1:
        found += bytes([machine.serial.read(DATA, 1)])
    return found


def test_all_arrives_in_order(loop: Loop) -> None:
    machine = Typed()
    reader, writer = os.pipe()
    typist = Typist(loop, cast(Machine, machine), reader)
    text = bytes(range(256)) * 3
    os.write(writer, text)
    os.close(writer)
    found = b""
    while reader in loop or len(found) < len(text):
        loop.run_once(0.05)
        found += taken(machine)
    assert found == text
    assert not machine.ends
    typist.close()
    os.close(reader)


def test_no_more_is_read_than_the_guest_takes(loop: Loop) -> None:
    machine = Typed()
    reader, writer = os.pipe()
    Typist(loop, cast(Machine, machine), reader)
    os.write(writer, b"x" * 1000)
    for _ in range(5):
        loop.run_once(0.02)
    assert len(taken(machine)) == FIFO_BYTES
    os.close(reader)
    os.close(writer)


def test_a_file_is_nobody(loop: Loop) -> None:
    machine = Typed()
    fd = os.open(os.devnull, os.O_RDONLY)
    Typist(loop, cast(Machine, machine), fd)
    assert len(loop) == 0
    os.close(fd)


def test_the_escape_stops_the_machine_on_a_terminal_alone(loop: Loop) -> None:
    master, slave = os.openpty()
    machine = Typed()
    typist = Typist(loop, cast(Machine, machine), slave)
    os.write(master, b"a" + ESCAPE)
    loop.run_once(10)
    assert machine.ends == ["stopped"]
    typist.close()
    for fd in (master, slave):
        os.close(fd)
