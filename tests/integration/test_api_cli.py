"""The unmodified docker CLI against the API over an engine in memory, with and without a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import select
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import pytest

from tests.support.dockercli import DOCKER
from tests.support.pace import patience
from tests.support.rawhttp import ServedEngine, served_engine

pytestmark = pytest.mark.needs_docker

Result = tuple[int, str, str]


class Cli:
    """Runs docker against one socket."""

    def __init__(self, path: str) -> None:
        self._command = [DOCKER, "-H", f"unix://{path}"]

    async def __call__(self, *args: str, given: bytes | None = None) -> Result:
        return await asyncio.to_thread(self._run, args, given)

    def _run(self, args: Sequence[str], given: bytes | None) -> Result:
        done = subprocess.run(
            [*self._command, *args],
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            timeout=patience(30),
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    async def typed(self, *args: str, script: Sequence[tuple[bytes, bytes]]) -> tuple[int, bytes]:
        """Run on a pseudo-terminal; each step waits for its text and then types."""
        return await asyncio.to_thread(self._typed, args, script)

    def _typed(self, args: Sequence[str], script: Sequence[tuple[bytes, bytes]]) -> tuple[int, bytes]:
        ours, theirs = pty.openpty()
        process = subprocess.Popen([*self._command, *args], stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        shown, steps = b"", list(script)
        deadline = time.monotonic() + patience(30)
        try:
            for data in _output(ours, deadline):
                shown += data
                while steps and steps[0][0] in shown:
                    os.write(ours, steps.pop(0)[1])
            return process.wait(timeout=patience(10)), shown
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
            os.close(ours)


def _output(fd: int, deadline: float) -> Iterator[bytes]:
    while time.monotonic() < deadline:
        ready, _, _ = select.select([fd], [], [], 0.1)
        if not ready:
            yield b""
            continue
        try:
            yield os.read(fd, 65536)
        except OSError:
            return
    raise AssertionError("docker did not end")


def drive(scenario: Callable[[ServedEngine, Cli], Awaitable[None]]) -> None:
    async def main() -> None:
        async with served_engine() as here:
            await scenario(here, Cli(here.path))

    asyncio.run(main())


def test_run() -> None:
    async def scenario(here: ServedEngine, docker: Cli) -> None:
        assert await docker("run", "--rm", "busybox", "echo", "hello") == (0, "hello\n", "")
        assert await docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3") == (
            3,
            "out\n",
            "err\n",
        )
        assert await docker("run", "--rm", "-i", "busybox", "sort", given=b"b\na\n") == (0, "a\nb\n", "")
        code, _, err = await docker("run", "--rm", "busybox", "no-such-program")
        assert (code, "executable file not found in $PATH" in err) == (127, True)
        code, _, err = await docker("run", "--rm", "busybox", "/etc/passwd")
        assert (code, "permission denied" in err) == (126, True)
        code, _, err = await docker("run", "nothing:1")
        assert (code, "Unable to find image 'nothing:1' locally" in err) == (125, True)
        code, _, err = await docker("run", "-m", "1m", "busybox")
        assert (code, "Minimum memory limit allowed is 6MB" in err) == (125, True)
        assert here.services.instances.held == {}

    drive(scenario)


def test_verbs() -> None:
    async def scenario(here: ServedEngine, docker: Cli) -> None:
        code, identity, _ = await docker(
            "run", "-d", "--name", "one", "-l", "a=b", "busybox", "sh", "-c", "echo hi; sleep 1000"
        )
        assert code == 0
        assert (await docker("ps", "-q", "--no-trunc"))[1] == identity
        assert await docker("exec", "one", "echo", "in") == (0, "in\n", "")
        assert await docker("exec", "-i", "one", "sh", "-c", "cat; exit 7", given=b"x") == (7, "x", "")
        assert (await docker("exec", "one", "no-such-program"))[0] == 127
        assert (await docker("exec", "-d", "one", "true"))[0] == 0
        assert await docker("logs", "one") == (0, "hi\n", "")
        assert (await docker("inspect", "-f", "{{.State.Status}} {{.Config.Labels.a}}", "one"))[1] == "running b\n"
        assert "one" in (await docker("stats", "--no-stream", "one"))[1]
        assert "CMD" in (await docker("top", "one"))[1]
        assert (await docker("update", "-m", "32m", "--memory-swap", "-1", "one"))[0] == 0
        assert (await docker("pause", "one"))[0] == 0
        assert "(Paused)" in (await docker("ps"))[1]
        assert (await docker("unpause", "one"))[0] == 0
        assert (await docker("rename", "one", "two"))[0] == 0
        assert (await docker("rm", "two"))[0] == 1
        assert (await docker("stop", "-t", "0", "two"))[0] == 0
        assert (await docker("start", "two"))[0] == 0
        assert (await docker("kill", "two"))[0] == 0
        assert await docker("wait", "two") == (0, "137\n", "")
        assert (await docker("rm", "two"))[0] == 0
        events = (
            await docker("events", "--since", "1h", "--until", str(time.time() + 0.2), "--format", "{{.Action}}")
        )[1].split()
        assert [name for name in events if name in ("create", "die", "destroy")] == ["create", "die", "die", "destroy"]

    drive(scenario)


def test_the_rest() -> None:
    async def scenario(here: ServedEngine, docker: Cli) -> None:
        assert "API version:      1.55 (minimum version 1.24)" in (await docker("version"))[1]
        assert "Storage Driver: overlay" in (await docker("info"))[1]
        assert "busybox" in (await docker("images"))[1]
        assert (await docker("save", "busybox"))[1].startswith("sha256:")
        assert "Loaded image: busybox:latest" in (await docker("load", given=b"archive"))[1]
        assert b"".join(here.services.images.loaded) == b"archive"
        assert (await docker("network", "ls", "--format", "{{.Name}}"))[1].split() == ["bridge", "host", "none"]
        assert (await docker("volume", "ls", "-q"))[1] == ""
        code, _, err = await docker("node", "ls")
        assert (code, "This node is not a swarm manager" in err) == (1, True)

    drive(scenario)


def test_terminal() -> None:
    async def scenario(here: ServedEngine, docker: Cli) -> None:
        script = [(b"ready", b"typed\n")]
        code, shown = await docker.typed(
            "run",
            "--rm",
            "-it",
            "busybox",
            "sh",
            "-c",
            "test -t 1 && echo ready; read x; echo got $x; exit 4",
            script=script,
        )
        assert (code, b"got typed\r\n" in shown) == (4, True)
        await docker("run", "-dit", "--name", "term", "busybox", "cat")
        code, shown = await docker.typed("attach", "term", script=[(b"", b"abc\n"), (b"abc\r\nabc", b"\x10\x11")])
        assert b"read escape sequence" in shown
        code, shown = await docker.typed(
            "exec", "-it", "term", "sh", "-c", "echo go; read x; exit 6", script=[(b"go", b"\n")]
        )
        assert code == 6
        assert here.services.instances.find("term").running

    drive(scenario)
