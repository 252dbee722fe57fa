"""The card between two queues and a wire; here the wire is a socket pair that keeps packets apart, as a TAP does."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from bireme.vmm.virtio.device import RING_EVENT_IDX
from bireme.vmm.virtio.net import (
    F_GUEST_TSO4,
    F_GUEST_TSO6,
    F_MRG_RXBUF,
    HEADER_BYTES,
    LARGEST_BYTES,
    PATIENCE,
    RECEIVE,
    TRANSMIT,
    NetPath,
    net_device,
    parse_mac,
    virtio_net_config,
    virtio_net_hdr,
)
from bireme.vmm.virtio.registers import CONFIG, Status
from tests.support.virtio import Bench, running

HEADER = bytes(HEADER_BYTES)
SMALL = F_MRG_RXBUF | F_GUEST_TSO4 | F_GUEST_TSO6


class Wire:
    """The far end."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        end.setblocking(False)

    def send(self, packet: bytes) -> None:
        self.end.send(packet)

    def receive(self) -> bytes | None:
        try:
            return self.end.recv(LARGEST_BYTES)
        except BlockingIOError:
            return None


@pytest.fixture(params=["here", "process"])
def process(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "process")


@pytest.fixture
def card(process: bool) -> Iterator[tuple[Bench, Wire]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    path = NetPath("eth0", ours.detach(), mac="52:54:00:12:34:56", mtu=1400)
    for bench in running(net_device(path), process=process):
        yield bench, Wire(theirs)
    theirs.close()


def packet(size: int, first: int = 1) -> bytes:
    return HEADER + bytes((first + at) % 256 for at in range(size - HEADER_BYTES))


def receive(bench: Bench, count: int) -> list[bytes]:
    """What the driver makes of `count` received packets."""
    queue = bench.driver.queues[RECEIVE]
    if bench.worker is None:
        bench.in_process.work()
    chains: list[tuple[int, list[bytes]]] = []
    packets: list[bytes] = []
    while len(packets) < count:
        for _, written, data in bench.driver.wait(RECEIVE) if bench.worker else queue.collect():
            chains.append((written, data))
        while chains:
            number = virtio_net_hdr.unpack(b"".join(chains[0][1]))["num_buffers"]
            if number > len(chains):
                break
            packets.append(b"".join(part for _, data in chains[:number] for part in data))
            del chains[:number]
        assert packets or bench.worker, "nothing received"
    return packets


def body(packets: list[bytes]) -> list[bytes]:
    return [packet[HEADER_BYTES:] for packet in packets]


def test_transmits(card: tuple[Bench, Wire]) -> None:
    bench, wire = card
    bench.driver.start()
    for number in range(5):
        bench.driver.queues[TRANSMIT].add([packet(100, number)[:12], packet(100, number)[12:]])
    assert len(bench.do(TRANSMIT, 5)) == 5
    assert [wire.receive() for _ in range(6)] == [*(packet(100, number) for number in range(5)), None]


@pytest.mark.parametrize("without", [0, SMALL, F_MRG_RXBUF, RING_EVENT_IDX])
def test_receives(card: tuple[Bench, Wire], without: int) -> None:
    bench, wire = card
    bench.driver.start(without=without)
    room = [12, 1500] if without == SMALL else [12, 65600]
    for _ in range(8):
        bench.driver.queues[RECEIVE].add([], room)
    bench.driver.notify(RECEIVE)
    sent = [packet(60 + number, number) for number in range(6)]
    for one in sent:
        wire.send(one)
    assert body(receive(bench, 6)) == body(sent)


@pytest.mark.parametrize("room", [[1536], [5, 3, 2, 2, 300], [4096]])
def test_large_packets_span_buffers(card: tuple[Bench, Wire], room: list[int]) -> None:
    bench, wire = card
    bench.driver.start()
    for _ in range(50):
        bench.driver.queues[RECEIVE].add([], room)
    bench.driver.notify(RECEIVE)
    sent = [packet(70), packet(9000, 3), packet(1536, 4), packet(71, 5)]
    for one in sent:
        wire.send(one)
    assert body(receive(bench, 4)) == body(sent)


def test_packets_wait_for_buffers(card: tuple[Bench, Wire]) -> None:
    bench, wire = card
    bench.driver.start()
    sent = [packet(80, number) for number in range(3)]
    for one in sent:
        wire.send(one)
    if bench.worker is None:
        bench.in_process.work()
    assert bench.driver.queues[RECEIVE].collect() == []
    for _ in range(3):
        bench.driver.queues[RECEIVE].add([], [2000])
    assert bench.driver.notify(RECEIVE), "the device has none: it wants to be told"
    assert body(receive(bench, 3)) == body(sent)


def test_a_packet_too_large_for_the_room_waits_for_more(card: tuple[Bench, Wire]) -> None:
    bench, wire = card
    bench.driver.start()
    bench.driver.queues[RECEIVE].add([], [1000])
    bench.driver.notify(RECEIVE)
    wire.send(packet(2500))
    wire.send(packet(1000, 7))
    for _ in range(2):
        if bench.worker is None:
            bench.in_process.work()
        else:
            bench.worker.describe()
        assert bench.driver.queues[RECEIVE].used_index() == 0
        bench.driver.queues[RECEIVE].add([], [1000])
        bench.driver.notify(RECEIVE, always=True)
    bench.driver.queues[RECEIVE].add([], [1000])
    bench.driver.notify(RECEIVE, always=True)
    assert body(receive(bench, 2)) == body([packet(2500), packet(1000, 7)])
    assert dropped(bench, "dropped_in") == 0


@pytest.mark.parametrize("size", [1, 2])
def test_a_packet_that_no_ring_of_this_driver_holds_is_dropped(card: tuple[Bench, Wire], size: int) -> None:
    bench, wire = card
    bench.driver.start(sizes=[size, 2])
    for _ in range(size):
        bench.driver.queues[RECEIVE].add([], [1000])
    bench.driver.notify(RECEIVE)
    wire.send(packet(1000 * size + 1))
    wire.send(packet(1000, 7))
    assert body(receive(bench, 1)) == body([packet(1000, 7)])
    assert dropped(bench, "dropped_in") == 1


def test_patience_ends(card: tuple[Bench, Wire]) -> None:
    bench, wire = card
    bench.driver.start()
    bench.driver.queues[RECEIVE].add([], [1000])
    wire.send(packet(1001))
    wire.send(packet(1000, 7))
    for _ in range(PATIENCE + 1):
        bench.driver.notify(RECEIVE, always=True)
        if bench.worker is None:
            bench.in_process.work()
        else:
            bench.worker.describe()
    assert body(receive(bench, 1)) == body([packet(1000, 7)])


def dropped(bench: Bench, name: str) -> int:
    if bench.worker is None:
        return bench.device.path.counters[name]
    return int(bench.worker.describe()["paths"][0]["counters"][name])


def test_what_is_no_packet_is_not_sent(card: tuple[Bench, Wire]) -> None:
    bench, wire = card
    bench.driver.start()
    bench.driver.queues[TRANSMIT].add([HEADER + b"short"])
    bench.driver.queues[TRANSMIT].add([bytes(LARGEST_BYTES + 1)])
    assert len(bench.do(TRANSMIT, 2)) == 2
    assert wire.receive() is None
    assert dropped(bench, "dropped_out") == 2


def test_a_wire_that_is_gone_drops(card: tuple[Bench, Wire]) -> None:
    bench, wire = card
    bench.driver.start()
    wire.end.close()
    bench.driver.queues[TRANSMIT].add([packet(100)])
    assert len(bench.do(TRANSMIT)) == 1
    assert dropped(bench, "dropped_out") == 1


@pytest.mark.parametrize("room", [([b"x"], [2000]), ([], [HEADER_BYTES - 1])])
def test_buffers_that_cannot_be_received_into(card: tuple[Bench, Wire], room: tuple[list[bytes], list[int]]) -> None:
    bench, _ = card
    bench.driver.start()
    bench.driver.queues[RECEIVE].add(*room)
    bench.driver.notify(RECEIVE)
    if bench.worker is None:
        bench.in_process.work()
    else:
        bench.worker.read_event()
    assert bench.driver.read("Status") == 15 | Status.NEEDS_RESET
    bench.driver.start()
    assert bench.driver.read("Status") == 15


def test_a_reset_lets_go_of_buffers(card: tuple[Bench, Wire]) -> None:
    bench, wire = card
    for _ in range(2):
        bench.driver.start()
        for _ in range(4):
            bench.driver.queues[RECEIVE].add([], [2000])
        bench.driver.notify(RECEIVE)
        wire.send(packet(90))
        assert body(receive(bench, 1)) == body([packet(90)])


def test_the_largest_packet_without_segmentation_is_the_mtu() -> None:
    path = NetPath("eth0", os.open("/dev/null", os.O_RDWR), mac="02:00:00:00:00:01", mtu=1400)
    for bench in running(net_device(path)):
        bench.driver.start(without=SMALL)
        assert path._largest == 12 + 14 + 4 + 1400
        bench.driver.start()
        assert path._largest == LARGEST_BYTES


def test_configuration(card: tuple[Bench, Wire]) -> None:
    config = virtio_net_config.unpack(card[0].transport.page, CONFIG)
    assert config == {"mac": bytes.fromhex("525400123456"), "status": 1, "max_virtqueue_pairs": 1, "mtu": 1400}


@pytest.mark.parametrize("text", ["", "52:54:00:12:34", "525400123456", "xx:54:00:12:34:56"])
def test_no_mac(text: str) -> None:
    with pytest.raises(ValueError, match=r"MAC|hexadecimal"):
        parse_mac(text)
