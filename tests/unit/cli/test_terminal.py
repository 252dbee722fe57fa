"""Real pseudo-terminals: raw mode and its end, sizes, detaching."""

from __future__ import annotations

import signal

import pytest

from tests.support.cli import command, environment
from tests.support.fakerun import CONTAINER, FakeContainer, Streams, fake_exec
from tests.support.fakeserver import FakeServer, refuse
from tests.support.terminal import Terminal

BASE = f"/containers/{CONTAINER}"


def _terminal(server: FakeServer, *words: str, rows: int = 24, columns: int = 80) -> Terminal:
    return Terminal(command("-H", server.host, *words), environment(TERM="xterm"), rows, columns)


def _echo_line(streams: Streams) -> int:
    """Says what was typed until a carriage return, as a program in raw mode hears it."""
    streams.out(b"ready\r\n")
    typed = b""
    while not typed.endswith(b"\r"):
        typed += streams.read(1)
    streams.out(b"<" + repr(typed).encode() + b">\r\n")
    return 5


def test_raw_mode_and_its_end(server: FakeServer) -> None:
    container = FakeContainer(server, _echo_line, terminal=True)
    with _terminal(server, "run", "-it", "busybox", rows=30, columns=100) as terminal:
        terminal.expect(b"ready")
        terminal.until_raw()
        terminal.type(b"a\x03\x1a\n\r")
        assert terminal.wait() == 5
        assert b"<b'a\\x03\\x1a\\n\\r'>" in terminal.screen
        assert terminal.screen.count(b"a") == terminal.screen.replace(b"<b'a", b"").count(b"a") + 1
        assert terminal.is_restored()
    body = server.requests[0].json()
    assert body["Tty"]
    assert body["OpenStdin"]
    assert body["HostConfig"]["ConsoleSize"] == [30, 100]
    assert container.sizes == [(30, 100)]
    assert container.signals == []


def test_the_size_follows(server: FakeServer) -> None:
    def until_resized(streams: Streams) -> int:
        streams.out(b"ready\r\n")
        container.expect(lambda: (40, 132) in container.sizes)
        return 0

    container = FakeContainer(server, until_resized, terminal=True)
    with _terminal(server, "run", "-it", "busybox") as terminal:
        terminal.expect(b"ready")
        terminal.until_raw()
        terminal.tell_resized(40, 132)
        assert terminal.wait() == 0
    assert container.sizes == [(24, 80), (40, 132)]


@pytest.mark.parametrize(
    ("words", "typed"), [([], b"\x10\x11"), (["--detach-keys", "ctrl-x,y"], b"\x18y"), ([], b"\x10z\x10\x11")]
)
def test_detaching(server: FakeServer, words: list[str], typed: bytes) -> None:
    heard: list[bytes] = []

    def listen(streams: Streams) -> int:
        streams.out(b"ready\r\n")
        heard.append(streams.read_all())
        return 0

    FakeContainer(server, listen, terminal=True)
    with _terminal(server, "run", "-it", *words, "busybox") as terminal:
        terminal.expect(b"ready")
        terminal.until_raw()
        for byte in typed:
            terminal.type(bytes((byte,)))
        assert terminal.wait() == 0
        assert terminal.is_restored()
    server.__exit__(None, None, None)
    assert heard == [typed[:-2]]


def test_detaching_from_an_attachment_says_so(server: FakeServer) -> None:
    def listen(streams: Streams) -> int:
        streams.out(b"ready\r\n")
        streams.read_all()
        return 0

    FakeContainer(server, listen, terminal=True, started=True)
    inspected = {"Id": CONTAINER, "Config": {"Tty": True, "OpenStdin": True}, "State": {"Running": True}}
    server.on("GET /containers/x/json", inspected)
    with _terminal(server, "attach", "x") as terminal:
        terminal.expect(b"ready")
        terminal.until_raw()
        terminal.type(b"\x10\x11")
        assert terminal.wait() == 0
        assert b"read escape sequence" in terminal.screen
        assert terminal.is_restored()


def test_bad_detach_keys(server: FakeServer) -> None:
    FakeContainer(server, _echo_line, terminal=True)
    with _terminal(server, "run", "-it", "--detach-keys", "nonsense", "busybox") as terminal:
        assert terminal.wait() == 125
        assert b"Unknown character: 'nonsense'" in terminal.screen
        assert terminal.is_restored()


