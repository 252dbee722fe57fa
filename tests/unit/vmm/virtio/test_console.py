"""The terminal: what is printed is kept and passed on, what is typed waits for buffers."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator

import pytest

from bireme.linux.fd import close_quietly
from bireme.vmm.virtio.console import (
    RECEIVE,
    RING_BYTES,
    TRANSMIT,
    ConsolePath,
    console_device,
    console_size,
    virtio_console_config,
)
from bireme.vmm.virtio.registers import CONFIG, CONFIG_CHANGED, USED_BUFFER, Status
from tests.support.virtio import Bench, running


@pytest.fixture
def sink() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    yield ends
    close_quietly(*ends)


@pytest.fixture
def keyboard() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    yield ends
    close_quietly(*ends)


@pytest.fixture(params=[False, True], ids=["here", "process"])
def bench(sink: tuple[int, int], keyboard: tuple[int, int], request: pytest.FixtureRequest) -> Iterator[Bench]:
    path = ConsolePath(sink=sink[1], source=keyboard[0])
    yield from running(console_device(path, columns=132, rows=43), process=request.param)


def described(bench: Bench) -> dict[str, object]:
    if bench.worker is None:
        return bench.device.path.describe()
    found: dict[str, object] = bench.worker.describe()["paths"][0]
    return found


def test_prints(bench: Bench, sink: tuple[int, int]) -> None:
    bench.driver.start()
    bench.driver.queues[TRANSMIT].add([b"Linux version ", b"6.1\n"])
    bench.driver.queues[TRANSMIT].add([b"ready\xff\n"])
    bench.do(TRANSMIT, 2)
    assert os.read(sink[0], 100) == b"Linux version 6.1\nready\xff\n"
    assert described(bench)["tail"] == "Linux version 6.1\nready\ufffd\n"


def test_a_sink_that_is_full_loses_and_counts(bench: Bench, sink: tuple[int, int]) -> None:
    bench.driver.start()
    for _ in range(3):
        bench.driver.queues[TRANSMIT].add([b"x" * 40000])
    bench.do(TRANSMIT, 3)
    found = described(bench)
    assert found["tail"] == "x" * RING_BYTES
    counters = found["counters"]
    assert isinstance(counters, dict)
    assert counters["bytes_out"] == 120000
    assert counters["bytes_lost"] > 0
    assert counters["bytes_lost"] + len(os.read(sink[0], 200000)) == 120000


def typed(bench: Bench, count: int = 1) -> bytes:
    if bench.worker is None:
        bench.in_process.work()
        used = bench.driver.queues[RECEIVE].collect()
    else:
        used = bench.driver.wait(RECEIVE, count)
    return b"".join(part for _, _, data in used for part in data)


def test_types_into_buffers(bench: Bench, keyboard: tuple[int, int]) -> None:
    bench.driver.start()
    for _ in range(4):
        bench.driver.queues[RECEIVE].add([], [3])
    bench.driver.notify(RECEIVE)
    os.write(keyboard[1], b"hello wo")
    assert typed(bench, 3) == b"hello wo"


def test_typing_waits_for_buffers(bench: Bench, keyboard: tuple[int, int]) -> None:
    os.write(keyboard[1], b"early")
    bench.driver.start()
    if bench.worker is None:
        bench.in_process.work()
    bench.driver.queues[RECEIVE].add([], [16])
    assert bench.driver.notify(RECEIVE)
    assert typed(bench) == b"early"


def test_an_end_of_input_is_no_end(bench: Bench, keyboard: tuple[int, int]) -> None:
    bench.driver.start()
    bench.driver.queues[RECEIVE].add([], [16])
    bench.driver.notify(RECEIVE)
    os.close(keyboard[1])
    bench.driver.queues[TRANSMIT].add([b"still here"])
    assert len(bench.do(TRANSMIT)) == 1
    assert bench.driver.queues[RECEIVE].collect() == []


@pytest.mark.parametrize(("queue", "chain"), [(TRANSMIT, ([b"x"], [1])), (RECEIVE, ([b"x"], [1]))])
def test_wrong_directions_break_the_device(bench: Bench, queue: int, chain: tuple[list[bytes], list[int]]) -> None:
    bench.driver.start()
    bench.driver.queues[queue].add(*chain)
    bench.driver.notify(queue, always=True)
    if bench.worker is None:
        bench.in_process.work()
    else:
        bench.worker.read_event()
    assert bench.driver.read("Status") == 15 | Status.NEEDS_RESET


def test_a_new_size(bench: Bench) -> None:
    bench.driver.start()
    config = virtio_console_config.unpack(bench.transport.page, CONFIG)
    assert (config["cols"], config["rows"], config["max_nr_ports"]) == (132, 43, 1)
    bench.transport.set_config(console_size(80, 25))
    config = virtio_console_config.unpack(bench.transport.page, CONFIG)
    assert (config["cols"], config["rows"], config["max_nr_ports"]) == (80, 25, 1)
    assert bench.driver.read("InterruptStatus") == USED_BUFFER | CONFIG_CHANGED


def test_a_terminal_as_both_ends() -> None:
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    path = ConsolePath(sink=master, source=master)
    try:
        for bench in running(console_device(path)):
            bench.driver.start()
            bench.driver.queues[RECEIVE].add([], [16])
            os.write(slave, b"ls")
            bench.driver.notify(RECEIVE)
            assert typed(bench) == b"ls"
            bench.driver.queues[TRANSMIT].add([b"file\n"])
            bench.do(TRANSMIT)
            assert os.read(slave, 16) == b"file\n"
    finally:
        close_quietly(master, slave)
