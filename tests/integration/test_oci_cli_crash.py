"""`bireme-runtime` killed at any moment: what is left can be seen and taken away, and takes nothing with it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bireme.linux.cgroup import open_cgroups
from tests.support.bundle import OURS, Runtime, opened
from tests.support.pace import SCALE, eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.slow]


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with opened(OURS) as made:
        yield made


def pids_inside(runtime: Runtime) -> list[int]:
    manager = open_cgroups(f"/{runtime.parent}")
    try:
        return [pid for name in manager.list() for pid in manager.pids(name)]
    finally:
        manager.close()


def cgroups(runtime: Runtime) -> list[str]:
    manager = open_cgroups(f"/{runtime.parent}")
    try:
        return manager.list()
    finally:
        manager.close()


@pytest.mark.parametrize("seed", range(12))
def test_create_killed_at_some_moment(runtime: Runtime, seed: int) -> None:
    bundle = runtime.bundle("sleep", "1000")
    mounts = Path("/proc/self/mountinfo").read_text().count("\n")
    delay = random.Random(seed).uniform(0.02, 0.12) * SCALE
    process = subprocess.Popen(
        runtime.argv("create", "--bundle", str(bundle), "one"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(delay)
    process.kill()
    process.wait()
    done = runtime("state", "one", code=None)
    if done.returncode == 0:
        assert json.loads(done.stdout)["status"] in ("creating", "created", "stopped")
    runtime("list")
    runtime("delete", "--force", "one")
    eventually(lambda: not pids_inside(runtime))
    assert cgroups(runtime) == []
    assert list(runtime.root.glob("*")) == []
    assert Path("/proc/self/mountinfo").read_text().count("\n") <= mounts + 3
    runtime.create("create", "--bundle", str(bundle), "one")
    runtime("start", "one")
    assert runtime.status("one") == "running"


def test_run_killed_leaves_a_container_that_runs(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "1000")
    argv = runtime.argv("run", "--bundle", str(bundle), "one")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
        eventually(lambda: runtime("state", "one", code=None).stdout and runtime.status("one") == "running")
        process.kill()
    assert runtime.status("one") == "running"
    assert runtime("exec", "one", "echo", "alive").stdout == "alive\n"
    runtime("kill", "one", "KILL")
    runtime.wait_for("one", "stopped")
    runtime("delete", "one")


def test_a_pid_used_again_is_not_ours(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "1000")
    runtime.create("run", "--detach", "--bundle", str(bundle), "one")
    runtime("kill", "one", "KILL")
    runtime.wait_for("one", "stopped")
    path = runtime.root / "one/state.json"
    state: Any = json.loads(path.read_text())
    state["pid"] = os.getpid()
    path.write_text(json.dumps(state))
    assert runtime.status("one") == "stopped"
    assert runtime("kill", "one", "TERM", code=1).stderr
    runtime("delete", "one")


def test_two_deletes_at_once(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "1000")
    runtime.create("run", "--detach", "--bundle", str(bundle), "one")
    argv = runtime.argv("delete", "--force", "one")
    both = [subprocess.Popen(argv, stderr=subprocess.PIPE) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    for process in both:
        process.communicate()
    assert list(runtime.root.glob("*")) == []


def test_two_starts_at_once(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "1000")
    runtime.create("create", "--bundle", str(bundle), "one")
    argv = runtime.argv("start", "one")
    both = [subprocess.Popen(argv, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert sorted(process.wait() for process in both) == [0, 1]
    assert runtime.status("one") == "running"


def test_a_held_process_killed_before_start(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "1000")
    runtime.create("create", "--bundle", str(bundle), "one")
    os.kill(runtime.state("one")["pid"], signal.SIGKILL)
    runtime.wait_for("one", "stopped")
    assert "stopped" in runtime("start", "one", code=1).stderr
    runtime("delete", "one")


def test_state_files_that_are_damaged(runtime: Runtime) -> None:
    (runtime.root / "empty").mkdir(parents=True)
    (runtime.root / "broken").mkdir()
    (runtime.root / "broken/state.json").write_text('{"version": 1, "pid"')
    runtime("list")
    for name in ("empty", "broken"):
        assert runtime.status(name) == "stopped"
        assert runtime("start", name, code=1).stderr.startswith("bireme-runtime: ")
        assert runtime("exec", name, "true", code=255).stderr.startswith("bireme-runtime: ")
        runtime("delete", name)
    assert list(runtime.root.glob("*")) == []
