"""Where a request ends, for friends and foes, however its bytes are cut."""

from __future__ import annotations

import pytest

from bireme.api.http.body import BodyLost
from bireme.api.http.framing import Part, RequestReader
from bireme.api.http.message import HttpProblem


class Source:
    def body_wanted(self, whole: bool) -> None: ...

    def body_arrived(self) -> None: ...

    def body_paused(self, paused: bool) -> None: ...


def reader(head_limit: int = 4096, header_limit: int = 20) -> RequestReader:
    return RequestReader(Source(), head_limit, header_limit)


def feed(data: bytes, step: int) -> tuple[RequestReader, bytes]:
    """Read `data` in pieces of `step` bytes; what lies behind the request comes back whole."""
    made = reader()
    for position in range(0, len(data), step):
        rest = made.feed(data[position : position + step])
        if made.part is Part.DONE and (rest or position + step >= len(data)):
            return made, rest + data[position + step :]
        assert not rest
    return made, b""


GET = b"GET /a/b?c=d&e HTTP/1.1\r\nHost: x\r\nUser-Agent: y\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;ext=1\r\nllo\r\n0\r\nT: x\r\n\r\n"
)
UPGRADE = b"POST /p HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 5\r\n\r\nhello"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(("data", "behind"), [(GET, b"raw"), (POST, b"raw"), (UPGRADE, b"raw\r\n\r\n"), (CHUNKED, b"")])
def test_request_and_what_lies_behind(data: bytes, behind: bytes, step: int) -> None:
    made, rest = feed(data + behind, step)
    request = made.request
    assert request is not None
    assert rest == behind
    assert request.method == ("GET" if data is GET else "POST")
    assert request.body.take(10) == (b"" if data is GET else b"hello")
    assert request.upgrade == (data is UPGRADE)
    assert made.keep_alive


def test_target_and_query() -> None:
    made, _ = feed(GET, 1000)
    assert made.request is not None
    assert made.request.path == "/a/b"
    assert made.request.query == {"c": ["d"], "e": [""]}
    assert made.request.value("c") == "d"
    assert made.request.value("nothing", "else") == "else"
    made, _ = feed(b"GET http://host/x?y=1 HTTP/1.1\r\nHost: host\r\n\r\n", 1000)
    assert made.request is not None
    assert (made.request.path, made.request.query_text) == ("/x", "y=1")


def test_leading_blank_lines() -> None:
    made, rest = feed(b"\r\n\r\n\r\n" + GET + b"x", 1)
    assert made.request is not None
    assert rest == b"x"


def test_upgrade_with_a_chunked_body() -> None:
    data = CHUNKED.replace(b"Host: x", b"Host: x\r\nConnection: Upgrade\r\nUpgrade: tcp")
    made, _ = feed(data, 1)
    assert made.request is not None
    assert made.request.upgrade
    assert made.request.body.take(10) == b"hello"


@pytest.mark.parametrize(
    ("version", "connection", "expected"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: Close, TE\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
    ],
)
def test_keep_alive(version: bytes, connection: bytes, expected: bool) -> None:
    made, _ = feed(b"GET / HTTP/" + version + b"\r\nHost: x\r\n" + connection + b"\r\n", 1000)
    assert made.keep_alive is expected


def test_repeated_headers_are_joined() -> None:
    made, _ = feed(b"GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\na: 2\r\n\r\n", 1000)
    assert made.request is not None
    assert made.request.header(b"a") == "1, 2"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"GARBAGE\r\n", 400),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /a\x00b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1_0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999999999999\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 30 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 5000, 431),
        (b"GET /" + b"a" * 5000, 431),
    ],
)
def test_refused(data: bytes, status: int) -> None:
    for step in (len(data), 1):
        with pytest.raises(HttpProblem) as caught:
            feed(data, step)
        assert caught.value.status == status


@pytest.mark.parametrize(
    "chunks", [b"zz\r\n", b"3\r\nabcd", b"ffffffffffffffffff\r\n", b"-1\r\n", b"0\r\n" + b"T: x\r\n" * 100 + b"\r\n"]
)
def test_broken_chunks_fail_the_body(chunks: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    made = reader()
    assert made.feed(head + chunks) == b""
    assert made.part is Part.DONE
    assert not made.keep_alive
    assert made.request is not None
    assert not made.request.body.complete


def test_bytes_behind_a_chunked_body_end_the_connection() -> None:
    made = reader()
    made.feed(CHUNKED + b"GET / HTTP/1.1\r\n")
    assert made.request is not None
    assert made.request.body.complete
    assert not made.keep_alive


def test_expectation() -> None:
    made, _ = feed(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n", 1000)
    assert made.continue_due
    made, _ = feed(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n", 1000)
    assert not made.continue_due


def test_a_failed_body_is_not_complete() -> None:
    made = reader()
    made.feed(POST[:-2])
    made.fail(BodyLost(400, "gone"))
    assert made.request is not None
    assert not made.request.body.complete
    assert made.part is Part.DONE
