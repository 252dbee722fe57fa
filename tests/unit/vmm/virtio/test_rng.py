"""Random bytes, bounded for one request."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bireme.vmm.virtio.registers import Status
from bireme.vmm.virtio.rng import MOST_BYTES, RngPath, rng_device
from tests.support.virtio import Bench, running


@pytest.fixture(params=[False, True], ids=["here", "process"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    yield from running(rng_device(RngPath()), process=request.param)


def test_fills_buffers(bench: Bench) -> None:
    bench.driver.start()
    bench.driver.queues[0].add([], [16, 48])
    bench.driver.queues[0].add([], [64])
    used = bench.do(0, 2)
    contents = [b"".join(data) for _, _, data in used]
    assert [len(data) for data in contents] == [64, 64]
    assert contents[0] != contents[1]
    assert bytes(64) not in contents


def test_one_request_gets_so_much(bench: Bench) -> None:
    bench.driver.start()
    bench.driver.queues[0].add([], [MOST_BYTES, MOST_BYTES])
    ((_, written, _),) = bench.do(0)
    assert written == MOST_BYTES


def test_a_readable_request_breaks_the_device(bench: Bench) -> None:
    bench.driver.start()
    bench.driver.queues[0].add([b"give"], [4])
    bench.driver.notify(0)
    if bench.worker is None:
        bench.in_process.work()
    else:
        bench.worker.read_event()
    assert bench.driver.read("Status") == 15 | Status.NEEDS_RESET
