"""The supervisor with real containers: every operation once, in the way a client uses it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bireme.errors import Conflict, Deadline, Invalid, NotFound
from bireme.linux import procfs, tty
from bireme.supervisor import program
from tests.support.pace import patience
from tests.support.supervised import Rig, alive, read_frames, read_stream, wait_until
from tests.support.supervision import Client, Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module", params=["spares", "cold"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("rig"), spares={"none": 2} if request.param == "spares" else {})
    made.start()
    yield made
    made.close()


def rows(client: Client) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in client.call("list")["instances"]}


def stop(client: Client, identity: str) -> dict[str, Any]:
    client.call("signal", id=identity, signum=signal.SIGKILL, all=False)
    return client.exited(identity)


def test_output_code_and_end(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/sh", "-c", "echo out; echo err >&2; printf tail; exit 7")
    event = client.exited(identity)
    assert (event["code"], event["signal"], event["oom_killed"]) == (7, 0, False)
    assert rig.output(identity) == "out\ntail"
    assert rig.output(identity, "stderr") == "err\n"
    assert identity not in rows(client)


def test_a_silent_instance_has_no_log(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/true")
    assert client.exited(identity)["code"] == 0
    assert not (rig.directory_of(identity) / "log").exists()


def test_log_driver_none_writes_nothing(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/echo", "x", log="none")
    assert client.exited(identity)["code"] == 0
    assert not (rig.directory_of(identity) / "log").exists()


def test_rotation(rig: Rig, client: Client) -> None:
    request = rig.request(rig.name(), "/bin/sh", "-c", "for i in 0 1 2 3 4 5 6 7 8 9; do seq 100; sleep 0.01; done")
    request["log"].update(max_size_bytes=4096, max_files=3)
    client.call("launch", **request)
    client.exited(request["id"])
    home = rig.directory_of(request["id"])
    assert sorted(path.name for path in home.glob("log*")) == ["log", "log.1", "log.2"]
    assert all(path.stat().st_size < 4096 + 20_000 for path in home.glob("log*"))


def test_death_by_signal(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/sleep", "1000")
    event = stop(client, identity)
    assert (event["code"], event["signal"]) == (137, 9)


def test_exit_is_repeated_until_acknowledged(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/sh", "-c", "exit 3")
    client.event(lambda e: e.get("id") == identity)
    for _ in range(2):
        other = rig.connect()
        assert other.event(lambda e: e["event"] == "exited" and e["id"] == identity)["code"] == 3
        assert rows(other)[identity]["state"] == "exited"
        other.close()
    client.call("acknowledge", id=identity)
    assert identity not in rows(client)


def test_the_same_id_cannot_run_twice(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/sleep", "1000")
    with pytest.raises(Failure) as caught:
        rig.launch(client, "/bin/true", identity=identity)
    assert isinstance(caught.value.error, Conflict)
    with pytest.raises(Failure) as caught:
        client.call("delete", id=identity)
    assert isinstance(caught.value.error, Conflict)
    stop(client, identity)
    client.call("delete", id=identity)
    client.call("delete", id=identity)


@pytest.mark.parametrize(
    ("args", "number", "kind"),
    [
        (("/bin/absent",), errno.ENOENT, "exec"),
        (("absent",), errno.ENOENT, "exec"),
        (("/etc/passwd",), errno.EACCES, "exec"),
        (("/tmp",), errno.EISDIR, "exec"),
    ],
)
def test_a_command_that_cannot_run(rig: Rig, client: Client, args: tuple[str, ...], number: int, kind: str) -> None:
    with pytest.raises(Failure) as caught:
        rig.launch(client, *args)
    assert (caught.value.stage, caught.value.errno) == (kind, number)
    assert not [row for row in rows(client).values() if row["state"] == "running"]


def test_a_root_that_is_not_there(rig: Rig, client: Client) -> None:
    request = rig.request(rig.name(), "/bin/true")
    request["plan"]["root"]["lower"] = [str(rig.directory / "absent")]
    with pytest.raises(Failure) as caught:
        client.call("launch", **request)
    assert isinstance(caught.value.error, NotFound)


def test_impossible_limits_are_refused(rig: Rig, client: Client) -> None:
    request = rig.request(rig.name(), "/bin/true")
    request["limits"] = {"memory": {"limit": "much"}}
    with pytest.raises(Failure) as caught:
        client.call("launch", **request)
    assert isinstance(caught.value.error, Invalid)


@pytest.mark.parametrize("fields", [{}, {"id": "x"}, {"id": 5, "plan": {}}, {"id": "a/b", "plan": {}}])
def test_malformed_launches_are_refused(client: Client, fields: dict[str, Any]) -> None:
    with pytest.raises(Failure) as caught:
        client.call("launch", **fields)
    assert isinstance(caught.value.error, Invalid)


def test_unknown_operations_and_instances(client: Client) -> None:
    with pytest.raises(Failure) as caught:
        client.call("dance")
    assert isinstance(caught.value.error, Invalid)
    for op in ("signal", "pause", "explain", "stats", "processes", "acknowledge"):
        with pytest.raises(Failure) as caught:
            client.call(op, id="nobody", signum=15)
        assert isinstance(caught.value.error, NotFound), op


def test_hello_comes_first(rig: Rig) -> None:
    stranger = Client(rig.socket_path)
    with pytest.raises(Failure):
        stranger.call("list")
    stranger.call("ping")
    stranger.close()


def test_others_are_turned_away(rig: Rig) -> None:
    mode = os.stat(rig.socket_path).st_mode
    assert mode & 0o777 == 0o600


def test_limits_apply_and_can_be_updated(rig: Rig, client: Client) -> None:
    request = rig.request(rig.name(), "/bin/sleep", "1000")
    request["limits"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}}
    answer = client.call("launch", **request)
    identity = request["id"]
    stats = client.call("stats", id=identity)
    assert (stats["memory_limit_bytes"], stats["pids_limit"], stats["pids"]) == (64 << 20, 20, 1)
    client.call("update", id=identity, limits={"pids": {"limit": 30}})
    assert client.call("stats", id=identity)["pids_limit"] == 30
    assert all(os.path.isdir(path) for path in answer["cgroups"].values())
    stop(client, identity)
    for path in answer["cgroups"].values():
        wait_until(lambda path=path: not os.path.exists(path), f"{path} to go")  # type: ignore[misc]


def test_oom_is_told(rig: Rig, client: Client) -> None:
    request = rig.request(rig.name(), "/bin/sh", "-c", "x=x; while true; do x=$x$x; done")
    request["limits"] = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    client.call("launch", **request)
    event = client.exited(request["id"])
    assert (event["code"], event["oom_killed"]) == (137, True)


def test_pause_and_resume(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/sh", "-c", "while true; do echo x; sleep 0.01; done")
    client.call("pause", id=identity)
    assert rows(client)[identity]["state"] == "paused"
    with pytest.raises(Failure) as caught:
        client.call("pause", id=identity)
    assert isinstance(caught.value.error, Conflict)
    with pytest.raises(Failure):
        rig.exec(client, identity, "/bin/true")
    client.call("resume", id=identity)
    assert rows(client)[identity]["state"] == "running"
    client.call("pause", id=identity)
    assert stop(client, identity)["code"] == 137


def test_explain_tells_what_the_kernel_knows(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/sleep", "1000")
    told = client.call("explain", id=identity)
    pid = told["pid"]
    for kind, entry in told["namespaces"].items():
        assert entry["inode"] == os.stat(f"/proc/{pid}/ns/{kind}").st_ino
    assert told["mounts"][0]["type"] == "overlay" or any(m["target"] == "/" for m in told["mounts"])
    assert [process["pid"] for process in told["processes"]] == [pid]
    assert told["security"]["seccomp"] == "filter"
    assert client.call("processes", id=identity)["pids"] == [pid]
    stop(client, identity)


def test_the_interpreter_is_reached_through_a_read_only_mount(rig: Rig) -> None:
    for pid in (rig.pid("supervisor"), rig.helper("zygote"), *rig.spares()):
        assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY
        link = os.open(f"/proc/{pid}/exe", os.O_PATH)
        with pytest.raises(OSError, match=r"Read-only|busy"):
            os.open(f"/proc/self/fd/{link}", os.O_WRONLY)
        os.close(link)


def test_attach_before_and_after_the_start(rig: Rig, client: Client) -> None:
    identity = rig.name()
    _, (early,) = client.call_fds("attach", id=identity, stdout=True, stderr=True)
    rig.launch(client, "/bin/sh", "-c", "echo one; echo two >&2; sleep 0.1", identity=identity)
    _, (late,) = client.call_fds("attach", id=identity, stdout=True, stderr=False)
    assert client.exited(identity)["code"] == 0
    assert read_frames(early) == {1: b"one\n", 2: b"two\n"}
    assert read_stream(late) in (b"", b"\x01\0\0\0\0\0\0\x04one\n")


def test_attach_that_never_starts_ends_with_delete(client: Client) -> None:
    _, (fd,) = client.call_fds("attach", id="never", stdout=True, stderr=True)
    client.call("delete", id="never")
    assert read_stream(fd) == b""


def test_attach_of_a_failed_start_ends(rig: Rig, client: Client) -> None:
    identity = rig.name()
    _, (fd,) = client.call_fds("attach", id=identity, stdout=True, stderr=True)
    with pytest.raises(Failure):
        rig.launch(client, "/bin/absent", identity=identity)
    assert read_stream(fd) == b""


def test_stdin_until_it_is_closed(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/cat", open_stdin=True)
    _, (fd,) = client.call_fds("stdin", id=identity)
    os.write(fd, b"through and through\n")
    os.close(fd)
    client.call("close_stdin", id=identity)
    assert client.exited(identity)["code"] == 0
    assert rig.output(identity) == "through and through\n"


def test_stdin_once_ends_with_its_client(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/cat", open_stdin=True, stdin_once=True)
    _, (fd,) = client.call_fds("stdin", id=identity)
    with pytest.raises(Failure) as caught:
        client.call("stdin", id=identity)
    assert isinstance(caught.value.error, Conflict)
    os.write(fd, b"once\n")
    os.close(fd)
    assert client.exited(identity)["code"] == 0
    assert rig.output(identity) == "once\n"


def test_stdin_that_was_not_opened(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/cat")
    assert client.exited(identity)["code"] == 0
    sleeper = rig.launch(client, "/bin/sleep", "1000")
    with pytest.raises(Failure) as caught:
        client.call("stdin", id=sleeper)
    assert isinstance(caught.value.error, Conflict)
    stop(client, sleeper)


def test_a_terminal(rig: Rig, client: Client) -> None:
    identity = rig.name()
    _, (stream,) = client.call_fds("attach", id=identity, stdout=True, stderr=True)
    command = "trap 'stty size; exit 4' WINCH; stty size; echo ready; while true; do sleep 0.01; done"
    request = rig.request(identity, "/bin/sh", "-c", command, terminal=True)
    request["plan"]["process"].update(rows=20, columns=50)
    client.call("launch", **request)
    _, (console,) = client.call_fds("stdin", id=identity)
    assert tty.get_size(console) == (20, 50)
    os.close(console)
    wait_until(lambda: "ready" in rig.output(identity), "the trap to be set")
    client.call("resize", id=identity, rows=33, cols=101)
    assert client.exited(identity)["code"] == 4
    assert read_stream(stream) == b"20 50\r\nready\r\n33 101\r\n"
    assert rig.output(identity) == "20 50\r\nready\r\n33 101\r\n"


def test_exec_streams_code_and_errors(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/sleep", "1000")
    exec_id, (stdin, out, err) = rig.exec(client, identity, "/bin/sh", "-c", "cat; echo bad >&2; exit 9", stdin=True)
    os.write(stdin, b"in and out")
    os.close(stdin)
    assert (read_stream(out), read_stream(err)) == (b"in and out", b"bad\n")
    assert client.exec_exited(exec_id)["code"] == 9
    with pytest.raises(Failure) as caught:
        rig.exec(client, identity, "/bin/absent")
    assert (caught.value.stage, caught.value.errno) == ("exec", errno.ENOENT)
    stop(client, identity)
    with pytest.raises(Failure):
        rig.exec(client, identity, "/bin/true")


def test_exec_with_a_terminal(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/sleep", "1000")
    exec_id, (console,) = rig.exec(client, identity, "/bin/sh", "-c", "read x; stty size; exit 2", terminal=True)
    client.call("exec_resize", exec_id=exec_id, rows=5, cols=6)
    os.write(console, b"go\n")
    assert read_stream(console) == b"go\r\n5 6\r\n"
    assert client.exec_exited(exec_id)["code"] == 2
    stop(client, identity)


def test_exec_dies_with_its_instance(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/sleep", "1000")
    exec_id, fds = rig.exec(client, identity, "/bin/sleep", "1000")
    client.call("signal", id=identity, signum=9, all=False)
    assert client.exec_exited(exec_id)["code"] == 137
    client.exited(identity)
    for fd in fds:
        os.close(fd)


def test_exec_nobody_reads_does_not_block(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/sleep", "1000")
    flood = ("/bin/dd", "if=/dev/zero", "bs=65536", "count=64")
    detached, fds = rig.exec(client, identity, *flood)
    for fd in fds:
        os.close(fd)
    client.call("exec_drain", exec_id=detached)
    assert client.exec_exited(detached)["code"] == 0
    other = rig.connect()
    orphan, fds = rig.exec(other, identity, "/bin/sh", "-c", "dd if=/dev/zero bs=65536 count=64; echo $? > /tmp/done")
    for fd in fds:
        os.close(fd)
    other.close()
    done = rig.directory_of(identity) / "fs/tmp/done"
    wait_until(lambda: done.exists() and done.read_text() == "0\n", f"{orphan} to be drained")
    stop(client, identity)


def test_signals_reach_one_or_all(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/sh", "-c", "trap 'exit 5' TERM; echo ready; sleep 1000 & wait")
    wait_until(lambda: rig.output(identity) == "ready\n", "the trap to be set")
    client.call("signal", id=identity, signum=signal.SIGTERM, all=False)
    assert client.exited(identity)["code"] == 5
    identity = rig.launch(client, "/bin/sh", "-c", "sleep 1000; exit 6")
    wait_until(lambda: len(client.call("processes", id=identity)["pids"]) == 2, "the shell's child")
    client.call("signal", id=identity, signum=signal.SIGTERM, all=True)
    assert client.exited(identity)["code"] in (6, 143)


def test_a_large_environment_passes(rig: Rig, client: Client) -> None:
    def change(config: Any) -> None:
        config["process"]["env"] += [f"BIG{n}={'y' * 100_000}" for n in range(8)]

    identity = rig.launch(client, "/bin/sh", "-c", "echo ${#BIG7}", change=change)
    client.exited(identity)
    assert rig.output(identity) == "100000\n"


def test_no_spare_remembers_an_earlier_instance(rig: Rig, client: Client) -> None:
    def change(config: Any) -> None:
        config["process"]["env"].append("SECRET=marmalade-7151")

    for _ in range(4):
        client.exited(rig.launch(client, "/bin/true", change=change))
    secret = b"marmalade-7151"
    for pid in [rig.helper("zygote"), *rig.spares()]:
        assert secret not in _memory(pid), pid


def _memory(pid: int) -> bytes:
    """Everything writable of a process."""
    parts = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            place, mode = line.split()[:2]
            if mode.startswith("rw"):
                start, end = (int(word, 16) for word in place.split("-"))
                memory.seek(start)
                parts.append(memory.read(end - start))
    return b"".join(parts)


def test_shutdown_is_refused_while_something_runs(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/sleep", "1000")
    with pytest.raises(Failure) as caught:
        client.call("shutdown")
    assert isinstance(caught.value.error, Conflict)
    keeper = rig.pid("keeper")
    os.kill(keeper, signal.SIGTERM)
    client.call("ping")
    assert alive(keeper)
    stop(client, identity)


def test_the_cgroup_subtree_cannot_change(tmp_path: Path) -> None:
    fresh = Rig(tmp_path)
    try:
        fresh.start().close()
        client = fresh.connect()
        client.call("configure", **fresh.config)
        with pytest.raises(Failure) as caught:
            client.call("configure", **{**fresh.config, "cgroup_subtree": "bireme-other"})
        assert isinstance(caught.value.error, Conflict)
    finally:
        fresh.close()


_RECVMSG = {"x86_64": "47", "aarch64": "212"}


def waits_for_a_message(pid: int) -> bool:
    """proc_pid_syscall(5)."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] == _RECVMSG[os.uname().machine]


