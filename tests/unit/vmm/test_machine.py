"""Machines of a few bytes in real mode, on this host's own KVM: exits, devices, interrupts, pause and the end."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from bireme.errors import Conflict, Invalid
from bireme.vmm import layout
from bireme.vmm.irq import signal
from bireme.vmm.machine import Machine, MachineEnd
from bireme.vmm.plan import MAX_VCPUS
from bireme.vmm.registers import Entry
from bireme.vmm.slot import Slot

PLACE = 0x1000
Build = Callable[..., Machine]

needs_kvm = pytest.mark.needs_kvm


def code(text: str) -> bytes:
    return bytes.fromhex(text)


DEBUG_EXIT = "b0%02x e6f4"  # mov al, n; out 0xf4, al
SPIN = "ebfe"  # jmp to itself


class Probe:
    """Remembers accesses; reads answer with `answer`."""

    def __init__(self, answer: int = 0) -> None:
        self.answer = answer
        self.seen: list[tuple[int, ...]] = []
        self.written = threading.Event()

    def read(self, offset: int, size: int) -> int:
        self.seen.append((offset, size))
        return self.answer

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, size, value))
        self.written.set()


@pytest.fixture
def build() -> Iterator[Build]:
    made: list[Machine] = []

    def machine(*programs: str, vcpus: int = 1, memory_bytes: int = 1 << 20, prepare: object = None) -> Machine:
        machine = Machine(memory_bytes, vcpus, debug_exit=True)
        made.append(machine)
        if callable(prepare):
            prepare(machine)
        entries = []
        for number, program in enumerate(programs):
            machine.memory.write(PLACE + number * 0x1000, code(program))
            entries.append(Entry("real", {"rip": PLACE + number * 0x1000, "rsp": 0xF000 + number * 0x100}))
        if programs:
            machine.enter_at(*entries)
        return machine

    yield machine
    for machine_made in made:
        machine_made.close()


@needs_kvm
def test_the_guest_ends_its_machine_with_a_number(build: Build) -> None:
    machine = build(DEBUG_EXIT % 42)
    machine.run()
    assert machine.wait() == MachineEnd("debug-exit", "code 42", 42)
    assert os.read(machine.end_fd, 8) == signal_bytes()


def signal_bytes() -> bytes:
    return (1).to_bytes(8, "little")


@needs_kvm
def test_port_accesses_reach_a_device(build: Build) -> None:
    probe = Probe(0x41)
    # in al, 0x90; inc ax; out 0x91, al; in ax, 0x92; out 0x92, ax
    machine = build("e490 40 e691 e592 e792" + DEBUG_EXIT % 1, prepare=lambda m: m.add_pio(0x90, 4, probe, "probe"))
    machine.run()
    machine.wait()
    assert probe.seen == [(0, 1), (1, 1, 0x42), (2, 2), (2, 2, 0x41)]


@needs_kvm
def test_string_output_is_every_element(build: Build) -> None:
    probe = Probe()
    # mov si, 0x3000; mov cx, 5; mov dx, 0x90; cld; rep outsb
    program = "be0030 b90500 ba9000 fc f36e" + DEBUG_EXIT % 1

    def prepare(machine: Machine) -> None:
        machine.memory.write(0x3000, b"hello")
        machine.add_pio(0x90, 1, probe, "probe")

    machine = build(program, prepare=prepare)
    machine.run()
    machine.wait()
    assert bytes(value for _, _, value in probe.seen) == b"hello"


@needs_kvm
def test_register_accesses_reach_a_device(build: Build) -> None:
    probe = Probe(0x1234)
    # mov ax, 0x8000; mov ds, ax; mov ax, [4]; mov [8], al : 0x80000 is behind the machine's memory
    program = "b80080 8ed8 a10400 a20800" + DEBUG_EXIT % 1
    machine = build(program, memory_bytes=1 << 19, prepare=lambda m: m.add_mmio(0x80000, 0x1000, probe, "probe"))
    machine.run()
    machine.wait()
    assert probe.seen == [(4, 2), (8, 1, 0x34)]
    assert machine.describe()["vcpus"][0]["exits"]["mmio"] == 2


@needs_kvm
def test_what_nobody_answers_is_ones(build: Build) -> None:
    machine = build("e490 e6f4")  # in al, 0x90; out 0xf4, al
    machine.run()
    end = machine.wait()
    assert end is not None
    assert end.code == 0xFF
    assert machine.describe()["pio"]["unclaimed"] == {"0x90": 1}


@needs_kvm
def test_a_triple_fault_is_an_end(build: Build) -> None:
    machine = build()
    machine.memory.write(PLACE, code("0f0b"))  # ud2, and protected mode begins without an interrupt table
    machine.enter_at(Entry("protected", {"rip": PLACE}))
    machine.run()
    end = machine.wait()
    assert end is not None
    assert end.kind == "triple-fault"


@needs_kvm
def test_power_off_and_reset_registers(build: Build) -> None:
    for offset, value, kind in [(0, 1, "reset"), (1, 0x34, "power-off")]:
        machine = build(f"ba{(layout.PORT_POWER + offset).to_bytes(2, 'little').hex()} b0{value:02x} ee" + SPIN)
        machine.run()
        end = machine.wait()
        assert end is not None
        assert end.kind == kind


@needs_kvm
def test_a_spinning_guest_is_stopped(build: Build) -> None:
    machine = build(SPIN)
    machine.run()
    assert machine.wait(0.01) is None
    assert machine.stop() == MachineEnd("stopped")


@needs_kvm
def test_a_halted_guest_is_stopped(build: Build) -> None:
    machine = build("fa f4" + SPIN)  # cli; hlt
    machine.run()
    assert machine.stop() == MachineEnd("stopped")


@needs_kvm
def test_stopping_before_running(build: Build) -> None:
    machine = build(SPIN)
    assert machine.stop() == MachineEnd("stopped")


@needs_kvm
@pytest.mark.parametrize("program", [SPIN, "fa f4" + SPIN, "e490 ebfc"], ids=["spins", "halts", "exits"])
def test_pause_holds_every_vcpu_and_resume_lets_them_go(build: Build, program: str) -> None:
    machine = build(program, program, vcpus=3)
    machine.run()
    for _ in range(20):
        machine.pause()
        before = [vcpu["exits"] for vcpu in machine.describe()["vcpus"]]
        assert all(vcpu["paused"] for vcpu in machine.describe()["vcpus"])
        assert [vcpu["exits"] for vcpu in machine.describe()["vcpus"]] == before
        machine.resume()
    assert machine.stop().kind == "stopped"


@needs_kvm
def test_a_paused_machine_is_stopped(build: Build) -> None:
    machine = build(SPIN)
    machine.run()
    machine.pause()
    assert machine.stop().kind == "stopped"


@needs_kvm
def test_a_machine_paused_before_it_runs_waits(build: Build) -> None:
    probe = Probe()
    machine = build("e690" + SPIN, prepare=lambda m: m.add_pio(0x90, 1, probe, "probe"))
    machine.pause()
    machine.run()
    machine.pause()
    assert not probe.seen
    machine.resume()
    assert probe.written.wait(10)


@needs_kvm
def test_vcpus_share_memory(build: Build) -> None:
    # the first spins until the second wrote its byte
    first = "803e0040 00 74f9" + DEBUG_EXIT % 5  # cmp byte [0x4000], 0; je
    machine = build(first, "c6060040 01" + SPIN, vcpus=2)  # mov byte [0x4000], 1
    machine.run()
    end = machine.wait()
    assert end is not None
    assert end.code == 5


class Transport(Probe):
    name = "probe"
    absorbed = ((0x64, 4, 1),)

    def __init__(self, queue_count: int, page: mmap.mmap | None = None) -> None:
        super().__init__()
        self.queue_count = queue_count
        self.page = page
        self.slot: Slot | None = None

    def attach(self, slot: Slot) -> None:
        self.slot = slot


def install_vector(machine: Machine, vector: int, program: str) -> None:
    machine.memory.write(0x5000, code(program))
    machine.memory.write(vector * 4, (0x5000).to_bytes(4, "little"))


# PIC: initialise both with vectors 0x20 and 0x28, unmask line 5 alone
PIC = "b011 e620 b020 e621 b004 e621 b001 e621 b0df e621"


@needs_kvm
def test_an_irqfd_interrupts_the_guest(build: Build) -> None:
    device, ready = Transport(1), Probe()

    def prepare(machine: Machine) -> None:
        assert machine.slot(device).gsi == 5
        machine.add_pio(0x90, 1, ready, "ready")
        install_vector(machine, 0x25, DEBUG_EXIT % 9)

    machine = build(PIC + "e690 fb f4 ebfd", prepare=prepare)  # out 0x90, al; sti; hlt; jmp to hlt
    machine.run()
    assert ready.written.wait(10)
    assert machine.ended is None
    assert device.slot is not None
    signal(device.slot.irq)
    end = machine.wait()
    assert end is not None
    assert end.code == 9


FLAT_READ, FLAT_WRITE = "8b1d%s", "a3%s"  # mov ebx, [address]; mov [address], eax


def at(address: int) -> str:
    return address.to_bytes(4, "little").hex()


def protected(build: Build, program: str, device: Transport) -> Machine:
    machine = build()
    machine.slot(device)
    machine.memory.write(PLACE, code(program))
    machine.enter_at(Entry("protected", {"rip": PLACE}))
    machine.run()
    return machine


@needs_kvm
def test_registers_with_a_page_are_read_without_an_exit(build: Build) -> None:
    page = mmap.mmap(-1, layout.PAGE)
    page[0x10:0x14] = (77).to_bytes(4, "little")
    device = Transport(1, page)
    base = layout.VIRTIO_MMIO
    # mov ebx, [base + 16]; mov eax, ebx; mov [base + 32], eax; out 0xf4, al
    machine = protected(
        build, FLAT_READ % at(base + 0x10) + "89d8" + FLAT_WRITE % at(base + 0x20) + "e6f4" + SPIN, device
    )
    end = machine.wait()
    assert end is not None
    assert end.code == 77
    assert device.seen == [(0x20, 4, 77)]
    assert bytes(page[0x20:0x24]) == bytes(4)


@needs_kvm
@pytest.mark.parametrize("page", [None, mmap.mmap(-1, layout.PAGE)], ids=["exits", "page"])
def test_notifications_and_absorbed_writes_do_not_exit(build: Build, page: mmap.mmap | None) -> None:
    device = Transport(2, page)
    base = layout.VIRTIO_MMIO
    program = "b801000000" + FLAT_WRITE % at(base + 0x50) + FLAT_WRITE % at(base + 0x64)  # mov eax, 1
    program += "b802000000" + FLAT_WRITE % at(base + 0x50) + FLAT_WRITE % at(base + 0x64)  # no such queue, not absorbed
    machine = protected(build, program + DEBUG_EXIT % 1 + SPIN, device)
    machine.wait()
    assert device.seen == [(0x50, 4, 2), (0x64, 4, 2)]
    assert device.slot is not None
    assert os.read(device.slot.kicks[1], 8) == (1).to_bytes(8, "little")
    with pytest.raises(BlockingIOError):
        os.read(device.slot.kicks[0], 8)


@needs_kvm
def test_slots_have_places_lines_and_kicks(build: Build) -> None:
    devices = [Transport(2), Transport(1)]
    machine = build()
    slots = [machine.slot(device) for device in devices]
    assert [slot.base for slot in slots] == [0xD0000000, 0xD0001000]
    assert [slot.gsi for slot in slots] == [5, 6]
    assert [len(slot.kicks) for slot in slots] == [2, 1]
    assert [row["name"] for row in machine.describe()["devices"]] == ["probe", "probe"]
    machine.create()
    with pytest.raises(Conflict):
        machine.slot(Transport(1))


@pytest.mark.parametrize("vcpus", [0, -1, MAX_VCPUS + 1])
def test_numbers_of_vcpus_that_are_not_possible(vcpus: int) -> None:
    with pytest.raises(Invalid, match="vCPU"):
        Machine(1 << 20, vcpus)


@needs_kvm
def test_a_device_that_fails_ends_the_machine_alone(build: Build) -> None:
    class Broken(Probe):
        def read(self, offset: int, size: int) -> int:
            raise RuntimeError("device bug")

    machine = build("e490" + SPIN, prepare=lambda m: m.add_pio(0x90, 1, Broken(), "broken"))
    machine.run()
    assert machine.wait() == MachineEnd("vmm-error", "vcpu 0: RuntimeError: device bug")
