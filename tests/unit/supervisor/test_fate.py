"""Ran or died: told by the name of a process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from bireme.linux import process
from bireme.linux.process import Exit
from bireme.supervisor.fate import DIED, MAX_LOOKS, RAN, UNSURE, fate, is_dead, read_comm
from bireme.supervisor.zygote import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Child:
    """A child that waits for a word, then does something."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        read, self.go = os.pipe()
        named, tell = os.pipe()
        self.pid = process.fork()
        if self.pid == 0:
            process.set_name(name)
            os.write(tell, b"x")
            os.close(self.go)
            os.read(read, 1)
            then()
            os._exit(0)
        os.close(read)
        os.read(named, 1)
        os.close(named)
        os.close(tell)
        self.pidfd = process.pidfd_open(self.pid)

    def end(self) -> None:
        os.write(self.go, b"x")
        process.wait_pid(self.pid, keep=True)

    def close(self) -> None:
        os.close(self.go)
        process.wait_pid(self.pid)
        os.close(self.pidfd)


@pytest.fixture
def waiting() -> Iterator[Child]:
    made = Child(NAME, lambda: None)
    yield made
    made.close()


def test_not_yet(waiting: Child) -> None:
    assert read_comm(waiting.pid) == NAME
    assert fate(waiting.pid, waiting.pidfd, None, 0) == UNSURE
    assert not is_dead(waiting.pidfd)


def test_died_before(waiting: Child) -> None:
    waiting.end()
    assert is_dead(waiting.pidfd)
    assert fate(waiting.pid, waiting.pidfd, None, 0) == DIED
    assert fate(waiting.pid, waiting.pidfd, Exit(waiting.pid, 0, 0), 0) == DIED


def test_a_program_by_our_name_counts_as_running_in_the_end(waiting: Child) -> None:
    assert fate(waiting.pid, waiting.pidfd, None, MAX_LOOKS + 1) == RAN


def test_ran() -> None:
    child = Child(NAME, lambda: os.execv("/bin/true", ["true"]))
    child.end()
    assert fate(child.pid, child.pidfd, None, 0) == RAN
    assert fate(child.pid, child.pidfd, Exit(child.pid, 0, 0), 0) == RAN
    child.close()


def test_gone() -> None:
    assert read_comm(1 << 22) == ""