def test_a_start_that_hangs_is_refused_and_cleared_away(tmp_path: Path) -> None:
    """A stopped first process stands for one that waits in the kernel."""
    fresh = Rig(tmp_path, spares={"none": 1}, start_limit_s=patience(2))
    client = fresh.start()
    try:
        wait_until(fresh.spares, "a spare")
        (stuck,) = fresh.spares()
        wait_until(lambda: waits_for_a_message(stuck), "the spare to wait for a plan")
        os.kill(stuck, signal.SIGSTOP)
        identity = fresh.name()
        with pytest.raises(Failure, match="did not begin within") as caught:
            fresh.launch(client, "/bin/true", identity=identity)
        assert isinstance(caught.value.error, Deadline)
        wait_until(lambda: not alive(stuck), "the stuck process to end")
        assert identity not in rows(client)
        assert client.exited(fresh.launch(client, "/bin/sh", "-c", "exit 3", identity=identity))["code"] == 3
    finally:
        fresh.close()


def test_nothing_is_left(tmp_path: Path) -> None:
    fresh = Rig(tmp_path, spares={"none": 2})
    client = fresh.start()
    fresh.hold_port(client)
    pids = [fresh.pid("keeper"), fresh.pid("supervisor"), *(fresh.helper(n) for n in ("zygote", "logger", "relay"))]
    wait_until(lambda: len(fresh.spares()) == 2, "spares")
    pids += fresh.spares()
    client.exited(fresh.launch(client, "/bin/echo", "x"))
    mounts = Path("/proc/self/mountinfo").read_text()
    fresh.close()
    wait_until(lambda: not any(alive(pid) for pid in pids), "all processes to end")
    assert os.listdir(fresh.run_root) == []
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert not fresh.subtrees()


