"""`bireme-runtime` from outside: the lifecycle, isolation, limits. Other runtimes, where there are any, pass the same
tests: one that they fail would be wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundle import OURS, Runtime, opened, peers, read_when_there
from tests.support.pace import eventually

pytestmark = [pytest.mark.needs_root]

RUNTIMES = [OURS, *peers()]
USERNS = pytest.mark.parametrize("userns", [True, False], ids=["userns", "hostuser"])


SLOW = pytest.mark.slow
"""A program that starts a hundred times; an emulated machine runs the rest."""


@pytest.fixture(params=RUNTIMES, ids=lambda command: "ours" if command == OURS else Path(command[0]).name)
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    with opened(request.param) as made:
        yield made


@pytest.fixture
def tmp_path(runtime: Runtime) -> Path:
    """A place that a container's root, who is nobody outside, can reach too."""
    path = runtime.directory / "files"
    path.mkdir()
    return path


@USERNS
@SLOW
def test_life_of_a_container(runtime: Runtime, userns: bool, tmp_path: Path) -> None:
    bundle = runtime.bundle("sleep", "1000", userns=userns)
    runtime.create("create", "--bundle", str(bundle), "--pid-file", str(tmp_path / "pid"), "one")
    state = runtime.state("one")
    assert state["status"] == "created"
    assert state["bundle"] == str(bundle)
    assert int((tmp_path / "pid").read_text()) == state["pid"]
    assert b"sleep" not in Path(f"/proc/{state['pid']}/cmdline").read_bytes()
    runtime("start", "one")
    assert runtime.status("one") == "running"
    eventually(lambda: Path(f"/proc/{state['pid']}/cmdline").read_bytes() == b"sleep\0" + b"1000\0")
    runtime("kill", "one", "KILL")
    runtime.wait_for("one", "stopped")
    runtime("delete", "one")
    assert runtime("state", "one", code=1).stderr


@USERNS
def test_run_gives_the_exit_code(runtime: Runtime, userns: bool) -> None:
    done = runtime.run("sh", "-c", "echo out; echo err >&2; exit 3", code=3, userns=userns)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


@USERNS
@SLOW
def test_a_signal_gives_128_and_its_number(runtime: Runtime, userns: bool) -> None:
    bundle = runtime.bundle("sleep", "1000", userns=userns)
    argv = runtime.argv("run", "--bundle", str(bundle), "one")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
        eventually(lambda: runtime("state", "one", code=None).stdout and runtime.status("one") == "running")
        runtime("kill", "one", "KILL")
        assert process.wait() == 137


@SLOW
def test_what_the_process_sees(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hostname"] = "inside"
        config["process"] |= {"cwd": "/tmp", "env": ["PATH=/bin", "A=b c"]}

    script = "hostname; pwd; echo $A; echo $$; id -u; ls /proc/self/fd | tr '\\n' ' '; cat /proc/1/comm"
    lines = runtime.run("sh", "-c", script, change=change).stdout.splitlines()
    assert lines[:5] == ["inside", "/tmp", "b c", "1", "0"]
    assert lines[5].startswith("0 1 2 3 ")


@USERNS
@SLOW
def test_the_default_file_system(runtime: Runtime, userns: bool) -> None:
    script = (
        "for d in null zero full tty random urandom; do test -c /dev/$d || echo no $d; done;"
        "echo x > /dev/null && dd if=/dev/zero bs=4 count=1 2>/dev/null | wc -c;"
        "test -d /dev/shm && echo x > /dev/shm/x && test -L /dev/fd && ls /dev/pts/ptmx;"
        "echo 1 > /proc/sys/kernel/domainname || echo readonly; echo x > /rofile || echo readonly root;"
        "cat /proc/kcore | head -c 1 | wc -c"
    )
    lines = runtime.run("sh", "-c", f"({script}) 2>/dev/null", userns=userns).stdout.split("\n")
    assert [line.strip() for line in lines[:5]] == ["4", "/dev/pts/ptmx", "readonly", "readonly root", "0"]


@SLOW
def test_mounts(runtime: Runtime, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "in").write_text("from outside")

    def change(config: dict[str, Any]) -> None:
        for target, more in (("/tmp", []), ("/mnt/ro", ["ro"])):
            options = ["rbind", *more]
            config["mounts"].append({"destination": target, "type": "bind", "source": str(shared), "options": options})
        tmpfs = {"destination": "/var", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "mode=1777"]}
        config["mounts"].append(tmpfs)

    (runtime.rootfs / "mnt/ro").mkdir(parents=True)
    script = "cat /tmp/in; echo from inside > /tmp/out; echo x > /mnt/ro/x; echo x > /var/x && cat /var/x"
    done = runtime.run("sh", "-c", script, change=change)
    assert done.stdout == "from outsidex\n"
    assert (shared / "out").read_text() == "from inside\n"
    assert not (shared / "x").exists()


