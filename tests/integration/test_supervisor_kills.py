"""kill -9 of each process while instances talk: no line lost or doubled, no code lost, terminals go on, nothing leaks.

BIREME_KILL_INSTANCES sets how many instances talk (10 unless told otherwise; 100 is the big run).
"""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bireme.wire import stdcopy
from tests.support.supervised import Rig, alive, wait_until
from tests.support.supervision import Client, Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

COUNT = int(os.environ.get("BIREME_KILL_INSTANCES", "10"))
TERMINALS = 5
LINES = 400
TALK = (
    "i=0; while [ $i -lt %d ]; do echo o$i; echo e$i >&2; i=$((i+1)); "
    "[ $((i %% 20)) = 0 ] && sleep 0.0%d; done; while [ ! -e /go/stop ]; do sleep 0.05; done; printf end; exit %d"
)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, spares={"none": 3})
    made.start()
    yield made
    made.close()


class Listener:
    """Collects one attach stream in a thread."""

    def __init__(self, fd: int) -> None:
        self.data = b""
        self._sock = socket.socket(fileno=fd)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with self._sock:
            while part := self._sock.recv(65536):
                self.data += part

    def join(self) -> bytes:
        self._thread.join(120)
        assert not self._thread.is_alive(), "the stream did not end"
        return self.data


