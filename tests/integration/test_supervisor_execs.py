"""Execs by a clone and by a parked process: nothing inside tells them apart, and one that is killed is not missed."""

from __future__ import annotations

import errno
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from bireme.runtime import defaults
from bireme.runtime.plan import plan_exec
from tests.support.supervised import Rig, alive, children, comm, read_stream, wait_until
from tests.support.supervision import Client, Failure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs_root

LOOK = """
id; umask; ulimit -a; env | sort; pwd
grep -E '^(Cap|NoNew|Seccomp|Groups|Sig|Cpus|Uid|Gid)' /proc/self/status
cut -d' ' -f5-8 /proc/$$/stat | sed "s/$$/own/g"
for n in 0 1 2 3 4 5 6 7 8 9 10; do readlink /proc/$$/fd/$n; done; cat /proc/$$/cgroup /proc/$$/oom_score_adj
for n in /proc/$$/ns/*; do readlink $n; done
"""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    made.start()
    yield made
    made.close()


def parked(rig: Rig) -> list[int]:
    return [pid for pid in children(rig.pid("supervisor")) if comm(pid) == "bireme-parked"]


def waits(pid: int) -> bool:
    """In recvmsg(2), its memory all its own."""
    try:
        with open(f"/proc/{pid}/syscall", encoding="ascii") as file:
            return file.read().split()[0] in ("47", "212")
    except OSError:
        return False


def park(rig: Rig, client: Client, identity: str) -> int:
    """Run execs until one is parked for the next."""
    run(rig, client, identity, "true")
    wait_until(lambda: any(waits(pid) for pid in parked(rig)), "a parked process")
    return parked(rig)[0]


def run(rig: Rig, client: Client, identity: str, script: str) -> tuple[bytes, int]:
    exec_id, (stdin, out, err) = rig.exec(client, identity, "/bin/sh", "-c", script)
    output = read_stream(out) + read_stream(err)
    os.close(stdin)
    code: int = client.exec_exited(exec_id)["code"]
    return output, code


def plain(output: bytes) -> str:
    """Without what differs from one process to the next, and the two signals that belong to the C library (32 and 33):
    posix_spawn of glibc leaves them ignored."""
    text = re.sub(r"pipe:\[\d+\]", "pipe", output.decode())
    return text.replace("SigIgn:\t0000000180000000", "SigIgn:\t0000000000000000")


def test_nothing_inside_tells_a_parked_one_from_a_clone(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/sleep", "1000")
    cloned, code = run(rig, client, identity, LOOK)
    assert code == 0
    assert b"uid=0(root)" in cloned
    pid = park(rig, client, identity)
    done, code = run(rig, client, identity, LOOK)
    assert code == 0
    assert plain(done) == plain(cloned)
    wait_until(lambda: not alive(pid), "the parked process to be used up")


@pytest.mark.parametrize(
    ("args", "number"),
    [(("/bin/absent",), errno.ENOENT), (("/etc/passwd",), errno.EACCES), (("/bin/broken",), errno.ENOEXEC)],
)
def test_what_cannot_run_is_told_alike(rig: Rig, client: Client, args: tuple[str, ...], number: int) -> None:
    identity = rig.launch(client, "/bin/sleep", "1000")
    run(rig, client, identity, "echo nonsense > /bin/broken; chmod 755 /bin/broken")
    park(rig, client, identity)
    said: list[Any] = []
    for _ in range(2):  # the first takes the parked process, the second has none
        with pytest.raises(Failure) as caught:
            rig.exec(client, identity, *args)
        said.append((caught.value.stage, caught.value.errno, str(caught.value)))
    assert said[0] == said[1]
    assert said[0][:2] == ("exec", number)
    assert run(rig, client, identity, "exit 5")[1] == 5


def test_streams_and_code_of_a_parked_one(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/sleep", "1000")
    park(rig, client, identity)
    exec_id, (stdin, out, err) = rig.exec(
        client, identity, "/bin/sh", "-c", "cat; echo bad >&2; kill -9 $$", stdin=True
    )
    os.write(stdin, b"in and out")
    os.close(stdin)
    assert (read_stream(out), read_stream(err)) == (b"in and out", b"bad\n")
    assert client.exec_exited(exec_id)["code"] == 137


def test_a_container_with_room_for_one_more_process(rig: Rig, client: Client) -> None:
    """The parked one counts while it starts the program, so the program is started in the other way."""

    def limit(config: Any) -> None:
        config["linux"]["resources"] = {"pids": {"limit": 2}}

    identity = rig.launch(client, "/bin/sleep", "1000", change=limit)
    pid = park(rig, client, identity)
    exec_id, fds = rig.exec(client, identity, "/bin/true")
    assert client.exec_exited(exec_id)["code"] == 0
    assert not alive(pid)
    for fd in fds:
        os.close(fd)


def test_a_parked_process_that_is_killed_is_not_missed(rig: Rig, client: Client) -> None:
    identity = rig.launch(client, "/bin/sleep", "1000")
    os.kill(park(rig, client, identity), signal.SIGKILL)
    assert run(rig, client, identity, "exit 3")[1] == 3
    stuck = park(rig, client, identity)
    os.kill(stuck, signal.SIGSTOP)
    exec_id = rig.name()
    plan = plan_exec(defaults.default_config(("/bin/sh", "-c", "exit 4"))["process"], seccomp="default")
    request = client.send("exec", id=identity, exec_id=exec_id, plan=plan, terminal=False, stdin=False)
    client.call("list")  # answered after the request was handed on
    os.kill(stuck, signal.SIGKILL)
    _, fds = client.answer(request)
    assert client.exec_exited(exec_id)["code"] == 4
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("victim", ["supervisor", "keeper"])
def test_a_program_that_was_spawned_outlives_the_supervisor(rig: Rig, client: Client, victim: str) -> None:
    identity = rig.launch(client, "/bin/sleep", "1000")
    park(rig, client, identity)
    exec_id, (stdin, out, err) = rig.exec(client, identity, "/bin/sh", "-c", "read x; echo $x; exit 7", stdin=True)
    old = rig.pid(victim)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: rig.pid(victim) not in (0, old), f"a new {victim}")
    again = rig.connect(execs=(exec_id,))
    os.write(stdin, b"alive\n")
    assert read_stream(out) == b"alive\n"
    assert again.exec_exited(exec_id)["code"] == 7
    os.close(stdin)
    os.close(err)


def test_it_is_let_go_with_the_supervisor(tmp_path: Path) -> None:
    fresh = Rig(tmp_path)
    client = fresh.start()
    identity = fresh.launch(client, "/bin/sleep", "1000")
    pid = park(fresh, client, identity)
    fresh.close()
    wait_until(lambda: not alive(pid), "the parked process to end")
