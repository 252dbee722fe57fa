"""A vCPU thread over a scripted processor: what each exit leads to, and how a thread is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from bireme.linux.kvm import ExitReason, Vcpu, uapi
from bireme.vmm.bus import Bus
from bireme.vmm.vcpu import VcpuThread, install_kick

DATA = 4096
INTR = ExitReason.KVM_EXIT_INTR


class Processor:
    """`enter` plays a script: a reason, or a function that sets up the page and returns one; then interruptions."""

    def __init__(self, *script: int | Callable[[bytearray], int]) -> None:
        self.run_page = bytearray(2 * DATA)
        self.script = list(script)

    def enter(self) -> int:
        if not self.script:
            return INTR
        step = self.script.pop(0)
        return step(self.run_page) if callable(step) else step

    def request_exit(self, on: bool = True) -> None:
        self.run_page[1] = on

    def regs(self) -> dict[str, int]:
        return {"rip": 0x1234}


class Ending:
    """The machine's part: the first interruption after the script ends the thread."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, str]] = []
        self.parks = 0

    def park(self, vcpu: VcpuThread) -> bool:
        self.parks += 1
        return self.parks == 1

    def end(self, kind: str, detail: str = "", code: int = 0) -> None:
        self.ends.append((kind, detail))


class Echo:
    """Reads what was written last."""

    def __init__(self) -> None:
        self.value = 0
        self.seen: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        return self.value

    def write(self, offset: int, size: int, value: int) -> None:
        self.value = value
        self.seen.append((offset, size, value))


def port(direction: int, size: int, data: bytes = b"", count: int = 1) -> Callable[[bytearray], int]:
    def step(page: bytearray) -> int:
        uapi.run_io.pack_into(page, uapi.EXIT_OFFSET, direction, size, 0x90, count, DATA)
        page[DATA : DATA + len(data)] = data
        return ExitReason.KVM_EXIT_IO

    return step


def register(address: int, data: bytes, size: int, is_write: int) -> Callable[[bytearray], int]:
    def step(page: bytearray) -> int:
        uapi.run_mmio.pack_into(page, uapi.EXIT_OFFSET, address, data, size, is_write)
        return ExitReason.KVM_EXIT_MMIO

    return step


class Bench:
    def __init__(self, *script: int | Callable[[bytearray], int]) -> None:
        install_kick()
        self.device, self.ending, self.processor = Echo(), Ending(), Processor(*script)
        pio, mmio = Bus("pio"), Bus("mmio")
        pio.add(0x90, 4, self.device, "echo")
        mmio.add(0x1000, 0x1000, self.device, "echo")
        self.thread = VcpuThread(0, cast(Vcpu, self.processor), pio, mmio, self.ending)
        self.thread.start()
        self.thread.join()

    def exits(self) -> Any:
        return self.thread.describe()["exits"]


def test_ports_are_read_and_written() -> None:
    bench = Bench(port(1, 2, b"\x34\x12"), port(0, 2, bytes(2)))
    assert bench.device.seen == [(0, 2, 0x1234)]
    assert bench.processor.run_page[DATA : DATA + 2] == b"\x34\x12"
    assert bench.exits() == {"io": 2, "intr": 1}
    assert not bench.ending.ends


def test_strings_are_every_element() -> None:
    bench = Bench(port(1, 1, b"abc", 3), port(0, 1, bytes(4), 4))
    assert bytes(value for _, _, value in bench.device.seen) == b"abc"
    assert bench.processor.run_page[DATA : DATA + 4] == b"cccc"


@pytest.mark.parametrize("size", [1, 2, 4, 8, 3])
def test_registers_of_any_width(size: int) -> None:
    data = bytes(range(1, 9))
    bench = Bench(register(0x1010, data, size, 1), register(0x1010, bytes(8), size, 0))
    assert bench.device.seen == [(0x10, size, int.from_bytes(data[:size], "little"))]
    start = uapi.EXIT_OFFSET + 8
    assert bench.processor.run_page[start : start + 8] == data[:size] + bytes(8 - size)


def event(kind: int) -> Callable[[bytearray], int]:
    def step(page: bytearray) -> int:
        uapi.kvm_run_event.pack_into(page, uapi.EXIT_OFFSET, type=kind)
        return ExitReason.KVM_EXIT_SYSTEM_EVENT

    return step


@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [
        (ExitReason.KVM_EXIT_SHUTDOWN, "triple-fault", "double fault"),
        (ExitReason.KVM_EXIT_FAIL_ENTRY, "kvm-error", "refused"),
        (ExitReason.KVM_EXIT_INTERNAL_ERROR, "kvm-error", "at 0x1234"),
        (ExitReason.KVM_EXIT_HLT, "halt", "interrupt controller"),
        (ExitReason.KVM_EXIT_DEBUG, "kvm-error", "exit debug"),
        (63, "kvm-error", "exit 63"),
        (event(1), "power-off", "system event 1"),
        (event(2), "reset", "system event 2"),
        (event(99), "kvm-error", "system event 99"),
    ],
)
def test_what_ends_a_machine(step: Any, kind: str, words: str) -> None:
    ((found, detail),) = Bench(step).ending.ends
    assert found == kind
    assert words in detail
    assert detail.startswith("vcpu 0")


def test_an_exit_of_a_newer_kernel_is_an_end_too() -> None:
    ((kind, _),) = Bench(1000).ending.ends
    assert kind in ("vmm-error", "kvm-error")


def test_a_kick_wakes_a_thread_that_blocks() -> None:
    install_kick()
    blocked, ending = threading.Event(), Ending()

    class Blocking(Processor):
        def enter(self) -> int:
            blocked.set()
            while not self.run_page[1]:
                threading.Event().wait(0.001)
            return INTR

    thread = VcpuThread(0, cast(Vcpu, Blocking()), Bus("pio"), Bus("mmio"), ending)
    thread.start()
    assert blocked.wait(10)
    thread.kick()
    thread.join()
    assert not thread.running
    thread.kick()
