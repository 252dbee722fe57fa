"""virtio-rng: random bytes. VIRTIO 1.2, section 5.4.

The simplest device: one queue of empty buffers, filled from the host's generator. No features, no configuration. The
driver may ask for any amount and is given at most `MOST_BYTES` for one request, which the used length tells it; a
guest seeds its own generator with that and has no reason to come back often.
"""

from __future__ import annotations

import os

from bireme.vmm.virtio.device import TRANSPORT_FEATURES, DataPath, DeviceId, VirtioDevice
from bireme.vmm.virtio.queue import QueueBroken, Virtqueue

FEATURES = TRANSPORT_FEATURES
QUEUE_SIZE = 8
MOST_BYTES = 4096


class RngPath(DataPath):
    """getrandom(2) into the driver's buffers."""

    QUEUES = (QUEUE_SIZE,)

    def __init__(self, name: str = "rng") -> None:
        super().__init__(name)
        self.counters["bytes"] = 0

    def kick(self, index: int) -> bool:
        return self.drain(index, self._handle)

    def _handle(self, queue: Virtqueue) -> bool:
        chain = queue.pop()
        if chain is None:
            return False
        if chain.readable or not chain.writable:
            raise QueueBroken("entropy request that is not all writable")
        written = chain.fill(os.getrandom(min(chain.writable_bytes, MOST_BYTES)))
        self.counters["bytes"] += written
        queue.push(chain.head, written)
        return True


def rng_device(path: RngPath) -> VirtioDevice:
    """The generator as its driver finds it."""
    return VirtioDevice(path.name, DeviceId.RNG, FEATURES, RngPath.QUEUES, b"", path)
