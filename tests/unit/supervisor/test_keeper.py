"""The keeper's words: hold, drop, forget, end; what it hands over; the locks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from bireme.linux import fd as fdlib
from bireme.linux.process import Exit
from bireme.supervisor import keeper
from bireme.supervisor.keeper import Keeper
from bireme.supervisor.keeperlink import KeeperLink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[tuple[Keeper, KeeperLink]]:
    """A keeper with the other end of its socket, no process behind it."""
    made = Keeper(str(tmp_path), {})
    ours, theirs = fdlib.seqpacket_pair()
    ours.setblocking(False)
    made.control = ours
    made.poll.register(ours.fileno())
    link = KeeperLink(theirs.detach())
    yield made, link
    for fd in made.held.values():
        os.close(fd)
    ours.close()
    link.close()
    made.wake.close()
    made.waker.close()
    made.poll.close()


def test_what_is_held_is_a_duplicate_until_dropped(kept: tuple[Keeper, KeeperLink]) -> None:
    made, link = kept
    read, write = os.pipe()
    link.hold({"slot/1/stdout": read, "slot/1/stderr": write})
    assert made.receive()
    assert set(made.held) == {"slot/1/stdout", "slot/1/stderr"}
    assert read not in made.held.values()
    os.close(read)
    os.close(write)
    os.write(made.held["slot/1/stderr"], b"still here")
    assert os.read(made.held["slot/1/stdout"], 100) == b"still here"
    link.drop(["slot/1/stdout", "slot/9/unknown"])
    link.flush()
    assert made.receive()
    assert set(made.held) == {"slot/1/stderr"}


def test_holding_a_name_again_replaces_it(kept: tuple[Keeper, KeeperLink]) -> None:
    made, link = kept
    read, write = os.pipe()
    for _ in range(3):
        link.hold({"x": read})
    assert made.receive()
    assert len(made.held) == 1
    os.close(read)
    os.close(made.held.pop("x"))
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")
    os.close(write)


def test_handover_brings_descriptors_and_exits(kept: tuple[Keeper, KeeperLink]) -> None:
    made, link = kept
    pipes = [os.pipe() for _ in range(80)]
    made.send("\n".join(["fd", *(f"n{i}" for i in range(40))]), [read for read, _ in pipes[:40]])
    made.send("\n".join(["fd", *(f"n{i}" for i in range(40, 80))]), [read for read, _ in pipes[40:]])
    made.send("exit\n77\n3\n0")
    made.send("done")
    handover = link.receive_handover()
    assert len(handover.fds) == 80
    assert handover.exits == [Exit(77, 3, 0)]
    for (read, write), fd in zip(pipes, handover.fds.values(), strict=True):
        os.write(write, b"y")
        assert os.read(fd, 1) == b"y"
        for one in (read, write, fd):
            os.close(one)


def test_handover_of_a_keeper_that_dies_meanwhile(kept: tuple[Keeper, KeeperLink]) -> None:
    made, link = kept
    lost = []
    link.on_lost = lambda: lost.append(True)
    assert made.control is not None
    made.control.close()
    assert link.receive_handover().fds == {}
    assert lost == [True]
    link.hold({"x": 0})
    link.flush()
    assert lost == [True]


def test_exits_are_told_once_and_forgotten(kept: tuple[Keeper, KeeperLink]) -> None:
    made, link = kept
    told: list[Exit] = []
    link.on_exit = told.append
    made.exits[5] = Exit(5, 137, 9)
    made.send("exit\n5\n137\n9")
    link.on_readable(0)
    assert told == [Exit(5, 137, 9)]
    link.forget(5)
    made.receive()
    assert made.exits == {}


def test_stop_and_end(kept: tuple[Keeper, KeeperLink]) -> None:
    made, link = kept
    wishes = []
    link.on_stop = lambda: wishes.append(True)
    made.send("stop")
    link.on_readable(0)
    assert wishes == [True]
    made.failures = 4
    link.ready()
    link.end()
    made.receive()
    assert (made.failures, made.ending) == (0, True)


def test_nonsense_is_survived(kept: tuple[Keeper, KeeperLink]) -> None:
    made, _ = kept
    read, write = os.pipe()
    made.obey(["hold", "a", "b"], [os.dup(read)])
    made.obey(["what"], [os.dup(read)])
    made.obey([""], [])
    assert made.held == {}
    os.close(read)
    os.close(write)


def test_adopted_descriptors_are_read_from_their_table() -> None:
    read, write = os.pipe()
    table = os.memfd_create("table")
    os.write(table, f"{read} slot/1/stdout\n{write} a name with spaces\n".encode())
    os.set_inheritable(read, True)
    assert keeper.adopted_descriptors(table) == {"slot/1/stdout": read, "a name with spaces": write}
    assert not os.get_inheritable(read)
    os.close(read)
    os.close(write)


def test_one_lock_per_run_root(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first = keeper.take_lock(path, wait=False)
    assert first >= 0
    assert keeper.take_lock(path, wait=False) < 0
    assert keeper.is_locked(path)
    os.close(first)
    assert not keeper.is_locked(path)
    assert not keeper.is_locked(str(tmp_path / "absent"))
    second = keeper.take_lock(path, wait=False)
    assert second >= 0
    os.close(second)


def test_sync_comes_after_what_was_dropped(kept: tuple[Keeper, KeeperLink]) -> None:
    made, link = kept
    read, write = os.pipe()
    link.hold({"x": read})
    os.close(read)
    done: list[dict[str, int]] = []
    link.drop(["x"])
    link.sync(lambda: done.append(dict(made.held)))
    assert made.receive()
    link.on_readable(0)
    assert done == [{}]
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")
    os.close(write)
