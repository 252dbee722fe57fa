"""The logger on pipes and terminals: records, clients, back-pressure, and being killed again and again."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from bireme.linux import fd as fdlib
from bireme.linux import process, tty
from bireme.supervisor.ledger import Ledger
from bireme.supervisor.logger import Logger
from bireme.wire import stdcopy, supervision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE_S = 60.0


class Bench:
    """One logger in a fork, with everything that outlives it here."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ledger = Ledger.create()
        self.stage = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.opened: dict[str, tuple[dict[str, Any], list[int]]] = {}
        self.events: list[dict[str, Any]] = []
        self.pid = 0
        self.control: socket.socket | None = None
        self.start()

    def start(self) -> None:
        self.control, theirs = fdlib.seqpacket_pair()
        self.control.settimeout(DEADLINE_S)
        self.pid = process.fork()
        if self.pid == 0:
            try:
                fdlib.close_all_but([theirs.fileno(), self.ledger, *self.stage])
                Logger(theirs, self.ledger, self.stage).run()
            finally:
                os._exit(1)
        theirs.close()
        for message, fds in self.opened.values():
            self.send(message, fds)
        self.send({"op": "begin"})

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        process.wait_pid(self.pid)
        assert self.control is not None
        self.control.setblocking(False)
        try:
            while data := self.control.recv(65536):
                self.events.append(json.loads(data))
        except OSError:
            pass
        self.control.close()
        self.pid = 0

    def send(self, message: dict[str, Any], fds: list[int] | tuple[int, ...] = ()) -> None:
        assert self.control is not None
        packet = supervision.encode(message, spill=lambda text: -1)
        fdlib.send_fds(self.control, packet.data, list(fds))

    def open(
        self, key: str, streams: dict[str, int], *, raw: bool = False, log: bool = True, sinks: tuple[int, ...] = ()
    ) -> None:
        """Hand over streams; a duplicate of each stays here, as with the supervisor."""
        count = len(self.opened) * 2
        message = {
            "op": "open",
            "key": key,
            "raw": raw,
            "log": {"name": f"{key}.log", "max_size_bytes": 0, "max_files": 1} if log else {},
            "sources": [
                {"stream": name, "index": count + number, "fresh": True} for number, name in enumerate(streams, 1)
            ],
            "sinks": [{"sink": number, "stdout": True, "stderr": True} for number, _ in enumerate(sinks)],
        }
        directory = [os.open(self.directory, os.O_PATH | os.O_CLOEXEC)] if log else []
        fds = [*directory, *streams.values(), *sinks]
        self.send(message, fds)
        again = json.loads(json.dumps(message))
        for source in again["sources"]:
            source["fresh"] = False
        self.opened[key] = (again, fds)

    def wait(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            for number, event in enumerate(self.events):
                if fits(event):
                    return self.events.pop(number)
            assert self.control is not None
            data = self.control.recv(65536)
            assert data, "the logger ended"
            self.events.append(json.loads(data))

    def drained(self, key: str) -> None:
        self.wait(lambda e: e["event"] == "drained" and e["key"] == key)
        fdlib.close_quietly(*self.opened.pop(key)[1])

    def logs(self, key: str, stream: str = "stdout") -> str:
        lines = (self.directory / f"{key}.log").read_text().splitlines()
        return "".join(r["log"] for r in map(json.loads, lines) if r["stream"] == stream)

    def close(self) -> None:
        if self.pid:
            self.kill()
        for _, fds in self.opened.values():
            fdlib.close_quietly(*fds)
        fdlib.close_quietly(self.ledger, *self.stage)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def read_all(sock: socket.socket) -> bytes:
    sock.settimeout(DEADLINE_S)
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_both_streams_are_logged_to_their_end(bench: Bench) -> None:
    out, out_write = os.pipe()
    err, err_write = os.pipe()
    bench.open("a", {"stdout": out, "stderr": err})
    os.write(out_write, b"one\ntwo")
    os.write(err_write, b"bad\n")
    os.close(out_write)
    os.close(err_write)
    bench.drained("a")
    assert (bench.logs("a"), bench.logs("a", "stderr")) == ("one\ntwo", "bad\n")


def test_clients_get_frames_and_an_end(bench: Bench) -> None:
    out, out_write = os.pipe()
    err, err_write = os.pipe()
    ours, theirs = socket.socketpair()
    bench.open("a", {"stdout": out, "stderr": err}, log=False, sinks=(theirs.detach(),))
    os.write(out_write, b"prompt: ")
    assert ours.recv(100) == stdcopy.frame(stdcopy.STDOUT, b"prompt: ")
    os.write(err_write, b"bad\n")
    assert ours.recv(100) == stdcopy.frame(stdcopy.STDERR, b"bad\n")
    os.close(out_write)
    os.close(err_write)
    assert read_all(ours) == b""
    bench.drained("a")
    ours.close()


def test_a_client_that_hangs_up_is_dropped_and_reported(bench: Bench) -> None:
    out, out_write = os.pipe()
    ours, theirs = socket.socketpair()
    bench.open("a", {"stdout": out}, sinks=(theirs.detach(),))
    ours.close()
    assert bench.wait(lambda e: e["event"] == "gone") == {"event": "gone", "key": "a", "sink": 0}
    os.write(out_write, b"still logged\n")
    os.close(out_write)
    bench.drained("a")
    assert bench.logs("a") == "still logged\n"


def test_a_client_that_does_not_read_stops_the_writer_and_nobody_else(bench: Bench) -> None:
    out, out_write = os.pipe()
    other, other_write = os.pipe()
    ours, theirs = socket.socketpair()
    os.set_blocking(out_write, False)
    bench.open("a", {"stdout": out}, sinks=(theirs.detach(),))
    bench.open("b", {"stdout": other})
    line = b"x" * 1023 + b"\n"
    written = 0
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < 0.5:
        try:
            written += os.write(out_write, line)
            quiet_since = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
        assert written < 64 << 20, "nothing stopped the writer"
    os.write(other_write, b"alive\n")
    os.close(other_write)
    bench.drained("b")
    os.close(out_write)
    decoder = stdcopy.Decoder()
    received = b"".join(data for _, data in decoder.feed(read_all(ours)))
    assert len(received) == written
    bench.drained("a")
    assert len(bench.logs("a")) == written
    ours.close()


@pytest.mark.parametrize("settle", [False, True])
def test_a_flood_is_logged_to_its_last_byte(bench: Bench, settle: bool) -> None:
    out, out_write = os.pipe()
    other, other_write = os.pipe()
    bench.open("a", {"stdout": out})
    bench.open("b", {"stdout": other})
    text = b"".join(b"line %d\n" % number for number in range(300_000))
    view = memoryview(text)
    while view:
        view = view[os.write(out_write, view[:65536]) :]
    os.write(other_write, b"meanwhile\n")
    os.close(other_write)
    os.close(out_write)
    if settle:
        bench.send({"op": "settle", "key": "a"})
    bench.drained("b")
    bench.drained("a")
    assert bench.logs("a") == text.decode()
    assert bench.logs("b") == "meanwhile\n"


def test_a_stranger_that_holds_the_pipe_does_not_hold_the_end(bench: Bench) -> None:
    out, out_write = os.pipe()
    bench.open("a", {"stdout": out})
    os.write(out_write, b"last words")
    bench.send({"op": "settle", "key": "a"})
    bench.drained("a")
    bench.wait(lambda e: e["event"] == "settled")
    assert bench.logs("a") == "last words"
    os.close(out_write)


def test_settling_an_unknown_channel_is_answered(bench: Bench) -> None:
    bench.send({"op": "settle", "key": "nobody"})
    assert bench.wait(lambda e: e["event"] == "settled")["key"] == "nobody"


def test_a_terminal_is_one_raw_stream(bench: Bench) -> None:
    terminal = tty.open_terminal("/dev/ptmx")
    ours, theirs = socket.socketpair()
    bench.open("t", {"stdout": terminal.master}, raw=True, sinks=(theirs.detach(),))
    os.write(terminal.slave, b"hello\nworld\n")
    os.close(terminal.slave)
    assert read_all(ours) == b"hello\r\nworld\r\n"
    bench.drained("t")
    assert bench.logs("t") == "hello\r\nworld\r\n"
    ours.close()


@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again_it_loses_and_doubles_nothing(bench: Bench, seed: int) -> None:
    chance = random.Random(seed)
    expected: dict[str, list[str]] = {"p": [], "q": [], "t": []}
    terminal = tty.open_terminal("/dev/ptmx")
    p_read, p_write = os.pipe()
    q_read, q_write = os.pipe()
    bench.open("p", {"stdout": p_read})
    bench.open("q", {"stdout": q_read})
    bench.open("t", {"stdout": terminal.master}, raw=True)
    writers = {"p": p_write, "q": q_write, "t": terminal.slave}
    for number in range(400):
        for key, fd in writers.items():
            end = "" if chance.random() < 0.3 else "\n"
            text = f"{key} {number} {'z' * chance.randrange(200)}{end}"
            os.write(fd, text.encode())
            expected[key].append(text)
        if number % 8 == 7:
            time.sleep(chance.random() * 0.004)
            bench.kill()
            bench.start()
    for fd in writers.values():
        os.close(fd)
    for key in writers:
        bench.drained(key)
    assert bench.logs("p") == "".join(expected["p"])
    assert bench.logs("q") == "".join(expected["q"])
    assert bench.logs("t").replace("\r\n", "\n") == "".join(expected["t"])


def test_a_client_survives_the_logger(bench: Bench) -> None:
    out, out_write = os.pipe()
    ours, theirs = socket.socketpair()
    bench.open("a", {"stdout": out}, sinks=(theirs.detach(),))
    os.write(out_write, b"before\n")
    assert ours.recv(100) == stdcopy.frame(stdcopy.STDOUT, b"before\n")
    wait_until(lambda: (bench.directory / "a.log").exists() and bench.logs("a") == "before\n")
    bench.kill()
    os.write(out_write, b"between\n")
    bench.start()
    os.close(out_write)
    assert b"between\n" in read_all(ours)
    bench.drained("a")
    assert bench.logs("a") == "before\nbetween\n"
    ours.close()
