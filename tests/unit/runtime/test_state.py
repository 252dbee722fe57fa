"""What the command line remembers, on a plain directory."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bireme.errors import Conflict, Invalid, NotFound
from bireme.linux import process
from bireme.runtime import state as store
from tests.support.pace import eventually


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "root")


@pytest.fixture
def sleeper() -> Iterator[int]:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "import time; time.sleep(1000)"], os.environ)
    try:
        yield pid
    finally:
        try:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def test_a_directory_comes_and_goes(root: str) -> None:
    made = store.make(root, "one", "/bundle")
    made.save_config(b'{"a": 1}')
    made.unlock()
    with pytest.raises(Conflict):
        store.make(root, "one", "/bundle")
    loaded = store.load(root, "one", lock=True)
    assert loaded.data["bundle"] == "/bundle"
    assert loaded.config() == {"a": 1}
    assert store.names(root) == ["one"]
    loaded.remove()
    assert store.names(root) == []
    assert os.listdir(root) == []
    with pytest.raises(NotFound):
        store.load(root, "one")


def test_status_follows_the_process(root: str, sleeper: int) -> None:
    made = store.make(root, "one", "/bundle")
    assert made.status() == store.CREATING
    made.set_process(sleeper)
    Path(made.socket_path).touch()
    made.data["held_exe"] = os.readlink(f"/proc/{sleeper}/exe")
    assert made.status() == store.CREATING
    made.data["created"] = True
    made.save()
    assert store.load(root, "one").status() == store.CREATED
    made.data["held_exe"] = "/another/program"
    assert made.status() == store.RUNNING
    os.unlink(made.socket_path)
    assert made.status() == store.RUNNING
    os.kill(sleeper, 9)
    eventually(lambda: made.status() == store.STOPPED)
    made.remove()


def test_a_frozen_cgroup_is_paused(root: str, sleeper: int, tmp_path: Path) -> None:
    made = store.make(root, "one", "/bundle")
    made.set_process(sleeper)
    for paths, file, text in (
        ({"freezer": str(tmp_path)}, "freezer.state", "FROZEN\n"),
        ({"": str(tmp_path)}, "cgroup.freeze", "1\n"),
    ):
        made.data["cgroup"] = {"paths": paths}
        assert made.status() == store.RUNNING
        (tmp_path / file).write_text(text)
        assert made.status() == store.PAUSED
    made.remove()


def test_a_creator_that_died(root: str) -> None:
    made = store.make(root, "one", "/bundle")
    made.data["creator"] = 1 << 22
    made.save()
    made.unlock()
    assert store.load(root, "one").status() == store.STOPPED
    assert store.load(root, "one").state()["pid"] == 0


@pytest.mark.parametrize("text", [None, "", "{", "[]", "null"])
def test_damaged_state_is_a_stopped_container(root: str, text: str | None) -> None:
    made = store.make(root, "one", "/bundle")
    made.unlock()
    path = Path(root, "one/state.json")
    path.unlink() if text is None else path.write_text(text)
    assert store.load(root, "one").status() == store.STOPPED
    store.load(root, "one", lock=True).remove()


def test_a_removal_that_was_cut_short(root: str) -> None:
    Path(root, "one~77").mkdir(parents=True)
    Path(root, "one~77/state.json").touch()
    assert store.names(root) == []
    store.make(root, "two", "/bundle").unlock()
    assert os.listdir(root) == ["two"]


def test_states_for_users_and_hooks(root: str, sleeper: int) -> None:
    made = store.make(root, "one", "/bundle")
    made.set_process(sleeper)
    made.data["annotations"] = {"a": "b"}
    shown = made.state()
    assert {key: shown[key] for key in ("id", "pid", "bundle", "status", "ociVersion", "annotations")} == {
        "id": "one",
        "pid": sleeper,
        "bundle": "/bundle",
        "status": "running",
        "ociVersion": "1.2.0",
        "annotations": {"a": "b"},
    }
    told = json.loads(made.hook_state(store.STOPPED))
    assert (told["status"], told["pid"]) == ("stopped", 0)
    made.remove()


def test_start_times() -> None:
    assert store.start_ticks(os.getpid()) > 0
    assert store.start_ticks(1 << 22) == 0
    pid, _ = process.clone3()
    if pid == 0:
        os._exit(0)
    eventually(lambda: store.start_ticks(pid) == 0)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("identity", ["a", "A-b_c.d+e", "0", ".x", "x" * 200])
def test_names(identity: str) -> None:
    assert store.check_id(identity) == identity


@pytest.mark.parametrize("identity", ["", ".", "..", "a/b", "a~", "a b", "é", "x" * 201])
def test_names_that_are_none(identity: str) -> None:
    with pytest.raises(Invalid):
        store.check_id(identity)
