"""virtio-vsock: connections, credit in both directions, ends, and what a guest may not do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bireme.vmm.virtio.vsock import MAX_CONNECTIONS, MAX_RESETS, RX, TX, VsockPath, vsock_device
from bireme.vmm.virtio.vsockstream import HEADER_BYTES, WINDOW, Op, VsockConnection, virtio_vsock_hdr
from tests.support.virtio import Bench
from tests.support.vsock import PORT, Guest, Recorder


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest() as guest:
        yield guest


def test_connection_and_data_both_ways(guest: Guest) -> None:
    connection = guest.connect()
    assert guest.packets() == [guest.like(Op.RESPONSE, buf_alloc=WINDOW)]
    guest.send(Op.RW, b"hello")
    assert connection.handler.data == b"hello"
    assert connection.send(b"answer") == 6
    assert guest.packets() == [guest.like(Op.RW, data=b"answer", buf_alloc=WINDOW)]


def test_configuration_space_is_the_cid(guest: Guest) -> None:
    assert guest.bench.driver.transport.read(0x100, 4) == 3
    assert guest.bench.driver.transport.read(0x104, 4) == 0


def test_long_data_is_cut_to_the_guest_s_buffers(guest: Guest) -> None:
    connection = guest.connect(buf_alloc=1 << 20)
    guest.packets()
    sent = bytes(range(256)) * 300
    assert connection.send(sent) == len(sent)
    packets = guest.packets()
    assert b"".join(packet["data"] for packet in packets) == sent
    assert {packet["op"] for packet in packets} == {Op.RW}
    assert len(packets) > 1


def test_no_more_is_sent_than_the_guest_has_room_for(guest: Guest) -> None:
    connection = guest.connect(buf_alloc=10)
    guest.packets()
    assert connection.sendable == 10
    assert connection.send(b"0123456789abc") == 10
    assert connection.sendable == 0
    assert guest.packets()[0]["data"] == b"0123456789"
    assert connection.handler.writable == 0
    guest.send(Op.CREDIT_UPDATE, buf_alloc=10, fwd_cnt=4)
    assert connection.handler.writable == 1
    assert connection.send(b"abcdef") == 4
    assert guest.packets()[0]["data"] == b"abcd"


def test_a_window_that_shrinks_sends_nothing(guest: Guest) -> None:
    connection = guest.connect(buf_alloc=100)
    connection.send(b"x" * 60)
    guest.send(Op.CREDIT_UPDATE, buf_alloc=10, fwd_cnt=0)
    assert connection.sendable == 0
    assert connection.send(b"y") == 0


def test_credit_is_given_back_when_data_was_consumed(guest: Guest) -> None:
    connection = guest.connect()
    guest.packets()
    for _ in range(4):
        guest.send(Op.RW, b"x" * (WINDOW // 4))
    assert guest.packets() == []
    connection.consume(WINDOW // 2 - 1)
    guest.work()
    assert guest.packets() == []
    connection.consume(1)
    guest.work()
    assert guest.packets() == [guest.like(Op.CREDIT_UPDATE, buf_alloc=WINDOW, fwd_cnt=WINDOW // 2)]


def test_a_guest_that_asks_for_credit_gets_an_update(guest: Guest) -> None:
    connection = guest.connect()
    guest.packets()
    guest.send(Op.RW, b"12345")
    connection.consume(5)
    guest.send(Op.CREDIT_REQUEST)
    assert guest.packets() == [guest.like(Op.CREDIT_UPDATE, buf_alloc=WINDOW, fwd_cnt=5)]


def test_counts_pass_two_to_the_32(guest: Guest) -> None:
    connection = guest.connect(buf_alloc=100)
    guest.packets()
    connection._received = connection._consumed = connection._advertised = (1 << 32) - 2
    connection._sent = connection._peer_consumed = (1 << 32) - 3
    guest.send(Op.RW, b"12345", fwd_cnt=(1 << 32) - 3)
    connection.consume(5)
    assert connection.send(b"abcdef") == 6
    assert guest.packets() == [guest.like(Op.RW, data=b"abcdef", buf_alloc=WINDOW, fwd_cnt=3)]
    guest.send(Op.CREDIT_UPDATE, buf_alloc=100, fwd_cnt=3)
    assert connection.sendable == 100


def test_the_guest_closes(guest: Guest) -> None:
    connection = guest.connect()
    guest.packets()
    guest.send(Op.RW, b"last")
    guest.send(Op.SHUTDOWN, flags=3)
    assert connection.handler.events == ["data", "end", "close"]
    assert [packet["op"] for packet in guest.packets()] == [Op.RST]
    assert connection.send(b"late") == 0
    connection.consume(4)
    connection.reset()
    guest.work()
    assert guest.packets() == []


def test_the_guest_closes_one_half(guest: Guest) -> None:
    connection = guest.connect()
    guest.packets()
    guest.send(Op.SHUTDOWN, flags=2)
    guest.send(Op.SHUTDOWN, flags=2)
    assert connection.handler.events == ["end"]
    assert connection.send(b"still") == 5
    assert guest.packets()[0]["data"] == b"still"


def test_the_host_ends_its_half_after_its_data(guest: Guest) -> None:
    connection = guest.connect(buf_alloc=1 << 20)
    guest.packets()
    connection.send(b"x" * 9000)
    connection.shutdown()
    connection.shutdown()
    packets = guest.packets()
    assert sum(len(packet["data"]) for packet in packets) == 9000
    assert packets[-1] == guest.like(Op.SHUTDOWN, flags=2, buf_alloc=WINDOW)
    assert connection.sendable == 0


def test_a_reset_either_way(guest: Guest) -> None:
    connection = guest.connect()
    guest.packets()
    connection.reset()
    guest.work()
    assert [packet["op"] for packet in guest.packets()] == [Op.RST]
    assert connection.handler.events == []
    connection = guest.connect()
    guest.send(Op.RST)
    assert connection.handler.events == ["close"]


def test_who_is_refused(guest: Guest) -> None:
    for changes in (
        {"dst_port": 99},
        {"src_port": 1024},
        {"type": 2},
        {"op": Op.RESPONSE},
        {"op": Op.RW},
        {"op": 77},
        {"fwd_cnt": 1},
    ):
        guest.send_header(**({"op": Op.REQUEST} | changes))
        assert [packet["op"] for packet in guest.packets()] == [Op.RST], changes
    for changes in ({"src_cid": 4}, {"dst_cid": 1}, {"op": Op.RST}):
        guest.send_header(**({"op": Op.REQUEST} | changes))
        assert guest.packets() == [], changes
    assert guest.accepted == []


def test_a_refusal_of_the_listener(guest: Guest) -> None:
    guest.refuse = True
    guest.send(Op.REQUEST)
    assert [packet["op"] for packet in guest.packets()] == [Op.RST]


BREAKS: list[tuple[str, Callable[[Guest], None]]] = [
    ("more than the window", lambda guest: guest.send_all(b"x" * (WINDOW // 4), 5)),
    ("taken more than was sent", lambda guest: guest.send(Op.CREDIT_UPDATE, fwd_cnt=1)),
    ("a second request", lambda guest: guest.send(Op.REQUEST)),
    ("an operation that is none", lambda guest: guest.send(99)),
    ("data after its end", lambda guest: (guest.send(Op.SHUTDOWN, flags=2), guest.send(Op.RW, b"x"))[0]),
]


@pytest.mark.parametrize(("what", "act"), BREAKS)
def test_nonsense_breaks_the_connection_alone(guest: Guest, what: str, act: Callable[[Guest], None]) -> None:
    other = guest.connect(src_port=9)
    connection = guest.connect()
    guest.packets()
    act(guest)
    assert "close" in connection.handler.events
    assert [packet["op"] for packet in guest.packets()] == [Op.RST]
    assert "close" not in other.handler.events


BROKEN: list[tuple[str, Callable[[Bench], Any]]] = [
    ("shorter than its header", lambda bench: bench.driver.queues[TX].add([b"x" * 43])),
    ("writable", lambda bench: bench.driver.queues[TX].add([bytes(HEADER_BYTES)], [8])),
    ("announces", lambda bench: bench.driver.queues[TX].add([virtio_vsock_hdr.pack(len=1, op=Op.RW)])),
]


@pytest.mark.parametrize(("text", "act"), BROKEN)
def test_packets_that_break_the_device(guest: Guest, text: str, act: Callable[[Bench], Any]) -> None:
    connection = guest.connect()
    act(guest.bench)
    guest.kick(TX)
    assert text in guest.path.broken
    guest.restart()
    assert connection.handler.events == ["close"]
    assert guest.connect().handler.events == []


@pytest.mark.parametrize("room", [[8], [HEADER_BYTES]])
def test_receive_buffers_without_room_break_the_device(room: list[int]) -> None:
    with Guest(buffers=0) as guest:
        guest.bench.driver.queues[RX].add([], room)
        guest.connect()
        guest.kick(RX)
        assert "no room" in guest.path.broken


def test_a_guest_that_gives_no_buffers_stops_being_heard() -> None:
    with Guest(buffers=0) as guest:
        for number in range(MAX_RESETS + 20):
            guest.send_header(op=Op.REQUEST, dst_port=99, src_port=number)
        assert guest.path.counters["packets_in"] == MAX_RESETS
        assert len(guest.path._resets) == MAX_RESETS
        for _ in range(4):
            guest.give_buffers(32)
            guest.work()
        assert guest.path.counters["packets_in"] == MAX_RESETS + 20
        assert len(guest.packets()) == MAX_RESETS + 20


def test_connections_are_bounded(guest: Guest) -> None:
    guest.path._connections.update({(number, 1): _dummy(guest, number) for number in range(MAX_CONNECTIONS)})
    guest.send(Op.REQUEST)
    assert [packet["op"] for packet in guest.packets()] == [Op.RST]


def _dummy(guest: Guest, number: int) -> VsockConnection:
    connection = VsockConnection(guest.path, number, 1)
    connection.handler = Recorder(connection)
    return connection


def test_what_waits_for_a_guest_is_bounded() -> None:
    with Guest(buffers=0) as guest:
        connection = guest.connect(buf_alloc=0xFFFFFFFF)
        assert connection.send(b"x" * (1 << 20)) == WINDOW
        assert connection.sendable == 0
        guest.give_buffers(100)
        guest.work()
        assert connection.sendable > 0
        assert connection.handler.writable == 1


def test_a_reset_of_the_device_closes_everything(guest: Guest) -> None:
    connection = guest.connect()
    guest.restart()
    assert connection.handler.events == ["close"]
    assert guest.path._connections == {}
    assert guest.packets() == []


def test_describe(guest: Guest) -> None:
    guest.connect(buf_alloc=50)
    found: Any = guest.path.describe()
    assert found["cid"] == 3
    assert found["connections"][0]["port"] == PORT
    assert found["connections"][0]["credit"] == 50


def test_device_identity() -> None:
    device = vsock_device(VsockPath())
    assert (device.device_id, len(device.queue_sizes)) == (19, 3)
    device.path.close()
