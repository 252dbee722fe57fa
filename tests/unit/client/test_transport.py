"""Where the engine is, and what is said when it is not there."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from bireme.client.errors import NoEngine
from bireme.client.transport import DEFAULT_HOST, choose_host, connect, parse_host
from bireme.errors import Denied, Invalid, Unsupported


def test_the_host_is_chosen_in_order() -> None:
    everything = {"BIREME_HOST": "unix:///b", "DOCKER_HOST": "unix:///d"}
    assert choose_host("unix:///o", everything) == "unix:///o"
    assert choose_host("", everything) == "unix:///b"
    assert choose_host("", {"DOCKER_HOST": "unix:///d"}) == "unix:///d"
    assert choose_host("", {"BIREME_HOST": ""}) == DEFAULT_HOST


@pytest.mark.parametrize(
    ("host", "parsed"),
    [
        ("unix:///run/x.sock", ("unix", "/run/x.sock")),
        ("/run/x.sock", ("unix", "/run/x.sock")),
        ("tcp://h:99", ("tcp", "h:99")),
        ("tcp://h", ("tcp", "h:2375")),
        ("tcp://[::1]:99/", ("tcp", "[::1]:99")),
        ("tcp://[::1]", ("tcp", "[::1]:2375")),
        ("http://h:1", ("tcp", "h:1")),
        ("https://h:1", ("tcp", "h:1")),
    ],
)
def test_hosts(host: str, parsed: tuple[str, str]) -> None:
    assert parse_host(host) == parsed


def test_the_usual_port_of_tls() -> None:
    assert parse_host("tcp://h", tls=True) == ("tcp", "h:2376")
    assert parse_host("tcp://h:1", tls=True) == ("tcp", "h:1")


def test_where_ssh_was_asked_for() -> None:
    with pytest.raises(Unsupported) as refused:
        parse_host("ssh://me@h/run/docker.sock")
    assert refused.value.hint.endswith("ssh -nNT -L /tmp/bireme.sock:/run/bireme/bireme.sock me@h")


@pytest.mark.parametrize("host", ["x", "unix://", "tcp://", "tcp://h:x", "tcp://h:70000", "://x"])
def test_malformed_hosts(host: str) -> None:
    with pytest.raises(Invalid):
        parse_host(host)


@pytest.mark.parametrize("host", ["ssh://me@h", "npipe:////./pipe/x", "fd://3"])
def test_hosts_of_other_kinds(host: str) -> None:
    with pytest.raises(Unsupported):
        parse_host(host)


def test_nobody_listens(tmp_path: Path) -> None:
    missing = f"unix://{tmp_path}/none.sock"
    with pytest.raises(NoEngine) as caught:
        connect(missing)
    assert caught.value.message == f"Cannot connect to the bireme engine at {missing}. Is biremed running?"
    assert f"biremed --host {missing}" in caught.value.hint
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(stale))
    with pytest.raises(NoEngine):
        connect(str(stale))
    with pytest.raises(NoEngine, match="path too long"):
        connect("unix:///" + "x" * 200)


@pytest.mark.skipif(os.getuid() != 0, reason="permission bits are tried by giving up root for a moment")
def test_no_permission() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory, socket.socket(socket.AF_UNIX) as listener:
        path = Path(directory, "closed.sock")
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o600)
        Path(directory).chmod(0o755)
        os.seteuid(65534)
        try:
            with pytest.raises(Denied) as caught:
                connect(str(path))
        finally:
            os.seteuid(0)
    assert caught.value.message == f"permission denied while trying to connect to the bireme engine at {path}"
    assert "usermod -aG root" in caught.value.hint


def test_tcp() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        stream = connect(f"tcp://127.0.0.1:{port}")
        accepted, _ = listener.accept()
        with accepted:
            stream.sendall(b"x")
            assert accepted.recv(1) == b"x"
        stream.close()
    with pytest.raises(NoEngine):
        connect(f"tcp://127.0.0.1:{port}")
