"""The other verbs against a real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import RunningEngine, running_engine

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with running_engine(tmp_path_factory.mktemp("cli")) as running:
        yield running


@pytest.fixture
def web(engine: RunningEngine) -> Iterator[str]:
    """A running container with a port and limits."""
    done = engine.bireme(
        *("run", "-d", "--name", "web", "-p", "127.0.0.1::80", "-m", "64m", "--cpus", "0.5", "--pids-limit", "50"),
        *("-l", "a=b", "busybox", "sleep", "600"),
    )
    assert done.returncode == 0, done.stderr
    yield done.stdout.strip()
    engine.bireme("rm", "-f", "web")


def _ok(engine: RunningEngine, *words: str, **more: Any) -> str:
    done = engine.bireme(*words, **more)
    assert (done.returncode, done.stderr) == (0, ""), (words, done)
    return done.stdout


def test_life_of_a_container(engine: RunningEngine, web: str) -> None:
    assert _ok(engine, "ps", "--format", "{{.Names}} {{.State}} {{.Image}} {{.Labels}}") == "web running busybox a=b\n"
    assert _ok(engine, "ps", "-qf", "label=a=b") == web[:12] + "\n"
    assert _ok(engine, "ps", "-qf", "label=a=c") == ""
    assert _ok(engine, "pause", "web") == "web\n"
    assert "(Paused)" in _ok(engine, "ps", "--format", "{{.Status}}")
    assert _ok(engine, "unpause", "web") == "web\n"
    assert _ok(engine, "rename", "web", "net") == ""
    assert _ok(engine, "rename", "net", "web") == ""
    assert _ok(engine, "restart", "-t", "0", "web") == "web\n"
    assert _ok(engine, "kill", "-s", "KILL", "web") == "web\n"
    assert _ok(engine, "wait", "web") == "137\n"
    assert _ok(engine, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", web[:10]) == "exited 137\n"
    assert _ok(engine, "start", "web") == "web\n"
    assert _ok(engine, "stop", "-t", "0", "web") == "web\n"
    running = engine.bireme("start", "web", "nope")
    assert (running.returncode, running.stdout) == (1, "web\n")
    assert (
        running.stderr
        == "Error response from daemon: No such container: nope\nError: failed to start containers: nope\n"
    )
    busy = engine.bireme("rm", "web")
    assert (busy.returncode, busy.stdout) == (1, "")
    assert "container is running: stop the container before removing or force remove" in busy.stderr
    assert _ok(engine, "rm", "-f", "web") == "web\n"
    assert _ok(engine, "ps", "-aq") == ""


def test_readings(engine: RunningEngine, web: str) -> None:
    top = _ok(engine, "top", "web").splitlines()
    assert top[0].split()[:3] == ["UID", "PID", "PPID"]
    assert top[1].endswith("sleep 600")
    row = json.loads(_ok(engine, "stats", "--no-stream", "--format", "json", "web"))
    assert (row["Name"], row["ID"], row["PIDs"]) == ("web", web[:12], "1")
    assert row["MemUsage"].endswith(" / 64MiB")
    port = _ok(engine, "port", "web").strip()
    assert port.startswith("80/tcp -> 127.0.0.1:")
    assert _ok(engine, "port", "web", "80").strip() == port.partition("-> ")[2]
    assert _ok(engine, "update", "-m", "96m", "--memory-swap", "-1", "web") == "web\n"
    assert (
        _ok(engine, "inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}", "web")
        == "100663296 500000000\n"
    )


def test_explain(engine: RunningEngine, web: str) -> None:
    known = json.loads(_ok(engine, "explain", "--json", "web"))
    pid = json.loads(_ok(engine, "inspect", "web"))[0]["State"]["Pid"]
    assert known["pid"] == pid
    assert known["limits"]["memory"] == "64MiB"
    namespace = Path(f"/proc/{pid}/ns/net").readlink()
    assert str(namespace) == f"net:[{known['namespaces']['net']['inode']}]"
    for path in known["cgroups"].values():
        assert Path(path).is_dir()
    assert all(Path(layer).is_dir() for layer in known["root"]["layers"])
    assert Path(known["root"]["changes"]).is_dir()
    tree = _ok(engine, "explain", "web")
    assert tree.startswith("web\n├─ id ")
    assert str(known["namespaces"]["pid"]["inode"]) in tree
    assert "net_bind_service" in tree
    assert "\x1b" not in tree


def test_images(engine: RunningEngine, tmp_path: Path) -> None:
    identity = _ok(engine, "images", "-q").strip()
    assert _ok(engine, "tag", "busybox", "local/copy:1") == ""
    assert sorted(_ok(engine, "images", "--format", "{{.Repository}}:{{.Tag}}").split()) == [
        "busybox:latest",
        "local/copy:1",
    ]
    assert _ok(engine, "save", "-o", str(tmp_path / "copy.tar"), "local/copy:1") == ""
    assert "Untagged: local/copy:1" in _ok(engine, "rmi", "local/copy:1")
    assert _ok(engine, "load", "-i", str(tmp_path / "copy.tar")) == "Loaded image: local/copy:1\n"
    assert set(_ok(engine, "images", "-q", "local/copy").split()) == {identity}
    assert _ok(engine, "image", "inspect", "-f", "{{.Id}}", "busybox").strip().startswith(f"sha256:{identity}")
    assert _ok(engine, "history", "-q", "busybox").startswith(identity)
    _ok(engine, "rmi", "local/copy:1")
    missing = engine.bireme("rmi", "nope")
    assert (missing.returncode, "No such image: nope" in missing.stderr) == (1, True)
    broken = engine.bireme("load", input="this is no archive")
    assert broken.returncode == 1
    assert broken.stdout == ""


def test_events(engine: RunningEngine) -> None:
    _ok(engine, "run", "--rm", "--net", "none", "--name", "brief", "busybox", "true")
    lines = _ok(
        engine, "events", "--since", "10m", "--until", "0s", "-f", "container=brief", "--format", "{{.Action}}"
    ).split()
    assert lines[0] == "create"
    assert lines[-1] == "destroy"
    assert {"start", "die"} <= set(lines)
    stamped = _ok(engine, "events", "--since", "10m", "--until", "0s", "-f", "event=die", "-f", "container=brief")
    assert " container die " in stamped
    assert "name=brief" in stamped


def test_system(engine: RunningEngine) -> None:
    assert "Server: bireme" in _ok(engine, "version")
    assert _ok(engine, "info", "-f", "{{.ServerVersion}}") == _ok(engine, "version", "-f", "{{.Client.Version}}")
    assert _ok(engine, "network", "ls", "--format", "{{.Name}}") == "bridge\nhost\nnone\n"
    assert json.loads(_ok(engine, "network", "inspect", "bridge"))[0]["Driver"] == "bridge"
    _ok(engine, "create", "--name", "idle", "busybox")
    pruned = _ok(engine, "container", "prune", "-f")
    assert pruned.startswith("Deleted Containers:\n")
    assert "Total reclaimed space: " in pruned
    assert engine.bireme("inspect", "idle").returncode == 1
    _ok(engine, "system", "prune", "-f")
