"""Restart policies and health checks of real containers, and of an engine that is killed or ended meanwhile."""

from __future__ import annotations

import io
import json
import os
import pathlib
import signal
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from bireme.client.engine import Engine
from tests.support.daemon import RunningEngine, running_engine
from tests.support.pace import eventually, patience

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with running_engine(tmp_path_factory.mktemp("restart")) as running:
        yield running


@pytest.fixture
def clean(engine: RunningEngine) -> Iterator[RunningEngine]:
    """No containers afterwards."""
    yield engine
    left = ok(engine, "ps", "-aq").split()
    if left:
        ok(engine, "rm", "-f", *left)


def ok(engine: RunningEngine, *words: str) -> str:
    done = engine.bireme(*words)
    assert (done.returncode, done.stderr) == (0, ""), (words, done, engine.log())
    return done.stdout.strip()


def run(engine: RunningEngine, name: str, *words: str) -> str:
    return ok(engine, "run", "-d", "--name", name, *words)


def look(engine: RunningEngine, name: str) -> dict[str, Any]:
    client = engine.client()
    try:
        return dict(client.container(name))
    finally:
        client.close()


def state(engine: RunningEngine, name: str) -> dict[str, Any]:
    return dict(look(engine, name)["State"])


def until(engine: RunningEngine, name: str, **wanted: object) -> None:
    def there() -> bool:
        shown = state(engine, name)
        return all(shown[key] == value for key, value in wanted.items())

    eventually(there, within_s=30)


def health(engine: RunningEngine, name: str) -> str:
    return str(state(engine, name)["Health"]["Status"])


def results(engine: RunningEngine, name: str) -> list[tuple[int, str]]:
    return [(entry["ExitCode"], entry["Output"]) for entry in state(engine, name)["Health"]["Log"]]


# restart policies


