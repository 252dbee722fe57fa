"""The relay's loop in a thread, on the loopback: both ends of every connection are ours."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from bireme.linux import fd as fdlib
from bireme.supervisor.relay import Datagrams, Relay
from bireme.wire import supervision
from tests.support.pace import eventually, patience

BIG = 8 << 20


class Running:
    """A relay in a thread, with the supervisor's end of its control socket."""

    def __init__(self, limit: int = 0) -> None:
        self.control, theirs = fdlib.seqpacket_pair()
        self.control.settimeout(patience(20))
        theirs.setblocking(False)
        self._theirs = theirs
        self.relay = Relay(theirs, limit)
        self.thread = threading.Thread(target=self.relay.run, daemon=True)
        self.thread.start()
        self._rid = 0

    def call(self, op: str, fds: tuple[int, ...] = (), **fields: Any) -> dict[str, Any]:
        self._rid += 1
        packet = supervision.encode(supervision.request(self._rid, op, **fields), fds, spill=_never)
        fdlib.send_fds(self.control, packet.data, packet.fds)
        reply, _ = supervision.decode(self.control.recv(65536), unspill=_never_read)
        assert reply["rid"] == self._rid
        return reply

    def add(self, sock: socket.socket, target: tuple[str, int] | None, name: str = "a") -> None:
        """Hand a socket over and close our own."""
        entry: dict[str, Any] = {"listen": 0}
        if target is not None:
            entry["target"] = list(target)
        assert "ok" in self.call("relay_add", (sock.fileno(),), id=name, entries=[entry])
        sock.close()

    def end(self) -> None:
        self.control.close()
        for connection in list(self.relay.connections):
            with suppress(OSError):
                connection.client.sock.shutdown(socket.SHUT_RDWR)
            with suppress(OSError):
                connection.upstream.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join(patience(20))
        assert not self.thread.is_alive()
        self._theirs.close()


def _never(text: bytes) -> int:
    raise AssertionError(len(text))


def _never_read(fd: int, limit: int) -> bytes:
    raise AssertionError((fd, limit))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def running(stack: ExitStack) -> Running:
    made = Running()
    stack.callback(made.end)
    return made


