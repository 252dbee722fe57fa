"""The codec between engine and supervisor: round trips, long messages, refusals, versions."""

from __future__ import annotations

import errno

import pytest

from bireme.errors import Conflict, Internal, Invalid, NotFound, Unsupported
from bireme.wire import supervision


class Memory:
    """Stands for memfds: numbers to texts."""

    def __init__(self) -> None:
        self.texts: dict[int, bytes] = {}

    def spill(self, text: bytes) -> int:
        number = 100 + len(self.texts)
        self.texts[number] = text
        return number

    def unspill(self, fd: int, limit: int) -> bytes:
        text = self.texts.pop(fd)
        if len(text) > limit:
            raise ValueError("too long")
        return text


@pytest.fixture
def memory() -> Memory:
    return Memory()


def test_short_message_is_plain_json_and_keeps_its_descriptors(memory: Memory) -> None:
    packet = supervision.encode(supervision.request(7, "ping", x="\u00e9"), (3, 4), spill=memory.spill)
    assert packet.data == '{"rid":7,"op":"ping","x":"\u00e9"}'.encode()
    assert (packet.fds, packet.owned) == ((3, 4), ())
    message, fds = supervision.decode(packet.data, packet.fds, unspill=memory.unspill)
    assert message == {"rid": 7, "op": "ping", "x": "\u00e9"}
    assert fds == [3, 4]


def test_undecodable_bytes_of_a_path_survive(memory: Memory) -> None:
    odd = b"/caf\xe9".decode("utf-8", "surrogateescape")
    packet = supervision.encode({"path": odd}, spill=memory.spill)
    assert supervision.decode(packet.data, unspill=memory.unspill)[0] == {"path": odd}


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_long_message_travels_as_the_last_descriptor(memory: Memory, extra: int) -> None:
    body = "x" * (supervision.INLINE_LIMIT - len('{"a":""}') + extra)
    packet = supervision.encode({"a": body}, (5,), spill=memory.spill)
    spilled = extra > 0
    assert bool(packet.owned) is spilled
    assert len(packet.data) <= supervision.INLINE_LIMIT
    message, fds = supervision.decode(packet.data, packet.fds, unspill=memory.unspill)
    assert message == {"a": body}
    assert fds == [5]
    assert not memory.texts


def test_a_message_beyond_every_limit_is_refused(memory: Memory) -> None:
    with pytest.raises(Invalid, match="at most"):
        supervision.encode({"a": "x" * supervision.MAX_MESSAGE}, spill=memory.spill)
    memory.texts[100] = b"x" * (supervision.MAX_MESSAGE + 1)
    with pytest.raises(Invalid, match="too long"):
        supervision.decode(b"@99", (100,), unspill=memory.unspill)


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"null", b"@12", b"@x", b"\xff\xfe", b"[" * 5000])
def test_malformed_packets_are_invalid(memory: Memory, data: bytes) -> None:
    with pytest.raises(Invalid):
        supervision.decode(data, unspill=memory.unspill)


def test_errors_round_trip_with_stage_and_errno() -> None:
    error = NotFound("no such file", subject="foo", place="exec", hint="install it")
    error.stage, error.errno = "exec", errno.ENOENT  # type: ignore[attr-defined]
    refused = supervision.refused(supervision.refusal(3, error))
    assert refused is not None
    assert isinstance(refused.error, NotFound)
    assert (refused.error.subject, refused.error.hint) == ("foo", "install it")
    assert (refused.stage, refused.errno) == ("exec", errno.ENOENT)


def test_error_of_no_kind_of_ours_is_internal() -> None:
    refused = supervision.refused(supervision.refusal(3, KeyError("x")))
    assert refused is not None
    assert isinstance(refused.error, Internal)
    assert supervision.refused({"rid": 1, "error": "?"}) is not None
    assert supervision.refused(supervision.reply(1, {})) is None
    conflict = supervision.refused(supervision.refusal(1, Conflict("busy")))
    assert conflict is not None
    assert (conflict.stage, conflict.errno) == ("", 0)


def test_versions_are_negotiated() -> None:
    assert supervision.agreed_version(supervision.VERSION + 5) == supervision.VERSION
    assert supervision.agreed_version(supervision.OLDEST) == supervision.OLDEST
    with pytest.raises(Unsupported):
        supervision.agreed_version(supervision.OLDEST - 1)
    for wrong in (None, "1", True):
        with pytest.raises(Invalid):
            supervision.agreed_version(wrong)
