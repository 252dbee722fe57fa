"""Split virtqueues, the device's side. Virtual I/O Device (VIRTIO) 1.2, section 2.7.

A queue is three areas in guest memory, all of them the driver's property:

    descriptors   size x (address u64, length u32, flags u16, next u16): buffers, chained by `next`
    avail         flags u16, index u16, ring[size] u16, used_event u16: driver -> device, heads of chains
    used          flags u16, index u16, ring[size] (head u32, written u32), avail_event u16: device -> driver

Both indices count up for ever, modulo 65536; the slot is the index modulo size. A chain lists first what the device
reads, then what it may write. One descriptor may instead point to a table of descriptors elsewhere (INDIRECT).

The driver is not trusted and runs while we look. Therefore each descriptor is copied once, and the copy is checked
and used; a chain is at most as long as its table, its buffers lie in guest memory, its head is a descriptor. Whatever
is wrong raises `QueueBroken`, after which nothing of that queue is believed until the driver resets the device.
Contents of buffers may change under us at any time: who decides on them copies them first (`Chain.take`).

Memory order. We are one side of a lock-free protocol with a processor of the guest. On x86 stores are seen in program
order and loads happen in program order, and the interpreter calls out for every access of a memoryview, so that no
compiler moves them: "element, then index" and "index, then element" hold as written. What x86 does reorder is a
store with a later load of something else, and that is exactly the two places where each side says "wake me at N" and
then looks once more: there `_fence` stands, a lock taken and released, which is a locked instruction.
"""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING, NamedTuple

from bireme.vmm.memory import GuestFault

if TYPE_CHECKING:
    from bireme.vmm.memory import GuestMemory

MAX_SIZE = 32768
MAX_CHAIN = 1024
"""Buffers in one chain; the kernel takes no more in one preadv either (UIO_MAXIOV)."""
MAX_CHAIN_BYTES = 1 << 26

NEXT, WRITE, INDIRECT = 1, 2, 4
"""Flags of a descriptor (VIRTQ_DESC_F_*)."""
NO_INTERRUPT = 1
"""avail.flags, only without EVENT_IDX."""
NO_NOTIFY = 1
"""used.flags, only without EVENT_IDX."""

_DESCRIPTOR = struct.Struct("<QIHH")
_unpack_descriptor = _DESCRIPTOR.unpack_from
_ALIGNMENT = {"descriptors": 16, "avail": 2, "used": 4}

_order = threading.Lock()


def _fence() -> None:
    """No load after this passes a store before it."""
    _order.acquire()
    _order.release()


class QueueBroken(Exception):
    """The driver broke the rules of the ring; the text says which. Never leaves the data path."""


class QueuePlace(NamedTuple):
    """Where the driver put a queue: guest-physical addresses, and its number of descriptors."""

    size: int
    descriptors: int
    avail: int
    used: int


class Chain:
    """One request: views of guest memory that the device reads, then those that it may write."""

    __slots__ = ("head", "readable", "readable_bytes", "writable", "writable_bytes")

    def __init__(self, head: int) -> None:
        self.head = head
        self.readable: list[memoryview] = []
        self.writable: list[memoryview] = []
        self.readable_bytes = 0
        self.writable_bytes = 0

    def take(self, count: int) -> bytes:
        """Copy and remove the first `count` readable bytes (all of them if fewer), however they are cut up."""
        if self.readable and len(self.readable[0]) == count:
            self.readable_bytes -= count
            return self.readable.pop(0).tobytes()
        first, self.readable = split(self.readable, count)
        taken = b"".join(first)
        self.readable_bytes -= len(taken)
        return taken

    def take_last_writable(self) -> memoryview | None:
        """Remove the last writable byte, where block devices put their status; None when there is none."""
        if not self.writable:
            return None
        last = self.writable.pop()
        self.writable_bytes -= 1
        if len(last) > 1:
            self.writable.append(last[:-1])
        return last[-1:]

    def fill(self, data: bytes | bytearray | memoryview) -> int:
        """Copy `data` into the writable buffers, as much as fits; the number of bytes."""
        done = 0
        for view in self.writable:
            part = data[done : done + len(view)]
            if not part:
                break
            view[: len(part)] = part
            done += len(part)
        return done


def split(views: list[memoryview], count: int) -> tuple[list[memoryview], list[memoryview]]:
    """The first `count` bytes of a list of buffers, and the rest."""
    first: list[memoryview] = []
    for at, view in enumerate(views):
        if count <= 0:
            return first, views[at:]
        if len(view) > count:
            return [*first, view[:count]], [view[count:], *views[at + 1 :]]
        first.append(view)
        count -= len(view)
    return first, []