@USERNS
@SLOW
def test_rights_of_the_process(runtime: Runtime, userns: bool) -> None:
    def change(config: dict[str, Any]) -> None:
        process = config["process"]
        process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 7], "umask": 0o77}
        process["capabilities"] = {key: ["CAP_KILL"] for key in ("bounding", "permitted", "effective")}
        process["noNewPrivileges"] = True
        process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]
        process["oomScoreAdj"] = 321

    script = (
        "id -u; id -g; id -G; umask; ulimit -n; cat /proc/self/oom_score_adj;"
        "grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status"
    )
    lines = runtime.run("sh", "-c", script, change=change, userns=userns).stdout.split("\n")
    assert lines[:6] == ["1000", "1001", "1001 5 7", "0077", "100", "321"]
    assert [line.split()[1] for line in lines[6:9]] == ["0000000000000020", "1", "0"]


@SLOW
def test_a_seccomp_profile(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18}
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}

    done = runtime.run("sh", "-c", "mkdir /dev/shm/x; grep Seccomp: /proc/self/status", change=change)
    assert "Invalid cross-device link" in done.stderr
    assert done.stdout.split() == ["Seccomp:", "2"]


@SLOW
def test_namespaces_are_new_or_the_ones_named(runtime: Runtime) -> None:
    first = runtime.bundle("sleep", "1000", userns=False)
    runtime.create("create", "--bundle", str(first), "one")
    pid = runtime.state("one")["pid"]
    for kind in ("pid", "net", "ipc", "uts", "mnt", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind

    def join(config: dict[str, Any]) -> None:
        for entry in config["linux"]["namespaces"]:
            if entry["type"] in ("network", "ipc", "uts"):
                entry["path"] = f"/proc/{pid}/ns/{entry['type'].replace('network', 'net')}"
        del config["hostname"]

    names = ("net", "ipc", "uts")
    script = "; ".join(f"readlink /proc/self/ns/{name}" for name in names)
    done = runtime.run("sh", "-c", script, change=join, userns=False)
    assert done.stdout.split() == [os.readlink(f"/proc/{pid}/ns/{name}") for name in names]


@USERNS
@SLOW
def test_exec(runtime: Runtime, userns: bool, tmp_path: Path) -> None:
    bundle = runtime.bundle("sleep", "1000", userns=userns)
    runtime.create("run", "--detach", "--bundle", str(bundle), "one")
    done = runtime(
        "exec", "--env", "B=2", "--cwd", "/tmp", "--user", "7:8", "one", "sh", "-c", "echo $B; pwd; id -u; id -g"
    )
    assert done.stdout.split() == ["2", "/tmp", "7", "8"]
    assert "sleep" in runtime("exec", "one", "sh", "-c", "sleep 0.2; cat /proc/1/cmdline").stdout
    assert runtime("exec", "one", "sh", "-c", "exit 5", code=5).returncode == 5
    assert "executable file not found in $PATH" in runtime("exec", "one", "nothing", code=None).stderr
    process = {
        "args": ["sh", "-c", "echo $X $0"],
        "env": ["PATH=/bin", "X=y"],
        "cwd": "/",
        "user": {"uid": 0, "gid": 0},
    }
    (tmp_path / "process.json").write_text(json.dumps(process))
    assert runtime("exec", "--process", str(tmp_path / "process.json"), "one").stdout == "y sh\n"
    pid_file = tmp_path / "exec.pid"
    runtime.create("exec", "--detach", "--pid-file", str(pid_file), "one", "sleep", "500")
    pid = int(pid_file.read_text())
    assert pid in json.loads(runtime("ps", "--format", "json", "one").stdout)
    runtime("kill", "one", "KILL")
    runtime.wait_for("one", "stopped")
    assert runtime("exec", "one", "true", code=None).returncode != 0


def test_pause_and_resume(runtime: Runtime) -> None:
    bundle = runtime.bundle("sh", "-c", "while :; do echo x; usleep 5000; done")
    log = runtime.directory / "ticks"
    with open(log, "w") as file:
        runtime.create("run", "--detach", "--bundle", str(bundle), "one", stdout=file)
    eventually(lambda: log.stat().st_size > 10)
    runtime("pause", "one")
    assert runtime.status("one") == "paused"
    size = log.stat().st_size
    assert runtime("pause", "one", code=None).returncode != 0 or not runtime.ours
    assert runtime("delete", "one", code=None).returncode != 0
    assert log.stat().st_size == size
    runtime("resume", "one")
    assert runtime.status("one") == "running"
    eventually(lambda: log.stat().st_size > size)
    assert runtime("resume", "one", code=None).returncode != 0 or not runtime.ours
    runtime("pause", "one")
    runtime("delete", "--force", "one")


@SLOW
def test_kill_all_with_a_shared_pid_namespace(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        namespaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [entry for entry in namespaces if entry["type"] != "pid"]

    bundle = runtime.bundle("sh", "-c", "sleep 1000 & sleep 1000; true", change=change, userns=False)
    runtime.create("run", "--detach", "--bundle", str(bundle), "one")
    eventually(lambda: len(json.loads(runtime("ps", "--format", "json", "one").stdout)) == 3)
    runtime("kill", "--all", "one", "KILL")
    runtime.wait_for("one", "stopped")
    runtime("delete", "one")


def test_limits_are_in_force(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["resources"] |= {
            "memory": {"limit": 64 << 20, "swap": 96 << 20},
            "cpu": {"shares": 512, "quota": 50_000, "period": 100_000},
            "pids": {"limit": 12},
        }

    bundle = runtime.bundle("sleep", "1000", change=change)
    runtime.create("create", "--bundle", str(bundle), "one")
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        files = [("memory", "memory.max"), ("memory", "memory.swap.max"), ("cpu", "cpu.max"), ("pids", "pids.max")]
        expected = [str(64 << 20), str(32 << 20), "50000 100000", "12"]
    else:
        files = [
            ("memory", "memory.limit_in_bytes"),
            ("memory", "memory.memsw.limit_in_bytes"),
            ("cpu", "cpu.cfs_quota_us"),
            ("pids", "pids.max"),
        ]
        expected = [str(64 << 20), str(96 << 20), "50000", "12"]
    assert [runtime.cgroup_file(1, *file) for file in files] == expected
    runtime("update", "--pids-limit", "20", "--memory", str(128 << 20), "--memory-swap", str(256 << 20), "one")
    assert runtime.cgroup_file(1, "pids", "pids.max") == "20"
    assert int(runtime.cgroup_file(1, *files[0])) == 128 << 20
    resources = json.dumps({"pids": {"limit": 30}})
    done = subprocess.run(runtime.argv("update", "-r", "-", "one"), input=resources, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert runtime.cgroup_file(1, "pids", "pids.max") == "30"


def harmless_device() -> dict[str, Any]:
    """A device no container has, which anybody may open."""
    for path in ("/dev/fuse", "/dev/loop-control"):
        if os.path.exists(path):
            number = os.stat(path).st_rdev
            numbers = {"major": os.major(number), "minor": os.minor(number)}
            return {"path": path, "type": "c", "fileMode": 0o666, **numbers}
    pytest.skip("neither /dev/fuse nor /dev/loop-control here")


def test_devices_are_refused_unless_allowed(runtime: Runtime) -> None:
    device = harmless_device()

    def change(config: dict[str, Any]) -> None:
        config["linux"]["devices"] = [device]

    script = f"(exec 5<{device['path']}) 2>/dev/null && echo opened; echo x > /dev/null && echo fine"
    assert runtime.run("sh", "-c", script, change=change).stdout == "fine\n"

    def allow(config: dict[str, Any]) -> None:
        change(config)
        rule = {"allow": True, "access": "r", **{key: device[key] for key in ("type", "major", "minor")}}
        config["linux"]["resources"]["devices"].append(rule)

    for userns in (True, False) if runtime.ours else (False,):
        assert runtime.run("sh", "-c", script, change=allow, userns=userns).stdout == "opened\nfine\n"


@SLOW
def test_devices_that_every_container_has_may_be_listed(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        numbers = {"null": (1, 3), "ptmx": (5, 2), "zero": (1, 5)}
        config["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
        config["linux"]["devices"] = [
            {"path": f"/dev/{name}", "type": "c", "major": major, "minor": minor, "fileMode": 0o666, "uid": 0, "gid": 0}
            for name, (major, minor) in numbers.items()
        ]

    assert runtime.run("readlink", "/dev/ptmx", change=change, userns=False).stdout == "pts/ptmx\n"


@SLOW
def test_a_command_that_is_not_there(runtime: Runtime) -> None:
    done = runtime.run("nothing", code=None)
    assert done.returncode != 0
    assert 'exec: "nothing": executable file not found in $PATH' in done.stderr or not runtime.ours
    assert json.loads(runtime("list", "--format", "json").stdout) in (None, [])


@SLOW
def test_names_are_taken_once(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "1000")
    runtime.create("create", "--bundle", str(bundle), "one")
    again = runtime.bundle("sleep", "1000")
    assert runtime("create", "--bundle", str(again), "one", code=None).returncode != 0
    assert runtime.status("one") == "created"


@SLOW
def test_wrong_states(runtime: Runtime) -> None:
    for words in (["start", "one"], ["kill", "one"], ["delete", "one"], ["pause", "one"], ["exec", "one", "true"]):
        assert runtime(*words, code=None).returncode != 0, words
    runtime("delete", "--force", "one")
    bundle = runtime.bundle("sleep", "1000")
    runtime.create("run", "--detach", "--bundle", str(bundle), "one")
    assert runtime("start", "one", code=None).returncode != 0
    assert runtime("delete", "one", code=None).returncode != 0
    runtime("kill", "one", "9")
    runtime.wait_for("one", "stopped")
    assert runtime("kill", "one", "9", code=None).returncode != 0


@SLOW
def test_list(runtime: Runtime) -> None:
    for name in ("one", "two"):
        runtime.create("create", "--bundle", str(runtime.bundle("sleep", "1000")), name)
    assert runtime("list", "--quiet").stdout.split() == ["one", "two"]
    rows = json.loads(runtime("list", "--format", "json").stdout)
    assert [(row["id"], row["status"]) for row in rows] == [("one", "created"), ("two", "created")]
    assert "two" in runtime("list").stdout


PASS_AS_3 = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.execvp(sys.argv[2], sys.argv[2:])"


@SLOW
def test_preserved_descriptors(runtime: Runtime, tmp_path: Path) -> None:
    bundle = runtime.bundle("sh", "-c", "cat <&3")
    (tmp_path / "text").write_text("through\n")
    fd = os.open(tmp_path / "text", os.O_RDONLY)
    try:
        argv = runtime.argv("run", "--preserve-fds", "1", "--bundle", str(bundle), "one")
        command = [sys.executable, "-c", PASS_AS_3, str(fd), *argv]
        done = subprocess.run(command, pass_fds=[fd], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    finally:
        os.close(fd)
    assert done.stdout == "through\n", done.stderr


@SLOW
def test_signals_are_passed_on(runtime: Runtime) -> None:
    script = "trap 'echo got; exit 9' TERM; echo ready; while :; do usleep 20000; done"
    bundle = runtime.bundle("sh", "-c", script)
    argv = runtime.argv("run", "--bundle", str(bundle), "one")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "got\n"
        assert process.wait() == 9


@SLOW
def test_hooks_in_order(runtime: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "hooks.log"
    log.touch()
    log.chmod(0o666)
    hook = tmp_path / "hook"
    hook.write_text(
        f'#!/bin/sh\nread -r state\necho "$1 $(echo "$state" | grep -o \'"status": *"[a-z]*"\')" >> {log}\n'
    )
    hook.chmod(0o755)

    def change(config: dict[str, Any]) -> None:
        kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
        config["hooks"] = {
            kind: [{"path": str(hook), "args": ["hook", kind], "env": ["PATH=/bin:/usr/bin"]}] for kind in kinds
        }
        inside = "echo startContainer >> /mnt/hooks.log"
        config["hooks"]["startContainer"] = [{"path": "/bin/sh", "args": ["sh", "-c", inside]}]
        bind = {"destination": "/mnt/hooks.log", "type": "bind", "source": str(log), "options": ["bind"]}
        config["mounts"].append(bind)

    (runtime.rootfs / "mnt").mkdir()
    (runtime.rootfs / "mnt/hooks.log").touch()
    bundle = runtime.bundle("sh", "-c", "echo process >> /mnt/hooks.log", change=change)
    runtime.create("create", "--bundle", str(bundle), "one")
    assert [line.split()[0] for line in log.read_text().splitlines()][:3] == [
        "prestart",
        "createRuntime",
        "createContainer",
    ]
    runtime("start", "one")
    runtime.wait_for("one", "stopped")
    eventually(lambda: "process" in log.read_text())
    runtime("delete", "one")
    lines = log.read_text().splitlines()
    assert {line.split()[0] for line in lines[3:6]} == {"poststart", "process", "startContainer"}
    statuses = {line.split()[0]: line.rpartition(" ")[2].rpartition(":")[2].strip('"') for line in lines}
    assert statuses["poststop"] == "stopped"
    if runtime.ours:
        assert [statuses[kind] for kind in ("prestart", "createRuntime", "createContainer")] == ["creating"] * 3
        assert statuses["poststart"] == "running"


@SLOW
def test_a_hook_that_fails_ends_the_create(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}

    assert runtime.run("true", change=change, code=None).returncode != 0
    assert json.loads(runtime("list", "--format", "json").stdout) in (None, [])


@SLOW
def test_a_hook_that_takes_too_long(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]}

    assert runtime.run("true", change=change, code=None).returncode != 0


@SLOW
def test_the_log_file(runtime: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    command = [
        *runtime.command,
        "--root",
        str(runtime.root),
        "--log",
        str(log),
        "--log-format",
        "json",
        "start",
        "nobody",
    ]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
    last = json.loads(read_when_there(log).splitlines()[-1])
    assert last["level"] == "error"
    assert last["msg"]
    assert last["time"]
