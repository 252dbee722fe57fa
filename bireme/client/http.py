"""HTTP/1.1 as the engine speaks it: one request after another on a connection, long streams, and take-over.

The parsing is free of I/O: `parse_head` reads a finished header block, a *framing* takes from the front of a buffer
what belongs to a body. `Connection` owns the socket and the buffer; a `Response` reads its own body through it and must
be read to the end before the connection can carry the next request. After `101 Switching Protocols` (or a plain `200`
of an old daemon to an attach) `take_over` hands out the socket together with the bytes that came behind the headers.
"""

from __future__ import annotations

import select

from bireme.client import jsontext
from bireme.client.errors import BrokenReply
from bireme.client.transport import connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import Any

    from bireme.client.transport import Stream, TlsFiles

_MAX_HEAD = 64 << 10
_MAX_CHUNK_LINE = 1 << 10
_READ_SIZE = 64 << 10
_MAX_DOCUMENT = 256 << 20
_MAX_LINE = 16 << 20
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def quote(text: str, safe: str = "") -> str:
    """Percent-encoding (RFC 3986) of everything but unreserved characters and `safe`."""
    if _UNRESERVED.issuperset(text):
        return text
    kept = _UNRESERVED.union(safe)
    return "".join(
        chr(byte) if chr(byte) in kept else f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape")
    )


def encode_query(query: dict[str, object]) -> str:
    """`?a=1&b=2`, or "" when nothing is left: None, "" and False are left out, a list repeats its key."""
    pairs: list[str] = []
    for key, value in query.items():
        for item in value if isinstance(value, list | tuple) else (value,):
            if item is None or item is False or item == "":
                continue
            pairs.append(f"{key}={quote('1' if item is True else str(item))}")
    return "?" + "&".join(pairs) if pairs else ""


def parse_head(head: bytes) -> tuple[int, str, dict[str, str]]:
    """Status, reason and headers of a block without its empty line: names in lower case, repeated ones joined."""
    lines = head.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    status, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or len(status) != 3 or not status.isdigit():
        raise BrokenReply("the server's answer is not HTTP", subject=lines[0][:80])
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BrokenReply("malformed header in the server's answer", subject=line[:80])
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return int(status), reason, headers


class LengthFraming:
    """A body of known size."""

    def __init__(self, size: int) -> None:
        self._left = size
        self.done = size == 0

    def take(self, buffer: bytearray) -> bytes:
        piece = bytes(buffer[: self._left])
        del buffer[: self._left]
        self._left -= len(piece)
        self.done = self._left == 0
        return piece

    def end(self) -> None:
        """The peer closed: too early, unless the body is complete."""
        if not self.done:
            raise BrokenReply("the engine closed the connection in the middle of an answer")


class CloseFraming:
    """A body that lasts until the peer closes."""

    def __init__(self) -> None:
        self.done = False

    def take(self, buffer: bytearray) -> bytes:
        piece = bytes(buffer)
        buffer.clear()
        return piece

    def end(self) -> None:
        self.done = True


class ChunkedFraming:
    """Chunked transfer coding (RFC 9112, 7.1); extensions and trailers are skipped."""

    def __init__(self) -> None:
        self._left = 0
        self._state = "size"
        self.done = False

    def take(self, buffer: bytearray) -> bytes:
        pieces: list[bytes] = []
        while not self.done:
            if self._state == "data":
                if not buffer:
                    break
                piece = bytes(buffer[: self._left])
                del buffer[: len(piece)]
                self._left -= len(piece)
                pieces.append(piece)
                if self._left:
                    break
                self._state = "data end"
            elif self._state == "data end" and len(buffer) > 1 and buffer[:2] != b"\r\n":
                raise BrokenReply("malformed chunk in the server's answer")
            else:
                end = buffer.find(b"\r\n")
                if end < 0:
                    if len(buffer) > _MAX_CHUNK_LINE:
                        raise BrokenReply("malformed chunk in the server's answer")
                    break
                line = bytes(buffer[:end])
                del buffer[: end + 2]
                self._line(line)
        return b"".join(pieces)

    def _line(self, line: bytes) -> None:
        if self._state == "data end":
            self._state = "size"
        elif self._state == "trailer":
            self.done = not line
        else:
            try:
                self._left = int(line.partition(b";")[0].strip(), 16)
            except ValueError:
                self._left = -1
            if self._left < 0:
                raise BrokenReply("malformed chunk size in the server's answer", subject=repr(line[:20]))
            self._state = "data" if self._left else "trailer"

    def end(self) -> None:
        if not self.done:
            raise BrokenReply("the engine closed the connection in the middle of an answer")


Framing = LengthFraming | CloseFraming | ChunkedFraming


def choose_framing(method: str, status: int, headers: dict[str, str]) -> Framing:
    """How the body of this answer is delimited (RFC 9112, 6.3)."""
    if method == "HEAD" or status in (204, 304) or 100 <= status < 200:
        return LengthFraming(0)
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return ChunkedFraming()
    length = headers.get("content-length")
    if length is None:
        return CloseFraming()
    if not length.isdigit():
        raise BrokenReply("malformed content-length in the server's answer", subject=length[:20])
    return LengthFraming(int(length))


