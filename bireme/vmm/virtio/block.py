"""virtio-blk: a disk. VIRTIO 1.2, section 5.2.

One queue of requests, each a chain

    header   type u32, reserved u32, sector u64           read by us; sectors are 512 bytes whatever BLK_SIZE says
    data     to write, or room for what is read; segments for DISCARD and WRITE_ZEROES
    status   u8: OK, IOERR, UNSUPP                         the very last writable byte; it counts as written
                                                           only if all bytes before it were

The data never passes through us: preadv and pwritev get views of guest memory, so the kernel copies between the page
cache and the guest. Requests are done one after the other, in order; a chain is given back when it is on the file, and
all chains of one kick share one interrupt. FLUSH is fdatasync; a driver that does not know FLUSH gets every write
synchronous instead (5.2.6.2: its cache would be invisible to it).

Any failure of the host (EIO, ENOSPC on a sparse disk whose file system is full) is the guest's I/O error and a
counter, and nothing else. DISCARD gives the blocks of a writable disk back to the host.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from bireme.linux.layout import Layout
from bireme.linux.sparse import punch_hole, zero_range
from bireme.vmm.virtio.device import TRANSPORT_FEATURES, DataPath, DeviceId, VirtioDevice
from bireme.vmm.virtio.queue import Chain, QueueBroken, Virtqueue, split

if TYPE_CHECKING:
    from collections.abc import Callable

F_SIZE_MAX = 1 << 1
F_SEG_MAX = 1 << 2
F_RO = 1 << 5
F_BLK_SIZE = 1 << 6
F_FLUSH = 1 << 9
F_DISCARD = 1 << 13
F_WRITE_ZEROES = 1 << 14

FEATURES = TRANSPORT_FEATURES | F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH
WRITABLE_FEATURES = F_DISCARD | F_WRITE_ZEROES

virtio_blk_config = Layout(
    "virtio_blk_config",
    "Q capacity; I size_max seg_max; H cylinders; B heads sectors; I blk_size; "
    "B physical_block_exp alignment_offset; H min_io_size; I opt_io_size; B writeback unused0; H num_queues; "
    "I max_discard_sectors max_discard_seg discard_sector_alignment max_write_zeroes_sectors max_write_zeroes_seg; "
    "B write_zeroes_may_unmap; 3s unused1",
    packed=True,
)

IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2

SECTOR = 512
QUEUE_SIZE = 256
SEG_MAX = QUEUE_SIZE - 2
SIZE_MAX = 1 << 18
"""Bytes in one buffer: with SEG_MAX a request of an obedient driver stays below `queue.MAX_CHAIN_BYTES`."""
ID_BYTES = 20
MAX_ERASE_SECTORS = 1 << 18
"""In one segment of DISCARD or WRITE_ZEROES: 128 MiB, which takes a moment where zeros have to be written out."""
MAX_ERASE_SEGMENTS = 16
_UNMAP = 1
_ZEROES = bytes(1 << 16)

_header = struct.Struct("<IIQ")
_segment = struct.Struct("<QII")


class _Failed(Exception):
    """The request cannot be done; the status says what the driver hears."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class BlockPath(DataPath):
    """Requests on an open file or block device. Owns the descriptor."""

    QUEUES = (QUEUE_SIZE,)

    def __init__(self, name: str, fd: int, *, read_only: bool, serial: str = "") -> None:
        super().__init__(name)
        self.fd = fd
        self.read_only = read_only
        self.size_bytes = os.lseek(fd, 0, os.SEEK_END) // SECTOR * SECTOR
        self.serial = serial.encode()[:ID_BYTES].ljust(ID_BYTES, b"\0")
        self._write_flags = 0
        self.counters.update(dict.fromkeys(("reads", "writes", "flushes", "bytes_read", "bytes_written", "errors"), 0))

    def fds(self) -> list[int]:
        return [*super().fds(), self.fd]

    def close(self) -> None:
        os.close(self.fd)

    def started(self) -> None:
        self._write_flags = 0 if self.features & F_FLUSH else os.RWF_DSYNC

    def kick(self, index: int) -> bool:
        return self.drain(index, self._handle)

    def _handle(self, queue: Virtqueue) -> bool:
        chain = queue.pop()
        if chain is None:
            return False
        status = chain.take_last_writable()
        header = chain.take(_header.size)
        if status is None or len(header) < _header.size:
            raise QueueBroken("block request without header or status")
        kind, _, sector = _header.unpack(header)
        written = 0
        try:
            written = self._request(kind, sector, chain)
            status[0] = OK
        except _Failed as failed:
            self.counters["errors"] += 1
            status[0] = failed.status
        except OSError:
            self.counters["errors"] += 1
            status[0] = IOERR
        queue.push(chain.head, written + (written == chain.writable_bytes))
        return True

    def _request(self, kind: int, sector: int, chain: Chain) -> int:
        """Do it; the number of bytes written into the chain's buffers."""
        if kind == IN:
            return self._read(self._span(sector, chain.writable_bytes), chain)
        if kind == OUT:
            return self._write(self._span(sector, chain.readable_bytes), chain)
        rare = _RARE.get(kind)
        if rare is None:
            raise _Failed(UNSUPP)
        return rare(self, chain)

    def _span(self, sector: int, length: int) -> int:
        """Where a range begins in the file, in bytes; it must be whole sectors within the disk."""
        start = sector * SECTOR
        if length % SECTOR or start + length > self.size_bytes:
            raise _Failed(IOERR)
        return start

    def _read(self, offset: int, chain: Chain) -> int:
        views = chain.writable
        total = chain.writable_bytes
        done = os.preadv(self.fd, views, offset) if total else 0
        while done < total:
            part = os.preadv(self.fd, split(views, done)[1], offset + done)
            if not part:
                raise _Failed(IOERR)
            done += part
        self.counters["reads"] += 1
        self.counters["bytes_read"] += total
        return total

    def _write(self, offset: int, chain: Chain) -> int:
        if self.read_only:
            raise _Failed(IOERR)
        views = chain.readable
        total = chain.readable_bytes
        done = os.pwritev(self.fd, views, offset, self._write_flags) if total else 0
        while done < total:
            part = os.pwritev(self.fd, split(views, done)[1], offset + done, self._write_flags)
            if not part:
                raise _Failed(IOERR)
            done += part
        self.counters["writes"] += 1
        self.counters["bytes_written"] += total
        return 0

    def _flush(self, chain: Chain) -> int:
        self.counters["flushes"] += 1
        if not self.read_only:
            os.fdatasync(self.fd)
        return 0

    def _get_id(self, chain: Chain) -> int:
        return chain.fill(self.serial)

    def _discard(self, chain: Chain) -> int:
        """A hint: what cannot be given back stays."""
        for offset, length, flags in self._segments(chain, MAX_ERASE_SEGMENTS):
            if flags:
                raise _Failed(UNSUPP)
            punch_hole(self.fd, offset, length)
        return 0

    def _write_zeroes(self, chain: Chain) -> int:
        for offset, length, flags in self._segments(chain, 1):
            if flags & ~_UNMAP:
                raise _Failed(UNSUPP)
            erase = punch_hole if flags & _UNMAP else zero_range
            if not erase(self.fd, offset, length):
                self._write_zero_bytes(offset, length)
        return 0

    def _write_zero_bytes(self, offset: int, length: int) -> None:
        """For files that know neither holes nor zeroed ranges."""
        while length:
            part = os.pwrite(self.fd, memoryview(_ZEROES)[: min(length, len(_ZEROES))], offset)
            offset += part
            length -= part

    def _segments(self, chain: Chain, most: int) -> list[tuple[int, int, int]]:
        """Ranges to erase as (offset, length in bytes, flags), all checked before the first is touched."""
        if self.read_only:
            raise _Failed(IOERR)
        size = chain.readable_bytes
        if not size or size % _segment.size or size > most * _segment.size:
            raise _Failed(IOERR)
        found = []
        for sector, count, flags in _segment.iter_unpack(chain.take(size)):
            if count > MAX_ERASE_SECTORS:
                raise _Failed(IOERR)
            if count:
                found.append((self._span(sector, count * SECTOR), count * SECTOR, flags))
        return found