def test_a_second_keeper_is_turned_away(rig: Rig) -> None:
    run = subprocess.run(
        program.command("keeper", "--run-root", str(rig.run_root)), capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 3
    assert "another keeper" in run.stderr


@pytest.mark.parametrize("killed", ["nobody", "supervisor", "keeper", "zygote"])
def test_the_interpreter_that_enters_instances_is_read_only(tmp_path: Path, killed: str) -> None:
    """Whoever reaches /proc/PID/exe from inside cannot write to it once its process is gone (CVE-2019-5736)."""
    fresh = Rig(tmp_path, spares={"none": 1})
    client = fresh.start()
    try:
        wait_until(fresh.spares, "a spare")
        if killed != "nobody":
            victim = fresh.pid(killed)
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: fresh.pid(killed) not in (0, victim), f"a new {killed}")
            client = fresh.connect()
            wait_until(fresh.spares, "a spare")
        assert client.exited(fresh.launch(client, "/bin/true"))["code"] == 0
        for pid in (fresh.pid("keeper"), fresh.pid("supervisor"), fresh.pid("zygote")):
            assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY
        if killed == "nobody":
            assert procfs.read_command(fresh.pid("supervisor")) == [f"bireme-supervisor --run-root {fresh.run_root}"]
    finally:
        fresh.close()