class Crowd:
    """Many talkers: some with terminals, some attached, one exec."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.codes: dict[str, int] = {}
        self.terminals: list[str] = []
        self.listeners: dict[str, Listener] = {}
        self.seen: dict[str, int] = {}
        self.client = rig.connect()
        for number in range(COUNT):
            self._add(number, terminal=number < min(TERMINALS, COUNT // 2))

    def _add(self, number: int, *, terminal: bool) -> None:
        identity = self.rig.name()
        code = number % 100 + 1
        if terminal or number % 5 == 4:
            _, (fd,) = self.client.call_fds("attach", id=identity, stdout=True, stderr=True)
            self.listeners[identity] = Listener(fd)
        command = TALK % (LINES, number % 7 + 1, code)
        self.rig.launch(self.client, "/bin/sh", "-c", command, identity=identity, terminal=terminal)
        self.codes[identity] = code
        if terminal:
            self.terminals.append(identity)

    def reconnect(self) -> None:
        self._keep_events()
        self.client.close()
        self.client = self.rig.connect()

    def _keep_events(self) -> None:
        for event in self.client.events:
            if event["event"] == "exited":
                self.seen[event["id"]] = event["code"]

    def finish(self) -> None:
        """Let all end, then compare everything."""
        for identity in self.codes:
            (self.rig.directory_of(identity) / "go/stop").touch()
        for identity, code in self.codes.items():
            self._keep_events()
            if identity in self.seen:
                self.client.call("acknowledge", id=identity)
                assert self.seen[identity] == code
                continue
            assert self.client.exited(identity)["code"] == code
        for identity in self.codes:
            self._check_log(identity)
        for identity, listener in self.listeners.items():
            self._check_stream(identity, listener.join())

    def _check_log(self, identity: str) -> None:
        out = "".join(f"o{n}\n" for n in range(LINES))
        err = "".join(f"e{n}\n" for n in range(LINES))
        if identity in self.terminals:
            both = "".join(f"o{n}\r\ne{n}\r\n" for n in range(LINES))
            assert self.rig.output(identity) == both + "end"
        else:
            assert self.rig.output(identity) == out + "end"
            assert self.rig.output(identity, "stderr") == err

    def _check_stream(self, identity: str, data: bytes) -> None:
        """Every line is there. (A kill in the one window the logger has may show a client a chunk twice.)"""
        if identity not in self.terminals:
            data = b"".join(part for stream, part in stdcopy.Decoder().feed(data) if stream == 1)
        lines = set(data.replace(b"\r", b"").split(b"\n"))
        assert {b"o%d" % n for n in range(LINES)} <= lines
        assert b"end" in lines


def kill(pid: int) -> None:
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), f"process {pid} to die")


def replaced(rig: Rig, name: str, old: int) -> None:
    wait_until(lambda: rig.helper(name) not in (0, old), f"a new {name}")


def ready(rig: Rig) -> None:
    """Helpers are up again after a supervisor came back."""
    wait_until(lambda: all(rig.helper(name) for name in ("zygote", "logger")), "all helpers")


@pytest.mark.parametrize("victim", ["zygote", "logger", "relay"])
def test_a_helper_is_killed_and_replaced(rig: Rig, victim: str) -> None:
    crowd = Crowd(rig)
    rig.hold_port(crowd.client)
    for _ in range(5):
        old = rig.helper(victim)
        kill(old)
        replaced(rig, victim, old)
        time.sleep(0.05)
    more = rig.launch(crowd.client, "/bin/echo", "still")
    assert crowd.client.exited(more)["code"] == 0
    assert rig.output(more) == "still\n"
    crowd.finish()


def test_the_supervisor_is_killed_and_comes_back(rig: Rig) -> None:
    crowd = Crowd(rig)
    for _ in range(3):
        old = rig.pid("supervisor")
        kill(old)
        wait_until(lambda old=old: rig.pid("supervisor") not in (0, old), "a new supervisor")  # type: ignore[misc]
        crowd.reconnect()
        ready(rig)
        rows = {row["id"]: row for row in crowd.client.call("list")["instances"]}
        assert set(rows) == set(crowd.codes)
        assert {i: row["code"] for i, row in rows.items() if row["state"] != "running"} == {}, rig.log()
    more = rig.launch(crowd.client, "/bin/echo", "still")
    assert crowd.client.exited(more)["code"] == 0
    some = next(i for i in crowd.codes if i not in crowd.terminals)
    exec_id, fds = rig.exec(crowd.client, some, "/bin/sh", "-c", "exit 12")
    for fd in fds:
        os.close(fd)
    assert crowd.client.exec_exited(exec_id)["code"] == 12
    crowd.finish()


def test_the_keeper_is_killed_and_the_supervisor_takes_its_place(rig: Rig) -> None:
    crowd = Crowd(rig)
    for _ in range(2):
        keeper, supervisor = rig.pid("keeper"), rig.pid("supervisor")
        kill(keeper)
        wait_until(lambda s=supervisor: rig.pid("keeper") == s, "the supervisor to be the keeper")  # type: ignore[misc]
        wait_until(lambda s=supervisor: rig.pid("supervisor") not in (0, s), "a new supervisor")  # type: ignore[misc]
        crowd.reconnect()
        ready(rig)
    assert {row["id"] for row in crowd.client.call("list")["instances"]} == set(crowd.codes)
    more = rig.launch(crowd.client, "/bin/echo", "still")
    assert crowd.client.exited(more)["code"] == 0
    crowd.finish()


def test_supervisor_then_keeper_then_supervisor(rig: Rig) -> None:
    """Instances whose parent was a keeper that died too: the kernel is asked for their codes."""
    crowd = Crowd(rig)
    kill(rig.pid("supervisor"))
    crowd.reconnect()
    supervisor = rig.pid("supervisor")
    kill(rig.pid("keeper"))
    wait_until(lambda: rig.pid("supervisor") not in (0, supervisor), "a new supervisor")
    crowd.reconnect()
    kill(rig.pid("supervisor"))
    crowd.reconnect()
    ready(rig)
    crowd.finish()


def test_both_are_killed_and_a_new_keeper_finds_the_instances(rig: Rig) -> None:
    """Descriptors are lost then (the instance reads and writes closed pipes), but it is found and its end is known."""
    client = rig.connect()
    identity = rig.launch(client, "/bin/sh", "-c", "while [ ! -e /go/stop ]; do sleep 0.01; done; exit 21")
    keeper, supervisor = rig.pid("keeper"), rig.pid("supervisor")
    os.kill(supervisor, signal.SIGSTOP)
    kill(keeper)
    kill(supervisor)
    assert rig.keeper is not None
    rig.keeper.wait()
    again = rig.start()
    assert [row["id"] for row in again.call("list")["instances"]] == [identity]
    exec_id, fds = rig.exec(again, identity, "/bin/sh", "-c", "exit 5")
    for fd in fds:
        os.close(fd)
    assert again.exec_exited(exec_id)["code"] == 5
    (rig.directory_of(identity) / "go/stop").touch()
    assert again.exited(identity)["code"] == 21


def test_instances_that_end_while_nobody_supervises(rig: Rig) -> None:
    client = rig.connect()
    codes = {}
    for number in range(5):
        command = f"while [ ! -e /go/stop ]; do sleep 0.01; done; echo last; exit {number + 20}"
        codes[rig.launch(client, "/bin/sh", "-c", command)] = number + 20
    supervisor = rig.pid("supervisor")
    os.kill(rig.pid("keeper"), signal.SIGSTOP)
    try:
        kill(supervisor)
        for identity in codes:
            (rig.directory_of(identity) / "go/stop").touch()
        time.sleep(0.3)
    finally:
        os.kill(rig.pid("keeper"), signal.SIGCONT)
    again = rig.connect()
    for identity, code in codes.items():
        assert again.exited(identity)["code"] == code
        assert rig.output(identity) == "last\n"


def test_spares_are_killed(rig: Rig) -> None:
    client = rig.connect()
    for _ in range(6):
        wait_until(rig.spares, "a spare")
        for pid in rig.spares():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        identity = rig.launch(client, "/bin/sh", "-c", "echo here; exit 8")
        assert client.exited(identity)["code"] == 8
        assert rig.output(identity) == "here\n"


class Budget:
    """How many zygotes one start may cost: a third is reported as the start's failure."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kills = 0


