"""Frames between link and agent: playbook, byte at a time, hostile ones, and that the C side has the same numbers."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.errors import Invalid, Unsupported
from bireme.wire import agent
from bireme.wire.agent import Decoder, Frame, FrameError, Kind
from tests.support.guestconfig import guest_config, process

HEADER = Path(__file__).resolve().parents[3] / "guest" / "agent_wire.h"

HELLO = {"version": 1, "oldest": 1, "software": "bireme-agent 1", "kernel": "6.1.0"}
EXITED = {"number": 0, "code": 3, "signal": 0}


def test_a_frame_is_head_and_fields() -> None:
    assert agent.encode(Kind.PING, 0x01020304, {}) == b"\0\0\0\0\x09\0\0\0\x04\x03\x02\x01"
    data = agent.encode(Kind.OK, 1, {"pid": 2})
    assert data == b"\x10\0\0\0\x20\0\0\0\x01\0\0\0" + b"\x60\0\0\0\x08\0\0\0\x02" + bytes(7)


def test_playbook() -> None:
    data = agent.encode(Kind.HELLO, 0, HELLO) + agent.encode(Kind.EXITED, 0, EXITED)
    frames = Decoder().feed(data)
    assert [agent.parse(frame) for frame in frames] == [(Kind.HELLO, 0, HELLO), (Kind.EXITED, 0, EXITED)]


def test_byte_at_a_time() -> None:
    data = agent.encode(Kind.HELLO, 0, HELLO) + agent.encode(Kind.OK, 7, {}) + agent.encode(Kind.OK, 8, {"pid": 1})
    decoder = Decoder()
    frames = [frame for index in range(len(data)) for frame in decoder.feed(data[index : index + 1])]
    assert [agent.parse(frame).rid for frame in frames] == [0, 7, 8]


@given(st.lists(st.integers(1, 40)))
def test_any_cutting_gives_the_same(cuts: list[int]) -> None:
    data = agent.encode(Kind.HELLO, 0, HELLO) + agent.encode(Kind.EXITED, 0, EXITED)
    decoder = Decoder()
    frames: list[Frame] = []
    for cut in cuts:
        frames += decoder.feed(data[:cut])
        data = data[cut:]
    frames += decoder.feed(data)
    assert [frame.kind for frame in frames] == [Kind.HELLO, Kind.EXITED]


def test_a_frame_that_is_too_long_ends_the_dialogue_before_its_body_came() -> None:
    with pytest.raises(FrameError, match="announces"):
        Decoder().feed(agent.HEAD.pack(agent.MAX_FROM_AGENT + 1, Kind.OK, 0, 1))
    with pytest.raises(FrameError):
        Decoder().feed(b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (Frame(99, 0, b""), "kind 99"),
        (Frame(Kind.CONFIGURE, 0, b""), "kind 2"),
        (Frame(Kind.HELLO, 0, b""), "hello without version, oldest, software, kernel"),
        (Frame(Kind.EXITED, 0, b"\x01"), "head of a field"),
    ],
)
def test_what_an_agent_may_not_say(frame: Frame, text: str) -> None:
    with pytest.raises(Invalid, match=text):
        agent.parse(frame)


@given(st.integers(0, 65535), st.integers(0, 1 << 32), st.binary(max_size=100))
def test_any_frame_parses_or_is_invalid(kind: int, rid: int, body: bytes) -> None:
    try:
        agent.parse(Frame(kind, rid, body))
    except Invalid:
        return


def test_configure_carries_everything() -> None:
    config = guest_config(
        hostname="web",
        sysctls={"net.ipv4.ip_forward": "1"},
        process=process(["sh"], rlimits=[[7, 10, -1]], user="www:users", oom_score_adj=5),
    )
    fields = agent.configure_fields(
        config, {"stdout": b"o" * 16, "stderr": b"e" * 16}, version=1, clock_ns=5, entropy=b"r" * 64
    )
    found: dict[str, Any] = agent.decode(agent.encode(Kind.CONFIGURE, 1, fields)[agent.HEAD.size :])
    assert found["sysctls"] == [{"key": "net.ipv4.ip_forward", "value": "1"}]
    assert found["process"]["args"] == ["sh"]
    assert found["process"]["rlimits"] == [{"number": 7, "soft": 10, "hard": -1}]
    assert found["process"]["oom_score_adj"] == 5
    assert "capabilities" not in found["process"]
    assert (found["stdout_token"], found["stderr_token"]) == (b"o" * 16, b"e" * 16)
    assert "stdin_token" not in found
    assert found["hostname"] == "web"


def test_exec_carries_process_and_tokens() -> None:
    fields = agent.exec_fields(4, process(["id"], terminal=True), {"console": b"c" * 16})
    found: dict[str, Any] = agent.decode(agent.encode(Kind.EXEC, 2, fields)[agent.HEAD.size :])
    assert found["number"] == 4
    assert found["console_token"] == b"c" * 16
    assert found["process"]["terminal"] == 1


def test_processes_that_cannot_be() -> None:
    with pytest.raises(Invalid, match="no command specified"):
        agent.process_fields(process([]))
    with pytest.raises(Invalid, match="absolute"):
        agent.process_fields(process(["x"], cwd="tmp"))
    with pytest.raises(Invalid, match="without NUL"):
        agent.encode(Kind.EXEC, 1, agent.exec_fields(1, process(["a\0b"]), {}))
    with pytest.raises(Invalid, match="at most"):
        agent.encode(Kind.EXEC, 1, agent.exec_fields(1, process(["a" * agent.MAX_TO_AGENT]), {}))


def test_versions() -> None:
    assert agent.agreed_version(1, 1) == 1
    assert agent.agreed_version(9, 1) == 1
    for newest, oldest in ((0, 0), (9, 2)):
        with pytest.raises(Unsupported, match="protocol versions"):
            agent.agreed_version(newest, oldest)


def test_tags_are_used_once() -> None:
    tags = [field.tag for field in agent.FIELDS.values()]
    assert len(set(tags)) == len(tags)
    assert all(name in agent.FIELDS for names in agent.FROM_AGENT.values() for name in names)


def test_the_c_side_has_the_same_numbers() -> None:
    text = HEADER.read_text()
    found = {name: int(value, 0) for name, value in re.findall(r"^#define (\w+) (0x[0-9a-f]+|\d+)$", text, re.M)}
    tags = {name.removeprefix("TAG_").lower(): value for name, value in found.items() if name.startswith("TAG_")}
    kinds = {name.removeprefix("KIND_"): value for name, value in found.items() if name.startswith("KIND_")}
    assert tags == {name: field.tag for name, field in agent.FIELDS.items()}
    assert kinds == {kind.name: kind.value for kind in Kind}
    assert found["AGENT_VERSION"] == agent.VERSION
    assert found["AGENT_OLDEST"] == agent.OLDEST
    assert found["CONTROL_PORT"] == agent.CONTROL_PORT
    assert found["STREAM_PORT"] == agent.STREAM_PORT
    assert found["TOKEN_BYTES"] == agent.TOKEN_BYTES
    assert found["MAX_TO_AGENT"] == agent.MAX_TO_AGENT
    assert found["MAX_FROM_AGENT"] == agent.MAX_FROM_AGENT
    assert struct.calcsize("<IHHI") == found["HEAD_BYTES"]
