"""The disk, request by request; what the host cannot do is the guest's I/O error."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from bireme.vmm.virtio.block import (
    DISCARD,
    F_DISCARD,
    F_FLUSH,
    F_RO,
    FLUSH,
    GET_ID,
    IN,
    IOERR,
    MAX_ERASE_SECTORS,
    OK,
    OUT,
    SECTOR,
    UNSUPP,
    WRITE_ZEROES,
    BlockPath,
    block_device,
    open_disk,
    virtio_blk_config,
)
from bireme.vmm.virtio.device import RING_EVENT_IDX, RING_INDIRECT_DESC
from bireme.vmm.virtio.registers import CONFIG, Status
from tests.support.virtio import Bench, running

SECTORS = 256


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(b"".join(bytes([number % 251]) * SECTOR for number in range(SECTORS)) + b"tail")
    return path


def disk(image: Path, *, read_only: bool = False, process: bool = False) -> Iterator[Bench]:
    path = BlockPath("vda", open_disk(str(image), read_only), read_only=read_only, serial="root-of-everything-and-more")
    yield from running(block_device(path), process=process)


@pytest.fixture(params=["here", "process"])
def bench(image: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    yield from disk(image, process=request.param == "process")


@pytest.fixture
def local(image: Path) -> Iterator[Bench]:
    yield from disk(image)


@pytest.fixture
def sealed(image: Path) -> Iterator[Bench]:
    yield from disk(image, read_only=True)


def header(kind: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


def ask(bench: Bench, kind: int, sector: int = 0, out: bytes = b"", room: int = 0) -> tuple[int, bytes, int]:
    """One request: status, data, bytes written."""
    if not bench.driver.queues:
        bench.driver.start()
    queue = bench.driver.queues[0]
    head = queue.add([header(kind, sector), *([out] if out else [])], [*([room] if room else []), 1])
    status_at = queue.room(head)[-1][0]
    bench.memory.write(status_at, b"\xff")
    ((_, written, data),) = bench.do(0)
    return bench.memory.read(status_at, 1)[0], b"".join(data[:-1]), written


def test_reads(bench: Bench) -> None:
    assert ask(bench, IN, 3, room=2 * SECTOR) == (OK, b"\3" * SECTOR + b"\4" * SECTOR, 2 * SECTOR + 1)


def test_writes(bench: Bench, image: Path) -> None:
    assert ask(bench, OUT, 5, out=b"x" * SECTOR) == (OK, b"", 1)
    assert ask(bench, FLUSH) == (OK, b"", 1)
    assert image.read_bytes()[4 * SECTOR : 7 * SECTOR] == b"\4" * SECTOR + b"x" * SECTOR + b"\6" * SECTOR


def test_serial(bench: Bench) -> None:
    assert ask(bench, GET_ID, room=20) == (OK, b"root-of-everything-a", 21)


@pytest.mark.parametrize("without", [0, RING_EVENT_IDX, RING_INDIRECT_DESC, RING_EVENT_IDX | RING_INDIRECT_DESC])
def test_many_requests_share_an_interrupt(bench: Bench, without: int) -> None:
    bench.driver.start(without=without)
    queue = bench.driver.queues[0]
    for number in range(60):
        queue.add([header(IN, number)], [100, SECTOR - 100, 1])
    used = bench.do(0, 60)
    assert [data[0][:1] for _, _, data in used] == [bytes([number]) for number in range(60)]
    assert all(data[2] == b"\0" for _, _, data in used)
    if bench.worker is None:
        assert bench.driver.interrupts() == 1


def test_more_than_a_budget_is_done_in_turns(bench: Bench) -> None:
    bench.driver.start()
    queue = bench.driver.queues[0]
    for number in range(250):
        queue.add([header(IN, number)], [SECTOR, 1])
    assert len(bench.do(0, 250)) == 250


@pytest.mark.parametrize(
    ("kind", "sector", "out", "room", "status"),
    [
        (IN, SECTORS, b"", SECTOR, IOERR),
        (IN, SECTORS - 1, b"", 2 * SECTOR, IOERR),
        (IN, (1 << 64) - 1, b"", SECTOR, IOERR),
        (IN, 0, b"", SECTOR + 1, IOERR),
        (OUT, SECTORS, b"x" * SECTOR, 0, IOERR),
        (OUT, 0, b"x", 0, IOERR),
        (99, 0, b"", 0, UNSUPP),
        (DISCARD, 0, b"x" * 15, 0, IOERR),
        (DISCARD, 0, b"", 0, IOERR),
        (DISCARD, 0, struct.pack("<QII", SECTORS, 1, 0), 0, IOERR),
        (DISCARD, 0, struct.pack("<QII", 0, MAX_ERASE_SECTORS + 1, 0), 0, IOERR),
        (DISCARD, 0, struct.pack("<QII", 0, 1, 1), 0, UNSUPP),
        (WRITE_ZEROES, 0, struct.pack("<QII", 0, 1, 2), 0, UNSUPP),
        (WRITE_ZEROES, 0, struct.pack("<QII", 0, 1, 0) * 2, 0, IOERR),
    ],
)
def test_requests_that_cannot_be(
    local: Bench, image: Path, kind: int, sector: int, out: bytes, room: int, status: int
) -> None:
    before = image.read_bytes()
    local.driver.start()
    assert ask(local, kind, sector, out, room)[0] == status
    assert local.device.path.counters["errors"] == 1
    assert local.driver.read("Status") == 15
    assert image.read_bytes() == before


def test_discard_gives_blocks_back(bench: Bench, image: Path) -> None:
    os.truncate(image, 0)
    with open(image, "r+b") as file:
        file.write(b"z" * (SECTORS * SECTOR))
        os.fsync(file.fileno())
    before = image.stat().st_blocks
    segments = struct.pack("<QII", 0, 64, 0) + struct.pack("<QII", 128, 64, 0)
    assert ask(bench, DISCARD, out=segments)[0] == OK
    content = image.read_bytes()
    assert content[: 64 * SECTOR] == bytes(64 * SECTOR)
    assert content[64 * SECTOR : 128 * SECTOR] == b"z" * 64 * SECTOR
    assert len(content) == SECTORS * SECTOR
    assert image.stat().st_blocks < before


@pytest.mark.parametrize("flags", [0, 1])
def test_write_zeroes(local: Bench, image: Path, flags: int) -> None:
    assert ask(local, WRITE_ZEROES, out=struct.pack("<QII", 2, 3, flags))[0] == OK
    content = image.read_bytes()
    assert content[2 * SECTOR : 5 * SECTOR] == bytes(3 * SECTOR)
    assert (content[2 * SECTOR - 1], content[5 * SECTOR]) == (1, 5)


def test_zeros_are_written_where_the_file_knows_no_holes(local: Bench, image: Path) -> None:
    path = local.device.path
    assert isinstance(path, BlockPath)
    path._write_zero_bytes(SECTOR, 200 * SECTOR)
    assert image.read_bytes()[SECTOR : 201 * SECTOR] == bytes(200 * SECTOR)


def test_a_read_only_disk(sealed: Bench) -> None:
    features = sealed.driver.start()
    assert features & F_RO
    assert not features & F_DISCARD
    assert ask(sealed, IN, 1, room=SECTOR)[0] == OK
    assert ask(sealed, FLUSH)[0] == OK
    for kind, out in ((OUT, b"x" * SECTOR), (DISCARD, struct.pack("<QII", 0, 1, 0)), (WRITE_ZEROES, b"x" * 16)):
        assert ask(sealed, kind, out=out)[0] == IOERR


def test_without_flush_writes_are_synchronous(local: Bench) -> None:
    path = local.device.path
    assert isinstance(path, BlockPath)
    local.driver.start(without=F_FLUSH)
    assert path._write_flags == os.RWF_DSYNC
    assert ask(local, OUT, 0, out=b"y" * SECTOR)[0] == OK
    local.driver.start()
    assert path._write_flags == 0


def test_a_full_file_system_is_an_io_error() -> None:
    path = BlockPath("vda", os.open("/dev/full", os.O_RDWR | os.O_CLOEXEC), read_only=False)
    path.size_bytes = 1 << 20
    for bench in running(block_device(path)):
        assert ask(bench, OUT, 0, out=b"x" * SECTOR)[0] == IOERR
        assert path.counters["errors"] == 1
        assert bench.driver.read("Status") == 15


def test_a_file_that_became_shorter_is_an_io_error(local: Bench, image: Path) -> None:
    os.truncate(image, 10 * SECTOR)
    assert ask(local, IN, 9, room=SECTOR)[0] == OK
    assert ask(local, IN, 9, room=2 * SECTOR)[0] == IOERR


@pytest.mark.parametrize(("readable", "writable"), [([b"short"], [1]), ([], [1]), ([bytes(16)], [])])
def test_a_request_without_its_parts_breaks_the_device(
    bench: Bench, readable: list[bytes], writable: list[int]
) -> None:
    bench.driver.start()
    bench.driver.queues[0].add(readable, writable)
    bench.driver.notify(0, always=True)
    if bench.worker is None:
        bench.in_process.work()
    else:
        bench.worker.read_event()
    assert bench.driver.read("Status") == 15 | Status.NEEDS_RESET
    assert "without header or status" in bench.transport.reason
    assert ask_after_reset(bench) == OK


def ask_after_reset(bench: Bench) -> int:
    bench.driver.start()
    return ask(bench, IN, 0, room=SECTOR)[0]


def test_header_and_status_cut_up(local: Bench) -> None:
    local.driver.start()
    request = header(IN, 2)
    local.driver.queues[0].add([request[:3], request[3:10], request[10:]], [SECTOR // 2, SECTOR // 2 + 1])
    ((_, written, data),) = local.do(0)
    assert written == SECTOR + 1
    assert b"".join(data) == b"\2" * SECTOR + b"\0"


def test_configuration(local: Bench) -> None:
    config = virtio_blk_config.unpack(local.transport.page, CONFIG)
    assert virtio_blk_config.size == 60
    assert config["capacity"] == SECTORS
    assert config["seg_max"] == 254
    assert config["num_queues"] == 1
    assert config["max_write_zeroes_seg"] == 1
