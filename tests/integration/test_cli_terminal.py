"""`bireme` on a real terminal with a real container behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cli import command
from tests.support.daemon import RunningEngine, running_engine
from tests.support.terminal import Terminal

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with running_engine(tmp_path_factory.mktemp("cli")) as running:
        yield running


def _terminal(engine: RunningEngine, *words: str) -> Terminal:
    return Terminal(command(*words), {**engine.env, "TERM": "xterm"}, rows=33, columns=111)


def test_a_shell(engine: RunningEngine) -> None:
    with _terminal(engine, "run", "-it", "--rm", "--net", "none", "busybox", "sh") as terminal:
        terminal.until_raw()
        terminal.type(b"tty; stty size; echo $((6*7))\r")
        terminal.expect(b"\r\n42\r\n")
        assert b"/dev/pts/0\r\n33 111\r\n" in terminal.screen
        terminal.tell_resized(40, 132)
        terminal.screen = b""
        terminal.type(b"while [ \"$(stty size)\" != '40 132' ]; do sleep 0.05; done; echo resi''zed\r")
        terminal.expect(b"resized\r\n")
        terminal.type(b"sh -c \"echo sle''eping; exec sleep 600\"\r")
        terminal.expect(b"sleeping\r\n")
        terminal.type(b"\x03")
        terminal.expect(b"^C")
        terminal.type(b"exit 9\r")
        assert terminal.wait() == 9
        assert terminal.is_restored()


def test_detaching_and_coming_back(engine: RunningEngine) -> None:
    with _terminal(engine, "run", "-it", "--name", "left", "--net", "none", "busybox", "sh") as terminal:
        terminal.until_raw()
        terminal.type(b"x=kept; echo re''ady\r")
        terminal.expect(b"ready\r\n")
        terminal.type(b"\x10")
        terminal.type(b"\x11")
        assert terminal.wait() == 0
        assert terminal.is_restored()
    assert engine.bireme("ps", "-f", "name=left", "--format", "{{.Names}} {{.State}}").stdout == "left running\n"
    with _terminal(engine, "attach", "left") as terminal:
        terminal.until_raw()
        terminal.type(b"echo $x''!\r")
        terminal.expect(b"kept!\r\n")
        terminal.type(b"\x10\x11")
        terminal.expect(b"read escape sequence")
        assert terminal.wait() == 0
        assert terminal.is_restored()
    with _terminal(engine, "exec", "-it", "left", "sh") as terminal:
        terminal.until_raw()
        terminal.type(b"stty size; echo $((2+3))$((4+5))\r")
        terminal.expect(b"59\r\n")
        assert b"33 111\r\n" in terminal.screen
        terminal.type(b"exit 7\r")
        assert terminal.wait() == 7
        assert terminal.is_restored()
    assert engine.bireme("rm", "-f", "left").returncode == 0
