"""The supervisor's socket: greeting, answers, refusals, slow clients, descriptors."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from bireme.errors import Conflict, Internal, Invalid
from bireme.linux import fd as fdlib
from bireme.linux.poll import Loop
from bireme.supervisor.server import Answer, Caller, Client, Server
from tests.support.supervision import Client as Peer
from tests.support.supervision import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class House:
    """A server in a thread."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.loop = Loop()
        self.listener = fdlib.seqpacket_listener(path, 64)
        self.server = Server(self.loop, self.listener)
        self.gone: list[Client] = []
        self.server.on_disconnect = self.gone.append
        self.later: list[Caller] = []
        self.server.register(
            {
                "hello": self._hello,
                "echo": lambda caller, message, fds: {"said": message["x"]},
                "fail": self._fail,
                "pipe": self._pipe,
                "later": lambda caller, message, fds: self.later.append(caller),
                "answer": self._answer_all,
                "flood": self._flood,
            }
        )
        self.server.start()
        self.stop_read, self.stop_write = os.pipe()
        self.loop.add(self.stop_read, lambda _mask: self.loop.stop())
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def _hello(self, caller: Caller, _message: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        caller.client.greeted = True
        return {}

    def _fail(self, _caller: Caller, message: dict[str, Any], _fds: list[int]) -> None:
        kinds: dict[str, Exception] = {
            "conflict": Conflict("no", subject="s"),
            "os": OSError(2, "gone"),
            "key": KeyError("k"),
        }
        raise kinds[message["kind"]]

    def _pipe(self, _caller: Caller, _message: dict[str, Any], fds: list[int]) -> Answer:
        fdlib.close_quietly(*fds)
        read, write = os.pipe()
        os.write(write, b"through")
        os.close(write)
        return Answer({}, (read,), (read,))

    def _answer_all(self, _caller: Caller, _message: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        while self.later:
            self.later.pop().answer(Answer({"late": True}))
        return {}

    def _flood(self, _caller: Caller, message: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        for number in range(message["count"]):
            self.server.broadcast({"event": "noise", "n": number, "padding": "x" * 2000})
        return {}

    def close(self) -> None:
        os.write(self.stop_write, b"x")
        self.thread.join()
        self.server.close()
        self.listener.close()
        self.loop.close()
        os.close(self.stop_read)
        os.close(self.stop_write)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(str(tmp_path / "sock"))
    yield made
    made.close()


@pytest.fixture
def client(house: House) -> Iterator[Peer]:
    made = Peer(house.path)
    made.hello()
    yield made
    made.close()


def test_only_the_owner_may_open_it(house: House) -> None:
    assert os.stat(house.path).st_mode & 0o777 == 0o600


def test_nothing_before_hello(house: House) -> None:
    stranger = Peer(house.path)
    with pytest.raises(Failure) as caught:
        stranger.call("echo", x=1)
    assert isinstance(caught.value.error, Invalid)
    stranger.close()


def test_answers_errors_and_unknown_operations(client: Peer) -> None:
    assert client.call("echo", x=[1, "\u00e9"]) == {"said": [1, "\u00e9"]}
    for kind, expected in (("conflict", Conflict), ("os", Internal), ("key", Invalid)):
        with pytest.raises(Failure) as caught:
            client.call("fail", kind=kind)
        assert isinstance(caught.value.error, expected)
    with pytest.raises(Failure) as caught:
        client.call("nothing")
    assert isinstance(caught.value.error, Invalid)


def test_answers_may_come_late_and_out_of_order(client: Peer) -> None:
    first, second = client.send("later"), client.send("later")
    client.call("answer")
    assert client.answer(second)[0] == {"late": True}
    assert client.answer(first)[0] == {"late": True}


def test_descriptors_travel_and_are_closed_here(client: Peer) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        _, (fd,) = client.call_fds("pipe")
        assert os.read(fd, 100) == b"through"
        os.close(fd)
    client.call("echo", x="the server has closed its last one")
    assert len(os.listdir("/proc/self/fd")) == before


def test_large_messages_both_ways(client: Peer) -> None:
    text = "y" * 1_000_000
    assert client.call("echo", x=text) == {"said": text}


def test_a_slow_client_is_queued_for_and_order_is_kept(house: House, client: Peer) -> None:
    slow = Peer(house.path)
    slow.hello()
    client.call("flood", count=3000)
    numbers = [slow.event(lambda e: True)["n"] for _ in range(3000)]
    assert numbers == list(range(3000))
    slow.close()


def test_a_client_that_takes_nothing_is_dropped(house: House, client: Peer) -> None:
    client.send("flood", count=13_000)
    end = time.monotonic() + 60
    while not house.gone:
        assert time.monotonic() < end
        time.sleep(0.01)
    other = Peer(house.path)
    other.hello()
    assert other.call("echo", x=1) == {"said": 1}
    other.close()


def test_nonsense_ends_the_connection_alone(house: House, client: Peer) -> None:
    bad = Peer(house.path)
    bad.socket.send(b"{nonsense")
    assert bad.socket.recv(100) == b""
    bad.close()
    assert client.call("echo", x=1) == {"said": 1}


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    fdlib.seqpacket_listener(path, 64).close()
    house = House(path)
    made = Peer(path)
    made.hello()
    made.close()
    house.close()
