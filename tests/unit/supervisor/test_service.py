"""Helpers: what they are told, what they say, and that they come back."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from bireme.linux.poll import Loop
from bireme.supervisor.children import Children
from bireme.supervisor.service import Service
from tests.support.faketools import FakeKeeper

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE_S = 60.0


def echo(control: socket.socket) -> None:
    """Says back what it hears, with its own pid; dies of the word die."""
    while data := control.recv(65536):
        if b'"die"' in data:
            os._exit(3)
        control.send(data[:-1] + b',"pid":%d}' % os.getpid())


def second(control: socket.socket) -> None:
    """What a replacement runs."""
    while control.recv(65536):
        control.send(b'{"second":true}')


class Bench:
    def __init__(self, directory: Path, replacement: Callable[[socket.socket], None] | None = None) -> None:
        self.loop = Loop()
        self.children = Children(self.loop, cast("Any", FakeKeeper()))
        self.service = Service("echo", str(directory), self.loop, self.children, echo, replacement)
        self.heard: list[dict[str, Any]] = []
        self.starts = 0
        self.service.on_message = lambda message, fds: self.heard.append(message)
        self.service.on_started = self._started
        self.service.start()

    def _started(self) -> None:
        self.starts += 1

    def turn_until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end
            self.loop.run_once(0.01)
            self.children.reap()

    def close(self) -> None:
        pid = self.service.pid
        self.service.stop()
        if pid:
            self.turn_until(lambda: self.service.pid == 0)
        self.loop.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_it_is_told_and_says(bench: Bench, tmp_path: Path) -> None:
    assert bench.service.send({"a": 1})
    bench.turn_until(lambda: bench.heard)
    assert bench.heard == [{"a": 1, "pid": bench.service.pid}]
    assert (tmp_path / "echo.pid").read_text() == f"{bench.service.pid}\n"


@pytest.mark.parametrize("way", ["kill", "exit"])
def test_it_comes_back(bench: Bench, way: str) -> None:
    first = bench.service.pid
    if way == "kill":
        os.kill(first, signal.SIGKILL)
    else:
        bench.service.send({"die": "die"})
    bench.turn_until(lambda: bench.starts == 2)
    assert bench.service.pid not in (0, first)
    bench.service.send({"b": 2})
    bench.turn_until(lambda: bench.heard)
    assert bench.heard[-1]["pid"] == bench.service.pid


def test_what_it_said_before_it_died_is_heard(bench: Bench) -> None:
    for number in range(5):
        bench.service.send({"n": number})
    bench.service.send({"die": "die"})
    bench.turn_until(lambda: bench.starts == 2)
    assert [message["n"] for message in bench.heard] == [0, 1, 2, 3, 4]


def test_talking_to_a_dead_one_is_answered_with_false(bench: Bench) -> None:
    os.kill(bench.service.pid, signal.SIGKILL)
    end = time.monotonic() + DEADLINE_S
    while bench.service.send({"a": 1}):
        assert time.monotonic() < end
    bench.turn_until(lambda: bench.starts == 2)


def test_a_replacement_may_be_something_else(tmp_path: Path) -> None:
    bench = Bench(tmp_path, second)
    os.kill(bench.service.pid, signal.SIGKILL)
    bench.turn_until(lambda: bench.starts == 2)
    bench.service.send({"a": 1})
    bench.turn_until(lambda: bench.heard)
    assert bench.heard == [{"second": True}]
    bench.close()


def test_stopped_it_stays_away(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.close()
    assert bench.starts == 1
    assert not (tmp_path / "echo.pid").exists()
    assert not bench.service.send({"a": 1})
