"""A machine from its parts: build, boot, run, pause, stop.

    machine = Machine(512 << 20, vcpus=2)
    machine.slot(device)              # a window, an interrupt line and kick eventfds for a virtio device
    ...                               # fork the device processes: they inherit memory and eventfds
    machine.create()                  # opens /dev/kvm: from here on no more forks
    machine.boot(kernel, [initrd], "console=ttyS0")
    machine.run()                     # vCPU threads
    machine.wait()                    # MachineEnd: why it ended

Threads: the vCPUs', and the caller's. Everything here may be called from any thread; a device's register access runs on
the vCPU thread that made it, under the GIL.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from bireme.errors import Conflict, Invalid
from bireme.linux.kvm import Kvm, uapi
from bireme.vmm import layout
from bireme.vmm.acpi import MmioDevice, build_tables
from bireme.vmm.boot.linux import load_linux
from bireme.vmm.bus import Bus
from bireme.vmm.devices import cmos, debugexit, i8042, power
from bireme.vmm.devices.serial import SIZE as SERIAL_SIZE
from bireme.vmm.devices.serial import Serial
from bireme.vmm.irq import IrqLines, make_eventfd, signal
from bireme.vmm.memory import GuestMemory
from bireme.vmm.plan import MAX_VCPUS
from bireme.vmm.registers import apply_entry
from bireme.vmm.slot import Slot
from bireme.vmm.vcpu import VcpuThread, install_kick
from bireme.vmm.vm import create_vcpus, create_vm, place_slots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bireme.linux.kvm import Vm
    from bireme.vmm.bus import BusDevice
    from bireme.vmm.registers import Entry
    from bireme.vmm.slot import MmioSlot

SWITCH_INTERVAL_S = 100e-6
"""How long a vCPU thread that comes back from the guest may have to wait for the GIL while another computes."""


class MachineEnd(NamedTuple):
    """Why a machine ended. Kinds: power-off, reset, debug-exit (with the guest's `code`), stopped, triple-fault,
    kvm-error, vmm-error, guest-crash, and whatever the caller of `Machine.end` says."""

    kind: str
    detail: str = ""
    code: int = 0


class Machine:
    """One machine. Its end is final: a machine that starts anew is a new one."""

    def __init__(
        self,
        memory_bytes: int,
        vcpus: int = 1,
        *,
        serial: Callable[[bytes], object] | None = None,
        debug_exit: bool = False,
    ) -> None:
        if not 1 <= vcpus <= MAX_VCPUS:
            raise Invalid(f"{vcpus} vCPUs: between 1 and {MAX_VCPUS} are possible", subject="vcpus")
        self.memory = GuestMemory(memory_bytes)
        self.vcpu_count = vcpus
        self.pio = Bus("pio")
        self.mmio = Bus("mmio")
        self.irq = IrqLines()
        self.slots: list[Slot] = []
        self.vcpus: list[VcpuThread] = []
        self.end_fd = make_eventfd()
        self._nobody = make_eventfd()
        self._devices: list[MmioSlot] = []
        self._ended: MachineEnd | None = None
        self._paused = False
        self._change = threading.Condition()
        self._kvm: Kvm | None = None
        self._vm: Vm | None = None
        self.add_pio(layout.PORT_POWER, power.SIZE, power.Power(self.end), "power")
        self.add_pio(layout.PORT_I8042, i8042.SIZE, i8042.I8042(self.end), "i8042")
        self.add_pio(layout.PORT_CMOS, cmos.SIZE, cmos.Cmos(), "cmos")
        self.serial: Serial | None = None
        if serial is not None:
            self.serial = Serial(serial, self.irq.irqfd(layout.GSI_SERIAL))
            self.add_pio(layout.PORT_SERIAL, SERIAL_SIZE, self.serial, "serial")
        if debug_exit:
            self.add_pio(layout.PORT_DEBUG_EXIT, debugexit.SIZE, debugexit.DebugExit(self.end), "debug-exit")

    def add_pio(self, base: int, size: int, device: BusDevice, name: str) -> None:
        self.pio.add(base, size, device, name)

    def add_mmio(self, base: int, size: int, device: BusDevice, name: str) -> None:
        self.mmio.add(base, size, device, name)

    def slot(self, device: MmioSlot) -> Slot:
        """Give a virtio-mmio device its place; the eventfds belong to the machine."""
        if self._vm is not None:
            raise Conflict("the virtual machine is there already: devices come before", subject=device.name)
        index = len(self.slots)
        gsi = self.irq.allocate()
        kicks = tuple(make_eventfd() for _ in range(device.queue_count))
        base = layout.VIRTIO_MMIO + index * layout.VIRTIO_MMIO_STRIDE
        slot = Slot(index, device.name, base, gsi, self.irq.irqfd(gsi), kicks)
        self.add_mmio(base, layout.VIRTIO_MMIO_STRIDE, device, device.name)
        self.slots.append(slot)
        self._devices.append(device)
        device.attach(slot)
        return slot

    def create(self, kvm: Kvm | None = None) -> None:
        """Make the VM and its vCPUs. This process must not fork any more: a VM is its maker's alone.

        Unsupported where KVM is missing or lacks something, Invalid for more vCPUs than it can do.
        """
        if self._vm is not None:
            return
        install_kick()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._kvm = kvm or Kvm()
        self._vm = vm = create_vm(self._kvm, self.memory, self.vcpu_count)
        self.irq.bind(vm)
        place_slots(self._kvm, vm, self.memory, zip(self.slots, self._devices, strict=True), self._nobody)
        for index, vcpu in enumerate(create_vcpus(self._kvm, vm, self.vcpu_count)):
            self.vcpus.append(VcpuThread(index, vcpu, self.pio, self.mmio, self))

    def enter_at(self, *entries: Entry) -> None:
        """Set where the first vCPUs begin; those without an entry wait until the guest starts them (INIT, SIPI)."""
        self.create()
        for thread, entry in zip(self.vcpus, entries, strict=False):
            apply_entry(thread.vcpu, self.memory, entry)
            thread.vcpu.set_mp_state(uapi.MpState.KVM_MP_STATE_RUNNABLE)

    def boot(self, kernel: str | int, initrds: Sequence[str | int] = (), cmdline: str = "") -> None:
        """Load Linux from paths or open descriptors, with the ACPI tables of what was added so far.

        Errors of boot.linux.load_linux; after one, the machine can only be closed.
        """
        self.create()
        entry = load_linux(self.memory, kernel, initrds, cmdline)
        self.memory.write(layout.ACPI, self._acpi_tables())
        self.enter_at(entry)

    def _acpi_tables(self) -> bytes:
        lines = [slot.gsi for slot in self.slots]
        devices = [
            MmioDevice(slot.base, layout.VIRTIO_MMIO_STRIDE, slot.gsi, shared=lines.count(slot.gsi) > 1)
            for slot in self.slots
        ]
        return build_tables(layout.ACPI, self.vcpu_count, devices, serial=self.serial is not None)

    def run(self) -> None:
        """Start the vCPU threads."""
        for thread in self.vcpus:
            thread.start()

    def wait(self, timeout_s: float | None = None) -> MachineEnd | None:
        """Until the machine has ended and no vCPU runs any more; None when the time was up first."""
        with self._change:
            if not self._change.wait_for(lambda: self._ended is not None, timeout_s):
                return None
        for thread in self.vcpus:
            thread.join()
        return self._ended

    @property
    def ended(self) -> MachineEnd | None:
        return self._ended

    def end(self, kind: str, detail: str = "", code: int = 0) -> None:
        """The machine is over; the first reason counts. `end_fd` becomes readable."""
        with self._change:
            if self._ended is None:
                self._ended = MachineEnd(kind, detail, code)
                signal(self.end_fd)
            self._kick()

    def stop(self) -> MachineEnd:
        """End it now, whatever the guest does."""
        self.end("stopped")
        end = self.wait()
        assert end is not None
        return end

    def pause(self) -> None:
        """Halt every vCPU; all are outside the guest when this returns. Not from a vCPU's thread."""
        with self._change:
            self._paused = True
            self._kick()
            self._change.wait_for(lambda: all(thread.parked or not thread.running for thread in self.vcpus))

    def resume(self) -> None:
        with self._change:
            if self._paused and self._ended is None:
                for thread in self.vcpus:
                    thread.vcpu.kvmclock_ctrl()
            self._paused = False
            self._change.notify_all()

    def park(self, vcpu: VcpuThread) -> bool:
        """A vCPU thread's question after it was kicked (vcpu.Control)."""
        with self._change:
            vcpu.vcpu.request_exit(False)
            vcpu.parked = True
            self._change.notify_all()
            self._change.wait_for(lambda: not self._paused or self._ended is not None)
            vcpu.parked = False
            return self._ended is None

    def _kick(self) -> None:
        for thread in self.vcpus:
            thread.kick()
        self._change.notify_all()

    def describe(self) -> dict[str, Any]:
        """What `explain` shows: memory slots, vCPUs with exits by reason, devices, buses. Counts are a moment's."""
        return {
            "memory_bytes": self.memory.size,
            "memory_slots": [region._asdict() for region in self.memory.regions],
            "paused": self._paused,
            "ended": self._ended._asdict() if self._ended else None,
            "vcpus": [thread.describe() for thread in self.vcpus],
            "devices": [
                self._describe_slot(slot, device) for slot, device in zip(self.slots, self._devices, strict=True)
            ],
            "pio": self.pio.describe(),
            "mmio": self.mmio.describe(),
        }

    def _describe_slot(self, slot: Slot, device: MmioSlot) -> dict[str, Any]:
        row = {"name": slot.name, "base": slot.base, "gsi": slot.gsi, "queues": len(slot.kicks)}
        describe = getattr(device, "describe", None)
        return row | (describe() if describe is not None else {})

    def fds(self) -> list[int]:
        """What this process keeps open for the machine to run."""
        found = [self.memory.fd, self.end_fd, self._nobody, *self.irq.fds()]
        found += [eventfd for slot in self.slots for eventfd in slot.kicks]
        found += [owner.fd for owner in (self._kvm, self._vm) if owner is not None]
        return found + [thread.vcpu.fd for thread in self.vcpus]

    def close(self) -> None:
        """Stop if it runs, and give everything back."""
        if self.vcpus:
            self.stop()
        for thread in self.vcpus:
            thread.vcpu.close()
        self.vcpus.clear()
        for owner in (self._vm, self._kvm):
            if owner is not None:
                owner.close()
        for slot in self.slots:
            for eventfd in slot.kicks:
                os.close(eventfd)
        self.slots.clear()
        self.irq.close()
        if self.end_fd >= 0:
            os.close(self.end_fd)
            os.close(self._nobody)
            self.end_fd = -1
        self.memory.close()
