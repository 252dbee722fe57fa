"""One request read from bytes: its head, and where its body ends. No I/O.

httptools (llhttp, strict) reads heads and chunked bodies; everything it is not exact about is done here.

    HEAD --head complete--> LENGTH | CHUNKED --body complete--> DONE

- The parser is fed a head exactly up to its blank line, found here, so nothing behind it can be swallowed: neither by
  llhttp's own upgrade mode (it stops at the head although a body may follow) nor by its next-message mode (a client
  without Upgrade that sends raw bytes at once). A new parser per request costs 0.4 us.
- A body with Content-Length is counted here. A chunked one gets a parser of its own; bytes behind its end in the same
  read are refused (`overrun`), as no client that waits for its answer sends any.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import httptools

from bireme.api.http.body import Body, BodyLost, Source
from bireme.api.http.message import HttpProblem, Request

_CHUNKED_HEAD = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_TRAILER_LIMIT = 64


class Part(IntEnum):
    HEAD = 0
    LENGTH = 1
    CHUNKED = 2
    DONE = 3


class RequestReader:
    """Reads one request. `request` is set once the head is complete, its body fills as `feed` goes on.

    `begun` says that a first byte was seen, `keep_alive` what the client wants (turned off by broken framing),
    `continue_due` that it waits for 100 Continue before it sends the body, `body_left` what is missing of a body with a
    length.
    """

    __slots__ = (
        "_chunked",
        "_head_bytes",
        "_head_complete",
        "_head_limit",
        "_header_count",
        "_headers",
        "_parser",
        "_source",
        "_tail",
        "_url",
        "body_left",
        "continue_due",
        "keep_alive",
        "part",
        "request",
    )

    def __init__(self, source: Source, head_limit_bytes: int, header_limit: int) -> None:
        self.part = Part.HEAD
        self.request: Request | None = None
        self.keep_alive = True
        self.continue_due = False
        self.body_left = 0
        self._source = source
        self._head_limit = head_limit_bytes
        self._header_count = header_limit
        self._parser: Any = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._head_complete = False
        self._tail = b""

    @property
    def begun(self) -> bool:
        return self._head_bytes > 0

    def feed(self, data: bytes) -> bytes:
        """Read on; gives back what lies behind the request. HttpProblem: the head is refused, reading ends."""
        while data:
            if self.part is Part.HEAD:
                data = self._read_head(data)
            elif self.part is Part.LENGTH:
                data = self._read_length(data)
            elif self.part is Part.CHUNKED:
                self._read_chunked(data)
                return b""
            else:
                return data
        return b""

    def fail(self, error: BodyLost) -> None:
        """The body will not be completed."""
        self.keep_alive = False
        self.part = Part.DONE
        if self.request is not None:
            self.request.body.fail(error)

    # --- the head

    def _read_head(self, data: bytes) -> bytes:
        probe = self._tail + data if self._tail else data
        found = probe.find(b"\r\n\r\n")
        end = len(data) if found < 0 else found + 4 - len(self._tail)
        self._tail = probe[-3:] if found < 0 else b""
        self._head_bytes += end
        if self._head_bytes > self._head_limit:
            raise HttpProblem(431, "request header fields are too large")
        try:
            self._parser.feed_data(data if end == len(data) else data[:end])
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserCallbackError:
            raise HttpProblem(431, "too many request header fields") from None
        except httptools.HttpParserError as error:
            raise HttpProblem(400, f"malformed request: {error}") from None
        if self._head_complete:
            self._begin_request()
        return data[end:]

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count -= 1
        if self._header_count < 0:
            raise ValueError("too many header fields")
        name = name.lower()
        headers = self._headers
        headers[name] = headers[name] + b", " + value if name in headers else value

    def on_headers_complete(self) -> None:
        self._head_complete = True

    def _begin_request(self) -> None:
        headers = self._headers
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise HttpProblem(505, f"HTTP/{version} is not spoken here")
        minor = 1 if version == "1.1" else 0
        path, _, query = _target(self._url).partition("?")
        request = Request(self._parser.get_method().decode("ascii"), path, query, headers, minor)
        connection = headers.get(b"connection", b"").lower()
        self.keep_alive = b"close" not in connection if minor else b"keep-alive" in connection
        request.upgrade = minor == 1 and b"upgrade" in headers and b"upgrade" in connection
        if minor and b"host" not in headers:
            raise HttpProblem(400, "missing required Host header")
        if b"," in headers.get(b"host", b""):
            raise HttpProblem(400, "more than one Host header")
        self._frame_body(request)
        self.continue_due = (
            minor == 1 and request.body.length != 0 and headers.get(b"expect", b"").lower() == b"100-continue"
        )
        self.request = request

    def _frame_body(self, request: Request) -> None:
        encoding = request.headers.get(b"transfer-encoding")
        if encoding is not None:
            if encoding.strip().lower() != b"chunked" or request.minor == 0:
                raise HttpProblem(501, "unsupported Transfer-Encoding")
            request.body = Body(self._source, -1)
            self._chunked = _ChunkedReader(request.body)
            self.part = Part.CHUNKED
            return
        text = request.headers.get(b"content-length", b"0").strip()
        if not text.isdigit() or len(text) > 18:
            raise HttpProblem(400, "invalid Content-Length")
        self.body_left = length = int(text)
        request.body = Body(self._source, length)
        self.part = Part.LENGTH if length else Part.DONE

    # --- the body

    def _read_length(self, data: bytes) -> bytes:
        assert self.request is not None
        body = self.request.body
        part = data if len(data) <= self.body_left else data[: self.body_left]
        self.body_left -= len(part)
        body.feed(part)
        if not self.body_left:
            self.part = Part.DONE
            body.finish()
        return data[len(part) :]

    def _read_chunked(self, data: bytes) -> None:
        chunked = self._chunked
        try:
            chunked.feed(data)
        except HttpProblem as problem:
            self.fail(BodyLost(problem.status, problem.message))
            return
        if chunked.complete:
            self.keep_alive = self.keep_alive and not chunked.overrun
            self.part = Part.DONE
            chunked.body.finish()


class _ChunkedReader:
    """One chunked body: a parser of its own, told of a made-up head, and its callbacks."""

    __slots__ = ("_parser", "_trailers", "body", "complete", "overrun")

    def __init__(self, body: Body) -> None:
        self.body = body
        self.complete = False
        self.overrun = False
        self._trailers = -1
        self._parser: Any = httptools.HttpRequestParser(self)
        self._parser.feed_data(_CHUNKED_HEAD)

    def feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.complete:
                raise HttpProblem(400, f"malformed chunked body: {error}") from None
            self.overrun = True

    def on_message_begin(self) -> None:
        self.overrun = self.complete

    def on_header(self, _name: bytes, _value: bytes) -> None:
        self._trailers += 1
        if self._trailers > _TRAILER_LIMIT:
            raise ValueError("too many trailers")

    def on_body(self, data: bytes) -> None:
        self.body.feed(data)

    def on_message_complete(self) -> None:
        self.complete = True


def _target(url: bytes) -> str:
    text = url.decode("latin-1")
    if text[:7].lower() == "http://":
        slash = text.find("/", 7)
        return text[slash:] if slash >= 0 else "/"
    return text
