"""A host that says anything to the agent: it answers or goes, and never crashes.

The host is the hypervisor and could do worse; but a bound that is missed here is missed for a damaged message too.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bireme.wire import agent
from bireme.wire.agent import HEAD, Kind
from tests.support.agents import agent as started
from tests.support.guestconfig import guest_config, process
from tests.support.pace import patience

pytestmark = pytest.mark.needs_root

TAGS = st.sampled_from([field.tag for field in agent.FIELDS.values()] + [0, 65535])
FIELD = st.builds(
    lambda tag, length, value: tag.to_bytes(4, "little") + (len(value) + length).to_bytes(4, "little") + value,
    TAGS,
    st.sampled_from([0, 0, 0, 0, 1, 1 << 31]),
    st.one_of(st.binary(max_size=20), st.just(bytes(8)), st.just(b"\xff" * 8)),
)
BODY = st.lists(FIELD, max_size=6).map(b"".join)


def frame(kind: int, rid: int, body: bytes) -> bytes:
    return HEAD.pack(len(body), kind, 0, rid) + body


def whole(kind: Kind, fields: dict[str, Any]) -> bytes:
    return agent.encode(kind, 1, fields)


CONFIGURE = whole(
    Kind.CONFIGURE,
    agent.configure_fields(
        guest_config(process=process(["/bin/nothing"]), files=[{"path": "/x", "text": "y", "mode": 0}]),
        {"stdout": b"o" * 16},
        version=1,
        clock_ns=0,
        entropy=b"",
    ),
)
EXEC = whole(Kind.EXEC, agent.exec_fields(1, process(["/bin/nothing"], groups=["1"], env=["=", "A"]), {}))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good message with some bytes changed behind its head."""
    data = bytearray(draw(st.sampled_from([CONFIGURE, EXEC])))
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(HEAD.size, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


ANYTHING = st.one_of(
    damaged(),
    st.builds(frame, st.sampled_from([kind for kind in Kind if kind is not Kind.SHUTDOWN]), st.integers(0, 9), BODY),
    st.builds(frame, st.integers(0, 65535).filter(lambda kind: kind != Kind.SHUTDOWN), st.integers(0, 9), BODY),
    st.binary(max_size=30),
)


@settings(max_examples=40)
@given(st.lists(ANYTHING, max_size=8))
def test_anything_a_host_says(tmp_path_factory: pytest.TempPathFactory, messages: list[bytes]) -> None:
    directory = tmp_path_factory.mktemp("agent")
    root = directory / "root"
    root.mkdir()
    path = str(directory / "s")
    with socket.socket(socket.AF_UNIX) as control, socket.socket(socket.AF_UNIX) as streams:
        for listener, port in ((control, agent.CONTROL_PORT), (streams, agent.STREAM_PORT)):
            listener.bind(f"{path}.{port}")
            listener.listen(64)
        with started(path, root) as running:
            connection, _ = control.accept()
            with connection:
                say(connection, messages)
            assert running.wait(patience(60)) == 0
    assert not leftovers(directory)


def say(connection: socket.socket, messages: list[bytes]) -> None:
    """Each message, then the end; what it answers is thrown away."""
    connection.settimeout(patience(20))
    try:
        for message in messages:
            connection.sendall(message)
        connection.sendall(frame(Kind.PING, 77, b""))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    except OSError:
        return


def leftovers(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if name.startswith("s.") and not name.startswith("s.10")]
