"""The HTTP codec without I/O: heads, framings whole and byte by byte, targets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.client.errors import BrokenReply
from bireme.client.http import (
    ChunkedFraming,
    CloseFraming,
    Framing,
    LengthFraming,
    choose_framing,
    encode_query,
    parse_head,
    quote,
)


def _feed(framing: Framing, data: bytes, step: int) -> tuple[bytes, bytes]:
    """Body and what is left, when the data comes in pieces of `step` bytes."""
    buffer, body = bytearray(), b""
    for start in range(0, len(data), step):
        buffer += data[start : start + step]
        body += framing.take(buffer)
    return body, bytes(buffer)


_PLAYBOOK = [
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b"5;name=value\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!"),
    (b"a\r\n0123456789\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n", b"0123456789"),
    (b"00A\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n\r\n\r\n\r\n"),
    (b"0\r\n\r\n", b""),
]


@pytest.mark.parametrize(("wire", "body"), _PLAYBOOK)
@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_chunked(wire: bytes, body: bytes, step: int) -> None:
    framing = ChunkedFraming()
    assert _feed(framing, wire + b"next", step) == (body, b"next")
    assert framing.done


@pytest.mark.parametrize("wire", [b"x\r\n", b"-5\r\n", b"5\r\nhelloXX", b"\r\n", b"1" * 2000])
def test_chunked_refuses_what_is_malformed(wire: bytes) -> None:
    with pytest.raises(BrokenReply):
        ChunkedFraming().take(bytearray(wire))


@given(st.binary(max_size=60), st.integers(1, 7))
def test_length(data: bytes, step: int) -> None:
    framing = LengthFraming(len(data))
    assert _feed(framing, data + b"tail", step) == (data, b"tail")
    assert framing.done


def test_an_early_end_is_an_error_unless_the_body_ends_with_the_connection() -> None:
    for framing in (LengthFraming(5), ChunkedFraming()):
        framing.take(bytearray(b"1"))
        with pytest.raises(BrokenReply):
            framing.end()
    closing = CloseFraming()
    assert closing.take(bytearray(b"abc")) == b"abc"
    closing.end()
    assert closing.done


def test_head() -> None:
    status, reason, headers = parse_head(b"HTTP/1.1 404 Not Found\r\nA: b\r\nX-Y:  z \r\na: c")
    assert (status, reason) == (404, "Not Found")
    assert headers == {"a": "b, c", "x-y": "z"}
    assert parse_head(b"HTTP/1.0 200")[0] == 200


@pytest.mark.parametrize(
    "head", [b"", b"SSH-2.0", b"HTTP/2 200", b"HTTP/1.1 2000 x", b"HTTP/1.1 200 OK\r\nbad", b"HTTP/1.1 200 OK\r\n a: b"]
)
def test_head_refuses_what_is_not_http(head: bytes) -> None:
    with pytest.raises(BrokenReply):
        parse_head(head)


def test_framing_is_chosen_by_status_and_headers() -> None:
    assert choose_framing("HEAD", 200, {"content-length": "5"}).done
    assert choose_framing("GET", 204, {}).done
    assert choose_framing("POST", 101, {}).done
    assert isinstance(choose_framing("GET", 200, {}), CloseFraming)
    assert isinstance(choose_framing("GET", 200, {"transfer-encoding": "Chunked"}), ChunkedFraming)
    with pytest.raises(BrokenReply):
        choose_framing("GET", 200, {"content-length": "-1"})


def test_targets() -> None:
    assert quote("a b/c:é") == "a%20b%2Fc%3A%C3%A9"
    assert quote("reg:5000/a b", "/:") == "reg:5000/a%20b"
    assert encode_query({}) == ""
    assert encode_query({"a": True, "b": False, "c": None, "d": "", "e": [1, "x y"], "f": 0}) == "?a=1&e=1&e=x%20y&f=0"