def test_on_failure_so_often(clean: RunningEngine) -> None:
    run(clean, "one", "--restart", "on-failure:2", "--network", "none", "busybox", "sh", "-c", "echo run; exit 7")
    until(clean, "one", Status="exited", ExitCode=7)
    shown = look(clean, "one")
    assert shown["RestartCount"] == 2
    assert shown["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    assert ok(clean, "logs", "one").split() == ["run"] * 3
    run(clean, "two", "--restart", "on-failure", "busybox", "true")
    until(clean, "two", Status="exited", ExitCode=0)
    assert look(clean, "two")["RestartCount"] == 0


def test_a_restarting_one(clean: RunningEngine) -> None:
    run(clean, "one", "--restart", "always", "busybox", "false")
    eventually(lambda: look(clean, "one")["RestartCount"] >= 4, within_s=30)
    until(clean, "one", Status="restarting", Running=True, Restarting=True, Pid=0, ExitCode=1)
    assert ok(clean, "ps", "-f", "status=restarting", "--format", "{{.Names}} {{.State}}") == "one restarting"
    text = ok(clean, "ps", "--format", "{{.Status}}")
    assert text.startswith("Restarting (1) "), text
    refused = clean.bireme("exec", "one", "true")
    assert refused.returncode == 1
    assert "is restarting, wait until the container is running" in refused.stderr
    refused = clean.bireme("top", "one")
    assert "is restarting, wait until the container is running" in refused.stderr
    refused = clean.bireme("rm", "one")
    assert "container is restarting: stop the container before removing or force remove" in refused.stderr
    assert ok(clean, "start", "one") == "one"
    assert ok(clean, "stop", "one") == "one"
    shown = look(clean, "one")
    assert shown["State"]["Status"] == "exited"
    assert ok(clean, "rm", "one") == "one"


def test_logs_are_followed_over_the_wait(clean: RunningEngine) -> None:
    run(clean, "one", "--restart", "always", "busybox", "sh", "-c", "echo run; exit 1")
    eventually(lambda: look(clean, "one")["RestartCount"] >= 3, within_s=30)
    until(clean, "one", Status="restarting")
    before = len(ok(clean, "logs", "one").split())
    assert len(ok(clean, "logs", "-f", "one").split()) > before


def test_update_and_addresses(clean: RunningEngine) -> None:
    """A restarted one has its published port again, and no address while it waits."""
    run(clean, "one", "-p", "127.0.0.1::80", "busybox", "sleep", "600")
    port = ok(clean, "port", "one")
    assert ok(clean, "update", "--restart", "unless-stopped", "one") == "one"
    first = state(clean, "one")["Pid"]
    os.kill(first, signal.SIGKILL)
    eventually(lambda: state(clean, "one")["Pid"] not in (0, first), within_s=30)
    assert look(clean, "one")["RestartCount"] == 1
    assert ok(clean, "port", "one").startswith("80/tcp -> 127.0.0.1:"), port
    assert ok(clean, "update", "--restart", "no", "one") == "one"
    os.kill(state(clean, "one")["Pid"], signal.SIGKILL)
    until(clean, "one", Status="exited", ExitCode=137)


def test_conflicts(clean: RunningEngine) -> None:
    both = clean.bireme("run", "--rm", "--restart", "always", "busybox", "true")
    assert both.returncode == 125
    assert "conflicting options: cannot specify both --restart and --rm" in both.stderr
    run(clean, "one", "--rm", "busybox", "sleep", "600")
    late = clean.bireme("update", "--restart", "always", "one")
    assert late.returncode == 1
    assert "Restart policy cannot be updated because AutoRemove is enabled for the container" in late.stderr
    wrong = clean.bireme("create", "--restart", "sometimes", "busybox")
    assert "unknown policy 'sometimes'" in wrong.stderr


def test_killed_engines_lose_nothing(clean: RunningEngine) -> None:
    run(clean, "looping", "--restart", "always", "busybox", "false")
    run(clean, "steady", "--restart", "always", "busybox", "sleep", "600")
    run(clean, "stopped", "--restart", "unless-stopped", "busybox", "sleep", "600")
    ok(clean, "stop", "-t", "0", "stopped")
    clean.kill("biremed")
    os.kill(_first_of(clean, "sleep 600"), signal.SIGKILL)
    clean.start()
    eventually(lambda: look(clean, "steady")["RestartCount"] == 1, within_s=30)
    until(clean, "steady", Status="running")
    count = look(clean, "looping")["RestartCount"]
    eventually(lambda: look(clean, "looping")["RestartCount"] > count, within_s=30)
    for _ in range(3):
        clean.kill("biremed")
        clean.start()
    eventually(lambda: state(clean, "looping")["Status"] in ("running", "restarting"), within_s=30)
    assert state(clean, "steady")["Status"] == "running"
    assert state(clean, "stopped")["Status"] == "exited"


def _first_of(engine: RunningEngine, command: str) -> int:
    """The process of a container, found without its engine."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = pathlib.Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                group = pathlib.Path(f"/proc/{entry}/cgroup").read_text()
            except (OSError, UnicodeDecodeError):
                continue
            if words.endswith(command) and engine.config.tag in group:
                return int(entry)
    raise AssertionError(command)


def test_what_comes_back_with_the_engine(tmp_path: pathlib.Path) -> None:
    """Everything is ended, as before a reboot, and an engine begins on the same data."""
    with running_engine(tmp_path) as engine:
        for name, policy in (("always", "always"), ("unless", "unless-stopped"), ("plain", "no")):
            run(engine, name, "--restart", policy, "busybox", "sleep", "600")
            run(engine, f"{name}-stopped", "--restart", policy, "busybox", "sleep", "600")
            ok(engine, "stop", "-t", "0", f"{name}-stopped")
        run(engine, "looping", "--restart", "always", "busybox", "false")
        ok(engine, "create", "--name", "created", "--restart", "always", "busybox", "sleep", "600")
        engine.close()
        engine.start()
        wanted = {"always", "always-stopped", "unless"}
        for name in wanted:
            until(engine, name, Status="running")
        eventually(lambda: look(engine, "looping")["RestartCount"] > 0, within_s=30)
        running = set(ok(engine, "ps", "-f", "status=running", "--format", "{{.Names}}").split()) - {"looping"}
        assert running == wanted
        ok(engine, "rm", "-f", "looping")


# health checks


def test_healthy(clean: RunningEngine) -> None:
    run(clean, "one", "--health-cmd", "echo fine; test -e /ok", "--health-interval", "50ms", "busybox", "sleep", "600")
    shown = look(clean, "one")
    assert shown["Config"]["Healthcheck"] == {"Test": ["CMD-SHELL", "echo fine; test -e /ok"], "Interval": 50_000_000}
    ok(clean, "exec", "one", "touch", "/ok")
    eventually(lambda: health(clean, "one") == "healthy", within_s=30)
    found = state(clean, "one")["Health"]
    assert found["FailingStreak"] == 0
    assert found["Log"][-1]["ExitCode"] == 0
    assert found["Log"][-1]["Output"] == "fine\n"
    assert set(found["Log"][-1]) == {"Start", "End", "ExitCode", "Output"}
    assert ok(clean, "ps", "--format", "{{.Status}}").endswith(" (healthy)")
    assert ok(clean, "ps", "-qf", "health=healthy") == shown["Id"][:12]
    assert ok(clean, "ps", "-qf", "health=none") == ""
    wrong = clean.bireme("ps", "-f", "health=well")
    assert "Unrecognised filter value for health: well" in wrong.stderr
    ok(clean, "exec", "one", "rm", "/ok")
    eventually(lambda: health(clean, "one") == "unhealthy", within_s=30)
    events = ok(clean, "events", "--since", "1h", "--until", "0s", "--format", "{{.Action}}", "-f", "container=one")
    actions = events.splitlines()
    assert "health_status: healthy" in actions
    assert "health_status: unhealthy" in actions[actions.index("health_status: healthy") :]
    assert "exec_create: /bin/sh -c echo fine; test -e /ok" in actions
    assert "exec_start: /bin/sh -c echo fine; test -e /ok" in actions
    assert "exec_die" in actions


def test_starting(clean: RunningEngine) -> None:
    run(
        clean,
        *("one", "--health-cmd", "echo x; false", "--health-start-period", "1h", "--health-start-interval", "20ms"),
        *("--health-interval", "1h", "--health-retries", "1", "busybox", "sleep", "600"),
    )
    eventually(lambda: len(state(clean, "one")["Health"]["Log"]) == 5, within_s=30)
    assert state(clean, "one")["Health"]["FailingStreak"] == 0
    assert ok(clean, "ps", "--format", "{{.Status}}").endswith(" (health: starting)")
    assert ok(clean, "ps", "-qf", "health=starting") != ""


def test_too_long_and_too_much(clean: RunningEngine) -> None:
    run(
        clean,
        *("slow", "--health-cmd", "echo slow; exec sleep 4711", "--health-interval", "20ms"),
        *("--health-timeout", "500ms", "--health-retries", "1", "busybox", "sleep", "600"),
    )
    run(
        clean,
        *("loud", "--health-cmd", "yes | head -c 1000000", "--health-interval", "20ms", "busybox", "sleep", "600"),
    )
    eventually(lambda: health(clean, "slow") == "unhealthy", within_s=30)
    said = "Health check exceeded timeout (500ms): slow\n"
    eventually(lambda: (-1, said) in results(clean, "slow"), within_s=30)
    eventually(lambda: health(clean, "loud") == "healthy", within_s=30)
    assert state(clean, "loud")["Health"]["Log"][0]["Output"] == "y\n" * 2048 + "..."
    ok(clean, "stop", "-t", "0", "slow", "loud")
    assert health(clean, "slow") == "unhealthy"
    assert ok(clean, "ps", "-a", "-f", "name=slow", "--format", "{{.Status}}").startswith("Exited (137)")


def test_the_check_of_an_image(clean: RunningEngine, tmp_path: pathlib.Path) -> None:
    _checked_image(clean, tmp_path, {"Test": ["CMD", "true"], "Interval": 20_000_000})
    run(clean, "one", "checked", "sleep", "600")
    eventually(lambda: health(clean, "one") == "healthy", within_s=30)
    run(clean, "two", "--health-retries", "7", "checked", "sleep", "600")
    assert look(clean, "two")["Config"]["Healthcheck"] == {
        "Test": ["CMD", "true"],
        "Interval": 20_000_000,
        "Retries": 7,
    }
    run(clean, "three", "--no-healthcheck", "checked", "sleep", "600")
    shown = look(clean, "three")
    assert shown["Config"]["Healthcheck"]["Test"] == ["NONE"]
    assert "Health" not in shown["State"]
    both = clean.bireme("run", "--no-healthcheck", "--health-cmd", "true", "checked")
    assert "--no-healthcheck conflicts with --health-* options" in both.stderr


def _checked_image(engine: RunningEngine, directory: pathlib.Path, check: dict[str, Any]) -> None:
    """The busybox image once more, with a HEALTHCHECK."""
    source, target = directory / "busybox.tar", directory / "checked.tar"
    ok(engine, "save", "-o", str(source), "busybox")
    with tarfile.open(source) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
    manifest = json.loads(files["manifest.json"])[0]
    document = json.loads(files[manifest["Config"]])
    document["config"]["Healthcheck"] = check
    parts = {name: files[name] for name in manifest["Layers"]}
    parts["config.json"] = json.dumps(document).encode()
    manifest.update(Config="config.json", RepoTags=["checked:latest"])
    parts["manifest.json"] = json.dumps([manifest]).encode()
    with tarfile.open(target, "w") as archive:
        for name, data in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    ok(engine, "load", "-i", str(target))


def test_a_check_goes_on_after_the_engine_was_killed(clean: RunningEngine) -> None:
    run(clean, "one", "--health-cmd", "test -e /ok", "--health-interval", "50ms", "busybox", "sleep", "600")
    ok(clean, "exec", "one", "touch", "/ok")
    eventually(lambda: health(clean, "one") == "healthy", within_s=patience(30))
    clean.kill("biremed")
    clean.start()
    ok(clean, "exec", "one", "rm", "/ok")
    eventually(lambda: health(clean, "one") == "unhealthy", within_s=patience(30))
    ok(clean, "pause", "one")
    ok(clean, "unpause", "one")
    ok(clean, "exec", "one", "touch", "/ok")
    eventually(lambda: health(clean, "one") == "healthy", within_s=patience(30))


def test_health_in_lists_since_1_52(clean: RunningEngine) -> None:
    run(clean, "one", "--health-cmd", "true", "--health-interval", "50ms", "busybox", "sleep", "600")
    run(clean, "two", "busybox", "sleep", "600")
    eventually(lambda: health(clean, "one") == "healthy", within_s=30)
    client = Engine(clean.host, "1.52")
    try:
        rows = {row["Names"][0]: row.get("Health") for row in client.containers({})}
    finally:
        client.close()
    none = {"Status": "none", "FailingStreak": 0}
    assert rows == {"/one": {"Status": "healthy", "FailingStreak": 0}, "/two": none}