class Virtqueue:
    """One queue, from the activation of its device until the reset."""

    def __init__(
        self, memory: GuestMemory, place: QueuePlace, *, event_idx: bool = False, indirect: bool = False
    ) -> None:
        """Take the three areas. QueueBroken when the size is no power of two or an area is misplaced."""
        size = place.size
        if not 0 < size <= MAX_SIZE or size & (size - 1):
            raise QueueBroken(f"queue size {size}")
        self.place = place
        self.size = size
        self._mask = size - 1
        self._memory = memory
        self._event_idx = event_idx
        self._indirect = indirect
        self._descriptors = self._area("descriptors", place.descriptors, 16 * size)
        self._avail = self._area("avail", place.avail, 6 + 2 * size).cast("H")
        used = self._area("used", place.used, 6 + 8 * size)
        self._used = used[:4].cast("H")
        self._used_ring = used[4:-2].cast("I")
        self._avail_event = used[-2:].cast("H")
        self._seen = self._next = 0
        self._published = self._filled = 0

    def _area(self, name: str, address: int, length: int) -> memoryview:
        if address % _ALIGNMENT[name]:
            raise QueueBroken(f"{name} at {address:#x} not aligned")
        try:
            return self._memory.view(address, length)
        except GuestFault as fault:
            raise QueueBroken(f"{name}: {fault}") from None

    def pop(self) -> Chain | None:
        """The next chain that the driver made available, or None."""
        if self._next == self._seen:
            index = self._avail[1]
            ahead = (index - self._next) & 0xFFFF
            if not ahead:
                return None
            if ahead > self.size:
                raise QueueBroken(f"avail index {index} is {ahead} ahead of a queue of {self.size}")
            self._seen = index
        head = self._avail[2 + (self._next & self._mask)]
        self._next = (self._next + 1) & 0xFFFF
        if head >= self.size:
            raise QueueBroken(f"head {head} in a queue of {self.size}")
        chain = Chain(head)
        try:
            self._collect(chain)
        except GuestFault as fault:
            raise QueueBroken(f"buffer: {fault}") from None
        return chain

    def _collect(self, chain: Chain) -> None:
        """Follow the descriptors of a chain, each read once."""
        table: memoryview | bytes = self._descriptors
        left = count = self.size
        index = chain.head
        view = self._memory.view
        readable, writable = chain.readable, chain.writable
        total = 0
        while True:
            address, length, flags, following = _unpack_descriptor(table, index << 4)
            if flags & INDIRECT:
                table = self._indirect_table(address, length, flags, table)
                left = count = length >> 4
                index = 0
                continue
            if not length:
                raise QueueBroken("empty buffer")
            total += length
            if flags & WRITE:
                writable.append(view(address, length))
                chain.writable_bytes += length
            elif writable:
                raise QueueBroken("readable buffer after a writable one")
            else:
                readable.append(view(address, length))
            if not flags & NEXT:
                break
            left -= 1
            if following >= count or left <= 0:
                raise QueueBroken(f"chain goes on at {following} after {count - left} of {count} descriptors")
            index = following
        chain.readable_bytes = total - chain.writable_bytes
        if total > MAX_CHAIN_BYTES or len(readable) + len(writable) > MAX_CHAIN:
            raise QueueBroken(f"more than {MAX_CHAIN} buffers or {MAX_CHAIN_BYTES} bytes in a chain")

    def _indirect_table(self, address: int, length: int, flags: int, table: memoryview | bytes) -> bytes:
        """A copy of the table that an indirect descriptor names (2.7.5.3)."""
        if not self._indirect:
            raise QueueBroken("indirect descriptor without the feature")
        if flags & NEXT or isinstance(table, bytes):
            raise QueueBroken("indirect descriptor that goes on or is nested")
        if not 0 < length <= 16 * MAX_CHAIN or length % 16:
            raise QueueBroken(f"indirect table of {length} bytes")
        return self._memory.read(address, length)

    def push(self, head: int, written: int) -> None:
        """Give a chain back, with the number of bytes written into it; the driver sees it after `publish`."""
        at = (self._filled & self._mask) << 1
        self._used_ring[at] = head
        self._used_ring[at + 1] = written
        self._filled = (self._filled + 1) & 0xFFFF

    def publish(self) -> bool:
        """Show the driver everything pushed; whether it wants an interrupt for it."""
        old, new = self._published, self._filled
        if old == new:
            return False
        self._used[1] = self._published = new
        _fence()
        if self._event_idx:
            wake_at = self._avail[2 + self.size]
            return (new - wake_at - 1) & 0xFFFF < (new - old) & 0xFFFF
        return not self._avail[0] & NO_INTERRUPT

    def enable_kicks(self) -> bool:
        """Ask for a kick at the next available chain; True when one is there already and none may come for it."""
        if self._event_idx:
            self._avail_event[0] = self._next
        else:
            self._used[0] = 0
        _fence()
        return self._avail[1] != self._next

    def disable_kicks(self) -> None:
        """No kicks needed for now. With EVENT_IDX that is so as long as `avail_event` stays behind."""
        if not self._event_idx:
            self._used[0] = NO_NOTIFY

    def describe(self) -> dict[str, int]:
        """Indices for `explain`: chains taken, and chains held by the device."""
        return {"size": self.size, "taken": self._next, "held": (self._next - self._filled) & 0xFFFF}
