"""Drivers that no kernel has: any registers in any order, any rings, any descriptors, against every device.

The device runs in this process, so an exception that a guest could cause is a failure here. Two oracles besides: guest
memory that the driver never gave to the device as writable stays as it was, and a device that was given nonsense works
again after a reset.

The same examples in every run; BIREME_FUZZ_EXAMPLES=10000 tries so many new ones.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bireme.linux.fd import close_quietly
from bireme.vmm.virtio.block import BlockPath, block_device
from bireme.vmm.virtio.console import ConsolePath, console_device
from bireme.vmm.virtio.device import VirtioDevice
from bireme.vmm.virtio.net import NetPath, net_device
from bireme.vmm.virtio.queue import INDIRECT, NEXT, WRITE, QueuePlace
from bireme.vmm.virtio.registers import OFFSETS, Status
from bireme.vmm.virtio.rng import RngPath, rng_device
from tests.support.virtio import MIB, QUEUE_STRIDE, QUEUES_AT, Bench

EXAMPLES = int(os.environ.get("BIREME_FUZZ_EXAMPLES", "0"))
MEMORY_BYTES = 4 * MIB
PLAYGROUND, PLAYGROUND_END = 2 * MIB, 3 * MIB
"""Where writable buffers and tables lie. Queues lie below; the rest the device may only read."""
CANARIES = ((0, 0x10000), (QUEUES_AT - 0x10000, QUEUES_AT), (PLAYGROUND_END + 0x10000, PLAYGROUND_END + 0x20000))

Input = Callable[[bytes], object]


def make_block(stack: ExitStack, *, read_only: bool) -> tuple[VirtioDevice, Input]:
    fd = os.memfd_create("disk", os.MFD_CLOEXEC)
    os.truncate(fd, 256 * 512)
    path = BlockPath("vda", fd, read_only=read_only, serial="fuzz")
    return block_device(path), lambda data: None


def make_net(stack: ExitStack) -> tuple[VirtioDevice, Input]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    path = NetPath("eth0", ours.detach(), mac="52:54:00:12:34:56")
    stack.enter_context(theirs)
    return net_device(path), lambda data: theirs.send(data) if data else None


def make_console(stack: ExitStack) -> tuple[VirtioDevice, Input]:
    source, keys = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    sink = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    stack.callback(close_quietly, source, keys, sink)
    return console_device(ConsolePath(sink=sink, source=source)), lambda data: os.write(keys, data)


DEVICES: dict[str, Callable[[ExitStack], tuple[VirtioDevice, Input]]] = {
    "block": lambda stack: make_block(stack, read_only=False),
    "read-only block": lambda stack: make_block(stack, read_only=True),
    "net": make_net,
    "console": make_console,
    "rng": lambda stack: (rng_device(RngPath()), lambda data: None),
}

u32 = st.integers(0, 0xFFFFFFFF)
index = st.integers(0, 17)
inside = st.integers(PLAYGROUND, PLAYGROUND_END - 1).map(lambda address: address & ~7)
anywhere = st.one_of(
    inside,
    st.integers(0, MEMORY_BYTES + 4096),
    st.sampled_from([0, MEMORY_BYTES - 1, MEMORY_BYTES, 0xD0000000, 1 << 32, (1 << 64) - 1, (1 << 64) - 4096, 1 << 63]),
)
nowhere = st.sampled_from([MEMORY_BYTES, MEMORY_BYTES - 1, 0xD0000000, 1 << 32, (1 << 64) - 1, (1 << 64) - 8, 1 << 63])
length = st.one_of(st.sampled_from([0, 1, 12, 16, 20, 512, 1024, 4096, 65536, MIB, 0xFFFFFFFF]), st.integers(0, 70000))
small = st.one_of(st.sampled_from([0, 1, 12, 16, 512, 1024]), st.integers(0, 8192))
descriptor = st.one_of(
    st.tuples(anywhere, length, st.sampled_from([0, NEXT]), index),
    st.tuples(inside, small, st.sampled_from([WRITE, WRITE | NEXT]), index),
    st.tuples(nowhere, length, st.sampled_from([WRITE, WRITE | NEXT, INDIRECT]), index),
    st.tuples(inside, st.sampled_from([0, 16, 32, 48, 64, 72, 1 << 20]), st.sampled_from([INDIRECT]), index),
)
chain = st.lists(descriptor, min_size=1, max_size=6)
fair = st.lists(
    st.tuples(inside, st.sampled_from([1, 20, 512, 1024, 2048]), st.sampled_from([0, WRITE]), st.just(0)), max_size=5
).map(lambda rows: [*sorted(rows, key=lambda row: row[2]), (PLAYGROUND, 1, WRITE, 0)])
"""What a driver that only asks for strange things would send: buffers that exist, in order, a status at the end."""
one_way = st.tuples(
    st.sampled_from([0, WRITE]), st.lists(st.tuples(inside, st.integers(1, 4096)), min_size=1, max_size=4)
).map(lambda drawn: [(address, size, drawn[0], 0) for address, size in drawn[1]])
header = st.tuples(st.sampled_from([0, 1, 4, 8, 11, 13, 99]), st.sampled_from([0, 1, 255, 256, 1 << 40, (1 << 64) - 1]))
queue = st.integers(0, 2)
register = st.one_of(st.sampled_from(sorted(OFFSETS.values())), st.integers(0, 0x1100))
action = st.one_of(
    st.tuples(st.just("poke"), queue, index, descriptor),
    st.tuples(st.just("request"), queue, header, chain),
    st.tuples(st.just("request"), st.just(0), header, fair),
    st.tuples(st.just("bare"), queue, st.one_of(one_way, fair)),
    st.tuples(st.just("table"), inside, chain),
    st.tuples(st.just("offer"), queue, st.integers(0, 20)),
    st.tuples(st.just("avail_index"), queue, st.integers(0, 0xFFFF)),
    st.tuples(st.just("event"), queue, st.integers(0, 0xFFFF)),
    st.tuples(st.just("kick"), queue),
    st.tuples(st.just("input"), st.binary(max_size=2000)),
    st.tuples(
        st.just("start"), st.sampled_from([0, 1 << 28, 1 << 29, 1 << 15, (1 << 32) - 1]), st.sampled_from([4, 8, 16])
    ),
    st.tuples(st.just("write"), register, st.sampled_from([1, 2, 4, 8]), u32),
    st.tuples(st.just("read"), register, st.sampled_from([1, 2, 4, 8])),
    st.tuples(st.just("place"), queue, st.integers(0, 0x200), anywhere, anywhere, inside),
)


class Hostile:
    """A bench whose driver does what the actions say."""

    def __init__(self, bench: Bench, feed: Input) -> None:
        self.bench = bench
        self.feed = feed
        self.driver = bench.driver
        self.canary = bytes(range(1, 129)) * 32
        for start, end in CANARIES:
            bench.memory.write(start, self.canary * ((end - start) // 4096))

    def act(self, action: tuple[Any, ...]) -> None:
        getattr(self, f"do_{action[0]}")(*action[1:])
        self.bench.in_process.work()

    def _queue(self, number: int) -> Any:
        queues = self.driver.queues
        return queues[number % len(queues)] if queues else None

    def do_start(self, without: int, size: int) -> None:
        self.driver.start(
            without=without & ~(1 << 32), sizes=[min(size, most) for most in self.bench.device.queue_sizes]
        )

    def do_poke(self, number: int, slot: int, row: tuple[int, int, int, int]) -> None:
        queue = self._queue(number)
        if queue is not None:
            queue.poke(slot % queue.size, *row)

    def do_request(self, number: int, kind: tuple[int, int], rows: list[tuple[int, int, int, int]]) -> None:
        """A chain that begins with a header a disk would know, and goes on in order."""
        queue = self._queue(number)
        if queue is None:
            return
        self.bench.memory.write(PLAYGROUND, kind[0].to_bytes(8, "little") + kind[1].to_bytes(8, "little"))
        queue.poke(0, PLAYGROUND, 16, NEXT, 1)
        rows = rows[: queue.size - 1]
        for slot, (address, size, flags, _) in enumerate(rows, 1):
            more = 0 if flags & INDIRECT or slot == len(rows) else NEXT
            queue.poke(slot, address, size, flags & ~NEXT | more, slot + 1)
        queue.offer(0)
        self.do_kick(number)

    def do_bare(self, number: int, rows: list[tuple[int, int, int, int]]) -> None:
        """The same without a header."""
        queue = self._queue(number)
        if queue is None:
            return
        rows = rows[: queue.size]
        for slot, (address, size, flags, _) in enumerate(rows):
            queue.poke(slot, address, size, flags | (NEXT if slot < len(rows) - 1 else 0), slot + 1)
        queue.offer(0)
        self.do_kick(number)

    def do_table(self, address: int, rows: list[tuple[int, int, int, int]]) -> None:
        data = b"".join(
            a.to_bytes(8, "little") + n.to_bytes(4, "little") + f.to_bytes(2, "little") + x.to_bytes(2, "little")
            for a, n, f, x in rows
        )
        self.bench.memory.write(address, data[: PLAYGROUND_END - address])

    def do_offer(self, number: int, head: int) -> None:
        queue = self._queue(number)
        if queue is not None:
            queue.offer(head)
            self.do_kick(number)

    def do_avail_index(self, number: int, value: int) -> None:
        queue = self._queue(number)
        if queue is not None:
            self.bench.memory.store_u16(queue.place.avail + 2, value)

    def do_event(self, number: int, value: int) -> None:
        queue = self._queue(number)
        if queue is not None:
            queue.ask_interrupt(value)

    def do_kick(self, number: int) -> None:
        self.driver.write("QueueNotify", number)

    def do_input(self, data: bytes) -> None:
        try:
            self.feed(data)
        except BlockingIOError:
            return

    def do_write(self, offset: int, size: int, value: int) -> None:
        self.bench.transport.write(offset, size, value & (1 << 8 * size) - 1)

    def do_read(self, offset: int, size: int) -> None:
        assert 0 <= self.bench.transport.read(offset, size) < 1 << 8 * size

    def do_place(self, number: int, size: int, descriptors: int, avail: int, used: int) -> None:
        """Start with a queue somewhere. Its used ring is written, so it lies in the playground."""
        self.driver.begin()
        used = min(used, PLAYGROUND_END - 6 - 8 * 0x200)
        self.driver.queues = []
        self.driver.set_queue(number, QueuePlace(size, descriptors & ~15, avail & ~1, used & ~3))
        self.driver.write("Status", 15)
        self.do_kick(number)

    def check(self) -> None:
        for start, end in CANARIES:
            assert self.bench.memory.read(start, end - start) == self.canary * ((end - start) // 4096)
        assert not self.bench.device.path.broken or self.bench.transport.reason
        self.driver.start()
        assert self.driver.read("Status") == 15
        self.driver.write("Status", 0)
        assert self.driver.read("Status") == 0
        assert not self.bench.device.path.active


@pytest.mark.parametrize("name", sorted(DEVICES))
@given(actions=st.lists(action, max_size=20))
@settings(max_examples=EXAMPLES or 200, derandomize=not EXAMPLES)
def test_a_hostile_driver(name: str, actions: list[tuple[Any, ...]]) -> None:
    with ExitStack() as stack:
        device, feed = DEVICES[name](stack)
        bench = Bench(device, memory_bytes=MEMORY_BYTES)
        stack.callback(bench.close)
        hostile = Hostile(bench, feed)
        hostile.do_start(0, 16)
        for one in actions:
            hostile.act(one)
        hostile.check()


@pytest.mark.parametrize("name", sorted(DEVICES))
@given(noise=st.lists(st.tuples(queue, st.integers(0, 2000), st.binary(min_size=1, max_size=300)), max_size=12))
@settings(max_examples=EXAMPLES or 100, derandomize=not EXAMPLES)
def test_rings_of_noise(name: str, noise: list[tuple[int, int, bytes]]) -> None:
    with ExitStack() as stack:
        device, feed = DEVICES[name](stack)
        bench = Bench(device, memory_bytes=MEMORY_BYTES)
        stack.callback(bench.close)
        bench.driver.start(sizes=[8] * len(device.queue_sizes))
        for number, at, data in noise:
            bench.memory.write(QUEUES_AT + number * QUEUE_STRIDE + at % 250, data)
            feed(data)
            for index in range(len(bench.driver.queues)):
                bench.driver.write("QueueNotify", index)
            bench.in_process.work()
            if bench.driver.read("Status") & Status.NEEDS_RESET:
                assert bench.transport.reason
                bench.driver.start(sizes=[8] * len(device.queue_sizes))
        bench.driver.start()
        assert bench.driver.read("Status") == 15
