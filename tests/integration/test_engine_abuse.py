"""A container that forks without end, fills its memory or floods its output hurts only itself."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator

import pytest

from tests.support.daemon import RunningEngine, running_engine
from tests.support.pace import eventually

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with running_engine(tmp_path_factory.mktemp("abuse")) as made:
        yield made


def neighbour(engine: RunningEngine) -> None:
    """Somebody else starts, speaks and ends as always."""
    done = engine.bireme("run", "--rm", "--network", "none", "busybox", "echo", "fine")
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def inspect(engine: RunningEngine, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(engine.bireme("inspect", name).stdout)[0]["State"]
    return found


def test_a_fork_bomb(engine: RunningEngine) -> None:
    bomb = "b() { b | b & }; b; sleep 1000"
    done = engine.bireme("run", "-d", "--name", "bomb", "--pids-limit", "64", "busybox", "sh", "-c", bomb)
    assert done.returncode == 0, done.stderr
    neighbour(engine)
    rows = engine.bireme("top", "bomb").stdout.splitlines()[1:]
    assert len(rows) <= 64
    assert engine.bireme("rm", "-f", "bomb").returncode == 0
    neighbour(engine)


def test_memory_is_filled(engine: RunningEngine) -> None:
    hog = "x=a; while true; do x=$x$x; done"
    options = ("-d", "--name", "hog", "--memory", "32m", "--memory-swap", "32m")
    assert engine.bireme("run", *options, "busybox", "sh", "-c", hog).returncode == 0
    eventually(lambda: inspect(engine, "hog")["Status"] == "exited", within_s=60)
    state = inspect(engine, "hog")
    assert (state["ExitCode"], state["OOMKilled"]) == (137, True)
    neighbour(engine)
    engine.bireme("rm", "hog")


def test_etc_hosts_is_filled(engine: RunningEngine) -> None:
    """It lies in a small file system that all instances share: the next ones are written to disk."""
    fill = "cat /dev/zero >> /etc/hosts; sleep 1000"
    assert engine.bireme("create", "--name", "filler", "busybox", "sh", "-c", fill).returncode == 0
    place = pathlib.Path(json.loads(engine.bireme("inspect", "filler").stdout)[0]["HostsPath"]).parent.parent
    if str(place) != engine.config.memory:
        pytest.skip("a tmpfs takes no idmapped mounts in this kernel")
    assert engine.bireme("start", "filler").returncode == 0
    eventually(lambda: os.statvfs(place).f_bavail == 0, within_s=60)
    neighbour(engine)
    told = engine.bireme("run", "--hostname", "heard", "--network", "none", "busybox", "cat", "/etc/hostname")
    assert (told.returncode, told.stdout) == (0, "heard\n"), told.stderr
    assert engine.bireme("rm", "-f", "filler").returncode == 0
    eventually(lambda: os.statvfs(place).f_bavail > 0, within_s=60)
    neighbour(engine)


def test_output_is_flooded(engine: RunningEngine) -> None:
    options = ("-d", "--name", "flood", "--log-opt", "max-size=1m", "--log-opt", "max-file=2")
    assert engine.bireme("run", *options, "busybox", "yes", "x" * 100).returncode == 0
    directory = pathlib.Path(json.loads(engine.bireme("inspect", "flood").stdout)[0]["LogPath"]).parent
    eventually(lambda: len([f for f in os.listdir(directory) if "-json.log" in f]) == 2, within_s=60)
    neighbour(engine)
    total = sum((directory / f).stat().st_size for f in os.listdir(directory) if "-json.log" in f)
    assert total < 4 << 20
    assert engine.bireme("logs", "--tail", "3", "flood").stdout == ("x" * 100 + "\n") * 3
    assert engine.bireme("kill", "flood").returncode == 0
    engine.bireme("rm", "-f", "flood")
    neighbour(engine)


def test_a_reader_that_stops_reading_does_not_grow_the_engine(engine: RunningEngine) -> None:
    client = engine.client()
    identity, _ = client.create_container({"Image": "busybox", "Cmd": ["yes"]}, "slow", "")
    connection = client.send_attach(identity, {"stream": 1, "stdout": 1})
    stream = client.receive_stream(connection)
    client.act(identity, "start")
    before = _resident(engine)
    eventually(lambda: stream.stream.recv(1 << 16), within_s=30)
    for _ in range(5):
        neighbour(engine)
    assert _resident(engine) - before < 32 << 20
    stream.close()
    client.remove_container(identity, {"force": 1})
    client.close()


def _resident(engine: RunningEngine) -> int:
    total = 0
    for pid in (*engine.pids("biremed"), *engine.pids("bireme-logger"), *engine.pids("bireme-supervisor")):
        text = pathlib.Path(f"/proc/{pid}/statm").read_text()
        total += int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total
