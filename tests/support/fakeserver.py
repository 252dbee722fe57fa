"""An HTTP server over a unix socket that answers by a script and remembers what it was asked.

One thread per connection, all joined at the end; an error in a handler is kept and raised there. A handler gets the
request and the connection: it returns a `Reply`, or None when it used the socket itself (take-over, broken answers).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

DEADLINE_S = 30.0


@dataclass
class Request:
    method: str
    path: str
    """Without the /v1.NN prefix."""
    target: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    body: Any = None
    status: str = "200 OK"
    headers: dict[str, str] = field(default_factory=dict)
    chunks: Iterable[bytes] | None = None
    """Sent in chunked coding instead of `body`."""

    def send(self, conversation: Conversation, head_only: bool) -> None:
        fields = {"Content-Type": "application/json", "Api-Version": "1.55"} | self.headers
        data = b""
        if self.chunks is not None:
            fields["Transfer-Encoding"] = "chunked"
        else:
            data = (
                self.body
                if isinstance(self.body, bytes)
                else b""
                if self.body is None
                else json.dumps(self.body).encode()
            )
            fields["Content-Length"] = str(len(data))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        conversation.socket.sendall(f"HTTP/1.1 {self.status}\r\n{lines}\r\n".encode())
        if self.chunks is not None:
            for chunk in self.chunks:
                conversation.socket.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            data = b"0\r\n\r\n"
        if not head_only:
            conversation.socket.sendall(data)


def refuse(status: str, message: str) -> Reply:
    return Reply({"message": message}, status)


NO_CONTENT = Reply(status="204 No Content")


class Conversation:
    """One connection, as handlers see it."""

    def __init__(self, server: FakeServer, sock: socket.socket) -> None:
        self.server = server
        self.socket = sock
        self.buffer = b""

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer at the end of the stream."""
        while len(self.buffer) < size:
            data = self.socket.recv(65536)
            if not data:
                break
            self.buffer += data
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def read_until(self, mark: bytes) -> bytes:
        """Up to and without `mark`; b"" at the end of the stream."""
        while mark not in self.buffer:
            data = self.socket.recv(65536)
            if not data:
                return b""
            self.buffer += data
        head, self.buffer = self.buffer.split(mark, 1)
        return head

    def read_rest(self) -> bytes:
        """Everything until the other side half-closes."""
        while data := self.socket.recv(65536):
            self.buffer += data
        data, self.buffer = self.buffer, b""
        return data

    def take_over(self, content_type: str = "application/vnd.docker.multiplexed-stream", first: bytes = b"") -> None:
        """Answer 101; `first` goes out in the same packet."""
        head = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        self.socket.sendall(f"{head}Content-Type: {content_type}\r\n\r\n".encode() + first)

    def frame(self, stream: int, data: bytes) -> None:
        self.socket.sendall(bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data)

    def next_request(self) -> Request | None:
        head = self.read_until(b"\r\n\r\n").decode()
        if not head:
            return None
        lines = head.split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        parts = urlsplit(target)
        path = "/" + parts.path[1:].partition("/")[2] if parts.path.startswith("/v1.") else parts.path
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        return Request(method, path, target, query, headers, self._body(headers))

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self.read(int(headers.get("content-length", 0)))
        body = b""
        while size := int(self.read_until(b"\r\n"), 16):
            body += self.read(size)
            self.read(2)
        self.read(2)
        return body


Handler = Callable[[Request, Conversation], Reply | None]


class FakeServer:
    """`on("GET /info", Reply(...))` scripts an answer; a list of replies is used up, its last one repeats."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="bireme-fake-")
        self.path = os.path.join(self._directory.name, "engine.sock")
        self.host = f"unix://{self.path}"
        self.requests: list[Request] = []
        self.at_exit: list[Callable[[], None]] = []
        """Called at the end, to wake handlers that wait for something."""
        self._script: dict[str, list[Reply | Handler]] = {}
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._changed = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX)
        self._stop_read, self._stop_write = socket.socketpair()

    def on(self, what: str, *answers: Reply | Handler | dict[str, Any] | list[Any]) -> None:
        self._script[what] = [
            answer if isinstance(answer, Reply) or callable(answer) else Reply(answer) for answer in answers
        ]

    def paths(self) -> list[str]:
        """METHOD /path of everything asked so far."""
        return [f"{request.method} {request.path}" for request in self.requests]

    def wait_for(self, what: str, count: int = 1) -> Request:
        """The `count`-th request of that METHOD /path, once it has come."""

        def found() -> list[Request]:
            return [request for request in self.requests if f"{request.method} {request.path}" == what]

        with self._changed:
            if not self._changed.wait_for(lambda: len(found()) >= count, DEADLINE_S):
                raise AssertionError(f"no {what} among {self.paths()}")
        return found()[count - 1]

    def __enter__(self) -> FakeServer:
        self._listener.bind(self.path)
        self._listener.listen(64)
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_write.close()
        for wake in self.at_exit:
            wake()
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(DEADLINE_S)
        for sock in (*self._sockets, self._listener, self._stop_read):
            sock.close()
        self._directory.cleanup()
        if self._errors and error is None:
            raise self._errors[0]

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            ready, _, _ = select.select([self._listener, self._stop_read], [], [])
            if self._stop_read in ready:
                return
            sock, _ = self._listener.accept()
            self._sockets.append(sock)
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        conversation = Conversation(self, sock)
        try:
            while (request := conversation.next_request()) is not None:
                with self._changed:
                    self.requests.append(request)
                    self._changed.notify_all()
                reply = self._answer(request, conversation)
                if reply is None:
                    break
                reply.send(conversation, request.method == "HEAD")
        except (BrokenPipeError, ConnectionResetError):
            pass
        except BaseException as error:
            self._errors.append(error)
        finally:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _answer(self, request: Request, conversation: Conversation) -> Reply | None:
        answers = self._script.get(f"{request.method} {request.path}")
        if not answers:
            return refuse("404 Not Found", "page not found")
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return answer if isinstance(answer, Reply) else answer(request, conversation)
