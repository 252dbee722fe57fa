"""virtio-console: a terminal, /dev/hvc0 in the guest. VIRTIO 1.2, section 5.3.

    queue 0  receiveq    empty buffers for what is typed
    queue 1  transmitq   what the guest prints

One port, so no control queues (they come with MULTIPORT). What the guest prints is kept in a ring of the last
`RING_BYTES`, for `explain` and for the reason why a machine did not come up, and written to a descriptor if there is
one. A reader that does not keep up loses output, counted, rather than stop the guest: a kernel that prints spins until
the console has taken it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bireme.linux.layout import Layout
from bireme.vmm.virtio.device import TRANSPORT_FEATURES, DataPath, DeviceId, VirtioDevice
from bireme.vmm.virtio.queue import Chain, QueueBroken, Virtqueue, split

if TYPE_CHECKING:
    from collections.abc import Callable

F_SIZE = 1 << 0

FEATURES = TRANSPORT_FEATURES | F_SIZE

virtio_console_config = Layout("virtio_console_config", "H cols rows; I max_nr_ports emerg_wr", packed=True)

RECEIVE, TRANSMIT = 0, 1
QUEUE_SIZE = 64
RING_BYTES = 16384
_AT_ONCE_BYTES = 65536
"""Of one chain that the guest prints; more is not looked at."""


class ConsolePath(DataPath):
    """Bytes between two queues and descriptors of the host (-1: none), which must not block and stay the caller's.

    `source` is something to wait for: a terminal, pipe or socket, no file.
    """

    QUEUES = (QUEUE_SIZE, QUEUE_SIZE)

    def __init__(self, name: str = "console", *, sink: int = -1, source: int = -1) -> None:
        super().__init__(name)
        self.ring = bytearray()
        self._held: Chain | None = None
        self._sink = sink
        self._source = source
        self.counters.update(dict.fromkeys(("bytes_in", "bytes_out", "bytes_lost"), 0))

    def fds(self) -> list[int]:
        return [*super().fds(), *{fd for fd in (self._sink, self._source) if fd >= 0}]

    def stopped(self) -> None:
        self._held = None

    def poll_fds(self) -> dict[int, Callable[[], bool]]:
        return {} if self._source < 0 else {self._source: self._receive}

    def kick(self, index: int) -> bool:
        return self._receive() if index == RECEIVE else self.drain(TRANSMIT, self._transmit)

    def _transmit(self, queue: Virtqueue) -> bool:
        chain = queue.pop()
        if chain is None:
            return False
        if chain.writable:
            raise QueueBroken("console output that is writable")
        size = chain.readable_bytes
        data = chain.take(min(size, _AT_ONCE_BYTES))
        self.counters["bytes_out"] += len(data)
        self.ring += data
        del self.ring[:-RING_BYTES]
        self.counters["bytes_lost"] += size - len(data) + len(data) - self._print(data)
        queue.push(chain.head, 0)
        return True

    def _print(self, data: bytes) -> int:
        """What the sink took; all of it when there is none."""
        if self._sink < 0:
            return len(data)
        try:
            return os.write(self._sink, data)
        except OSError:
            return 0

    def _receive(self) -> bool:
        """Type into the driver's buffers as long as there are some; the rest waits in the descriptor."""
        return self._source >= 0 and self.feed(RECEIVE, self._hold, self._receive_one)

    def _hold(self, queue: Virtqueue) -> bool:
        """Have a buffer in hand."""
        self._held = self._held or queue.pop()
        if self._held is not None and (self._held.readable or not self._held.writable):
            raise QueueBroken("console input buffer that is not all writable")
        return self._held is not None

    def _receive_one(self, queue: Virtqueue) -> bool:
        """Fill the buffer in hand; False when nothing is typed (or nobody is there: a terminal may come back)."""
        chain = self._held
        if chain is None:
            return False
        try:
            size = os.readv(self._source, split(chain.writable, _AT_ONCE_BYTES)[0])
        except OSError:
            return False
        if not size:
            return False
        self._held = None
        self.counters["bytes_in"] += size
        queue.push(chain.head, size)
        return True

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "tail": self.ring.decode("utf-8", "replace")}


def console_device(path: ConsolePath, *, columns: int = 80, rows: int = 25) -> VirtioDevice:
    """The terminal as its driver finds it. A new size: `MmioTransport.set_config(console_size(columns, rows))`."""
    config = virtio_console_config.pack(cols=columns, rows=rows, max_nr_ports=1)
    return VirtioDevice(path.name, DeviceId.CONSOLE, FEATURES, ConsolePath.QUEUES, config, path)


def console_size(columns: int, rows: int) -> bytes:
    """The first bytes of the configuration space."""
    return virtio_console_config.pack(cols=columns, rows=rows)[: virtio_console_config.offset("max_nr_ports")]
