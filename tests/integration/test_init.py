"""The init of --init, as process 1 of a pid namespace and as an ordinary process."""

from __future__ import annotations

import contextlib
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bireme.runtime.guest import init_path
from tests.support.bundle import OURS, opened
from tests.support.pace import eventually, patience


@pytest.fixture(scope="module")
def init() -> str:
    path = init_path()
    if not path:
        pytest.fail("bireme-init is not built: make -C guest")
    return path


def run(init: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [init, "--", *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patience(30),
        check=False,
    )


@contextlib.contextmanager
def running(init: str, script: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [init, "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_is_static(init: str) -> None:
    data = Path(init).read_bytes()
    assert data[:4] == b"\x7fELF"
    at, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    kinds = [struct.unpack_from("<I", data, at + size * number)[0] for number in range(count)]
    interpreter = 3
    assert interpreter not in kinds


def test_the_status_is_the_child_s(init: str) -> None:
    assert run(init, "true").returncode == 0
    assert run(init, "sh", "-c", "exit 37").returncode == 37
    assert run(init, "sh", "-c", "kill -9 $$").returncode == 137
    assert run(init, "sh", "-c", "kill -SEGV $$").returncode == 139


def test_output_and_arguments_pass_through(init: str) -> None:
    done = run(init, "sh", "-c", "echo $1 $0; echo e >&2", "--x", "-y z")
    assert (done.stdout, done.stderr) == ("-y z --x\n", "e\n")


@pytest.mark.parametrize(
    ("program", "code"), [("/nothing", 127), ("nothing", 127), ("/etc/passwd", 126), ("/etc", 126)]
)
def test_what_cannot_run(init: str, program: str, code: int) -> None:
    done = run(init, program)
    assert done.returncode == code
    assert program in done.stderr


def test_without_a_program(init: str) -> None:
    done = subprocess.run([init], capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert "usage" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGRTMIN + 3])
def test_signals_are_passed_on(init: str, number: int) -> None:
    script = f"trap 'echo got; exit 5' {int(number)}; echo ready; while :; do sleep 0.05; done"
    with running(init, script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "got\n"
        assert process.wait() == 5


def test_a_child_without_a_handler_dies_of_the_signal(init: str) -> None:
    with running(init, "echo ready; exec sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM


def test_a_blocked_signal_stays_as_it_was_for_the_child(init: str) -> None:
    code = "import signal; print(sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))))"
    assert run(init, sys.executable, "-c", code).stdout == "[]\n"


def test_orphans_are_reaped(init: str) -> None:
    script = "for i in 1 2 3 4 5; do (sh -c 'sleep 0.01 & exec true'); done; echo ready; read x; exit 3"
    with subprocess.Popen(
        [init, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        eventually(lambda: len(children.read_text().split()) == 1)
        process.stdin.close()
        assert process.wait() == 3


def test_the_program_has_a_process_group_of_its_own(init: str) -> None:
    done = run(init, sys.executable, "-c", "import os; print(os.getpid() == os.getpgrp())")
    assert done.stdout == "True\n"


@pytest.mark.needs_root
def test_as_process_1_of_a_container(init: str) -> None:
    with opened(OURS) as runtime:
        target = runtime.rootfs / "init"
        target.write_bytes(Path(init).read_bytes())
        target.chmod(0o755)
        script = (
            "sh -c 'sleep 0.01 & exec true'; sleep 0.2; cat /proc/1/comm; echo $$; ls -d /proc/[0-9]* | wc -l; exit 4"
        )
        done = runtime.run("/init", "--", "sh", "-c", script, code=4)
        name, pid, processes = done.stdout.split()
        assert (name, pid) == ("init", "2")
        assert int(processes) <= 4
        bundle = runtime.bundle("/init", "--", "sleep", "1000")
        runtime.create("run", "--detach", "--bundle", str(bundle), "one")
        runtime("kill", "one", "TERM")
        runtime.wait_for("one", "stopped")
