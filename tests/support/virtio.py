"""A driver for virtio devices: what a guest's kernel does, done from Python in guest memory.

    machine = Bench(device)                  # the data path in this process
    machine = Bench(device, worker)          # or in a device process, with real eventfds
    driver = machine.driver
    driver.start()                           # the handshake through the registers, queues set up
    driver.queues[0].add([b"header"], [512, 1])
    driver.notify(0)
    for head, written, data in driver.wait(0): ...

`GuestQueue.poke` and friends write rings that no driver would.
"""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bireme.vmm.irq import make_eventfd, signal
from bireme.vmm.memory import GuestMemory
from bireme.vmm.virtio.device import RING_EVENT_IDX, RING_INDIRECT_DESC, DataPath, VirtioDevice
from bireme.vmm.virtio.mmio import MmioTransport
from bireme.vmm.virtio.queue import INDIRECT, NEXT, WRITE, QueuePlace
from bireme.vmm.virtio.registers import OFFSETS
from bireme.vmm.workers import Worker
from tests.support.jailed import jail_of
from tests.support.pace import patience

MIB = 1 << 20
QUEUE_STRIDE = 0x10000
QUEUES_AT = 1 * MIB
BUFFERS_AT = 2 * MIB
WAIT_S = patience(20)

Used = tuple[int, int, list[bytes]]


class Arena:
    """Buffers in guest memory, handed out in turn: enough for what a test has in flight."""

    def __init__(self, start: int, end: int) -> None:
        self._start, self._end = start, end
        self._at = start

    def take(self, size: int) -> int:
        if self._at + size > self._end:
            self._at = self._start
        address = self._at
        self._at += size + 15 & ~15
        return address


class GuestQueue:
    """The driver's half of a split ring."""

    def __init__(
        self,
        memory: GuestMemory,
        arena: Arena,
        base: int,
        size: int,
        *,
        event_idx: bool = False,
        indirect: bool = False,
    ) -> None:
        self.memory = memory
        self.size = size
        self.indirect = indirect
        self.event_idx = event_idx
        self._arena = arena
        avail = base + 16 * size
        used = (avail + 6 + 2 * size + 3) & ~3
        self.place = QueuePlace(size, base, avail, used)
        memory.write(base, bytes(used + 6 + 8 * size - base))
        self._free = list(range(size))
        self._chains: dict[int, tuple[list[int], list[tuple[int, int]]]] = {}
        self.added = self.collected = self._told = 0

    def poke(self, index: int, address: int, length: int, flags: int = 0, following: int = 0) -> None:
        """Write one descriptor as it is."""
        self.memory.write(self.place.descriptors + 16 * index, struct.pack("<QIHH", address, length, flags, following))

    def offer(self, head: int) -> None:
        """Make whatever is at `head` available."""
        self.memory.store_u16(self.place.avail + 4 + 2 * (self.added % self.size), head & 0xFFFF)
        self.added = (self.added + 1) & 0xFFFF
        self.memory.store_u16(self.place.avail + 2, self.added)

    def add(self, readable: Sequence[bytes] = (), writable: Sequence[int] = ()) -> int:
        """A request: data for the device, then room of these sizes; its head."""
        buffers = []
        for data in readable:
            address = self._arena.take(len(data))
            self.memory.write(address, data)
            buffers.append((address, len(data), 0))
        room = [(self._arena.take(size), size) for size in writable]
        buffers += [(address, size, WRITE) for address, size in room]
        slots = self._write_table(buffers) if self.indirect and len(buffers) > 1 else self._write_chain(buffers)
        self._chains[slots[0]] = slots, room
        self.offer(slots[0])
        return slots[0]

    def _write_chain(self, buffers: list[tuple[int, int, int]]) -> list[int]:
        slots = [self._free.pop(0) for _ in buffers]
        for at, (slot, (address, size, flags)) in enumerate(zip(slots, buffers, strict=True)):
            last = at == len(slots) - 1
            self.poke(slot, address, size, flags | (0 if last else NEXT), 0 if last else slots[at + 1])
        return slots

    def _write_table(self, buffers: list[tuple[int, int, int]]) -> list[int]:
        table = self._arena.take(16 * len(buffers))
        for at, (address, size, flags) in enumerate(buffers):
            more = NEXT if at < len(buffers) - 1 else 0
            self.memory.write(table + 16 * at, struct.pack("<QIHH", address, size, flags | more, at + 1 if more else 0))
        slot = self._free.pop(0)
        self.poke(slot, table, 16 * len(buffers), INDIRECT)
        return [slot]

    def room(self, head: int) -> list[tuple[int, int]]:
        """Address and size of the writable buffers of a request that is not collected yet."""
        return self._chains[head][1]

    @property
    def free(self) -> int:
        return len(self._free)

    def wants_kick(self) -> bool:
        """Whether the device asked to be told of what was added since the last time this was asked."""
        old, self._told = self._told, self.added
        if not self.event_idx:
            return not self.memory.u16(self.place.used) & 1
        event = self.memory.u16(self.place.used + 4 + 8 * self.size)
        return (self.added - event - 1) & 0xFFFF < (self.added - old) & 0xFFFF

    def ask_interrupt(self, after: int | None = None) -> None:
        """used_event: interrupt when this many chains have been used (default: the next one)."""
        self.memory.store_u16(
            self.place.avail + 4 + 2 * self.size, (self.collected if after is None else after) & 0xFFFF
        )

    def mute(self, on: bool = True) -> None:
        """VIRTQ_AVAIL_F_NO_INTERRUPT."""
        self.memory.store_u16(self.place.avail, int(on))

    def used_index(self) -> int:
        return self.memory.u16(self.place.used + 2)

    def collect(self) -> list[Used]:
        """What the device gave back: head, bytes written, contents of the writable buffers up to that."""
        found: list[Used] = []
        while self.collected != self.used_index():
            at = self.place.used + 4 + 8 * (self.collected % self.size)
            head, written = self.memory.u32(at), self.memory.u32(at + 4)
            self.collected = (self.collected + 1) & 0xFFFF
            slots, room = self._chains.pop(head)
            self._free += slots
            left, data = written, []
            for address, size in room:
                data.append(self.memory.read(address, min(size, left)))
                left -= min(size, left)
            assert left == 0, "the device says that it wrote more than there was room for"
            found.append((head, written, data))
        if self.event_idx:
            self.ask_interrupt()
        return found