def test_starts_go_on_while_zygotes_die(rig: Rig) -> None:
    """A start outlives two zygotes, whatever the moment they die at; what was acknowledged is right."""
    client = rig.connect()
    stop = threading.Event()
    chance = random.Random(7)
    budget = Budget()

    def murder() -> None:
        while not stop.wait(chance.random() * 0.05):
            with budget.lock:
                pid = rig.helper("zygote")
                if pid and budget.kills:
                    budget.kills -= 1
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=murder)
    thread.start()
    try:
        for number in range(15):
            with budget.lock:
                budget.kills = 2
            identity = rig.launch(client, "/bin/sh", "-c", f"echo {number}; exit {number}")
            assert client.exited(identity)["code"] == number
            assert rig.output(identity) == f"{number}\n"
    finally:
        stop.set()
        thread.join()


def test_an_engine_that_dies_changes_nothing(rig: Rig) -> None:
    crowd = Crowd(rig)
    some = next(i for i in crowd.codes if i not in crowd.terminals)
    exec_id, fds = rig.exec(crowd.client, some, "/bin/sh", "-c", "while true; do echo noise; done")
    for fd in fds:
        os.close(fd)
    crowd.reconnect()
    told = crowd.client.call("processes", id=some)["pids"]
    assert len(told) > 1, "the exec lives"
    crowd.client.call("exec_signal", exec_id=exec_id, signum=9)
    wait_until(lambda: len(crowd.client.call("processes", id=some)["pids"]) < len(told), "the exec to end")
    crowd.finish()


def test_execs_survive_the_supervisor(rig: Rig) -> None:
    client = rig.connect()
    identity = rig.launch(client, "/bin/sleep", "1000")
    exec_id, (stdin, out, err) = rig.exec(client, identity, "/bin/sh", "-c", "cat; exit 33", stdin=True)
    os.write(stdin, b"before ")
    kill(rig.pid("supervisor"))
    again = rig.connect(execs=(exec_id,))
    os.write(stdin, b"after")
    os.close(stdin)
    data = b""
    while part := os.read(out, 100):
        data += part
    assert data == b"before after"
    assert again.exec_exited(exec_id)["code"] == 33
    os.close(out)
    os.close(err)


