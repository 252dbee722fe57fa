"""Log drivers against a real engine: what is kept, how much of it, and who can read it."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tests.support.daemon import RunningEngine, running_engine
from tests.support.pace import eventually

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with running_engine(tmp_path_factory.mktemp("logs")) as running:
        yield running


@pytest.fixture
def name(engine: RunningEngine) -> Iterator[str]:
    yield "speaker"
    engine.bireme("rm", "-f", "speaker")


def _run(engine: RunningEngine, name: str, script: str, *options: str) -> None:
    done = engine.bireme("run", "--name", name, *options, "busybox", "sh", "-c", script)
    assert done.returncode == 0, (done, engine.log())


def _files(engine: RunningEngine, name: str) -> dict[str, int]:
    identity = engine.bireme("inspect", "-f", "{{.Id}}", name).stdout.strip()
    directory = next(pathlib.Path(engine.data_root).rglob(identity + "/local.log")).parent
    return {path.name: path.stat().st_size for path in directory.glob("local.log*")}


def test_local_is_read_back(engine: RunningEngine, name: str) -> None:
    _run(engine, name, "echo out; echo err >&2; printf unfinished", "--log-driver", "local")
    logs = engine.bireme("logs", name)
    assert (logs.stdout, logs.stderr) == ("out\nunfinished", "err\n")
    assert engine.bireme("logs", "--tail", "1", name).stdout == "unfinished"
    shown = engine.bireme("inspect", "-f", "{{.HostConfig.LogConfig.Type}} [{{.LogPath}}]", name)
    assert shown.stdout == "local []\n"
    assert list(_files(engine, name)) == ["local.log"]


def test_local_is_bounded(engine: RunningEngine, name: str) -> None:
    options = ("--log-driver", "local", "--log-opt", "max-size=10k", "--log-opt", "max-file=3")
    _run(engine, name, f"for i in $(seq 2000); do echo line $i {'x' * 100}; done", *options)
    files = _files(engine, name)
    assert set(files) == {"local.log", "local.log.1", "local.log.2"}
    assert max(files.values()) < 40_000
    numbers = [int(line.split()[1]) for line in engine.bireme("logs", name).stdout.splitlines()]
    assert numbers == list(range(numbers[0], 2001))
    assert numbers[0] > 1


def test_local_survives_killed_loggers(engine: RunningEngine, name: str) -> None:
    script = "for i in 1 2 3; do echo $i; until [ -e /go$i ]; do sleep 0.01; done; done"
    started = engine.bireme("run", "-d", "--name", name, "--log-driver", "local", "busybox", "sh", "-c", script)
    assert started.returncode == 0, started
    for number in ("1", "2", "3"):
        eventually(lambda wanted=number: engine.bireme("logs", name).stdout.split()[-1:] == [wanted])
        engine.kill("bireme-logger")
        assert engine.bireme("exec", name, "touch", f"/go{number}").returncode == 0
    assert engine.bireme("wait", name).stdout == "0\n"
    assert engine.bireme("logs", name).stdout.split() == ["1", "2", "3"]


def test_none_cannot_be_read(engine: RunningEngine, name: str) -> None:
    _run(engine, name, "echo out", "--log-driver", "none")
    logs = engine.bireme("logs", name)
    assert logs.returncode == 1
    assert "configured logging driver does not support reading" in logs.stderr


def test_drivers_that_are_not_there(engine: RunningEngine) -> None:
    done = engine.bireme("create", "--log-driver", "syslog", "busybox")
    assert done.returncode == 125
    assert "log driver syslog is not supported yet" in done.stderr
    done = engine.bireme("create", "--log-driver", "nonsense", "busybox")
    assert "logger: no log driver named 'nonsense' is registered" in done.stderr
    assert "local" in engine.bireme("info", "--format", "{{.Plugins.Log}}").stdout