class InProcess:
    """A backend without a process: the test's own thread does the device's work, in `work`."""

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self._paths: list[DataPath] = []
        self._broken: dict[int, Callable[[str], None]] = {}

    def watch(self, path: DataPath, broken: Callable[[str], None]) -> None:
        self._paths.append(path)
        self._broken[id(path)] = broken

    def activate(self, path: DataPath, features: int, queues: Sequence[QueuePlace | None]) -> str:
        return path.activate(self.memory, features, queues)

    def reset(self, path: DataPath) -> None:
        path.reset()

    def work(self) -> None:
        """Everything that there is to do now."""
        for path in self._paths:
            was_broken = path.broken
            for index, kick in enumerate(path.kicks):
                if drained(kick):
                    self._go_on(lambda path=path, index=index: path.run(index))  # type: ignore[misc]
            for callback in path.poll_fds().values():
                self._go_on(lambda path=path, callback=callback: path.ready(callback))  # type: ignore[misc]
            if path.broken and not was_broken:
                self._broken[id(path)](path.broken)

    @staticmethod
    def _go_on(step: Callable[[], bool]) -> None:
        for _ in range(10000):
            if not step():
                return
        raise AssertionError("a queue that never ends")


def drained(eventfd: int) -> int:
    """Read an eventfd; 0 when it was not signalled."""
    try:
        return os.eventfd_read(eventfd)
    except BlockingIOError:
        return 0


