"""run, create, start, attach and exec as programs: streams, exit codes, signals, files."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.cli import DEADLINE_S, Result, command, environment, run_program
from tests.support.fakerun import CONTAINER, FakeContainer, Streams, fake_exec
from tests.support.fakeserver import FakeServer, Reply, refuse

BASE = f"/containers/{CONTAINER}"


def _bireme(server: FakeServer, *words: str, stdin: bytes = b"") -> Result:
    return run_program("-H", server.host, *words, stdin=stdin)


def _hello(streams: Streams) -> int:
    streams.out(b"hello ")
    streams.err(b"oops\n")
    streams.out(b"world\n")
    return 7


def test_output_and_exit_code(server: FakeServer) -> None:
    FakeContainer(server, _hello)
    assert _bireme(server, "run", "--rm", "busybox", "echo", "-x") == (7, "hello world\n", "oops\n")
    assert server.paths()[0] == "POST /containers/create"
    assert server.paths()[-1] == f"POST {BASE}/start"
    assert sorted(server.paths()[1:3]) == [f"POST {BASE}/attach", f"POST {BASE}/wait"]
    body = server.requests[0].json()
    assert body["Cmd"] == ["echo", "-x"]
    assert body["HostConfig"] == {"AutoRemove": True}
    assert server.wait_for(f"POST {BASE}/wait").query == {"condition": "removed"}
    assert server.wait_for(f"POST {BASE}/attach").query == {"stream": "1", "stdout": "1", "stderr": "1"}


def test_only_what_was_asked_for_is_attached(server: FakeServer) -> None:
    FakeContainer(server, _hello)
    assert _bireme(server, "run", "-a", "stderr", "busybox") == (7, "", "oops\n")
    assert server.wait_for(f"POST {BASE}/attach").query == {"stream": "1", "stderr": "1"}
    assert server.wait_for(f"POST {BASE}/wait").query == {"condition": "next-exit"}


def test_standard_input_and_its_end(server: FakeServer) -> None:
    def cat(streams: Streams) -> int:
        streams.out(streams.read_all().upper())
        return 0

    FakeContainer(server, cat)
    assert _bireme(server, "run", "-i", "busybox", "cat", stdin=b"some words") == (0, "SOME WORDS", "")
    assert server.requests[0].json()["StdinOnce"]


def test_input_is_not_touched_without_i(server: FakeServer) -> None:
    FakeContainer(server, _hello)
    reader, writer = os.pipe()
    os.write(writer, b"for someone else")
    done = subprocess.run(
        command("-H", server.host, "run", "busybox"),
        stdin=reader,
        capture_output=True,
        env=environment(),
        timeout=DEADLINE_S,
    )
    assert done.returncode == 7
    assert os.read(reader, 100) == b"for someone else"
    os.close(reader)
    os.close(writer)


def test_large_streams_both_ways_at_once_in_bounded_memory(server: FakeServer) -> None:
    """A filter that answers as it reads: neither side may wait for the other's end."""
    size = 48 << 20

    def echo(streams: Streams) -> int:
        left = size
        while left:
            data = streams.read(min(left, 100_000))
            streams.out(data)
            left -= len(data)
        return 0

    FakeContainer(server, echo)
    source = b"0123456789abcdef" * 4096
    limit = 400 << 20
    child = subprocess.Popen(
        command("-H", server.host, "run", "-i", "busybox", "cat"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert child.stdin is not None
    assert child.stdout is not None
    resource.prlimit(child.pid, resource.RLIMIT_AS, (limit, limit))
    os.set_blocking(child.stdin.fileno(), False)
    received, sent = hashlib.sha256(), 0
    count = 0
    while count < size:
        if sent < size:
            try:
                sent += os.write(child.stdin.fileno(), source[sent % len(source) :][: size - sent])
            except BlockingIOError:
                pass
            if sent == size:
                child.stdin.close()
            os.set_blocking(child.stdout.fileno(), False)
        else:
            os.set_blocking(child.stdout.fileno(), True)
        try:
            data = os.read(child.stdout.fileno(), 1 << 20)
        except BlockingIOError:
            continue
        assert data
        received.update(data)
        count += len(data)
    assert child.wait(DEADLINE_S) == 0
    child.stdout.close()
    assert received.hexdigest() == hashlib.sha256(source * (size // len(source))).hexdigest()


def test_the_reader_may_go_away(server: FakeServer) -> None:
    def yes(streams: Streams) -> int:
        try:
            for _ in range(10_000):
                streams.out(b"y\n" * 1000)
        except OSError:
            return 1
        return 0

    FakeContainer(server, yes)
    child = subprocess.Popen(
        command("-H", server.host, "run", "busybox", "yes"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert child.stdout is not None
    assert child.stdout.read(2) == b"y\n"
    child.stdout.close()
    assert child.wait(DEADLINE_S) == 141
    assert child.stderr is not None
    assert child.stderr.read() == b""
    child.stderr.close()


def test_detached(server: FakeServer) -> None:
    FakeContainer(server, _hello)
    assert _bireme(server, "run", "-d", "-it", "--name", "x", "busybox") == (0, f"{CONTAINER}\n", "")
    assert server.paths() == ["POST /containers/create", f"POST {BASE}/start"]
    assert server.requests[0].query == {"name": "x"}
    assert not server.requests[0].json().get("AttachStdin")
    result = _bireme(server, "run", "-d", "-a", "stdout", "busybox")
    assert result == (1, "", "conflicting options: cannot specify both --attach and --detach\n")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('exec: "foo": executable file not found in $PATH: unknown', 127),
        ("exec /foo: no such file or directory", 127),
        ('exec: "/etc": permission denied: unknown', 126),
        ("exec /x: exec format error", 126),
        ("driver failed programming external connectivity", 125),
    ],
)
def test_what_cannot_start(server: FakeServer, message: str, code: int) -> None:
    FakeContainer(server, _hello)
    server.on(f"POST {BASE}/start", refuse("400 Bad Request", message))
    for words in (["run"], ["run", "-d"]):
        result = _bireme(server, *words, "busybox", "foo")
        assert result.code == code
        assert result.err == (
            f"bireme: Error response from daemon: {message}\n\nRun 'bireme run --help' for more information\n"
        )


def test_what_cannot_be_created(server: FakeServer) -> None:
    server.on("POST /containers/create", refuse("409 Conflict", 'Conflict. The container name "/x" is already in use'))
    result = _bireme(server, "run", "--name", "x", "busybox")
    assert result.code == 125
    assert result.err.startswith('bireme: Error response from daemon: Conflict. The container name "/x"')
    assert _bireme(server, "create", "--name", "x", "busybox").code == 125


def test_create(server: FakeServer, tmp_path: Path) -> None:
    server.on("POST /containers/create", Reply({"Id": CONTAINER, "Warnings": ["mind the gap"]}, "201 Created"))
    cidfile = tmp_path / "cid"
    result = _bireme(server, "create", "--cidfile", str(cidfile), "--platform", "linux/amd64", "busybox")
    assert result == (0, f"{CONTAINER}\n", "WARNING: mind the gap\n")
    assert cidfile.read_text() == CONTAINER
    assert server.requests[0].query == {"platform": "linux/amd64"}
    again = _bireme(server, "create", "--cidfile", str(cidfile), "busybox")
    assert again.code == 125
    assert "container ID file found, make sure the other container isn't running or delete" in again.err
    server.on("POST /containers/create", refuse("400 Bad Request", "no"))
    cidfile.unlink()
    assert _bireme(server, "create", "--cidfile", str(cidfile), "busybox").code == 125
    assert not cidfile.exists()


def test_a_missing_image_is_pulled(server: FakeServer) -> None:
    FakeContainer(server, _hello)
    missing = refuse("404 Not Found", "No such image: busybox:latest")
    server.on("POST /containers/create", missing, Reply({"Id": CONTAINER}, "201 Created"))
    server.on("POST /images/create", Reply(chunks=[b'{"status":"Pulling","id":"latest"}\r\n{"status":"Done"}\r\n']))
    result = _bireme(server, "run", "busybox")
    assert result == (
        7,
        "hello world\n",
        "Unable to find image 'busybox:latest' locally\nlatest: Pulling\nDone\noops\n",
    )
    assert server.wait_for("POST /images/create").query == {"fromImage": "busybox", "tag": "latest"}


def test_an_image_that_cannot_be_pulled(server: FakeServer) -> None:
    server.on("POST /containers/create", refuse("404 Not Found", "No such image: r:5000/x:latest"))
    server.on("POST /images/create", refuse("501 Not Implemented", "there are no registries yet"))
    result = _bireme(server, "run", "r:5000/x")
    assert result.code == 125
    assert result.err.startswith(
        "Unable to find image 'r:5000/x:latest' locally\n"
        "bireme: Error response from daemon: there are no registries yet\n"
    )
    never = _bireme(server, "run", "--pull", "never", "r:5000/x")
    assert (never.code, never.err.startswith("bireme: Error response from daemon: No such image")) == (125, True)
    assert _bireme(server, "run", "--pull", "often", "x").code == 125
    assert _bireme(server, "run", "--pull", "always", "x").code == 125
    assert server.paths()[-1] == "POST /images/create"


def test_a_terminal_needs_a_terminal(server: FakeServer) -> None:
    assert _bireme(server, "run", "-it", "busybox") == (1, "", "the input device is not a TTY\n")
    assert server.requests == []


def test_the_engine_may_vanish(server: FakeServer) -> None:
    def vanish(streams: Streams) -> int:
        streams._conversation.socket.sendall(b"\x01\0\0\0\0\0\0\x09half")
        return 0

    FakeContainer(server, vanish)
    result = _bireme(server, "run", "busybox")
    assert (result.code, result.out) == (125, "half")
    assert "the engine closed the connection in the middle of the output" in result.err


def _start(server: FakeServer, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("-H", server.host, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )


def _finish(child: subprocess.Popen[bytes]) -> Result:
    out, err = child.communicate(timeout=DEADLINE_S)
    return Result(child.returncode, out.decode(), err.decode())


def test_signals_are_the_containers(server: FakeServer) -> None:
    def until_term(streams: Streams) -> int:
        streams.out(b"up\n")
        container.expect(lambda: "TERM" in container.signals)
        return 143

    container = FakeContainer(server, until_term)
    child = _start(server, "run", "busybox")
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        child.send_signal(number)
        name = number.name.removeprefix("SIG")
        container.expect(lambda name=name: name in container.signals)  # type: ignore[misc]
    child.send_signal(signal.SIGTERM)
    assert _finish(child).code == 143
    assert container.signals == ["INT", "HUP", "USR1", "TERM"]


def test_a_signal_before_the_start_waits_for_it(server: FakeServer) -> None:
    def until_int(streams: Streams) -> int:
        container.expect(lambda: "INT" in container.signals)
        return 130

    container = FakeContainer(server, until_int)

    def slow_attach(request: object, conversation: object) -> None:
        child.send_signal(signal.SIGINT)
        container._attach(request, conversation)  # type: ignore[arg-type]

    server.on(f"POST {BASE}/attach", slow_attach)
    child = _start(server, "run", "busybox")
    assert _finish(child).code == 130
    assert server.paths().index(f"POST {BASE}/kill") > server.paths().index(f"POST {BASE}/start")


def test_without_sig_proxy_we_end_alone(server: FakeServer) -> None:
    def forever(streams: Streams) -> int:
        streams.out(b"up\n")
        streams.read_all()
        return 0

    container = FakeContainer(server, forever)
    child = _start(server, "run", "--sig-proxy=false", "busybox")
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    child.send_signal(signal.SIGINT)
    assert _finish(child) == (130, "", "")
    assert container.signals == []


def _inspected(server: FakeServer, *, tty: bool = False, stdin: bool = False, **state: bool) -> None:
    container = {"Id": CONTAINER, "Config": {"Tty": tty, "OpenStdin": stdin}, "State": state, "HostConfig": {}}
    server.on("GET /containers/x/json", container)


def test_start_attached(server: FakeServer) -> None:
    FakeContainer(server, _hello)
    _inspected(server)
    assert _bireme(server, "start", "-a", "x") == (7, "hello world\n", "oops\n")
    assert _bireme(server, "start", "-a", "x", "y") == (
        1,
        "",
        "you cannot start and attach multiple containers at once\n",
    )


def test_start_interactive(server: FakeServer) -> None:
    def cat(streams: Streams) -> int:
        streams.out(streams.read_all())
        return 0

    FakeContainer(server, cat)
    _inspected(server, stdin=True)
    assert _bireme(server, "start", "-ai", "x", stdin=b"typed") == (0, "typed", "")


def test_attach(server: FakeServer) -> None:
    FakeContainer(server, _hello, started=True)
    _inspected(server, Running=True)
    assert _bireme(server, "attach", "x") == (7, "hello world\n", "oops\n")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "cannot attach to a stopped container, start it first"),
        ({"Running": True, "Paused": True}, "cannot attach to a paused container, unpause it first"),
        ({"Running": True, "Restarting": True}, "cannot attach to a restarting container, wait until it is running"),
    ],
)
def test_attach_to_what_does_not_run(server: FakeServer, state: dict[str, bool], message: str) -> None:
    _inspected(server, **state)
    assert _bireme(server, "attach", "x") == (1, "", message + "\n")


def test_exec(server: FakeServer) -> None:
    fake_exec(server, _hello)
    words = ["exec", "-e", "A=b", "-u", "1", "-w", "/w", "--privileged", "x", "sh", "-c", "true"]
    assert _bireme(server, *words) == (7, "hello world\n", "oops\n")
    assert server.requests[0].json() == {
        "Cmd": ["sh", "-c", "true"],
        "User": "1",
        "Privileged": True,
        "WorkingDir": "/w",
        "Env": ["A=b"],
        "AttachStdout": True,
        "AttachStderr": True,
    }
    assert server.wait_for("POST /exec/e1/start").json() == {"Detach": False, "Tty": False}
    assert server.requests[1].headers["upgrade"] == "tcp"


def test_exec_with_input(server: FakeServer) -> None:
    def cat(streams: Streams) -> int:
        streams.out(streams.read_all())
        return 3

    fake_exec(server, cat)
    assert _bireme(server, "exec", "-i", "x", "cat", stdin=b"abc") == (3, "abc", "")


def test_exec_detached(server: FakeServer) -> None:
    fake_exec(server, _hello)
    assert _bireme(server, "exec", "-d", "x", "true") == (0, "", "")
    assert server.wait_for("POST /exec/e1/start").json()["Detach"]


def test_exec_that_fails(server: FakeServer) -> None:
    server.on("POST /containers/x/exec", refuse("409 Conflict", "container x is not running"))
    assert _bireme(server, "exec", "x", "true") == (1, "", "Error response from daemon: container x is not running\n")
    fake_exec(server, _hello)
    server.on("POST /exec/e1/start", refuse("400 Bad Request", 'exec: "foo": executable file not found in $PATH'))
    assert _bireme(server, "exec", "x", "foo").code == 127
    server.on("POST /exec/e1/start", refuse("400 Bad Request", 'exec: "/": permission denied'))
    assert _bireme(server, "exec", "x", "/").code == 126


def test_load_and_save(server: FakeServer, tmp_path: Path) -> None:
    archive = os.urandom(300_000)
    (tmp_path / "in.tar").write_bytes(archive)
    server.on(
        "POST /images/load",
        Reply(chunks=[b'{"status":"Loading","id":"a"}\r\n', b'{"stream":"Loaded image: x:y\\n"}\r\n']),
    )
    assert _bireme(server, "load", "-i", str(tmp_path / "in.tar")) == (0, "Loaded image: x:y\n", "")
    assert _bireme(server, "load", "-q", stdin=archive) == (0, "Loaded image: x:y\n", "")
    assert [request.body for request in server.requests] == [archive, archive]
    assert _bireme(server, "load", "-i", "/nope") == (1, "", "open /nope: no such file or directory\n")
    server.on("GET /images/get", Reply(chunks=[archive[:100_000], archive[100_000:]]))
    target = tmp_path / "out.tar"
    assert _bireme(server, "save", "-o", str(target), "x:y", "z") == (0, "", "")
    assert target.read_bytes() == archive
    assert server.requests[-1].target.endswith("/images/get?names=x%3Ay&names=z")
    done = subprocess.run(
        command("-H", server.host, "save", "x"), stdout=subprocess.PIPE, env=environment(), check=True
    )
    assert done.stdout == archive


def test_a_save_that_breaks_leaves_nothing(server: FakeServer, tmp_path: Path) -> None:
    def broken(request: object, conversation: object) -> None:
        conversation.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nhalf")  # type: ignore[attr-defined]

    server.on("GET /images/get", broken)
    target = tmp_path / "out.tar"
    target.write_bytes(b"what was there")
    assert _bireme(server, "save", "-o", str(target), "x").code == 1
    assert target.read_bytes() == b"what was there"
    assert os.listdir(tmp_path) == ["out.tar"]
    server.on("GET /images/get", refuse("404 Not Found", "No such image: x"))
    assert _bireme(server, "save", "-o", str(target), "x") == (1, "", "Error response from daemon: No such image: x\n")
