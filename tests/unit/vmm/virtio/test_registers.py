"""The tables: offsets as in the specification, statuses that follow one another."""

from __future__ import annotations

from bireme.vmm.layout import VIRTIO_QUEUE_NOTIFY
from bireme.vmm.virtio.registers import ADDRESS_PARTS, FRESH, HANDSHAKE, LIVE, OFFSETS, REGISTERS, WRITABLE


def test_registers_do_not_overlap() -> None:
    offsets = [register.offset for register in REGISTERS]
    assert offsets == sorted(set(offsets))
    assert all(offset % 4 == 0 and offset < 0x100 for offset in offsets)
    assert OFFSETS["QueueNotify"] == VIRTIO_QUEUE_NOTIFY
    assert set(ADDRESS_PARTS) <= {register.name for register in WRITABLE.values()}


def test_the_handshake_is_one_line() -> None:
    status, seen = FRESH, [FRESH]
    while status in HANDSHAKE:
        following = HANDSHAKE[status]
        assert following & status == status
        assert (following ^ status).bit_count() == 1
        seen.append(following)
        status = following
    assert status == LIVE
    assert len(seen) == len(HANDSHAKE) + 1