class Response:
    """One answer. `headers` are spelled in lower case."""

    def __init__(self, connection: Connection, status: int, reason: str, headers: dict[str, str], framing: Framing):
        self.status = status
        self.reason = reason
        self.headers = headers
        self._connection = connection
        self._framing = framing

    def chunks(self) -> Iterator[bytes]:
        """The body piece by piece, as it comes."""
        return self._connection.body(self._framing)

    def read(self) -> bytes:
        """The whole body; BrokenReply past 256 MiB, which no document of the API comes near."""
        body = bytearray()
        for chunk in self.chunks():
            body += chunk
            if len(body) > _MAX_DOCUMENT:
                raise BrokenReply("the engine's answer is too long")
        return bytes(body)

    def json(self) -> Any:
        """The body as JSON, None when it is empty."""
        body = self.read()
        return jsontext.loads(body) if body.strip() else None

    def values(self) -> Iterator[Any]:
        """A stream of JSON values, each on a line or more of its own."""
        pending = b""
        for chunk in self.chunks():
            *lines, pending = (pending + chunk).split(b"\n")
            if len(pending) > _MAX_LINE:
                raise BrokenReply("a message of the engine is too long")
            for line in lines:
                if line.strip():
                    yield jsontext.loads(line)
        if pending.strip():
            yield jsontext.loads(pending)

    def take_over(self) -> tuple[Stream, bytes]:
        """The socket, now the caller's own, and what arrived on it behind the headers."""
        return self._connection.release()

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Connection:
    """A connection to `host`, opened by the first request and again when the engine has closed it between two."""

    def __init__(self, host: str, headers: dict[str, str], tls: TlsFiles | None = None) -> None:
        self._host = host
        self._tls = tls
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._stream: Stream | None = None
        self._buffer = bytearray()
        self._pending: list[str] = []
        self._framing: Framing | None = None

    def send(
        self, method: str, target: str, body: bytes | Iterable[bytes] = b"", headers: dict[str, str] | None = None
    ) -> None:
        """Write a request; its answer is fetched by `receive`. An iterable body goes out in chunks."""
        self._ready()
        extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"{method} {target} HTTP/1.1\r\n{self._headers}{extra}"
        self._pending.append(method)
        try:
            if isinstance(body, bytes):
                length = f"Content-Length: {len(body)}\r\n" if body or method != "GET" else ""
                self._open().sendall(f"{head}{length}\r\n".encode("utf-8", "surrogateescape") + body)
            else:
                self._open().sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode("utf-8", "surrogateescape"))
                self._send_chunks(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the answer that made the peer close may already be waiting

    def _send_chunks(self, body: Iterable[bytes]) -> None:
        stream = self._open()
        for piece in body:
            if piece:
                stream.sendall(b"%x\r\n" % len(piece) + piece + b"\r\n")
        stream.sendall(b"0\r\n\r\n")

    def receive(self) -> Response:
        """The head of the next answer; interim ones (100, 102, 103) are skipped. After a failure it is closed."""
        try:
            return self._receive()
        except BaseException:
            self.close()
            raise

    def _receive(self) -> Response:
        method = self._pending.pop(0)
        status, reason, headers = 100, "", {"": ""}
        while 100 <= status < 200 and status != 101:
            status, reason, headers = parse_head(self._read_head())
        framing = choose_framing(method, status, headers)
        if headers.get("connection", "").lower() == "close" and status != 101:
            framing = framing if isinstance(framing, LengthFraming | ChunkedFraming) else CloseFraming()
            self._closing = True
        self._framing = framing
        return Response(self, status, reason, headers, framing)

    _closing = False

    def request(
        self, method: str, target: str, body: bytes | Iterable[bytes] = b"", headers: dict[str, str] | None = None
    ) -> Response:
        self.send(method, target, body, headers)
        return self.receive()

    def body(self, framing: Framing) -> Iterator[bytes]:
        """What `framing` still finds on the wire; used by Response."""
        while True:
            piece = framing.take(self._buffer)
            if piece:
                yield piece
            if framing.done:
                return
            if not self._fill():
                framing.end()

    def release(self) -> tuple[Stream, bytes]:
        stream, rest = self._open(), bytes(self._buffer)
        self._stream = None
        self._buffer.clear()
        return stream, rest

    def close(self) -> None:
        stream, self._stream = self._stream, None
        self._buffer.clear()
        self._pending.clear()
        self._framing = None
        self._closing = False
        if stream is not None:
            stream.close()

    def _open(self) -> Stream:
        if self._stream is None:
            self._stream = connect(self._host, self._tls)
        return self._stream

    def _ready(self) -> None:
        """Drop a connection that cannot carry another request: half-read, announced as closing, closed by the peer."""
        if self._stream is None or self._pending:
            return
        unread = self._framing is not None and not self._framing.done
        poller = select.poll()
        poller.register(self._stream.fileno(), select.POLLIN)
        if unread or self._closing or self._buffer or poller.poll(0):
            self.close()

    def _fill(self) -> bool:
        try:
            data = self._open().recv(_READ_SIZE)
        except ConnectionResetError:
            return False
        self._buffer += data
        return bool(data)

    def _read_head(self) -> bytes:
        start = 0
        while True:
            end = self._buffer.find(b"\r\n\r\n", start)
            if end >= 0:
                head = bytes(self._buffer[:end])
                del self._buffer[: end + 4]
                return head
            start = max(0, len(self._buffer) - 3)
            if len(self._buffer) > _MAX_HEAD:
                raise BrokenReply("the server's answer is not HTTP: its headers do not end")
            if not self._fill():
                raise BrokenReply("the engine closed the connection without an answer", hint="see the engine's log")
