"""One client's connection: HTTP/1.0 and 1.1 for hostile input, one request at a time.

    EXCHANGE (a request is read, handled, answered; again) --+--> RAW     a Hijack: bytes in both directions
                                                             +--> LINGER  the last answer is sent, input is discarded

- While a request is handled, bytes behind it are kept (bounded, then reading stops) and read afterwards: pipelined
  requests are served one after the other.
- A unix socket's peer that closed altogether raises POLLHUP, one that only ended its own direction does not. asyncio
  shows the same end of file for both, so the difference is asked of the kernel, at the end of file and in every sweep.
- Closing a socket with unread input resets it, and the client may lose the answer: so the last answer is followed by
  the end of our direction only, and input is discarded until the client closes (or some seconds pass).
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import time
from collections.abc import Awaitable
from enum import IntEnum
from typing import TYPE_CHECKING, cast

from bireme.api.http.body import BodyLost
from bireme.api.http.framing import Part, RequestReader
from bireme.api.http.message import (
    NO_BODY,
    TEXT,
    Answer,
    Deferred,
    Hijack,
    HttpProblem,
    Request,
    Response,
    Stream,
    status_line,
    upgrade_head,
)
from bireme.api.http.raw import RawStream

if TYPE_CHECKING:
    from bireme.api.http.server import Server

log = logging.getLogger(__name__)

SKIP_BYTES = 64 << 10
"""An unread rest of a body up to this size is read and dropped; behind a larger one the connection ends."""


COLLECT_BYTES = 64 << 10
"""Small pieces of a stream are sent together, up to this size, when they come without a pause."""


class Phase(IntEnum):
    EXCHANGE = 0
    RAW = 1
    LINGER = 2


class Connection(asyncio.Protocol):
    """See the head of this module. Made by `Server` for every accepted socket."""

    __slots__ = (
        "_backlog",
        "_drainers",
        "_eof",
        "_finish_on_drain",
        "_interruptible",
        "_lost",
        "_outgoing",
        "_outgoing_bytes",
        "_paused_reading",
        "_paused_writing",
        "_phase",
        "_raw",
        "_reader",
        "_request",
        "_server",
        "_task",
        "_transport",
        "deadline",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._phase = Phase.EXCHANGE
        self._reader = RequestReader(self, server.limits.head_bytes, server.limits.header_count)
        self._request: Request | None = None
        self._backlog = bytearray()
        self._raw: RawStream | None = None
        self._task: asyncio.Task[None] | None = None
        self._drainers: list[asyncio.Future[None]] = []
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self._interruptible = False
        self._paused_writing = False
        self._paused_reading = False
        self._finish_on_drain = False
        self._lost = False
        self._eof = False
        self.deadline = 0.0

    # --- the transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._server.admit(self):
            self._transport.abort()
            return
        self.deadline = self._server.clock() + self._server.limits.head_timeout_s

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._server.forget(self)
        self._client_gone()
        self._wake_drainers()

    def pause_writing(self) -> None:
        self._paused_writing = True

    def resume_writing(self) -> None:
        self._paused_writing = False
        self._wake_drainers()
        if self._finish_on_drain:
            self._finish_on_drain = False
            self._finish_exchange()

    def data_received(self, data: bytes) -> None:
        if self._phase is Phase.RAW:
            cast("RawStream", self._raw).feed(data)
        elif self._phase is Phase.EXCHANGE:
            if self._backlog:
                self._hold(data)
            else:
                self._advance(data)

    def eof_received(self) -> bool:
        self._eof = True
        if self._phase is Phase.RAW:
            cast("RawStream", self._raw).feed_eof()
        elif self._phase is Phase.LINGER or self._request is None:
            self._transport.close()
        else:
            if self._reader.part is not Part.DONE:
                self._reader.fail(BodyLost(400, "unexpected end of the request body"))
            if self._interruptible and not self._on_unix():
                self._client_gone()
        if self._hung_up():
            self._client_gone()
        return True

    # --- reading

    def _advance(self, data: bytes) -> None:
        """Read on in the request; what lies behind it waits in the backlog."""
        reader = self._reader
        if not reader.begun:
            self.deadline = self._server.clock() + self._server.limits.head_timeout_s
        try:
            rest = reader.feed(data)
        except HttpProblem as problem:
            self._refuse(problem.status, problem.message)
            return
        if rest:
            self._hold(rest)
        if reader.part is Part.DONE:
            self.deadline = 0.0
        if self._request is None and reader.request is not None:
            self.deadline = 0.0
            self._request = reader.request
            self._dispatch(reader.request)

    def _hold(self, data: bytes) -> None:
        self._backlog += data
        if len(self._backlog) > self._server.limits.backlog_bytes:
            self._pause(True)

    def body_wanted(self, whole: bool) -> None:
        if self._reader.continue_due:
            self._reader.continue_due = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        limits = self._server.limits
        if not whole:
            self.deadline = self._server.clock() + limits.body_idle_timeout_s
        elif self.deadline == 0.0:
            self.deadline = self._server.clock() + limits.body_timeout_s

    def body_arrived(self) -> None:
        self.deadline = 0.0

    def body_paused(self, paused: bool) -> None:
        self._pause(paused)

    def raw_paused(self, paused: bool) -> None:
        self._pause(paused)

    def _pause(self, paused: bool) -> None:
        if paused is self._paused_reading or self._lost or self._transport.is_closing():
            return
        self._paused_reading = paused
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # --- answering

    def guard(self, request: Request) -> None:
        """Raise HttpProblem for a request this listener does not take."""

    def _dispatch(self, request: Request) -> None:
        router = self._server.router
        try:
            self.guard(request)
            route = router.find(request)
            answer = route.handler(request)
        except Exception as error:
            self._send(request, router.failure(request, error))
            return
        if type(answer) is Response:
            self._send(request, answer)
            return
        self._interruptible = route.interruptible
        self._task = self._server.tasks.spawn(self._serve(request, answer), "request")

    async def _serve(self, request: Request, pending: Answer | Awaitable[Answer]) -> None:
        try:
            answer: Answer
            try:
                answer = await pending if isinstance(pending, Awaitable) else pending
            except Exception as error:
                answer = self._server.router.failure(request, error)
            if type(answer) is Response:
                self._send(request, answer)
            elif type(answer) is Deferred:
                await self._send_deferred(request, answer)
            elif type(answer) is Stream:
                await self._send_stream(request, answer)
            else:
                await self._take_over(request, cast("Hijack", answer))
        except ConnectionError:
            self._abort()
        except asyncio.CancelledError:
            self._abort()
            raise
        except Exception:
            log.exception("%s %s broke off", request.method, request.path)
            self._flush_chunks()
            self._transport.close()
        finally:
            self._task = None

    def _head(self, request: Request, status: int, content_type: bytes, framing: bytes, headers: bytes) -> bytes:
        if not self._reader.keep_alive:
            framing += b"Connection: close\r\n"
        elif request.minor == 0:
            framing += b"Connection: keep-alive\r\n"
        return b"".join(
            (
                self._server.status_lines.get(status) or status_line(status) + self._server.router.headers,
                _date(),
                b"" if status in NO_BODY else b"Content-Type: " + content_type + b"\r\n",
                framing,
                headers,
                b"\r\n",
            )
        )

    def _send(self, request: Request, response: Response) -> None:
        if self._lost:
            return
        body = response.body
        status = response.status
        framing = b"" if status in NO_BODY else b"Content-Length: %d\r\n" % len(body)
        self._settle_body()
        head = self._head(request, status, response.content_type, framing, response.headers)
        self._transport.write(head if request.method == "HEAD" or not body else head + body)
        self._finish_exchange()

    async def _send_deferred(self, request: Request, deferred: Deferred) -> None:
        self._interruptible = True
        self._start_stream(request, deferred.content_type, b"")
        body = await deferred.result
        if request.method != "HEAD":
            self._transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if request.minor else body)
        self._finish_exchange()

    async def _send_stream(self, request: Request, stream: Stream) -> None:
        self._interruptible = True
        chunks = stream.chunks
        try:
            first = b""
            if not stream.patient:
                try:
                    first = await anext(chunks, b"")
                except Exception as error:
                    self._send(request, self._server.router.failure(request, error))
                    return
            self._start_stream(request, stream.content_type, stream.headers)
            if request.method != "HEAD":
                await self._send_chunk(first)
                async for chunk in chunks:
                    await self._send_chunk(chunk)
                self._flush_chunks(b"0\r\n\r\n" if request.minor else b"")
        finally:
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await close()
        self._finish_exchange()

    def _start_stream(self, request: Request, content_type: bytes, headers: bytes) -> None:
        if self._lost:
            raise ConnectionResetError
        self._settle_body()
        if request.minor == 0:
            self._reader.keep_alive = False
        framing = b"Transfer-Encoding: chunked\r\n" if request.minor else b""
        self._transport.write(self._head(request, 200, content_type, framing, headers))

    async def _send_chunk(self, chunk: bytes) -> None:
        """Collect what comes without a pause into one chunk on the wire; wait when the client does not read."""
        if not chunk:
            return
        if not self._outgoing:
            self._server.loop.call_soon(self._flush_chunks)
        self._outgoing.append(chunk)
        self._outgoing_bytes += len(chunk)
        if self._outgoing_bytes >= COLLECT_BYTES:
            self._flush_chunks()
        if self._lost or self._paused_writing:
            await self.drain()

    def _flush_chunks(self, end: bytes = b"") -> None:
        size, parts = self._outgoing_bytes, self._outgoing
        if not size and not end:
            return
        if size and cast("Request", self._request).minor:
            parts.insert(0, b"%x\r\n" % size)
            parts.append(b"\r\n")
        parts.append(end)
        self._outgoing, self._outgoing_bytes = [], 0
        if not self._lost:
            self._transport.write(b"".join(parts))

    async def _take_over(self, request: Request, hijack: Hijack) -> None:
        try:
            await request.body.read(SKIP_BYTES)
        except BaseException as error:
            hijack.discard()
            if not isinstance(error, HttpProblem):
                raise
            self._send(request, self._server.router.failure(request, error))
            return
        if self._lost:
            hijack.discard()
            return
        raw = self._raw = RawStream(self)
        self._phase = Phase.RAW
        self._interruptible = False
        self._pause(False)
        if self._backlog:
            raw.feed(bytes(self._backlog))
            self._backlog.clear()
        if self._eof:
            raw.feed_eof()
        self._transport.write(upgrade_head(hijack, request.upgrade))
        try:
            await hijack.run(raw)
        finally:
            self._linger()

    def _settle_body(self) -> None:
        """The answer leaves: a small rest of the body may still come, behind a large one the connection ends."""
        reader = self._reader
        if reader.part is Part.DONE:
            return
        if reader.part is not Part.LENGTH or reader.body_left > SKIP_BYTES or reader.continue_due:
            reader.keep_alive = False

    def _finish_exchange(self) -> None:
        if self._lost:
            return
        if self._paused_writing:
            self._finish_on_drain = True
            self.deadline = self._server.clock() + self._server.limits.idle_timeout_s
            return
        self._interruptible = False
        reader = self._reader
        if not reader.keep_alive or self._server.draining or (self._eof and not self._backlog):
            self._linger()
        elif reader.part is Part.LENGTH:
            self._server.tasks.spawn(self._skip_body(cast("Request", self._request)), "skip body")
        else:
            self._expect_next()

    def _expect_next(self) -> None:
        limits = self._server.limits
        self._request = None
        self._reader = RequestReader(self, limits.head_bytes, limits.header_count)
        self.deadline = self._server.clock() + limits.idle_timeout_s
        self._pause(False)
        if self._backlog:
            self._server.loop.call_soon(self._resume)

    async def _skip_body(self, request: Request) -> None:
        try:
            await request.body.read(1 << 20)
        except HttpProblem:
            self._linger()
            return
        self._finish_exchange()

    def _resume(self) -> None:
        if self._phase is Phase.EXCHANGE and self._backlog and not self._lost:
            data = bytes(self._backlog)
            self._backlog.clear()
            self._advance(data)
            if self._eof:
                self.eof_received()

    # --- ending

    def _refuse(self, status: int, message: str) -> None:
        """Answer something that is no request of ours, and end."""
        self._reader.keep_alive = False
        self._send(Request("GET", "", "", {}, 1), Response(status, message.encode() + b"\n", TEXT))

    def _linger(self) -> None:
        if self._lost or self._phase is Phase.LINGER:
            return
        self._phase = Phase.LINGER
        self._backlog.clear()
        if self._eof or not self._transport.can_write_eof():
            self._transport.close()
            return
        self.raw_write_eof()
        self._pause(False)
        self.deadline = self._server.clock() + self._server.limits.linger_s

    def _abort(self) -> None:
        if not self._lost:
            self._transport.abort()

    def _client_gone(self) -> None:
        """Nobody reads any more: end what only the client wanted."""
        if self._raw is not None:
            self._raw.lose()
        if self._request is not None:
            self._request.body.fail(BodyLost(400, "the client went away"))
        if self._task is not None and self._interruptible:
            self._task.cancel()

    def sweep(self, now: float) -> None:
        """Called now and then: enforce the deadline, notice a client that vanished after ending its direction."""
        if self._eof and not self._lost and self._hung_up():
            self._client_gone()
        if not self.deadline or now < self.deadline:
            return
        self.deadline = 0.0
        if self._phase is Phase.LINGER:
            if self._transport.get_write_buffer_size():
                self.deadline = now + self._server.limits.linger_s
            else:
                self._transport.abort()
        elif self._finish_on_drain:
            self._transport.abort()
        elif self._request is not None:
            self._reader.fail(BodyLost(408, "the request body took too long"))
        elif self._reader.begun:
            self._refuse(408, "the request took too long")
        else:
            self._transport.close()

    def close(self, *, now: bool) -> None:
        """The server ends: connections that wait for the client, stream, or were taken over end at once; what is
        being answered gets to its end, or is cut with `now`."""
        self._reader.keep_alive = False
        if now or self._interruptible or self._phase is Phase.RAW:
            if self._task is not None:
                self._task.cancel()
            self._transport.abort()
        elif self._phase is Phase.EXCHANGE and self._request is None:
            self._transport.close()

    # --- writing

    async def drain(self) -> None:
        """Wait while the client does not read; ConnectionResetError when it is gone."""
        if self._lost:
            raise ConnectionResetError
        if self._paused_writing:
            future: asyncio.Future[None] = self._server.loop.create_future()
            self._drainers.append(future)
            await future
            if self._lost:
                raise ConnectionResetError

    def _wake_drainers(self) -> None:
        drainers, self._drainers = self._drainers, []
        for future in drainers:
            if not future.done():
                future.set_result(None)

    def raw_write(self, data: bytes) -> None:
        if not self._lost:
            self._transport.write(data)

    def raw_write_eof(self) -> None:
        if not self._lost and self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    # --- the socket

    def _on_unix(self) -> bool:
        sock = self._transport.get_extra_info("socket")
        return sock is not None and sock.family == socket.AF_UNIX

    def _hung_up(self) -> bool:
        """Whether the peer closed both directions (a unix socket only)."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0 or not self._on_unix():
            return False
        poll = select.poll()
        poll.register(sock.fileno(), 0)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))


_last_date = (0, b"")


def _date() -> bytes:
    """RFC 9110 section 5.6.7. The process never sets a locale, so the names are English; package email costs a MiB."""
    global _last_date
    now = int(time.time())
    if _last_date[0] != now:
        _last_date = (now, time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime(now)).encode())
    return _last_date[1]
