"""Requests and the four kinds of answer a handler may give.

Response   complete: head and body leave in one write
Deferred   the head leaves at once, the body when an awaitable ends
Stream     the head leaves at once, then chunks from an async iterator, with back-pressure
Hijack     the connection stops being HTTP and becomes a byte stream in both directions
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from bireme.api.http.body import Body
    from bireme.api.http.raw import RawStream

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"
RAW_STREAM = b"application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = b"application/vnd.docker.multiplexed-stream"

NO_BODY = frozenset({204, 304})


class HttpProblem(Exception):
    """Refused before any handler saw it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Request:
    """One request: the head is complete, the body may still be arriving (`body`).

    `headers` has lower-case names; `params` are the path's variables in order; `version` is the minor API version
    asked for; `minor` the minor HTTP version.
    """

    __slots__ = ("_query", "body", "headers", "method", "minor", "params", "path", "query_text", "upgrade", "version")

    def __init__(self, method: str, path: str, query_text: str, headers: dict[bytes, bytes], minor: int) -> None:
        self.method = method
        self.path = path
        self.query_text = query_text
        self.headers = headers
        self.minor = minor
        self.version = 0
        self.params: tuple[str, ...] = ()
        self.upgrade = False
        self.body: Body = None  # type: ignore[assignment]
        self._query: dict[str, list[str]] | None = None

    @property
    def query(self) -> dict[str, list[str]]:
        """Every query parameter with all of its values, empty ones included."""
        if self._query is None:
            text = self.query_text
            self._query = parse_qs(text, keep_blank_values=True, errors="replace") if text else {}
        return self._query

    def value(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        found = self.query.get(name)
        return found[0] if found else default

    def header(self, name: bytes) -> str:
        """A header's text, empty when absent; `name` in lower case."""
        return self.headers.get(name, b"").decode("latin-1")


class Response:
    """A complete answer. `headers` are further header lines, each ending in CR LF."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(self, status: int, body: bytes = b"", content_type: bytes = JSON, headers: bytes = b"") -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers


class Deferred:
    """Status 200 and head now, the body when `result` ends. A failure then breaks the connection off."""

    __slots__ = ("content_type", "result")

    def __init__(self, result: Awaitable[bytes], content_type: bytes = JSON) -> None:
        self.result = result
        self.content_type = content_type


class Stream:
    """Status 200 and head now, then what `chunks` yields. Closed early (aclose) when the client goes.

    With `patient` false, a failure of the first chunk is still answered with an error status: the head waits for it.
    """

    __slots__ = ("chunks", "content_type", "headers", "patient")

    def __init__(
        self, chunks: AsyncIterator[bytes], content_type: bytes = JSON, headers: bytes = b"", *, patient: bool = True
    ) -> None:
        self.chunks = chunks
        self.content_type = content_type
        self.headers = headers
        self.patient = patient


class Hijack:
    """Take the connection over: 101 when the client asked for an Upgrade, else 200, then `run` owns both directions.

    The connection ends when `run` returns. `discard` is called instead of it when the client went before that. `head`
    is what is sent instead of our own head, for another protocol.
    """

    __slots__ = ("content_type", "discard", "head", "plain_content_type", "run")

    def __init__(
        self,
        run: Callable[[RawStream], Awaitable[None]],
        discard: Callable[[], None],
        content_type: bytes = RAW_STREAM,
        plain_content_type: bytes = RAW_STREAM,
        head: bytes = b"",
    ) -> None:
        self.run = run
        self.head = head
        self.discard = discard
        self.content_type = content_type
        self.plain_content_type = plain_content_type


Answer = Response | Deferred | Stream | Hijack
Handler = Callable[[Request], "Answer | Awaitable[Answer]"]


def status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


def upgrade_head(hijack: Hijack, upgrade: bool) -> bytes:
    """The head that ends HTTP on a connection, as dockerd writes it."""
    if hijack.head:
        return hijack.head
    if upgrade:
        return (
            b"HTTP/1.1 101 UPGRADED\r\nContent-Type: "
            + hijack.content_type
            + b"\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        )
    return b"HTTP/1.1 200 OK\r\nContent-Type: " + hijack.plain_content_type + b"\r\n\r\n"
