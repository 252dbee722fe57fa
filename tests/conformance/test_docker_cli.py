"""The unmodified docker command line against a real engine: what people type in their first hour.

BIREME_ISOLATION=microvm runs the same commands with machines; what is a container's alone is then left out.
"""

from __future__ import annotations

import json
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator

import pytest

from tests.support.daemon import RunningEngine, running_engine
from tests.support.dockercli import DOCKER
from tests.support.microvms import add_kernel
from tests.support.pace import eventually, patience

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_docker]
ISOLATION = os.environ.get("BIREME_ISOLATION", "container")
containers_alone = pytest.mark.skipif(ISOLATION != "container", reason="limits inside, ids, binds: of containers")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with running_engine(tmp_path_factory.mktemp("docker-cli")) as made:
        made.env["DOCKER_CONFIG"] = str(tmp_path_factory.mktemp("docker-config"))
        if ISOLATION == "microvm":
            add_kernel(made)
        yield made


@pytest.fixture(autouse=True)
def _empty(engine: RunningEngine) -> Iterator[None]:
    yield
    rows = docker(engine, "ps", "-aq").stdout.split()
    if rows:
        docker(engine, "rm", "-f", *rows)


def docker(engine: RunningEngine, *arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    return engine.command(*command_line(*arguments), **more)


def command_line(*arguments: str) -> list[str]:
    """docker's, with the isolation that this run is about."""
    if ISOLATION != "container" and arguments[0] in ("run", "create"):
        return [DOCKER, arguments[0], "--isolation", ISOLATION, *arguments[1:]]
    return [DOCKER, *arguments]


def out(engine: RunningEngine, *arguments: str, **more: object) -> str:
    done = docker(engine, *arguments, **more)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def test_run_shows_output_and_leaves_nothing(engine: RunningEngine) -> None:
    assert out(engine, "run", "--rm", "busybox", "echo", "hello") == "hello\n"
    assert out(engine, "ps", "-aq") == ""


def test_exit_codes(engine: RunningEngine) -> None:
    for code, command in (
        (3, ("sh", "-c", "exit 3")),
        (127, ("absent",)),
        (126, ("/etc/passwd",)),
        (137, ("sh", "-c", "sleep 1000 & kill -9 $!; wait $!")),
    ):
        assert docker(engine, "run", "--rm", "busybox", *command).returncode == code, command
    assert docker(engine, "run", "--rm", "-u", "nosuch", "busybox", "true").returncode == 125


def test_stdout_and_stderr_are_apart(engine: RunningEngine) -> None:
    done = docker(engine, "run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_stdin_through_a_pipe(engine: RunningEngine) -> None:
    data = "".join(f"{n}\n" for n in range(100_000))
    assert out(engine, "run", "-i", "--rm", "busybox", "cat", input=data) == data


@containers_alone
def test_limits_reach_the_kernel(engine: RunningEngine) -> None:
    v1 = "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max"
    v2 = "/sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"
    script = f"cat {v1} 2>/dev/null || cat {v2}"
    shown = out(engine, "run", "--rm", "--memory", "64m", "--pids-limit", "33", "busybox", "sh", "-c", script)
    assert shown.split() == [str(64 << 20), "33"]


@containers_alone
def test_root_inside_is_not_root_outside(engine: RunningEngine) -> None:
    out(engine, "run", "-d", "--name", "x1", "busybox", "sleep", "1000")
    pid = out(engine, "inspect", "-f", "{{.State.Pid}}", "x1").strip()
    assert pathlib.Path(f"/proc/{pid}").stat().st_uid >= 0x10000000
    assert out(engine, "exec", "x1", "id", "-u") == "0\n"


def test_a_web_server_on_a_published_port(engine: RunningEngine) -> None:
    script = "mkdir /www && echo page >/www/index.html && exec httpd -f -p 80 -h /www"
    out(engine, "run", "-d", "--name", "web", "-p", "127.0.0.1::80", "busybox", "sh", "-c", script)
    address = out(engine, "port", "web", "80").strip()
    assert re.fullmatch(r"127\.0\.0\.1:\d+", address)
    fetch = ("busybox", "wget", "-q", "-O", "-", f"http://{address}/")
    eventually(lambda: engine.command(*fetch).stdout == "page\n", within_s=20)
    assert "page" in out(engine, "exec", "web", "wget", "-q", "-O", "-", "http://127.0.0.1/")
    taken = docker(engine, "run", "--rm", "-p", f"{address}:80", "busybox", "true")
    assert taken.returncode == 125
    assert "port is already allocated" in taken.stderr


def test_exec(engine: RunningEngine) -> None:
    out(engine, "run", "-d", "--name", "x1", "-e", "A=1", "busybox", "sleep", "1000")
    assert out(engine, "exec", "-e", "B=2", "-w", "/tmp", "x1", "sh", "-c", "echo $A$B $PWD") == "12 /tmp\n"
    assert out(engine, "exec", "-u", "nobody", "x1", "id", "-un") == "nobody\n"
    assert docker(engine, "exec", "x1", "sh", "-c", "exit 7").returncode == 7
    assert docker(engine, "exec", "x1", "absent").returncode == 127
    assert out(engine, "exec", "-i", "x1", "cat", input="piped") == "piped"
    out(engine, "exec", "-d", "x1", "touch", "/detached")
    eventually(lambda: docker(engine, "exec", "x1", "ls", "/detached").returncode == 0)


def test_logs(engine: RunningEngine) -> None:
    out(engine, "run", "-d", "--name", "x1", "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; done; exec sleep 1000")
    eventually(lambda: out(engine, "logs", "x1") == "1\n2\n3\n")
    assert out(engine, "logs", "--tail", "1", "x1") == "3\n"
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z 3\n", out(engine, "logs", "-t", "--tail", "1", "x1"))
    follower = subprocess.Popen([DOCKER, "logs", "-f", "x1"], env=engine.env, stdout=subprocess.PIPE, text=True)
    out(engine, "kill", "x1")
    assert follower.communicate(timeout=patience(30))[0] == "1\n2\n3\n"


def test_attach_wait_and_stop(engine: RunningEngine) -> None:
    out(engine, "run", "-dit", "--name", "x1", "busybox", "sh", "-c", "read line; echo got $line; exit 5")
    waiter = subprocess.Popen([DOCKER, "wait", "x1"], env=engine.env, stdout=subprocess.PIPE, text=True)
    seen = terminal(engine, [DOCKER, "attach", "x1"], [b"word\r"], until=b"got word")
    assert b"got word" in seen
    assert waiter.communicate(timeout=patience(30))[0] == "5\n"
    out(engine, "start", "x1")
    out(engine, "stop", "-t", "0", "x1")
    assert out(engine, "inspect", "-f", "{{.State.Status}}", "x1") == "exited\n"


def test_a_terminal(engine: RunningEngine) -> None:
    sized = "tty; until stty size | grep '37 99'; do sleep 0.1; done"  # older clients set the size after the start
    command = command_line("run", "--rm", "-it", "busybox", "sh", "-c", sized)
    seen = terminal(engine, command, [], until=b"37 99", size=(37, 99))
    assert b"/dev/pts/0" in seen


def terminal(
    engine: RunningEngine, command: list[str], typed: list[bytes], until: bytes, size: tuple[int, int] = (24, 80)
) -> bytes:
    """Run a client on a pty of its own, type, and return what it showed up to `until`."""
    pid, master = pty.fork()
    if pid == 0:
        os.environ.update(engine.env)
        subprocess.run(["stty", "rows", str(size[0]), "cols", str(size[1])], check=False)
        os.execvp(command[0], command)
    seen = b""
    deadline = time.monotonic() + patience(30)
    try:
        while until not in seen and time.monotonic() < deadline:
            if typed:
                os.write(master, typed.pop(0))
            if select.select([master], [], [], 0.1)[0]:
                try:
                    seen += os.read(master, 65536)
                except OSError:
                    break
    finally:
        os.close(master)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert until in seen, seen
    return seen


def test_pause(engine: RunningEngine) -> None:
    out(engine, "run", "-d", "--name", "x1", "busybox", "sleep", "1000")
    out(engine, "pause", "x1")
    assert "(Paused)" in out(engine, "ps")
    assert docker(engine, "exec", "x1", "true").returncode != 0
    out(engine, "unpause", "x1")
    assert docker(engine, "exec", "x1", "true").returncode == 0


def test_names_and_states(engine: RunningEngine) -> None:
    out(engine, "create", "--name", "x1", "busybox", "sleep", "1000")
    again = docker(engine, "create", "--name", "x1", "busybox")
    assert 'The container name "/x1" is already in use' in again.stderr
    assert "No such container: absent" in docker(engine, "start", "absent").stderr
    assert "is not running" in docker(engine, "kill", "x1").stderr
    out(engine, "start", "x1")
    assert "stop the container before removing or force remove" in docker(engine, "rm", "x1").stderr
    out(engine, "rename", "x1", "x2")
    out(engine, "rm", "-f", "x2")


@containers_alone
def test_binds_and_tmpfs(engine: RunningEngine, tmp_path: pathlib.Path) -> None:
    (tmp_path / "in").write_text("from the host\n")
    mount = ("-v", f"{tmp_path}:/data", "--tmpfs", "/scratch:size=1m")
    shown = out(engine, "run", "--rm", *mount, "busybox", "sh", "-c", "cat /data/in; echo back >/data/out; df /scratch")
    assert shown.startswith("from the host\n")
    assert "1024" in shown
    written = tmp_path / "out"
    assert (written.read_text(), written.stat().st_uid) == ("back\n", 0)
    read_only = docker(engine, "run", "--rm", "-v", f"{tmp_path}:/data:ro", "busybox", "touch", "/data/x")
    assert "Read-only file system" in read_only.stderr


@containers_alone
def test_read_only_init_and_privileges(engine: RunningEngine) -> None:
    assert docker(engine, "run", "--rm", "--read-only", "busybox", "touch", "/x").returncode == 1
    assert "docker-init" in out(engine, "run", "--rm", "--init", "busybox", "cat", "/proc/1/cmdline")
    caps = "grep CapEff /proc/self/status"
    assert "00000000a80425fb" in out(engine, "run", "--rm", "busybox", "sh", "-c", caps)
    dropped = out(engine, "run", "--rm", "--cap-drop", "ALL", "--cap-add", "CHOWN", "busybox", "sh", "-c", caps)
    assert "0000000000000001" in dropped
    nnp = out(
        engine, "run", "--rm", "--security-opt", "no-new-privileges", "busybox", "grep", "NoNewPrivs", "/proc/1/status"
    )
    assert nnp.split()[-1] == "1"
    privileged = out(
        engine,
        "run",
        "--rm",
        "--privileged",
        "busybox",
        "sh",
        "-c",
        "cat /proc/self/uid_map; mount -t tmpfs x /mnt && echo ok",
    )
    assert privileged.split()[:2] == ["0", "0"]
    assert privileged.endswith("ok\n")


@containers_alone
def test_images(engine: RunningEngine, tmp_path: pathlib.Path) -> None:
    archive = str(tmp_path / "busybox.tar")
    out(engine, "tag", "busybox", "other:v1")
    out(engine, "save", "-o", archive, "other:v1")
    with tarfile.open(archive) as tar:
        assert {"manifest.json", "index.json", "oci-layout"} <= set(tar.getnames())
    before = out(engine, "images", "--no-trunc", "-q", "other:v1").strip()
    assert "Untagged: other:v1" in out(engine, "rmi", "other:v1")
    assert out(engine, "images", "-q", "other") == ""
    assert "Loaded image: other:v1" in out(engine, "load", "-i", archive)
    assert out(engine, "images", "--no-trunc", "-q", "other:v1").strip() == before
    out(engine, "rmi", "other:v1")
    assert json.loads(out(engine, "image", "inspect", "busybox"))[0]["Os"] == "linux"
    assert "No such image: absent" in docker(engine, "image", "inspect", "absent").stderr
    assert docker(engine, "history", "busybox").returncode == 0


@containers_alone
def test_an_archive_that_lies_changes_nothing(engine: RunningEngine, tmp_path: pathlib.Path) -> None:
    before = out(engine, "images", "-aq")
    bad = tmp_path / "bad.tar"
    bad.write_bytes(b"not a tar at all" * 100)
    assert docker(engine, "load", "-i", str(bad)).returncode == 1
    good = tmp_path / "good.tar"
    out(engine, "save", "-o", str(good), "busybox")
    data = good.read_bytes()
    bad.write_bytes(data[: len(data) // 2])
    assert docker(engine, "load", "-i", str(bad)).returncode == 1
    middle = len(data) // 2
    bad.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    assert docker(engine, "load", "-i", str(bad)).returncode == 1
    assert out(engine, "images", "-aq") == before


def test_events_and_info(engine: RunningEngine) -> None:
    since = str(int(time.time()) - 1)
    out(engine, "run", "--name", "told", "busybox", "true")
    until = str(int(time.time()) + 2)
    shown = out(
        engine, "events", "--since", since, "--until", until, "--filter", "container=told", "--format", "{{.Action}}"
    )
    assert [word for word in shown.split() if word in ("create", "attach", "start", "die")] == [
        "create",
        "attach",
        "start",
        "die",
    ]
    assert "Server Version" in out(engine, "info")
    assert json.loads(out(engine, "version", "--format", "{{json .Server}}"))["Os"] == "linux"


@pytest.mark.parametrize("version", ["1.24", "1.30", "1.40", "1.44", "1.48"])
def test_older_clients(engine: RunningEngine, version: str) -> None:
    env = {**engine.env, "DOCKER_API_VERSION": version}
    done = subprocess.run(
        command_line("run", "--rm", "busybox", "echo", version),
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(60),
    )
    assert done.stdout == f"{version}\n", done.stderr
    listed = subprocess.run(
        [DOCKER, "ps", "-a"], env=env, capture_output=True, text=True, check=False, timeout=patience(60)
    )
    assert listed.returncode == 0, listed.stderr


def test_filters_and_formats(engine: RunningEngine) -> None:
    out(engine, "run", "-d", "--name", "x1", "-l", "k=v", "busybox", "sleep", "1000")
    out(engine, "create", "--name", "x2", "busybox")
    assert out(engine, "ps", "-a", "--filter", "label=k=v", "--format", "{{.Names}}") == "x1\n"
    assert out(engine, "ps", "-a", "--filter", "status=created", "--format", "{{.Names}}") == "x2\n"
    assert out(engine, "inspect", "-f", "{{.HostConfig.NetworkMode}} {{.Config.Image}}", "x1") == "bridge busybox\n"
    assert "sleep 1000" in out(engine, "top", "x1")
    assert "x1" in out(engine, "stats", "--no-stream")


@containers_alone
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--memory", "1m", "busybox"), "Minimum memory limit allowed is 6MB"),
        (("run", "--cpus", "1000", "busybox"), "CPUs"),
        (("run", "-v", "relative:/x", "--network", "absent", "busybox"), ""),
        (("run", "--network", "absent", "busybox"), "network absent not found"),
        (("run", "--cap-add", "NONSENSE", "busybox"), "NONSENSE"),
        (("run", "-v", "/absent-on-this-host:/x:ro,nonsense", "busybox"), "nonsense"),
        (("run", "absent"), "absent"),
        (("build", "."), ""),
        (("swarm", "init"), ""),
    ],
)
def test_what_is_refused_says_why(engine: RunningEngine, arguments: tuple[str, ...], message: str) -> None:
    done = docker(engine, *arguments)
    assert done.returncode in (1, 125), done
    assert message in done.stderr
    assert done.stderr.strip()


@containers_alone
def test_update_of_a_running_container(engine: RunningEngine) -> None:
    out(engine, "run", "-d", "--name", "x1", "--pids-limit", "20", "--memory", "64m", "busybox", "sleep", "1000")
    out(engine, "update", "--pids-limit", "-1", "--memory", "128m", "--memory-swap", "-1", "x1")
    v1 = "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max"
    v2 = "/sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"
    shown = out(engine, "exec", "x1", "sh", "-c", f"cat {v1} 2>/dev/null || cat {v2}")
    assert shown.split() == [str(128 << 20), "max"]
    refused = docker(engine, "update", "--memory", "1m", "x1")
    assert "Minimum memory limit allowed is 6MB" in refused.stderr
