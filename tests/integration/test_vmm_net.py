"""The card on a real TAP device, its process jailed, and the host's stack at the other end; the driver is ours."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from bireme.linux.netlink import RtNetlink, address, link_up
from bireme.linux.tun import name_of, open_tap
from bireme.vmm.virtio.net import HEADER_BYTES, RECEIVE, TRANSMIT, NetPath, net_device, virtio_net_hdr
from tests.support.netns import NetNamespace
from tests.support.pace import patience
from tests.support.virtio import Bench, running

pytestmark = [pytest.mark.needs_root, pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]
HOST, GUEST = "10.98.0.1", "10.98.0.2"
MAC = bytes.fromhex("525400123456")
EVERYBODY = b"\xff" * 6
ARP, IPV4 = 0x0806, 0x0800
NEEDS_CSUM = 1


@pytest.fixture
def namespace() -> Iterator[NetNamespace]:
    with NetNamespace("card") as namespace:
        yield namespace


@pytest.fixture
def bench(namespace: NetNamespace) -> Iterator[Bench]:
    fd = namespace.run(open_tap, "card0")
    assert namespace.run(name_of, fd) == "card0"

    def configure() -> None:
        with RtNetlink() as netlink:
            ifindex = next(link.ifindex for link in netlink.links() if link.name == "card0")
            netlink.batch([address(ifindex, HOST, 24), link_up(ifindex)])

    namespace.run(configure)
    yield from running(net_device(NetPath("eth0", fd, mac="52:54:00:12:34:56")), process=True)


@pytest.fixture
def echo(namespace: NetNamespace) -> Iterator[socket.socket]:
    """A datagram socket of the host."""

    def make() -> socket.socket:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((HOST, 7))
        server.settimeout(patience(20))
        return server

    server = namespace.run(make)
    yield server
    server.close()


class Stack:
    """As much of a guest's network as it takes to send a datagram."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        bench.driver.start()
        for _ in range(100):
            bench.driver.queues[RECEIVE].add([], [2048])
        bench.driver.notify(RECEIVE, always=True)
        self.peer = b""
        self.seen: list[bytes] = []

    def send(self, frame: bytes, header: bytes = bytes(HEADER_BYTES)) -> None:
        self.bench.driver.queues[TRANSMIT].add([header, frame])
        self.bench.do(TRANSMIT)

    def receive(self, kind: int) -> bytes:
        """The next frame of a kind, without its Ethernet header."""
        while True:
            for frame in self.seen:
                if frame[12:14] == kind.to_bytes(2, "big"):
                    self.seen.remove(frame)
                    return frame[14:]
            self.seen += [b"".join(data)[HEADER_BYTES:] for _, _, data in self.bench.driver.wait(RECEIVE)]

    def find_peer(self) -> None:
        """ARP: who has the host's address?"""
        addresses = MAC + socket.inet_aton(GUEST) + bytes(6) + socket.inet_aton(HOST)
        self.send(EVERYBODY + MAC + struct.pack(">HHHBBH", ARP, 1, IPV4, 6, 4, 1) + addresses)
        answer = self.receive(ARP)
        assert answer[6:8] == b"\0\2"
        self.peer = answer[8:14]

    def send_datagram(self, payload: bytes) -> None:
        """Its checksum is left to the card, as far as it covers the payload."""
        length = 8 + len(payload)
        ends = socket.inet_aton(GUEST) + socket.inet_aton(HOST)
        pseudo = checksum(ends + struct.pack(">BBH", 0, 17, length))
        udp = struct.pack(">HHHH", 5555, 7, length, ~pseudo & 0xFFFF) + payload
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, 17, 0)
        head = head[:10] + checksum(head + ends).to_bytes(2, "big")
        header = virtio_net_hdr.pack(flags=NEEDS_CSUM, csum_start=14 + 20, csum_offset=6)
        self.send(self.peer + MAC + IPV4.to_bytes(2, "big") + head + ends + udp, header)


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_datagrams_there_and_back(bench: Bench, echo: socket.socket) -> None:
    stack = Stack(bench)
    stack.find_peer()
    for size in (1, 100, 1400):
        payload = bytes(at % 256 for at in range(size))
        stack.send_datagram(payload)
        data, sender = echo.recvfrom(2000)
        assert data == payload, "the host's stack has completed the checksum and found it right"
        assert sender == (GUEST, 5555)
        echo.sendto(payload[::-1], sender)
        assert stack.receive(IPV4)[28:] == payload[::-1]


def test_a_header_that_makes_no_sense_costs_one_packet(bench: Bench, echo: socket.socket) -> None:
    stack = Stack(bench)
    stack.find_peer()
    frame = stack.peer + MAC + IPV4.to_bytes(2, "big") + bytes(100)
    stack.send(frame, virtio_net_hdr.pack(gso_type=0x7F, gso_size=1))
    stack.send(frame, virtio_net_hdr.pack(flags=NEEDS_CSUM, csum_start=60000, csum_offset=60000))
    stack.send_datagram(b"still here")
    assert echo.recv(100) == b"still here"
    assert bench.worker is not None
    assert bench.worker.describe()["paths"][0]["counters"]["dropped_out"] == 2
