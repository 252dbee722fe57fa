"""--cgroup-parent: where the cgroups of a container are, and that nothing is left of them."""

from __future__ import annotations

import os
import pathlib
import secrets
from collections.abc import Iterator

import pytest

from tests.support.daemon import RunningEngine, running_engine
from tests.support.pace import eventually

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with running_engine(tmp_path_factory.mktemp("parents")) as running:
        yield running


@pytest.fixture
def parent() -> Iterator[str]:
    """A path nobody else has; nothing of it is left in any hierarchy."""
    top = f"bt-{secrets.token_hex(4)}"
    yield f"/{top}/inner"
    eventually(lambda: not _found(top))


def _found(name: str) -> list[str]:
    """Directories of that name directly below a hierarchy."""
    base = pathlib.Path("/sys/fs/cgroup")
    places = [base / name, *(entry / name for entry in base.iterdir() if entry.is_dir())]
    return [str(place) for place in places if place.exists()]


def _run(engine: RunningEngine, name: str, parent: str, *more: str) -> str:
    done = engine.bireme("run", "-d", "--name", name, "--cgroup-parent", parent, *more, "busybox", "sleep", "600")
    assert (done.returncode, done.stderr) == (0, ""), (done, engine.log())
    return engine.bireme("inspect", "-f", "{{.State.Pid}}", name).stdout.strip()


def _cgroups(pid: str) -> set[str]:
    """Paths of a process, those of controllers we do not use left out."""
    lines = pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {line.split(":", 2)[2] for line in lines} - {"/"}


@pytest.mark.parametrize("relative", [False, True])
def test_the_cgroup_is_below_the_parent(engine: RunningEngine, parent: str, relative: bool) -> None:
    given = parent[1:] if relative else parent
    pid = _run(engine, "child", given, "-m", "64m", "--pids-limit", "40")
    paths = _cgroups(pid)
    assert any(path.startswith(f"{parent}/") for path in paths), paths
    assert not any("bireme" in path and not path.startswith(f"{parent}/") for path in paths), paths
    inside = engine.bireme("exec", "child", "sh", "-c", "cat /proc/self/cgroup")
    assert inside.returncode == 0
    shown = engine.bireme("inspect", "-f", "{{.HostConfig.CgroupParent}}", "child")
    assert shown.stdout.strip() == given
    row = engine.bireme("stats", "--no-stream", "--format", "{{.MemUsage}}", "child")
    assert row.stdout.strip().endswith(" / 64MiB")
    assert engine.bireme("pause", "child").returncode == 0
    assert engine.bireme("unpause", "child").returncode == 0
    assert "sleep 600" in engine.bireme("top", "child").stdout
    assert engine.bireme("restart", "-t", "0", "child").returncode == 0
    assert engine.bireme("rm", "-f", "child").returncode == 0


def test_several_share_a_parent(engine: RunningEngine, parent: str) -> None:
    first, second = _run(engine, "one", parent), _run(engine, "two", parent)
    assert _cgroups(first) != _cgroups(second)
    assert engine.bireme("rm", "-f", "one").returncode == 0
    assert engine.bireme("exec", "two", "true").returncode == 0
    assert engine.bireme("update", "-m", "80m", "--memory-swap", "-1", "two").returncode == 0
    assert engine.bireme("rm", "-f", "two").returncode == 0


def test_a_parent_that_was_there_stays(engine: RunningEngine, parent: str) -> None:
    made = [pathlib.Path(place) / parent.split("/")[1] for place in _hierarchies()]
    for place in made:
        place.mkdir()
    try:
        _run(engine, "child", parent)
        assert engine.bireme("rm", "-f", "child").returncode == 0
        eventually(lambda: not any(os.path.isdir(place / "inner") for place in made))
        assert all(place.is_dir() for place in made)
    finally:
        for place in made:
            place.rmdir()


def _hierarchies() -> list[str]:
    rows = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    return [row[1] for row in rows if row[2] in ("cgroup", "cgroup2")]


def test_a_killed_supervisor_forgets_nothing(engine: RunningEngine, parent: str) -> None:
    pid = _run(engine, "child", parent)
    engine.kill("bireme-supervisor")
    eventually(lambda: engine.bireme("exec", "child", "true").returncode == 0)
    assert any(path.startswith(f"{parent}/") for path in _cgroups(pid))
    engine.kill("bireme-zygote")
    assert engine.bireme("restart", "-t", "0", "child").returncode == 0
    assert engine.bireme("rm", "-f", "child").returncode == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("system.slice", "cgroup-parent system.slice is a slice of systemd, and the cgroup driver is cgroupfs"),
        ("/" + "x" * 300, "invalid cgroup-parent"),
    ],
)
def test_refused(engine: RunningEngine, given: str, message: str) -> None:
    done = engine.bireme("create", "--cgroup-parent", given, "busybox", "true")
    assert done.returncode == 125
    assert message in done.stderr
