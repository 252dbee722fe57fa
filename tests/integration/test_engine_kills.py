"""kill -9 of every process of the map: nothing acknowledged is lost, no instance dies, nothing leaks."""

from __future__ import annotations

import os
import pathlib
import random
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bireme.errors import BiremeError
from tests.support.daemon import PROGRAMS, RunningEngine, running_engine
from tests.support.pace import eventually, patience
from tests.support.supervision import Client

pytestmark = pytest.mark.needs_root

CHATTY = int(os.environ.get("BIREME_CHATTY", "100"))
TERMINALS = 5
VERB_KILLS = int(os.environ.get("BIREME_VERB_KILLS", "20"))


@pytest.fixture
def engine(tmp_path: pathlib.Path) -> Iterator[RunningEngine]:
    with running_engine(tmp_path) as made:
        yield made


def run(engine: RunningEngine, name: str, *command: str, **body: Any) -> str:
    client = engine.client()
    try:
        host = {"NetworkMode": "none", **body.pop("HostConfig", {})}
        identity, _ = client.create_container(
            {"Image": "busybox", "Cmd": list(command), "HostConfig": host, **body}, name, ""
        )
        client.act(identity, "start")
        return identity
    finally:
        client.close()


def state(engine: RunningEngine, name: str) -> dict[str, Any]:
    client = engine.client()
    try:
        found: dict[str, Any] = client.container(name)["State"]
        return found
    finally:
        client.close()


def sequence(engine: RunningEngine, name: str) -> list[int]:
    """The numbers a chatty container has logged; `ping` counts its lines."""
    done = engine.bireme("logs", name)
    assert done.returncode == 0, done.stderr
    return [int(n) for n in re.findall(r"seq=(\d+)", done.stdout)]


def kill_and_wait(engine: RunningEngine, program: str) -> None:
    before = engine.pids(program)
    assert before, f"{program} does not run"
    engine.kill(program)
    if program == "biremed":
        engine.start()
    else:
        eventually(lambda: (now := engine.pids(program)) and now[0] != before[0], within_s=30)
    eventually(lambda: engine.bireme("ps", "-q").returncode == 0, within_s=30)


def test_nothing_is_lost_with_chatty_containers_and_terminals(engine: RunningEngine) -> None:
    names = [f"chatty{n}" for n in range(CHATTY)]
    for name in names:
        run(engine, name, "ping", "-i", "0.2", "127.0.0.1")
    terminals = [f"term{n}" for n in range(TERMINALS)]
    for name in terminals:
        run(engine, name, "sh", Tty=True, OpenStdin=True)
    port = {"PortBindings": {"80/tcp": [{"HostIp": "::1", "HostPort": ""}]}, "NetworkMode": "bridge"}
    run(engine, "published", "sleep", "3600", HostConfig=port)  # there is a relay to be killed
    for program in (*PROGRAMS, "biremed"):
        ender = f"ender-{program}"
        run(engine, ender, "sh", "-c", "sleep 0.3; echo last words; exit 9")
        kill_and_wait(engine, program)
        eventually(lambda name=ender: state(engine, name)["Status"] == "exited", within_s=30)
        assert state(engine, ender)["ExitCode"] == 9, program
        assert "last words" in engine.bireme("logs", ender).stdout, program
    for name in (*names, *terminals):
        assert state(engine, name)["Running"], f"{name} died: {state(engine, name)}\n{engine.log()}"
    for name in terminals:
        assert_terminal_answers(engine, name)
    lengths = {name: len(sequence(engine, name)) for name in names}
    eventually(lambda: all(len(sequence(engine, n)) > lengths[n] for n in names[:5]), within_s=30)
    for name in names:
        numbers = sequence(engine, name)
        missing = set(range(numbers[-1] + 1)) - set(numbers)
        assert not missing, f"{name} lost {sorted(missing)[:10]} of {numbers[-1]}"
        assert numbers == sorted(numbers), name
    engine.bireme("rm", "-f", "published", *names, *terminals)


