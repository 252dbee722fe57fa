"""The virtio-mmio transport: a device's registers, in one page of the guest's address space. VIRTIO 1.2, 4.2.2.

The driver walks a handshake with the Status register (3.1.1), one bit at a time, and each register is writable in
one stretch of it only; both are tables in registers.py. After DRIVER_OK the registers are out of the way:

    QueueNotify       a write wakes the device process (ioeventfd): the kernel does that, no exit to us
    used buffers      the device process pulses the interrupt line (irqfd), no word to us either
    InterruptStatus   see below
    Status 0          reset: the device process has let go of every buffer before the register reads 0

All registers live in `page`. A read has no side effect in this transport, so what the guest reads is just what the page
holds, and writes keep the page right: QueueSel brings that queue's QueueNumMax and QueueReady, and so on. Therefore the
page itself can be mapped into the guest read-only (KVM_MEM_READONLY): then reads do not exit at all, and `read` below
is for hosts without that and for tests.

InterruptStatus. "Used buffers" (bit 0) is set at DRIVER_OK and stays set until the reset, an acknowledgement changes
nothing. Were it set by the device process and cleared here, a completion between the driver's read and its
acknowledgement would be cleared unseen by a driver that looks at its rings first. With the bit constant nothing can
be lost: the device publishes the used index, then pulses the line; the line is an edge, which the interrupt controller
keeps until it is delivered; and the handler that it starts finds bit 0 and looks at the rings. The price is a look
at the rings when only the configuration changed; drivers must put up with spurious notifications anyway (2.7.7.1).
So writing 1 to InterruptACK needs nobody's attention (`ABSORBED`: give it an ioeventfd that nobody reads), and an
interrupt costs no exit to us. Bit 1, "configuration changed", is set here and cleared by its acknowledgement.
"""

from __future__ import annotations

import mmap
import threading
from typing import TYPE_CHECKING, Protocol

