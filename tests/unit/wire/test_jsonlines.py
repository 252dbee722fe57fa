"""JSON values a line: progress messages and their decoder."""

from __future__ import annotations

import json

import pytest

from bireme.wire.jsonlines import MAX_LINE_BYTES, Decoder, LineError, encode_line, failure, failure_text, status


def test_lines_end_as_docker_ends_them() -> None:
    assert encode_line({"status": "Loading", "n": 1}) == b'{"status":"Loading","n":1}\r\n'
    assert json.loads(encode_line({"name": "\udc80"})) == {"name": "?"}


def test_messages() -> None:
    assert status("Pulling") == {"status": "Pulling"}
    assert status("Loading", identity="abc", current=1, total=2) == {
        "status": "Loading",
        "progressDetail": {"current": 1, "total": 2},
        "id": "abc",
    }
    assert failure("no space") == {"errorDetail": {"message": "no space"}, "error": "no space"}
    assert failure("gone", 404)["errorDetail"] == {"code": 404, "message": "gone"}


def test_failure_text() -> None:
    assert failure_text(failure("no space")) == "no space"
    assert failure_text({"error": "old style"}) == "old style"
    assert failure_text({"status": "fine"}) == ""


def test_decoder_byte_at_a_time() -> None:
    data = encode_line({"a": 1}) + b"\n\n" + encode_line([2]) + b'"last"'
    decoder = Decoder()
    values = [value for index in range(len(data)) for value in decoder.feed(data[index : index + 1])]
    assert values == [{"a": 1}, [2]]
    assert decoder.finish() == ["last"]
    assert decoder.finish() == []


def test_decoder_takes_many_lines_at_once() -> None:
    assert Decoder().feed(encode_line(1) * 3 + b"4") == [1, 1, 1]


def test_refusals() -> None:
    with pytest.raises(LineError, match="not a line of JSON"):
        Decoder().feed(b"{oops\n")
    decoder = Decoder()
    decoder.feed(b"x" * MAX_LINE_BYTES)
    with pytest.raises(LineError, match="longer than"):
        decoder.feed(b"x")