class GuestDriver:
    """Drives one device through its registers."""

    def __init__(self, transport: MmioTransport, memory: GuestMemory) -> None:
        self.transport = transport
        self.memory = memory
        self.arena = Arena(BUFFERS_AT, memory.size)
        self.queues: list[GuestQueue] = []

    def read(self, name: str) -> int:
        return self.transport.read(OFFSETS[name], 4)

    def write(self, name: str, value: int) -> None:
        self.transport.write(OFFSETS[name], 4, value)

    def offered(self) -> int:
        features = 0
        for half in (0, 1):
            self.write("DeviceFeaturesSel", half)
            features |= self.read("DeviceFeatures") << 32 * half
        return features

    def accept(self, features: int) -> None:
        for half in (0, 1):
            self.write("DriverFeaturesSel", half)
            self.write("DriverFeatures", features >> 32 * half & 0xFFFFFFFF)

    def start(self, *, without: int = 0, sizes: Sequence[int] | None = None) -> int:
        """Reset, handshake, queues, DRIVER_OK. `without`: feature bits to leave; the negotiated ones."""
        features = self.begin(without=without)
        sizes = self.sizes() if sizes is None else sizes
        self.queues = [
            GuestQueue(
                self.memory,
                self.arena,
                QUEUES_AT + number * QUEUE_STRIDE,
                size,
                event_idx=bool(features & RING_EVENT_IDX),
                indirect=bool(features & RING_INDIRECT_DESC),
            )
            for number, size in enumerate(sizes)
        ]
        for number, queue in enumerate(self.queues):
            self.set_queue(number, queue.place)
        self.write("Status", 15)
        return features

    def begin(self, *, without: int = 0) -> int:
        """The handshake up to FEATURES_OK."""
        for status in (0, 1, 3):
            self.write("Status", status)
        features = self.offered() & ~without
        self.accept(features)
        self.write("Status", 11)
        assert self.read("Status") == 11
        return features

    def sizes(self) -> list[int]:
        found = []
        while True:
            self.write("QueueSel", len(found))
            if not self.read("QueueNumMax"):
                return found
            found.append(self.read("QueueNumMax"))

    def set_queue(self, number: int, place: QueuePlace) -> None:
        self.write("QueueSel", number)
        self.write("QueueNum", place.size)
        for name, address in (("Desc", place.descriptors), ("Driver", place.avail), ("Device", place.used)):
            self.write(f"Queue{name}Low", address & 0xFFFFFFFF)
            self.write(f"Queue{name}High", address >> 32)
        self.write("QueueReady", 1)

    def notify(self, number: int, *, always: bool = False) -> bool:
        """Kick if the device wants it: as KVM would for a write to QueueNotify."""
        wanted = self.queues[number].wants_kick() or always
        if wanted:
            signal(self.transport.kicks[number])
        return wanted

    def interrupts(self) -> int:
        """Pulses since the last call."""
        return drained(self.transport.irq)

    def wait_interrupt(self, timeout_s: float = WAIT_S) -> bool:
        poll = select.poll()
        poll.register(self.transport.irq, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000)) and bool(self.interrupts())

    def wait(self, number: int, count: int = 1) -> list[Used]:
        """At least `count` used chains, waiting for interrupts."""
        found: list[Used] = []
        while True:
            found += self.queues[number].collect()
            if len(found) >= count:
                return found
            assert self.wait_interrupt(), f"no interrupt; {self.transport.describe()}"


class Place(NamedTuple):
    """As machine.Slot."""

    irq: int
    kicks: tuple[int, ...]


class Bench:
    """One device with its transport, memory, and somebody to run its data path."""

    def __init__(self, device: VirtioDevice, *, memory_bytes: int = 16 * MIB, process: bool = False) -> None:
        self.memory = GuestMemory(memory_bytes)
        self.device = device
        self.worker: Worker | None = None
        self.in_process = InProcess(self.memory)
        if process:
            self.worker = Worker("test", [device.path], self.memory, jail_of(device))
        self.transport = MmioTransport(device, self.worker or self.in_process)
        self.place = Place(make_eventfd(), tuple(make_eventfd() for _ in device.queue_sizes))
        self.transport.attach(self.place)
        if self.worker is not None:
            self.worker.start()
            self.worker.wait_ready()
        self.driver = GuestDriver(self.transport, self.memory)

    def do(self, number: int, count: int = 1) -> list[Used]:
        """Kick a queue and collect at least `count` used chains of it."""
        self.driver.notify(number, always=True)
        if self.worker is None:
            self.in_process.work()
            return self.driver.queues[number].collect()
        return self.driver.wait(number, count)

    def close(self) -> None:
        if self.worker is not None:
            self.worker.stop()
        self.device.path.reset()
        self.device.path.close()
        for fd in (self.place.irq, *self.place.kicks):
            os.close(fd)
        self.transport.page.close()
        self.memory.close()


def running(device: VirtioDevice, *, process: bool = False) -> Iterator[Bench]:
    """For fixtures: a bench that is closed at the end."""
    bench = Bench(device, process=process)
    try:
        yield bench
    finally:
        bench.close()