from bireme.vmm.irq import signal
from bireme.vmm.layout import PAGE
from bireme.vmm.virtio.device import VERSION_1
from bireme.vmm.virtio.queue import QueuePlace
from bireme.vmm.virtio.registers import (
    ABSORBED,
    ADDRESS_PARTS,
    AGREED,
    CONFIG,
    CONFIG_CHANGED,
    FRESH,
    HANDSHAKE,
    LIVE,
    MAGIC,
    OFFSETS,
    USED_BUFFER,
    VENDOR,
    VERSION,
    WRITABLE,
    Status,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bireme.vmm.virtio.device import DataPath, VirtioDevice


class Backend(Protocol):
    """Whoever runs the data path: a device process (workers.Worker), or the test itself."""

    def activate(self, path: DataPath, features: int, queues: Sequence[QueuePlace | None]) -> str:
        """Begin; why the device cannot work with these queues, or ""."""
        ...

    def reset(self, path: DataPath) -> None:
        """Stop; when this returns no buffer of the guest is touched any more."""
        ...

    def watch(self, path: DataPath, broken: Callable[[str], None]) -> None:
        """Call `broken(reason)` when the data path gives up on its driver later."""
        ...


class Slot(Protocol):
    """What a place in the machine has (vmm.slot.Slot)."""

    @property
    def irq(self) -> int: ...

    @property
    def kicks(self) -> tuple[int, ...]: ...


class _Setup:
    """What the driver has written about one queue."""

    __slots__ = ("avail", "descriptors", "ready", "size", "used")

    def __init__(self) -> None:
        self.size = self.descriptors = self.avail = self.used = 0
        self.ready = False

    def place(self) -> QueuePlace | None:
        return QueuePlace(self.size, self.descriptors, self.avail, self.used) if self.ready else None


class MmioTransport:
    """One device on the bus. Thread-safe: every vCPU may write."""

    absorbed = (ABSORBED,)

    def __init__(self, device: VirtioDevice, backend: Backend) -> None:
        self.device = device
        self.name = device.name
        self.queue_count = len(device.queue_sizes)
        self.kicks: Sequence[int] = ()
        self.irq = -1
        self.page = mmap.mmap(-1, PAGE)
        self.refused = 0
        self.refusal = ""
        self.resets = 0
        self.reason = ""
        self._backend = backend
        self._lock = threading.Lock()
        self._forget_driver()
        for name, value in (("MagicValue", MAGIC), ("Version", VERSION), ("DeviceID", device.device_id)):
            self._put(name, value)
        self._put("VendorID", VENDOR)
        for name in ("SHMLenLow", "SHMLenHigh", "SHMBaseLow", "SHMBaseHigh"):
            self._put(name, 0xFFFFFFFF)
        self.page[CONFIG : CONFIG + len(device.config)] = device.config
        backend.watch(device.path, self.needs_reset)

    def attach(self, slot: Slot) -> None:
        """The device's place: its eventfds, which the data path uses too. Before its process is forked."""
        self.kicks, self.irq = slot.kicks, slot.irq
        self.device.path.attach(slot.kicks, slot.irq)

    def _forget_driver(self) -> None:
        self.status = FRESH
        self._driver_features = 0
        self._feature_half = self._queue_index = 0
        self._queues = [_Setup() for _ in self.device.queue_sizes]
        self._put("InterruptStatus", 0)
        self._put("Status", 0)
        self._write_device_features_sel(0)
        self._write_queue_sel(0)

    def _put(self, name: str, value: int) -> None:
        offset = OFFSETS[name]
        self.page[offset : offset + 4] = value.to_bytes(4, "little")

    # The bus.

    def read(self, offset: int, size: int) -> int:
        """Any part of the page."""
        return int.from_bytes(self.page[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """A register, if the driver may write it now; anything else is counted and changes nothing."""
        register = WRITABLE.get(offset)
        if register is None or size != 4:
            self._refuse(f"{size} bytes at {offset:#x}")
            return
        with self._lock:
            if self.status not in register.writable and register.name != "Status":
                self._refuse(f"{register.name} in status {self.status:#x}")
                return
            part = ADDRESS_PARTS.get(register.name)
            if part is not None:
                self._write_address(*part, value)
            else:
                _HANDLERS[register.name](self, value)

    def _refuse(self, what: str) -> None:
        self.refused += 1
        self.refusal = what

    # Status and negotiation.

    def _write_status(self, value: int) -> None:
        if value == 0:
            self._reset()
        elif value & Status.FAILED:
            self._set_status(self.status | Status.FAILED)
        elif value == self.status & ~Status.NEEDS_RESET:
            return
        elif value != HANDSHAKE.get(self.status):
            self._refuse(f"status {value:#x} after {self.status:#x}")
        elif value == AGREED:
            self._agree()
        elif value == LIVE:
            self._activate()
        else:
            self._set_status(Status(value))

    def _set_status(self, status: Status) -> None:
        self.status = status
        self._put("Status", status)

    def _agree(self) -> None:
        """FEATURES_OK, unless the driver wants what was not offered or lacks VERSION_1 (it reads the status back)."""
        features = self._driver_features
        if features & ~self.device.features or not features & VERSION_1:
            self._refuse(f"features {features:#x}")
            return
        self._set_status(AGREED)

    def _activate(self) -> None:
        self._set_status(LIVE)
        self._put("InterruptStatus", USED_BUFFER)
        places = [queue.place() for queue in self._queues]
        reason = self._backend.activate(self.device.path, self._driver_features, places)
        if reason:
            self._needs_reset(reason)

    def _reset(self) -> None:
        if self.status & Status.DRIVER_OK:
            self._backend.reset(self.device.path)
        self.resets += 1
        self._forget_driver()

    def _write_device_features_sel(self, value: int) -> None:
        half = self.device.features >> (32 * value) if value < 2 else 0
        self._put("DeviceFeatures", half & 0xFFFFFFFF)

    def _write_driver_features_sel(self, value: int) -> None:
        self._feature_half = value

    def _write_driver_features(self, value: int) -> None:
        if self._feature_half > 1:
            if value:
                self._refuse(f"feature word {self._feature_half}")
            return
        shift = 32 * self._feature_half
        self._driver_features = self._driver_features & ~(0xFFFFFFFF << shift) | value << shift

    # Queues.

    def _selected(self) -> _Setup | None:
        return self._queues[self._queue_index] if self._queue_index < len(self._queues) else None

    def _write_queue_sel(self, value: int) -> None:
        self._queue_index = value
        queue = self._selected()
        self._put("QueueNumMax", 0 if queue is None else self.device.queue_sizes[value])
        self._put("QueueReady", 0 if queue is None else int(queue.ready))

    def _write_queue_num(self, value: int) -> None:
        queue = self._selected()
        if queue is None or not 0 < value <= self.device.queue_sizes[self._queue_index]:
            self._refuse(f"size {value} of queue {self._queue_index}")
            return
        queue.size = value

    def _write_queue_ready(self, value: int) -> None:
        queue = self._selected()
        if queue is None:
            self._refuse(f"queue {self._queue_index}")
            return
        queue.ready = bool(value & 1)
        self._put("QueueReady", int(queue.ready))

    def _write_address(self, area: str, shift: int, value: int) -> None:
        queue = self._selected()
        if queue is None or queue.ready:
            self._refuse(f"{area} of queue {self._queue_index}")
            return
        kept = getattr(queue, area) & ~(0xFFFFFFFF << shift)
        setattr(queue, area, kept | value << shift)

    def _write_queue_notify(self, value: int) -> None:
        """Only where no ioeventfd took the write."""
        if value < len(self.kicks):
            signal(self.kicks[value])

    def _write_interrupt_ack(self, value: int) -> None:
        if value & CONFIG_CHANGED:
            left = self.read(OFFSETS["InterruptStatus"], 4) & ~CONFIG_CHANGED
            self._put("InterruptStatus", left)

    def _write_shm_sel(self, value: int) -> None:
        """No region exists: its length and base read as all ones whichever is selected."""

    # What the device tells its driver.

    def needs_reset(self, reason: str) -> None:
        """The data path gave up on the driver: say so (2.1.2) until it resets the device."""
        with self._lock:
            if self.status & Status.DRIVER_OK:
                self._needs_reset(reason)

    def _needs_reset(self, reason: str) -> None:
        self.reason = reason
        self._set_status(self.status | Status.NEEDS_RESET)
        self._config_interrupt()

    def set_config(self, config: bytes, offset: int = 0) -> None:
        """Change the configuration space and tell the driver. ConfigGeneration is odd for nobody: it changes twice,
        before and after, so that a driver that reads between sees that it has to read again."""
        with self._lock:
            self._next_generation()
            self.page[CONFIG + offset : CONFIG + offset + len(config)] = config
            self._next_generation()
            if self.status & Status.DRIVER_OK:
                self._config_interrupt()

    def _next_generation(self) -> None:
        generation = self.read(OFFSETS["ConfigGeneration"], 4) + 1
        self._put("ConfigGeneration", generation & 0xFFFFFFFF)

    def _config_interrupt(self) -> None:
        self._put("InterruptStatus", USED_BUFFER | CONFIG_CHANGED)
        signal(self.irq)

    def describe(self) -> dict[str, object]:
        """For `explain`: what the driver negotiated and what was refused."""
        return {
            "name": self.name,
            "device_id": self.device.device_id,
            "status": [flag.name for flag in Status if flag in self.status],
            "features": f"{self._driver_features:#x}",
            "resets": self.resets,
            "refused": self.refused,
            "refusal": self.refusal,
            "needs_reset": self.reason,
        }


_HANDLERS = {
    "DeviceFeaturesSel": MmioTransport._write_device_features_sel,
    "DriverFeatures": MmioTransport._write_driver_features,
    "DriverFeaturesSel": MmioTransport._write_driver_features_sel,
    "QueueSel": MmioTransport._write_queue_sel,
    "QueueNum": MmioTransport._write_queue_num,
    "QueueReady": MmioTransport._write_queue_ready,
    "QueueNotify": MmioTransport._write_queue_notify,
    "InterruptACK": MmioTransport._write_interrupt_ack,
    "Status": MmioTransport._write_status,
    "SHMSel": MmioTransport._write_shm_sel,
}
