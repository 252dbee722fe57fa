"""The one process that waits for an exec: when it is asked for, taken, missed and let go."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from bireme.linux import poll
from bireme.linux.process import Exit
from bireme.runtime import sync
from bireme.supervisor import parking
from bireme.supervisor.parking import Parking
from tests.support.faketools import FakeService, ManualLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class FakeChildren:
    def __init__(self) -> None:
        self.watched: dict[int, Callable[[Exit], object]] = {}

    def watch(self, pid: int, callback: Callable[[Exit], object]) -> None:
        self.watched[pid] = callback


class Zygote(FakeService):
    """Keeps the sockets that it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets: list[socket.socket] = []

    def send(self, message: Any, fds: Any = ()) -> bool:
        if self.running:
            self.sockets += [socket.socket(fileno=os.dup(fd)) for fd in fds]
        return super().send(message, fds)


class Yard:
    def __init__(self) -> None:
        self.loop, self.children, self.zygote = ManualLoop(), FakeChildren(), Zygote()
        self.parking = Parking(cast("Any", self.loop), cast("Any", self.children), cast("Any", self.zygote), 5.0)

    def deliver(self) -> None:
        """Every descriptor is readable."""
        for callback in list(self.loop.callbacks.values()):
            callback(1)

    def park(self, pid: int = 77) -> socket.socket:
        self.parking.wish()
        self.loop.fire()
        theirs = self.zygote.sockets[-1]
        sync.send_child(theirs, pid, theirs.fileno())
        self.deliver()
        theirs.send(sync.READY)
        self.deliver()
        return theirs


@pytest.fixture
def yard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    monkeypatch.setattr(parking, "_SETTLED_AFTER_S", 0.0)
    made = Yard()
    yield made
    made.parking.let_go()
    for sock in made.zygote.sockets:
        sock.close()


def test_nothing_is_parked_before_the_first_exec(yard: Yard) -> None:
    assert yard.parking.take() is None
    assert yard.zygote.said == []


def test_one_is_asked_for_behind_an_exec_and_taken_once(yard: Yard) -> None:
    yard.park()
    yard.parking.wish()
    assert yard.zygote.take() == [{"op": "park"}]
    taken = yard.parking.take()
    assert taken is not None
    assert taken.pid == 77
    assert yard.parking.take() is None
    assert taken.ctl.fileno() not in yard.loop.callbacks
    taken.ctl.close()


def test_one_that_is_not_ready_yet_is_not_waited_for(yard: Yard) -> None:
    yard.parking.wish()
    yard.loop.fire()
    assert yard.parking.take() is None


def test_one_that_dies_is_forgotten_and_its_end_passed_on(yard: Yard) -> None:
    yard.park()
    yard.children.watched[77](Exit(77, 137, 9))
    assert yard.parking.take() is None
    assert not yard.loop.callbacks


def test_the_end_of_a_taken_one_is_told_to_who_took_it(yard: Yard) -> None:
    yard.park()
    taken = yard.parking.take()
    assert taken is not None
    told: list[int] = []
    taken.on_end = lambda: told.append(1)
    yard.children.watched[77](Exit(77, 0, 0))
    assert told == [1]
    taken.ctl.close()


def test_without_a_zygote_there_is_none(yard: Yard) -> None:
    yard.zygote.running = False
    yard.parking.wish()
    yard.loop.fire()
    assert yard.parking.take() is None
    assert not yard.loop.callbacks


def test_a_zygote_that_cannot_clone_leaves_none(yard: Yard) -> None:
    yard.parking.wish()
    yard.loop.fire()
    sync.report(yard.zygote.sockets[-1], "clone", OSError(11, "no"))
    yard.deliver()
    assert yard.parking.take() is None
    assert not yard.loop.callbacks


def test_it_is_let_go_after_a_quiet_time(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = yard.park()
    now = time.monotonic()
    monkeypatch.setattr(poll, "_monotonic", lambda: now + 60.0)
    for _ in range(3):
        yard.loop.fire()
    assert yard.parking.take() is None
    assert theirs.recv(1) == b""
