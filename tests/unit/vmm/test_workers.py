"""Device processes: what they inherit, how they are told, and how each end of them shows."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from bireme.linux.poll import Loop
from bireme.vmm.irq import make_eventfd
from bireme.vmm.memory import GuestMemory
from bireme.vmm.virtio.device import DataPath
from bireme.vmm.virtio.queue import QueuePlace
from bireme.vmm.workers import Worker, WorkerLost
from tests.support.pace import patience

WAIT_S = patience(20)


class CountingPath(DataPath):
    """Counts kicks at a place in guest memory."""

    QUEUES = (4, 4)
    memory: GuestMemory | None = None
    stuck = False

    def kick(self, index: int) -> bool:
        if self.stuck:
            signal.pause()
        self.counters["chains"] += 1
        return False


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(1 << 20)
    yield memory
    memory.close()


@pytest.fixture
def paths() -> Iterator[list[CountingPath]]:
    paths = [CountingPath("one"), CountingPath("two")]
    for path in paths:
        path.attach((make_eventfd(), make_eventfd()), make_eventfd())
    yield paths
    for path in paths:
        for fd in path.fds():
            os.close(fd)


PLACES = [QueuePlace(4, 0x1000, 0x2000, 0x3000), None]


@pytest.fixture
def worker(memory: GuestMemory, paths: list[CountingPath]) -> Iterator[Worker]:
    worker = Worker("count", paths, memory)
    worker.start()
    worker.wait_ready()
    yield worker
    worker.stop()


def kicks(worker: Worker, number: int) -> int:
    return int(worker.describe()["paths"][number]["counters"]["kicks"])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_kicks_count_between_activation_and_reset(worker: Worker, paths: list[CountingPath]) -> None:
    assert worker.activate(paths[0], 0, PLACES) == ""
    until(lambda: kicks(worker, 0) == 1)
    os.eventfd_write(paths[0].kicks[0], 1)
    until(lambda: kicks(worker, 0) == 2)
    os.eventfd_write(paths[0].kicks[1], 1)
    os.eventfd_write(paths[1].kicks[0], 1)
    worker.reset(paths[0])
    os.eventfd_write(paths[0].kicks[0], 1)
    assert (kicks(worker, 0), kicks(worker, 1)) == (2, 0)


def test_a_paused_process_touches_nothing_and_catches_up(worker: Worker, paths: list[CountingPath]) -> None:
    worker.activate(paths[0], 0, PLACES)
    until(lambda: kicks(worker, 0) == 1)
    worker.pause()
    os.eventfd_write(paths[0].kicks[0], 1)
    assert kicks(worker, 0) == 1
    worker.resume()
    until(lambda: kicks(worker, 0) == 2)


def test_queues_that_cannot_be(worker: Worker, paths: list[CountingPath]) -> None:
    assert "not memory" in worker.activate(paths[1], 0, [QueuePlace(4, 1 << 30, 0x2000, 0x3000), None])
    assert worker.describe()["paths"][1]["broken"]


def test_descriptors_that_are_not_named_are_closed(memory: GuestMemory, paths: list[CountingPath]) -> None:
    stranger = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    kept = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    worker = Worker("fds", paths, memory, keep=[kept])
    try:
        worker.start()
        worker.wait_ready()
        there = {int(name) for name in os.listdir(f"/proc/{worker.pid}/fd")}
        named = {kept, memory.fd} | {fd for path in paths for fd in path.fds()}
        assert named <= there
        assert stranger not in there
        assert len(there - named - {0, 1, 2}) == 3, "two sockets and the loop"
        with open(f"/proc/{worker.pid}/comm") as file:
            assert file.read().strip() == "bireme-fds"
    finally:
        worker.stop()
        os.close(stranger)
        os.close(kept)


def test_the_jail_comes_before_any_request_and_the_body_joins_the_loop(
    memory: GuestMemory, paths: list[CountingPath]
) -> None:
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    seen = make_eventfd()

    def jail(keep: list[int]) -> None:
        assert theirs in keep
        os.write(theirs, b"jail ")

    def body(loop: Loop) -> None:
        os.write(theirs, b"body ")
        loop.add(seen, lambda _events: (os.eventfd_read(seen), os.write(theirs, b"event")))

    worker = Worker("body", paths, memory, jail, body=body, keep=[theirs, seen])
    try:
        worker.start()
        worker.wait_ready()
        assert os.read(ours, 100) == b"jail body "
        os.eventfd_write(seen, 1)
        assert os.read(ours, 100) == b"event"
    finally:
        worker.stop()
        for fd in (ours, theirs, seen):
            os.close(fd)


def test_a_jail_that_fails_is_the_reason(memory: GuestMemory, paths: list[CountingPath]) -> None:
    def jail(keep: list[int]) -> None:
        raise PermissionError("no such right")

    worker = Worker("jailed", paths, memory, jail)
    worker.start()
    with pytest.raises(WorkerLost, match="jailed: PermissionError: no such right"):
        worker.wait_ready()
    worker.stop()


def readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(WAIT_S * 1000))


def test_a_killed_process_is_seen_and_answers_nothing(worker: Worker, paths: list[CountingPath]) -> None:
    os.kill(worker.pid, signal.SIGKILL)
    assert readable(worker.pidfd)
    assert readable(worker.events_fd)
    with pytest.raises(WorkerLost, match="count: ended"):
        worker.read_event()
    assert "ended" in worker.activate(paths[0], 0, PLACES)
    worker.reset(paths[0])
    assert "lost" in worker.describe()
    with pytest.raises(WorkerLost):
        worker.pause()
    ended = worker.stop()
    assert ended is not None
    assert ended.signal == signal.SIGKILL
    assert worker.stop() is None


def test_a_process_ends_with_main(memory: GuestMemory, paths: list[CountingPath]) -> None:
    worker = Worker("orphan", paths, memory)
    worker.start()
    worker.wait_ready()
    pidfd = worker.pidfd
    duplicate = os.dup(pidfd)
    worker.close()
    assert readable(duplicate)
    assert os.waitid(os.P_PIDFD, duplicate, os.WEXITED) is not None
    os.close(duplicate)


def test_a_process_that_hangs_is_killed(
    memory: GuestMemory, paths: list[CountingPath], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bireme.vmm.workers.DESCRIBE_TIMEOUT_S", 0.05)
    worker = Worker("stuck", paths, memory)
    paths[0].stuck = True
    try:
        worker.start()
        worker.wait_ready()
        worker.activate(paths[0], 0, PLACES)
        assert worker.describe()["busy"]
        assert worker.lost == ""
        monkeypatch.setattr("bireme.vmm.workers.ANSWER_TIMEOUT_S", 0.2)
        worker.reset(paths[0])
        assert "stuck: hangs" in worker.lost
        assert readable(worker.pidfd)
    finally:
        worker.stop()


def test_late_answers_are_not_taken_for_others(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    os.kill(worker.pid, signal.SIGSTOP)
    monkeypatch.setattr("bireme.vmm.workers.DESCRIBE_TIMEOUT_S", 0.05)
    assert worker.describe()["busy"]
    os.kill(worker.pid, signal.SIGCONT)
    assert worker.request(m="pause") == {}


class PoppingPath(DataPath):
    """Takes one chain."""

    QUEUES = (4,)

    def kick(self, index: int) -> bool:
        queue = self.queues[index]
        assert queue is not None
        queue.pop()
        return False


def test_news_of_a_driver_that_is_gone_is_old(memory: GuestMemory) -> None:
    path = PoppingPath("pop")
    path.attach((make_eventfd(),), make_eventfd())
    worker = Worker("pop", [path], memory)
    heard: list[str] = []
    worker.watch(path, heard.append)
    memory.store_u16(0x2002, 100)
    try:
        worker.start()
        worker.wait_ready()
        for reset in (True, False):
            worker.activate(path, 0, PLACES[:1])
            assert readable(worker.events_fd)
            if reset:
                worker.reset(path)
            worker.read_event()
        assert heard == ["avail index 100 is 100 ahead of a queue of 4"]
    finally:
        worker.stop()
        for fd in path.fds():
            os.close(fd)