def assert_terminal_answers(engine: RunningEngine, name: str) -> None:
    client = engine.client()
    connection = client.send_attach(name, {"stream": 1, "stdin": 1, "stdout": 1})
    stream = client.receive_stream(connection)
    try:
        stream.stream.sendall(b"echo $((6*7))\n")
        seen = stream.first
        deadline = time.monotonic() + patience(20)
        while b"42" not in seen:
            assert time.monotonic() < deadline, f"{name} says {seen!r}"
            seen += stream.stream.recv(4096)
    finally:
        stream.close()
        client.close()


class Worker(threading.Thread):
    """Creates, starts, execs, removes; remembers what was acknowledged."""

    def __init__(self, engine: RunningEngine, tag: str) -> None:
        super().__init__()
        self.engine = engine
        self.tag = tag
        self.stop = False
        self.kept: dict[str, str] = {}
        self.gone: set[str] = set()
        self.problems: list[str] = []
        self.rounds = 0

    def run(self) -> None:
        while not self.stop:
            name = f"{self.tag}-{self.rounds}"
            self.rounds += 1
            try:
                self.one(name)
            except (OSError, BiremeError):
                time.sleep(0.02)

    def one(self, name: str) -> None:
        client = self.engine.client()
        try:
            identity, _ = client.create_container(
                {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}, name, ""
            )
            self.kept[identity] = "created"
            client.act(identity, "start")
            self.kept[identity] = "running"
            number = client.create_exec(identity, {"Cmd": ["sh", "-c", "exit 3"], "AttachStdout": True})
            stream = client.start_exec(number, {"Detach": False})
            try:
                while stream.stream.recv(4096):
                    pass
            finally:
                stream.close()
            if self.rounds % 3:
                self.kept[identity] = "being removed"
                client.remove_container(identity, {"force": 1})
                del self.kept[identity]
                self.gone.add(identity)
        finally:
            client.close()


def answers(engine: RunningEngine) -> bool:
    """Keeper and supervisor are both there and serve: the promise holds for one of the two at a time."""
    if not engine.pids("bireme-keeper"):
        return False
    try:
        client = Client(engine.config.supervisor_socket)
    except OSError:
        return False
    try:
        client.call("ping")
    except (OSError, EOFError):
        return False
    finally:
        client.socket.close()
    return True


def test_kills_during_every_verb(engine: RunningEngine) -> None:
    seed = int(os.environ.get("BIREME_SEED", random.randrange(1 << 30)))
    print(f"BIREME_SEED={seed}")
    chance = random.Random(seed)
    workers = [Worker(engine, f"w{n}") for n in range(3)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(VERB_KILLS):
            time.sleep(chance.uniform(0.05, 0.4))
            program = chance.choice((*PROGRAMS, "biremed"))
            if program in ("bireme-keeper", "bireme-supervisor"):
                eventually(lambda: answers(engine), within_s=30)
            engine.kill(program)
            if program == "biremed":
                time.sleep(chance.uniform(0, 0.1))
                engine.start()
    finally:
        for worker in workers:
            worker.stop = True
        for worker in workers:
            worker.join(patience(60))
    eventually(lambda: engine.bireme("ps").returncode == 0, within_s=30)
    client = engine.client()
    found = {row["Id"]: row for row in client.containers({"all": 1})}
    client.close()
    for worker in workers:
        for identity, expected in worker.kept.items():
            if expected == "being removed":
                continue
            assert identity in found, f"{identity} was acknowledged ({expected}) and is lost"
            if expected == "running":
                assert found[identity]["State"] == "running", f"{identity} died: {found[identity]}\n{engine.log()}"
        assert not worker.gone & found.keys()
    assert sum(worker.rounds for worker in workers) > VERB_KILLS
    assert engine.bireme("rm", "-f", *found).returncode == 0
