"""What every virtio device consists of: a face for the driver's set-up, and a data path that moves bytes.

    VirtioDevice    data only: identity, feature bits, sizes of the queues, configuration space. Lives in the VMM's main
                    process, behind the registers of mmio.py.
    DataPath        the queues at work. Lives in a device process (workers.py) that shares nothing with main but guest
                    memory and eventfds, so that a hostile request meets neither KVM's descriptors nor the vCPUs.

A device file (block.py, net.py, rng.py, console.py, vsock.py) has the same parts in the same order: its features, the
layout of its configuration space, a function that makes the VirtioDevice, and its DataPath.

    kick      driver -> device   an eventfd per queue; KVM signals it when the guest writes QueueNotify (ioeventfd)
    irq       device -> driver   an eventfd that KVM turns into an edge of the device's interrupt line (irqfd)

Both are the machine's (`Machine.slot`), made before the fork and before there is a VM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bireme.vmm.irq import signal
from bireme.vmm.memory import GuestFault
from bireme.vmm.virtio.queue import QueueBroken, QueuePlace, Virtqueue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bireme.vmm.memory import GuestMemory

RING_INDIRECT_DESC = 1 << 28
RING_EVENT_IDX = 1 << 29
VERSION_1 = 1 << 32

TRANSPORT_FEATURES = RING_INDIRECT_DESC | RING_EVENT_IDX | VERSION_1
"""Offered by every device here (section 6)."""

BUDGET = 64
"""Chains handled in one turn of a queue, so that one busy queue does not starve the others of its process."""


class DeviceId:
    """Section 5."""

    NET = 1
    BLOCK = 2
    CONSOLE = 3
    RNG = 4
    VSOCK = 19


class VirtioDevice(NamedTuple):
    """A device as its driver finds it. `features` includes TRANSPORT_FEATURES; `config` is the initial configuration
    space; `path` is its data path."""

    name: str
    device_id: int
    features: int
    queue_sizes: tuple[int, ...]
    config: bytes
    path: DataPath


class DataPath:
    """Base of the data paths. A subclass says `QUEUES`, handles a queue in `kick`, and may watch descriptors.

    `run` and `ready` are what the process calls: they alone meet what a hostile driver does, and turn it into a
    broken device with a reason. Counters are for `explain`.
    """

    QUEUES: tuple[int, ...] = ()
    """The largest size of each queue."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kicks: Sequence[int] = ()
        self.irq = -1
        self.features = 0
        self.queues: list[Virtqueue | None] = [None] * len(self.QUEUES)
        self.active = False
        self.broken = ""
        self.counters: dict[str, int] = {"kicks": 0, "chains": 0, "interrupts": 0, "broken": 0}

    def fds(self) -> list[int]:
        """Descriptors that the device process keeps."""
        return [*self.kicks, self.irq]

    def attach(self, kicks: Sequence[int], irq: int) -> None:
        """The eventfds of the device's place in the machine; before the fork."""
        self.kicks = kicks
        self.irq = irq

    def close(self) -> None:
        """Close what belongs to the data path: a disk, a TAP device; not the eventfds."""

    # What a subclass writes.

    def started(self) -> None:
        """The driver is ready: `features` and `queues` are set."""

    def stopped(self) -> None:
        """The device was reset: let go of every chain."""

    def kick(self, index: int) -> bool:
        """Handle a queue, `BUDGET` chains at most; True when there is more to do at once."""
        raise NotImplementedError

    def poll_fds(self) -> dict[int, Callable[[], bool]]:
        """Descriptors of the host to watch for input, edge-triggered, with what to do; True as for `kick`."""
        return {}

    # What the device process calls.

    def activate(self, memory: GuestMemory, features: int, places: Sequence[QueuePlace | None]) -> str:
        """DRIVER_OK: begin with these queues (None: not set up by the driver); why it cannot work, or ""."""
        self.features = features
        event_idx, indirect = bool(features & RING_EVENT_IDX), bool(features & RING_INDIRECT_DESC)
        try:
            self.queues = [
                None if place is None else Virtqueue(memory, place, event_idx=event_idx, indirect=indirect)
                for place in places
            ]
            self.started()
        except QueueBroken as problem:
            return self._break(str(problem))
        self.broken = ""
        self.active = True
        return ""

    def reset(self) -> None:
        """Forget the driver; safe in any state."""
        self.active = False
        self.broken = ""
        self.stopped()
        self.features = 0
        self.queues = [None] * len(self.QUEUES)

    def run(self, index: int) -> bool:
        """A kick: ignored unless the device is active and the queue exists."""
        if not self.active or self.queues[index] is None:
            return False
        self.counters["kicks"] += 1
        return self._guarded(self.kick, index)

    def ready(self, callback: Callable[[], bool]) -> bool:
        """One of `poll_fds` has something."""
        return self.active and self._guarded(callback)

    def _guarded(self, callback: Callable[..., bool], *args: int) -> bool:
        try:
            return callback(*args)
        except (QueueBroken, GuestFault) as problem:
            self._break(str(problem))
            return False

    def _break(self, reason: str) -> str:
        self.active = False
        self.broken = reason
        self.counters["broken"] += 1
        return reason

    # What subclasses share.

    def deliver(self, queue: Virtqueue) -> None:
        """Show the driver what was pushed and interrupt it if it wants that: once per batch."""
        if queue.publish():
            self.counters["interrupts"] += 1
            signal(self.irq)

    def drain(self, index: int, handle: Callable[[Virtqueue], bool]) -> bool:
        """The usual `kick`: call `handle` (which pops and pushes one chain; False when there was none) up to the
        budget, deliver, and go on if the driver added more while kicks were off."""
        queue = self.queues[index]
        if queue is None:
            return False
        queue.disable_kicks()
        count = 0
        more = True
        while more and count < BUDGET:
            while count < BUDGET and handle(queue):
                count += 1
            self.deliver(queue)
            more = count >= BUDGET or queue.enable_kicks()
        self.counters["chains"] += count
        return more

    def feed(self, index: int, hold: Callable[[Virtqueue], bool], give: Callable[[Virtqueue], bool]) -> bool:
        """`drain` for a queue of empty buffers: as long as `hold` has some in hand, `give` fills and pushes them (False
        when there is nothing for the driver now), up to the budget; deliver."""
        queue = self.queues[index]
        if queue is None:
            return False
        queue.disable_kicks()
        count = 0
        try:
            while count < BUDGET:
                if not hold(queue) and not (queue.enable_kicks() and hold(queue)):
                    return False
                if not give(queue):
                    return False
                count += 1
        finally:
            self.counters["chains"] += count
            self.deliver(queue)
        return True

    def describe(self) -> dict[str, object]:
        """For `explain`: state, counters, queues."""
        return {
            "name": self.name,
            "active": self.active,
            "broken": self.broken,
            "counters": dict(self.counters),
            "queues": [None if queue is None else queue.describe() for queue in self.queues],
        }