def test_a_start_that_fails_leaves_the_terminal_alone(server: FakeServer) -> None:
    FakeContainer(server, _echo_line, terminal=True)
    server.on(f"POST {BASE}/start", refuse("400 Bad Request", "exec format error"))
    with _terminal(server, "run", "-it", "busybox") as terminal:
        assert terminal.wait() == 126
        assert terminal.is_restored()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_from_outside_are_passed_on(server: FakeServer, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")

    def until_signal(streams: Streams) -> int:
        streams.out(b"ready\r\n")
        container.expect(lambda: name in container.signals)
        return 128 + number

    container = FakeContainer(server, until_signal, terminal=True)
    with _terminal(server, "run", "-it", "busybox") as terminal:
        terminal.expect(b"ready")
        terminal.until_raw()
        terminal.child.send_signal(number)
        assert terminal.wait() == 128 + number
        assert terminal.is_restored()


def test_the_terminal_is_restored_when_the_engine_breaks(server: FakeServer) -> None:
    def vanish(streams: Streams) -> int:
        streams.out(b"ready\r\n")
        streams.read(1)
        server._script[f"POST {BASE}/wait"] = []
        for sock in server._sockets:
            sock.shutdown(2)
        return 0

    FakeContainer(server, vanish, terminal=True)
    with _terminal(server, "run", "-it", "busybox") as terminal:
        terminal.expect(b"ready")
        terminal.until_raw()
        terminal.type(b"x")
        assert terminal.wait() == 125
        assert terminal.is_restored()


def test_without_input_the_terminal_stays_cooked(server: FakeServer) -> None:
    def say(streams: Streams) -> int:
        streams.out(b"ready\r\n")
        container.expect(lambda: "INT" in container.signals)
        return 130

    container = FakeContainer(server, say, terminal=True)
    with _terminal(server, "run", "-t", "busybox") as terminal:
        terminal.expect(b"ready")
        assert not terminal.is_raw()
        terminal.child.send_signal(signal.SIGINT)
        assert terminal.wait() == 130
        assert terminal.is_restored()


def test_exec_on_a_terminal(server: FakeServer) -> None:
    state = fake_exec(server, _echo_line, terminal=True)
    with _terminal(server, "exec", "-it", "x", "sh", rows=31, columns=99) as terminal:
        terminal.expect(b"ready")
        terminal.until_raw()
        terminal.type(b"\x04\r")
        assert terminal.wait() == 5
        assert b"\\x04" in terminal.screen
        assert terminal.is_restored()
    assert server.wait_for("POST /exec/e1/start").json()["ConsoleSize"] == [31, 99]
    assert state["sizes"] == [(31, 99)]


def test_progress_is_redrawn_on_a_terminal(server: FakeServer) -> None:
    from tests.support.fakeserver import Reply

    lines = [
        b'{"status":"Fetching","id":"a","progressDetail":{"current":50,"total":100}}\n',
        b'{"status":"Fetching","id":"b","progressDetail":{"current":1000}}\n',
        b'{"status":"Ready","id":"a"}\n{"status":"all done"}\n',
    ]
    server.on("POST /bireme/v1/bootstrap", Reply(chunks=lines))
    with _terminal(server, "bootstrap", "busybox") as terminal:
        assert terminal.wait() == 0
        screen = terminal.screen
    assert b"\x1b[1A" in screen
    assert b"\x1b[2A" in screen
    assert b"a: Fetching [=========================>" in screen
    assert b"50B/100B" in screen
    assert b"a: Ready" in screen
    assert screen.endswith(b"all done\r\n")


def test_load_from_a_terminal_and_save_to_one(server: FakeServer) -> None:
    for words, complaint in (
        (["load"], b"requested load from stdin, but stdin is empty"),
        (["save", "x"], b"cowardly refusing to save to a terminal. Use the -o flag or redirect"),
    ):
        with _terminal(server, *words) as terminal:
            assert terminal.wait() == 1
            assert complaint in terminal.screen
    assert server.requests == []


def test_colour_only_on_terminals(server: FakeServer) -> None:
    server.on("GET /bireme/v1/containers/x/explain", {"name": "x", "limits": {}, "root": {}})
    with _terminal(server, "explain", "x") as terminal:
        assert terminal.wait() == 0
        assert b"\x1b[1mx\x1b[0m" in terminal.screen
    plain = environment(TERM="xterm", NO_COLOR="1")
    with Terminal(command("-H", server.host, "explain", "x"), plain) as terminal:
        assert terminal.wait() == 0
        assert b"\x1b" not in terminal.screen
