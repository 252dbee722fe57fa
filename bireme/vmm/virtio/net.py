"""virtio-net: an Ethernet card whose wire is a TAP device of the host. VIRTIO 1.2, section 5.1.

    queue 0  receiveq    chains of empty buffers; the device fills them
    queue 1  transmitq   chains that hold one packet each

Every packet has a virtio_net_hdr of 12 bytes in front, which says whether a checksum is still to be computed and
whether the packet is to be cut into segments. The TAP device speaks the same header, so packets go through as they are:
writev from the guest's buffers, readv into them. With the offloads negotiated a guest hands over up to 64 KiB at once,
and that is what makes the data path worth its while in Python: the cost is per packet, not per byte.

Receiving. A packet's size is known only after it was read, so buffers for the largest one are gathered first. With
MRG_RXBUF a packet may span several chains (`num_buffers` of them, written into the header); then small buffers serve
both small and large packets, and a guest need not keep 64 KiB for each slot of its ring. Where the driver has made too
little room for the largest packet the packet is read into a buffer of ours and copied as soon as it fits; the wire is
left alone meanwhile, as it is without any buffer: the host's queue fills and drops, as a card's would.

The header of a packet to transmit is the guest's; the kernel checks it and refuses nonsense (EINVAL), which we count.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING

from bireme.linux.layout import Layout
from bireme.linux.libc import SyscallError
from bireme.linux.tun import Offload, set_offload
from bireme.vmm.virtio.device import TRANSPORT_FEATURES, DataPath, DeviceId, VirtioDevice
from bireme.vmm.virtio.queue import Chain, QueueBroken, Virtqueue

if TYPE_CHECKING:
    from collections.abc import Callable

F_CSUM = 1 << 0
F_GUEST_CSUM = 1 << 1
F_MTU = 1 << 3
F_MAC = 1 << 5
F_GUEST_TSO4 = 1 << 7
F_GUEST_TSO6 = 1 << 8
F_HOST_TSO4 = 1 << 11
F_HOST_TSO6 = 1 << 12
F_MRG_RXBUF = 1 << 15
F_STATUS = 1 << 16

FEATURES = (
    TRANSPORT_FEATURES
    | F_CSUM
    | F_GUEST_CSUM
    | F_MTU
    | F_MAC
    | F_GUEST_TSO4
    | F_GUEST_TSO6
    | F_HOST_TSO4
    | F_HOST_TSO6
    | F_MRG_RXBUF
    | F_STATUS
)
OFFLOADS = {F_GUEST_CSUM: Offload.CSUM, F_GUEST_TSO4: Offload.TSO4, F_GUEST_TSO6: Offload.TSO6}
"""What the driver can take, as the TAP device is told."""

virtio_net_config = Layout("virtio_net_config", "6s mac; H status max_virtqueue_pairs mtu", packed=True)
virtio_net_hdr = Layout(
    "virtio_net_hdr",
    "B flags gso_type; H hdr_len gso_size csum_start csum_offset num_buffers",
    packed=True,
)

LINK_UP = 1
RECEIVE, TRANSMIT = 0, 1
QUEUE_SIZE = 256
HEADER_BYTES = virtio_net_hdr.size
ETHERNET_BYTES = 14
_FRAME_OVERHEAD = HEADER_BYTES + ETHERNET_BYTES + 4
LARGEST_BYTES = _FRAME_OVERHEAD + 65535
"""Header, Ethernet with a VLAN tag, and an IP packet."""
PATIENCE = 64
"""How often we look again whether a packet fits, before it is dropped: its driver may never make so much room."""
_NUM_BUFFERS = virtio_net_hdr.offset("num_buffers")


class NetPath(DataPath):
    """Packets between two queues and a TAP device. Owns the descriptor, which must not block."""

    QUEUES = (QUEUE_SIZE, QUEUE_SIZE)

    def __init__(self, name: str, tap_fd: int, *, mac: str, mtu: int = 1500) -> None:
        super().__init__(name)
        self.fd = tap_fd
        self.mac = parse_mac(mac)
        self.mtu = mtu
        self._gathered: deque[Chain] = deque()
        self._room = 0
        self._largest = LARGEST_BYTES
        self._mergeable = False
        self._bounce = bytearray()
        self._waiting = 0
        self._patience = PATIENCE
        self.counters.update(
            dict.fromkeys(("received", "bytes_received", "sent", "bytes_sent", "dropped_in", "dropped_out"), 0)
        )

    def fds(self) -> list[int]:
        return [*super().fds(), self.fd]

    def close(self) -> None:
        os.close(self.fd)

    def started(self) -> None:
        self._mergeable = bool(self.features & F_MRG_RXBUF)
        large = self.features & (F_GUEST_TSO4 | F_GUEST_TSO6)
        self._largest = LARGEST_BYTES if large else _FRAME_OVERHEAD + self.mtu
        self._tell_tap(self.features)

    def stopped(self) -> None:
        self._gathered.clear()
        self._room = 0
        self._bounce = bytearray()
        self._waiting, self._patience = 0, PATIENCE
        self._tell_tap(0)

    def _tell_tap(self, features: int) -> None:
        """Segmentation needs checksums, and a TAP device that knows less gives whole packets, which is right too."""
        offload = Offload(0)
        for feature, bit in OFFLOADS.items():
            if features & feature and features & F_GUEST_CSUM:
                offload |= bit
        try:
            set_offload(self.fd, offload)
        except SyscallError:
            return

    def poll_fds(self) -> dict[int, Callable[[], bool]]:
        return {self.fd: self._receive}

    def kick(self, index: int) -> bool:
        return self._receive() if index == RECEIVE else self.drain(TRANSMIT, self._transmit)

    # Guest to host.

    def _transmit(self, queue: Virtqueue) -> bool:
        chain = queue.pop()
        if chain is None:
            return False
        size = chain.readable_bytes
        if not HEADER_BYTES + ETHERNET_BYTES <= size <= LARGEST_BYTES:
            self.counters["dropped_out"] += 1
        else:
            try:
                os.writev(self.fd, chain.readable)
                self.counters["sent"] += 1
                self.counters["bytes_sent"] += size - HEADER_BYTES
            except OSError:
                self.counters["dropped_out"] += 1
        queue.push(chain.head, 0)
        return True

    # Host to guest.

    def _receive(self) -> bool:
        return self.feed(RECEIVE, self._gather, self._receive_one)

    def _gather(self, queue: Virtqueue) -> bool:
        """Take chains until the largest packet fits; whether there is any."""
        while self._room < self._largest and (self._mergeable or not self._gathered):
            chain = queue.pop()
            if chain is None:
                break
            if chain.readable or chain.writable_bytes < HEADER_BYTES:
                raise QueueBroken("receive buffer that is readable or smaller than a header")
            self._gathered.append(chain)
            self._room += chain.writable_bytes
        return bool(self._gathered)

    def _receive_one(self, queue: Virtqueue) -> bool:
        """One packet from the wire; False when there is none, or no room for it yet."""
        try:
            if self._room >= self._largest and not self._waiting:
                views = [view for chain in self._gathered for view in chain.writable]
                self._hand_over(queue, os.readv(self.fd, views))
                return True
            if not self._waiting:
                self._bounce = self._bounce or bytearray(LARGEST_BYTES)
                self._waiting = os.readv(self.fd, [self._bounce])
        except BlockingIOError:
            return False
        except OSError:
            self.counters["dropped_in"] += 1
            return False
        return self._place_waiting(queue)

    def _place_waiting(self, queue: Virtqueue) -> bool:
        """Copy the packet that we hold, or keep it as long as the driver may still make room."""
        if self._waiting > self._room:
            if self._mergeable and len(self._gathered) < queue.size and self._patience:
                self._patience -= 1
                return queue.enable_kicks()
            self.counters["dropped_in"] += 1
        else:
            rest = memoryview(self._bounce)[: self._waiting]
            for chain in self._gathered:
                rest = rest[chain.fill(rest) :]
            self._hand_over(queue, self._waiting)
        self._waiting, self._patience = 0, PATIENCE
        return True

    def _hand_over(self, queue: Virtqueue, size: int) -> None:
        """The first `size` bytes of the gathered buffers are a packet: give those chains to the driver."""
        first = self._gathered[0]
        left = size
        count = 0
        while left > 0:
            chain = self._gathered.popleft()
            self._room -= chain.writable_bytes
            part = min(left, chain.writable_bytes)
            queue.push(chain.head, part)
            left -= part
            count += 1
        _store_num_buffers(first, count)
        self.counters["received"] += 1
        self.counters["bytes_received"] += size - HEADER_BYTES


def _store_num_buffers(chain: Chain, count: int) -> None:
    """Into the header, which may lie in several buffers."""
    number = count.to_bytes(2, "little")
    if len(chain.writable[0]) >= HEADER_BYTES:
        chain.writable[0][_NUM_BUFFERS:HEADER_BYTES] = number
        return
    at = 0
    for view in chain.writable:
        for offset in range(len(view)):
            if _NUM_BUFFERS <= at < HEADER_BYTES:
                view[offset] = number[at - _NUM_BUFFERS]
            at += 1
            if at == HEADER_BYTES:
                return


def parse_mac(text: str) -> bytes:
    """Six bytes from "52:54:00:12:34:56"; ValueError."""
    mac = bytes.fromhex(text.replace(":", ""))
    if len(mac) != 6 or len(text) != 17:
        raise ValueError(f"{text!r} is no MAC address")
    return mac


def net_device(path: NetPath) -> VirtioDevice:
    """The card as its driver finds it."""
    config = virtio_net_config.pack(mac=path.mac, status=LINK_UP, max_virtqueue_pairs=1, mtu=path.mtu)
    return VirtioDevice(path.name, DeviceId.NET, FEATURES, NetPath.QUEUES, config, path)