def test_a_journal_with_a_torn_end_is_read(rig: Rig) -> None:
    client = rig.connect()
    identity = rig.launch(client, "/bin/sleep", "1000")
    os.kill(rig.pid("keeper"), signal.SIGSTOP)
    kill(rig.pid("supervisor"))
    with open(rig.run_root / "journal", "ab") as file:
        file.write(b'{"t":"gone","id":"' + identity.encode())
    os.kill(rig.pid("keeper"), signal.SIGCONT)
    again = rig.connect()
    assert [row["id"] for row in again.call("list")["instances"]] == [identity]
    again.call("signal", id=identity, signum=9, all=False)
    assert again.exited(identity)["code"] == 137


def launch_or_lose(rig: Rig, client: Client, identity: str) -> bool:
    try:
        rig.launch(client, "/bin/sh", "-c", "sleep 0.05; exit 9", identity=identity)
    except (Failure, EOFError, OSError):
        return False
    return True


def test_supervisors_die_during_starts_and_nothing_acknowledged_is_lost(rig: Rig) -> None:
    client = rig.connect()
    for number in range(10):
        killer = threading.Timer(0.01 * number, kill, [rig.pid("supervisor")])
        killer.start()
        acknowledged = []
        for _ in range(4):
            identity = rig.name()
            if launch_or_lose(rig, client, identity):
                acknowledged.append(identity)
        killer.join()
        events = {e["id"]: e["code"] for e in client.events if e["event"] == "exited"}
        client.close()
        client = rig.connect()
        for identity in acknowledged:
            if identity in events:
                assert events[identity] == 9
                client.call("acknowledge", id=identity)
            else:
                assert client.exited(identity)["code"] == 9
        ready(rig)
    for row in client.call("list")["instances"]:
        assert client.exited(row["id"])["code"] == 9, "an instance whose start was not acknowledged"
    assert client.call("list")["instances"] == []


CHATTER = (
    "i=0; while [ ! -e /go/stop ]; do echo o$i; printf p$i; echo; echo e$i >&2; i=$((i+1)); "
    "[ $((i %% 10)) = 0 ] && sleep 0.0%d; done; echo total $i; exit %d"
)


def chatter_of(rig: Rig, identity: str, *, terminal: bool) -> tuple[str, str]:
    """What one said, and what it must have said."""
    said = rig.output(identity).replace("\r\n", "\n") if terminal else rig.output(identity)
    count = int(said.rpartition("total ")[2])
    errors = [f"e{n}\n" for n in range(count)]
    lines = [f"o{n}\np{n}\n" + (errors[n] if terminal else "") for n in range(count)]
    if not terminal:
        said += rig.output(identity, "stderr")
        return said, "".join(lines) + f"total {count}\n" + "".join(errors)
    return said, "".join(lines) + f"total {count}\n"


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random(rig: Rig, seed: int) -> None:
    """Helpers at any time, keeper and supervisor one at a time."""
    chance = random.Random(seed)
    client = rig.connect()
    rig.hold_port(client)
    crowd = {}
    for number in range(COUNT):
        code, terminal = number % 90 + 1, number % 4 == 0
        command = CHATTER % (number % 9 + 1, code)
        crowd[rig.launch(client, "/bin/sh", "-c", command, terminal=terminal)] = (code, terminal)
    end = time.monotonic() + 4
    while time.monotonic() < end:
        victim = chance.choice(["keeper", "supervisor", "zygote", "logger", "logger", "relay"])
        if victim in ("keeper", "supervisor"):
            rig.connect().close()
        pid = rig.pid(victim)
        if pid and alive(pid):
            os.kill(pid, signal.SIGKILL)
        time.sleep(chance.random() * 0.3)
    client.close()
    client = rig.connect()
    rows = {row["id"]: row["state"] for row in client.call("list")["instances"]}
    assert rows == dict.fromkeys(crowd, "running")
    for identity in crowd:
        (rig.directory_of(identity) / "go/stop").touch()
    for identity, (code, terminal) in crowd.items():
        assert client.exited(identity)["code"] == code
        said, expected = chatter_of(rig, identity, terminal=terminal)
        assert said == expected
