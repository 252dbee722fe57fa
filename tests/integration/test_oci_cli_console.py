"""Terminals of the OCI command line: to a console socket, and joined to one of ours."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bireme.linux import tty
from tests.support.bundle import OURS, Runtime, opened, peers
from tests.support.pace import eventually, patience

pytestmark = [pytest.mark.needs_root, pytest.mark.slow]


@pytest.fixture(params=[OURS, *peers()], ids=lambda command: "ours" if command == OURS else Path(command[0]).name)
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    with opened(request.param) as made:
        yield made


def with_terminal(config: dict[str, Any]) -> None:
    config["process"] |= {"terminal": True, "consoleSize": {"height": 31, "width": 97}}


def read_until(fd: int, wanted: bytes) -> bytes:
    """Everything up to and with `wanted`; what came instead when it never does."""
    data = b""
    deadline = time.monotonic() + patience(30)
    while wanted not in data:
        left = deadline - time.monotonic()
        assert left > 0, data
        if select.select([fd], [], [], left)[0]:
            try:
                piece = os.read(fd, 4096)
            except OSError:
                piece = b""
            assert piece, data
            data += piece
    return data


class ConsoleSocket:
    """What an engine listens on for a container's terminal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.bind(str(path))
        self.sock.listen(1)

    def master(self) -> int:
        self.sock.settimeout(patience(30))
        connection, _ = self.sock.accept()
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
        return fds[0]

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def console(runtime: Runtime) -> Iterator[ConsoleSocket]:
    opened_socket = ConsoleSocket(runtime.directory / "console.sock")
    yield opened_socket
    opened_socket.close()


def test_a_terminal_for_the_engine(runtime: Runtime, console: ConsoleSocket) -> None:
    bundle = runtime.bundle("sh", "-c", "stty size; tty; read x; echo got $x", change=with_terminal)
    runtime.create("create", "--bundle", str(bundle), "--console-socket", str(console.path), "one")
    master = console.master()
    try:
        assert runtime.status("one") == "created"
        runtime("start", "one")
        text = read_until(master, b"/dev/")
        assert b"31 97" in text
        os.write(master, b"hello\n")
        read_until(master, b"got hello")
    finally:
        os.close(master)
    runtime.wait_for("one", "stopped")


def test_an_exec_with_a_terminal_for_the_engine(runtime: Runtime, console: ConsoleSocket) -> None:
    bundle = runtime.bundle("sleep", "1000")
    runtime.create("run", "--detach", "--bundle", str(bundle), "one")
    words = ["exec", "--tty", "--detach", "--console-socket", str(console.path), "one", "sh", "-c", "tty; read x"]
    runtime.create(*words)
    master = console.master()
    try:
        read_until(master, b"/dev/pts/0")
        tty.set_size(master, 10, 20)
        os.write(master, b"\n")
    finally:
        os.close(master)


@pytest.mark.parametrize("verb", ["create", "run"])
def test_terminal_and_socket_go_together(runtime: Runtime, console: ConsoleSocket, verb: str) -> None:
    words = [verb, *(["--detach"] if verb == "run" else [])]
    bundle = runtime.bundle("true", change=with_terminal)
    assert "console socket" in runtime(*words, "--bundle", str(bundle), "one", code=None).stderr
    plain = runtime.bundle("true")
    done = runtime(*words, "--bundle", str(plain), "--console-socket", str(console.path), "one", code=None)
    assert done.returncode != 0
    assert runtime("state", "one", code=None).returncode != 0


class OurTerminal:
    """A terminal with a verb running in its foreground."""

    def __init__(self, argv: list[str], rows: int, columns: int) -> None:
        terminal = tty.open_terminal("/dev/ptmx")
        self.master = terminal.master
        tty.set_size(self.master, rows, columns)
        self.process = subprocess.Popen(
            argv, stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave, start_new_session=True
        )
        os.close(terminal.slave)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def test_run_in_our_terminal(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["terminal"] = True

    script = "stty size; echo ready; read x; stty size; echo got $x; read y; echo end; exit 6"
    bundle = runtime.bundle("sh", "-c", script, change=change)
    ours = OurTerminal(runtime.argv("run", "--bundle", str(bundle), "one"), 24, 80)
    try:
        text = read_until(ours.master, b"ready")
        assert b"24 80" in text or not runtime.ours
        tty.set_size(ours.master, 40, 100)
        ours.process.send_signal(signal.SIGWINCH)
        os.write(ours.master, b"hello\r")
        text = read_until(ours.master, b"got hello")
        assert b"40 100" in text or not runtime.ours
        os.write(ours.master, b"\r")
        read_until(ours.master, b"end")
        assert ours.process.wait(patience(30)) == 6
    finally:
        ours.close()


def test_exec_in_our_terminal(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "1000")
    runtime.create("run", "--detach", "--bundle", str(bundle), "one")
    ours = OurTerminal(runtime.argv("exec", "--tty", "one", "sh"), 33, 77)
    try:
        os.write(ours.master, b"stty size; echo $((6*7))\r")
        text = read_until(ours.master, b"42")
        assert b"33 77" in text or not runtime.ours
        os.write(ours.master, b"sleep 1000\r")
        eventually(lambda: runtime("ps", "one").stdout.count("sleep 1000") == 2)
        os.write(ours.master, b"\x03")
        os.write(ours.master, b"echo $((40+3)); exit 9\r")
        read_until(ours.master, b"43")
        assert ours.process.wait(patience(30)) == 9
    finally:
        ours.close()


def test_our_terminal_is_left_as_it_was(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["terminal"] = True

    bundle = runtime.bundle("true", change=change)
    command = " ".join(runtime.argv("run", "--bundle", str(bundle), "one"))
    ours = OurTerminal(
        ["sh", "-c", f"stty -g > {runtime.directory}/a; {command}; stty -g > {runtime.directory}/b"], 24, 80
    )
    try:
        assert ours.process.wait(patience(30)) == 0
    finally:
        ours.close()
    assert (runtime.directory / "a").read_text() == (runtime.directory / "b").read_text()