def listen(stack: ExitStack, address: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = stack.enter_context(socket.socket(family))
    sock.settimeout(patience(20))
    sock.bind((address, 0))
    sock.listen(64)
    return sock


def connect(stack: ExitStack, address: tuple[str, int]) -> socket.socket:
    return stack.enter_context(socket.create_connection(address[:2], timeout=patience(20)))


def relayed(running: Running, stack: ExitStack, target: socket.socket, address: str = "127.0.0.1") -> tuple[str, int]:
    """A relayed port in front of `target`: its address."""
    front = listen(stack, address)
    name: tuple[str, int] = front.getsockname()[:2]
    running.add(front, target.getsockname()[:2])
    return name


def pair(stack: ExitStack, target: socket.socket, front: tuple[str, int]) -> tuple[socket.socket, socket.socket]:
    """The client's and the server's end of one relayed connection."""
    client = connect(stack, front)
    server, _ = target.accept()
    server.settimeout(patience(20))
    return client, stack.enter_context(server)


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while data := sock.recv(1 << 20):
        parts.append(data)
    return b"".join(parts)


def test_bytes_and_half_close_both_ways(running: Running, stack: ExitStack) -> None:
    target = listen(stack)
    client, server = pair(stack, target, relayed(running, stack, target))
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert read_all(server) == b"question"
    server.sendall(b"answer")
    server.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"answer"
    eventually(lambda: not running.relay.connections)


def test_server_may_end_first(running: Running, stack: ExitStack) -> None:
    target = listen(stack)
    client, server = pair(stack, target, relayed(running, stack, target))
    server.sendall(b"greeting")
    server.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"greeting"
    client.sendall(b"late")
    client.close()
    assert read_all(server) == b"late"


def test_much_data_through_a_slow_reader(running: Running, stack: ExitStack) -> None:
    target = listen(stack)
    client, server = pair(stack, target, relayed(running, stack, target))
    data = os.urandom(1 << 16) * (BIG >> 16)

    def send() -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    received = hashlib.sha256()
    count = 0
    while chunk := server.recv(3000 if count < 300_000 else 1 << 20):
        received.update(chunk)
        count += len(chunk)
    sender.join(patience(20))
    assert count == BIG
    assert received.digest() == hashlib.sha256(data).digest()


def test_reader_that_does_not_read_stops_the_writer(running: Running, stack: ExitStack) -> None:
    target = listen(stack)
    client, server = pair(stack, target, relayed(running, stack, target))
    eventually(lambda: running.relay.connections)
    (connection,) = running.relay.connections
    client.setblocking(False)
    sent = 0
    chunk = bytes(1 << 16)

    def is_stuck() -> bool:
        nonlocal sent
        try:
            for _ in range(100):
                sent += client.send(chunk)
        except BlockingIOError:
            return connection.upstream.pending is not None
        return False

    eventually(is_stuck, within_s=20)
    assert connection.upstream.pending is not None
    assert len(connection.upstream.pending) <= 1 << 16
    received = 0
    client.settimeout(patience(20))
    client.shutdown(socket.SHUT_WR)
    while data := server.recv(1 << 20):
        received += len(data)
    assert received == sent


def test_reset_is_passed_on(running: Running, stack: ExitStack) -> None:
    target = listen(stack)
    client, server = pair(stack, target, relayed(running, stack, target))
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    server.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    eventually(lambda: not running.relay.connections)


def test_reset_while_the_other_end_is_stuck(running: Running, stack: ExitStack) -> None:
    target = listen(stack)
    client, server = pair(stack, target, relayed(running, stack, target))
    server.setblocking(False)
    with suppress(BlockingIOError):
        for _ in range(1000):
            server.send(bytes(1 << 16))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    server.close()
    client.close()
    eventually(lambda: not running.relay.connections)


def test_refused_target_resets_the_client(running: Running, stack: ExitStack) -> None:
    closed = listen(stack)
    front = listen(stack)
    name = front.getsockname()
    running.add(front, closed.getsockname())
    closed.close()
    with pytest.raises(ConnectionResetError):
        connect(stack, name).recv(1)


def test_many_connections_at_once(running: Running, stack: ExitStack) -> None:
    target = listen(stack)
    front = relayed(running, stack, target)
    pairs = [pair(stack, target, front) for _ in range(50)]
    for number, (client, _) in enumerate(pairs):
        client.sendall(b"%d" % number)
    for client, server in pairs:
        server.sendall(server.recv(100))
        server.close()
        client.shutdown(socket.SHUT_WR)
    assert sorted(int(read_all(client)) for client, _ in pairs) == list(range(50))
    eventually(lambda: not running.relay.connections)


def test_above_the_limit_clients_wait_in_the_queue(stack: ExitStack) -> None:
    running = Running(limit=4)
    stack.callback(running.end)
    target = listen(stack)
    front = relayed(running, stack, target)
    first = [pair(stack, target, front) for _ in range(2)]
    waiting = connect(stack, front)
    waiting.sendall(b"patient")
    eventually(lambda: running.relay.paused)
    assert len(running.relay.connections) == 2
    for client, server in first:
        client.close()
        server.close()
    server, _ = target.accept()
    stack.enter_context(server)
    server.settimeout(patience(20))
    assert server.recv(100) == b"patient"


def test_ipv6_in_front(running: Running, stack: ExitStack) -> None:
    target = listen(stack)
    try:
        front = relayed(running, stack, target, "::1")
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    client, server = pair(stack, target, front)
    client.sendall(b"x")
    assert server.recv(1) == b"x"


def datagram_socket(stack: ExitStack, address: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    sock.settimeout(patience(20))
    sock.bind((address, 0))
    return sock


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_datagrams_find_their_way_back(running: Running, stack: ExitStack, address: str) -> None:
    target = datagram_socket(stack)
    try:
        front = datagram_socket(stack, address)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    name = front.getsockname()
    running.add(front, target.getsockname())
    clients = [datagram_socket(stack, address) for _ in range(3)]
    for number, client in enumerate(clients):
        client.sendto(b"%d" % number, name)
    for _ in clients:
        data, back = target.recvfrom(100)
        target.sendto(b"re " + data, back)
    for number, client in enumerate(clients):
        data, sender = client.recvfrom(100)
        assert data == b"re %d" % number
        assert sender[:2] == name[:2]
    assert running.relay.sessions == 3


def test_silent_datagram_clients_are_forgotten(running: Running, stack: ExitStack) -> None:
    target, front = datagram_socket(stack), datagram_socket(stack)
    name = front.getsockname()
    running.add(front, target.getsockname())
    client = datagram_socket(stack)
    client.sendto(b"x", name)
    target.recv(1)
    assert running.relay.sessions == 1
    (entry,) = running.relay.entries("a")
    assert isinstance(entry, Datagrams)
    running.relay.loop.call_soon(lambda: entry.sweep(float("inf")))
    running.call("ping")
    eventually(lambda: running.relay.sessions == 0)
    client.sendto(b"y", name)
    assert target.recv(1) == b"y"


def test_removed_ports_refuse_and_connections_go_on(running: Running, stack: ExitStack) -> None:
    target = listen(stack)
    front = relayed(running, stack, target)
    client, server = pair(stack, target, front)
    assert running.call("relay_remove", id="a")["ok"] == {}
    with pytest.raises(ConnectionRefusedError):
        connect(stack, front)
    client.sendall(b"x")
    assert server.recv(1) == b"x"


def test_adding_again_replaces(running: Running, stack: ExitStack) -> None:
    target = listen(stack)
    front = relayed(running, stack, target)
    second = relayed(running, stack, target)
    with pytest.raises(ConnectionRefusedError):
        connect(stack, front)
    pair(stack, target, second)


def test_held_sockets_are_not_served_but_keep_the_port(running: Running, stack: ExitStack) -> None:
    front = stack.enter_context(socket.socket())
    front.bind(("127.0.0.1", 0))
    name = front.getsockname()
    running.add(front, None)
    with stack.enter_context(socket.socket()) as other, pytest.raises(OSError, match="in use"):
        other.bind(name)


def test_without_its_supervisor_it_ends_when_the_last_connection_has(stack: ExitStack) -> None:
    running = Running()
    stack.callback(running.end)
    target = listen(stack)
    front = relayed(running, stack, target)
    client, server = pair(stack, target, front)
    running.control.close()
    eventually(lambda: running.relay.draining)
    with pytest.raises(ConnectionRefusedError):
        connect(stack, front)
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    client.close()
    server.close()
    running.thread.join(patience(20))
    assert not running.thread.is_alive()


@pytest.mark.parametrize(
    "entries",
    [
        [{"listen": 1, "target": ["127.0.0.1", 80]}],
        [{"listen": 0, "target": ["nonsense", 80]}],
        [{"listen": 0, "target": ["127.0.0.1", 0]}],
        [{"listen": 0, "target": "127.0.0.1:80"}],
        [{"listen": 0}, {"listen": 0}],
        [{}],
        [1],
    ],
)
def test_bad_entries_are_refused_and_their_sockets_closed(
    running: Running, stack: ExitStack, entries: list[object]
) -> None:
    front = listen(stack)
    name = front.getsockname()
    before = len(os.listdir("/proc/self/fd"))
    reply = running.call("relay_add", (front.fileno(),), id="a", entries=entries)
    assert reply["error"]["kind"] == "invalid"
    assert len(os.listdir("/proc/self/fd")) == before
    front.close()
    with pytest.raises(ConnectionRefusedError):
        connect(stack, name)


def test_unknown_operation(running: Running) -> None:
    assert running.call("dance", id="a")["error"]["kind"] == "invalid"
    assert running.call("ping")["ok"] == {}


def test_garbage_on_the_control_socket_is_survived(running: Running) -> None:
    running.control.send(b"\xff\xfe garbage")
    assert running.call("ping")["ok"] == {}
