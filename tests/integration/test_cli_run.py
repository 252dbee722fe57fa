"""`bireme run`, exec, attach and logs against a real engine: streams, exit codes, signals."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import command
from tests.support.daemon import RunningEngine, running_engine
from tests.support.pace import eventually, patience

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with running_engine(tmp_path_factory.mktemp("cli")) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_containers_left(engine: RunningEngine) -> Iterator[None]:
    yield
    names = engine.bireme("ps", "-aq").stdout.split()
    if names:
        engine.bireme("rm", "-f", *names)


def _start(engine: RunningEngine, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(*words), env=engine.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)


def test_output_and_exit_code(engine: RunningEngine) -> None:
    done = engine.bireme("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert engine.bireme("ps", "-aq").stdout == ""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
        (["/etc"], 126, 'exec: "/etc": is a directory'),
        (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_commands_that_cannot_run(engine: RunningEngine, words: list[str], code: int, message: str) -> None:
    done = engine.bireme("run", "--rm", "busybox", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert done.stderr.startswith("bireme: Error response from daemon: ")
    assert done.stderr.endswith("\n\nRun 'bireme run --help' for more information\n")


def test_requests_that_cannot_be_met(engine: RunningEngine) -> None:
    unknown = engine.bireme("run", "--rm", "-u", "nobodyknows", "busybox", "true")
    assert (unknown.returncode, "unable to find user nobodyknows" in unknown.stderr) == (125, True)
    image = engine.bireme("run", "--rm", "nosuchimage")
    assert image.returncode == 125
    assert image.stderr.startswith(
        "Unable to find image 'nosuchimage:latest' locally\nbireme: Error response from daemon: "
    )
    assert engine.bireme("run", "-d", "--name", "taken", "busybox", "sleep", "600").returncode == 0
    again = engine.bireme("run", "--name", "taken", "busybox")
    assert again.returncode == 125
    assert 'Conflict. The container name "/taken" is already in use' in again.stderr


def test_a_pipe_through_a_container(engine: RunningEngine) -> None:
    """64 MiB in and out, with memory for a fraction of it."""
    block = os.urandom(1 << 20)
    count = 64
    child = subprocess.Popen(
        command("run", "-i", "--rm", "--net", "none", "busybox", "cat"),
        env=engine.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    resource.prlimit(child.pid, resource.RLIMIT_AS, (48 << 20, 48 << 20))
    assert child.stdin is not None
    assert child.stdout is not None
    (engine.root / "block").write_bytes(block)
    files = [str(engine.root / "block")] * count
    writer = subprocess.Popen(["cat", *files], stdin=subprocess.DEVNULL, stdout=child.stdin)
    child.stdin.close()
    received, size = hashlib.sha256(), 0
    while data := child.stdout.read(1 << 20):
        received.update(data)
        size += len(data)
    child.stdout.close()
    assert writer.wait(patience(60)) == 0
    assert child.wait(patience(60)) == 0
    assert size == count * len(block)
    assert received.hexdigest() == hashlib.sha256(block * count).hexdigest()


def test_environment_mounts_and_user(engine: RunningEngine, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("FROM_FILE=1\n# note\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "hello").write_text("from the host\n")
    script = "echo $FROM_FILE $FROM_FLAG; pwd; id -u; cat /data/hello; touch /data/x; "
    script += "mount | grep ' /scratch ' | cut -d' ' -f5; hostname"
    done = engine.bireme(
        *("run", "--rm", "--env-file", str(tmp_path / "env"), "-e", "FROM_FLAG=2", "-w", "/tmp", "-u", "65534"),
        *("-v", f"{tmp_path}/data:/data:ro", "--tmpfs", "/scratch:size=1m", "--hostname", "box", "--net", "none"),
        *("busybox", "sh", "-c", script),
    )
    assert done.stdout == "1 2\n/tmp\n65534\nfrom the host\ntmpfs\nbox\n", done.stderr
    assert "Read-only file system" in done.stderr


def test_cidfile_and_detached(engine: RunningEngine, tmp_path: Path) -> None:
    done = engine.bireme("run", "-d", "--cidfile", str(tmp_path / "cid"), "busybox", "sleep", "600")
    identity = done.stdout.strip()
    assert len(identity) == 64
    assert (tmp_path / "cid").read_text() == identity
    assert engine.bireme("ps", "-q", "--no-trunc").stdout.strip() == identity


def test_signals_reach_the_container(engine: RunningEngine) -> None:
    script = "trap 'echo got term; exit 42' TERM; trap 'echo got hup' HUP; echo up; while :; do sleep 0.05; done"
    child = _start(engine, "run", "--rm", "--net", "none", "busybox", "sh", "-c", script)
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    child.send_signal(signal.SIGHUP)
    assert child.stdout.readline() == b"got hup\n"
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=patience(30))
    assert (child.returncode, out, err) == (42, b"got term\n", b"")


def test_start_again_and_attach(engine: RunningEngine) -> None:
    created = engine.bireme("create", "-i", "--name", "again", "--net", "none", "busybox", "sh", "-c", "cat; exit 5")
    assert created.returncode == 0
    for text in ("first", "second"):
        done = engine.bireme("start", "-ai", "again", input=text)
        assert (done.returncode, done.stdout) == (5, text), done.stderr
    assert engine.bireme("logs", "again").stdout == "firstsecond"
    stopped = engine.bireme("attach", "again")
    assert (stopped.returncode, stopped.stderr) == (1, "cannot attach to a stopped container, start it first\n")


def test_attach_to_what_runs(engine: RunningEngine) -> None:
    """Input of a container that was not started for one client stays open, and the end of ours ends the attachment."""
    script = "read line; echo heard $line; exit 6"
    engine.bireme("run", "-di", "--name", "talk", "--net", "none", "busybox", "sh", "-c", script)
    child = subprocess.Popen(
        command("attach", "talk"), env=engine.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"me\n")
    assert child.stdout.read() == b"heard me\n"
    child.stdin.close()
    child.stdout.close()
    assert child.wait(patience(30)) == 6


def test_exec(engine: RunningEngine) -> None:
    engine.bireme("run", "-d", "--name", "host", "--net", "none", "busybox", "sleep", "600")
    done = engine.bireme(
        "exec", "-e", "A=b", "-w", "/tmp", "-u", "1:1", "host", "sh", "-c", "echo $A; pwd; id -u; exit 4"
    )
    assert (done.returncode, done.stdout) == (4, "b\n/tmp\n1\n"), done.stderr
    assert engine.bireme("exec", "-i", "host", "cat", input="through").stdout == "through"
    missing = engine.bireme("exec", "host", "nosuch")
    assert (missing.returncode, "executable file not found" in missing.stderr + missing.stdout) == (127, True)
    assert engine.bireme("exec", "-d", "host", "touch", "/tmp/was-here").returncode == 0
    eventually(lambda: engine.bireme("exec", "host", "ls", "/tmp").stdout == "was-here\n")
    engine.bireme("stop", "-t", "0", "host")
    stopped = engine.bireme("exec", "host", "true")
    assert (stopped.returncode, "is not running" in stopped.stderr) == (1, True)


def test_logs(engine: RunningEngine) -> None:
    script = "for i in 1 2 3; do echo line $i; done; echo oops >&2; read go; echo last"
    engine.bireme("run", "-di", "--name", "talk", "--net", "none", "busybox", "sh", "-c", script)
    eventually(lambda: "oops" in engine.bireme("logs", "talk").stderr)
    assert engine.bireme("logs", "talk").stdout == "line 1\nline 2\nline 3\n"
    assert engine.bireme("logs", "-n", "2", "talk").stdout == "line 3\n"
    stamped = engine.bireme("logs", "-t", "--tail", "1", "talk").stderr
    assert stamped[10] == "T"
    assert stamped.endswith("Z oops\n")
    assert engine.bireme("logs", "--since", "1h", "talk").stdout.startswith("line 1\n")
    assert engine.bireme("logs", "--until", "1h", "talk").stdout == ""
    follower = _start(engine, "logs", "-f", "talk")
    assert follower.stdout is not None
    assert follower.stdout.readline() == b"line 1\n"
    engine.bireme("attach", "talk", input="go\n")
    out, err = follower.communicate(timeout=patience(30))
    assert (follower.returncode, out, err) == (0, b"line 2\nline 3\nlast\n", b"oops\n")


def test_a_reader_that_goes_away(engine: RunningEngine) -> None:
    child = _start(engine, "run", "--rm", "--name", "chatty", "--net", "none", "busybox", "yes")
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.read(2) == b"y\n"
    child.stdout.close()
    assert child.wait(patience(30)) == 141
    assert child.stderr.read() == b""
    child.stderr.close()
    assert engine.bireme("rm", "-f", "chatty").returncode == 0