_RARE: dict[int, Callable[[BlockPath, Chain], int]] = {
    FLUSH: BlockPath._flush,
    GET_ID: BlockPath._get_id,
    DISCARD: BlockPath._discard,
    WRITE_ZEROES: BlockPath._write_zeroes,
}


def block_device(path: BlockPath) -> VirtioDevice:
    """The disk as its driver finds it."""
    config = virtio_blk_config.pack(
        capacity=path.size_bytes // SECTOR,
        size_max=SIZE_MAX,
        seg_max=SEG_MAX,
        blk_size=SECTOR,
        num_queues=1,
        max_discard_sectors=MAX_ERASE_SECTORS,
        max_discard_seg=MAX_ERASE_SEGMENTS,
        discard_sector_alignment=4096 // SECTOR,
        max_write_zeroes_sectors=MAX_ERASE_SECTORS,
        max_write_zeroes_seg=1,
        write_zeroes_may_unmap=1,
    )
    features = FEATURES | (F_RO if path.read_only else WRITABLE_FEATURES)
    return VirtioDevice(path.name, DeviceId.BLOCK, features, BlockPath.QUEUES, config, path)


def open_disk(path: str, read_only: bool) -> int:
    """A descriptor (CLOEXEC) of a disk image or block device. OSError."""
    return os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
