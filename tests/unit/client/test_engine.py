"""The client against a scripted server: connections, errors, streams, take-over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from bireme.client.engine import Engine
from bireme.client.errors import ApiError, BrokenReply
from bireme.client.http import Connection
from bireme.errors import Conflict, NotFound
from tests.support.fakeserver import NO_CONTENT, Conversation, FakeServer, Reply, Request, refuse


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        yield fake


@pytest.fixture
def engine(server: FakeServer) -> Iterator[Engine]:
    client = Engine(server.host)
    yield client
    client.close()


def test_calls_share_a_connection(server: FakeServer, engine: Engine) -> None:
    server.on("GET /info", {"Driver": "overlay2"})
    server.on("POST /containers/x/start", NO_CONTENT)
    assert engine.info() == {"Driver": "overlay2"}
    assert engine.act("x", "start") is None
    assert engine.info()["Driver"] == "overlay2"
    assert len(server._sockets) == 1
    request = server.requests[0]
    assert request.target == f"/v{engine.version}/info"
    assert request.headers["host"] == "localhost"
    assert request.headers["user-agent"].startswith("bireme/")


def test_a_connection_that_the_engine_closed_is_opened_again(server: FakeServer, engine: Engine) -> None:
    def once(request: Request, conversation: Conversation) -> None:
        conversation.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    server.on("GET /info", once, Reply({"second": True}))
    assert engine.info() == {}
    server._threads[1].join(20)
    assert engine.info() == {"second": True}


def test_connection_close_is_honoured(server: FakeServer, engine: Engine) -> None:
    server.on("GET /info", Reply({"a": 1}, headers={"Connection": "close"}))
    assert engine.info() == {"a": 1}
    assert engine.info() == {"a": 1}
    assert len(server._sockets) == 2


def test_a_refusal_is_an_error_with_its_kind(server: FakeServer, engine: Engine) -> None:
    server.on("GET /containers/x/json", refuse("404 Not Found", "No such container: x"))
    server.on("POST /containers/x/start", refuse("409 Conflict", "is paused"))
    server.on("GET /info", Reply(b"plain text", "500 Internal Server Error"))
    with pytest.raises(ApiError) as caught:
        engine.container("x")
    assert (caught.value.status, caught.value.message) == (404, "No such container: x")
    assert (caught.value.category, caught.value.kind) == (NotFound, "not_found")
    with pytest.raises(ApiError) as caught:
        engine.act("x", "start")
    assert caught.value.category is Conflict
    with pytest.raises(ApiError, match="plain text"):
        engine.info()
    assert len(server._sockets) == 1


def test_names_are_quoted(server: FakeServer, engine: Engine) -> None:
    server.on("GET /images/reg:5000/a/b:tag/json", {"Id": "x"})
    assert engine.image("reg:5000/a/b:tag") == {"Id": "x"}
    with pytest.raises(ApiError):
        engine.container("a/../b?c")
    assert server.requests[-1].target.endswith("/containers/a%2F..%2Fb%3Fc/json")


def test_an_older_engine_is_asked_in_its_version(server: FakeServer, engine: Engine) -> None:
    message = f"client version {engine.version} is too new. Maximum supported API version is 1.41"
    server.on("GET /info", refuse("400 Bad Request", message), Reply({"ok": True}))
    assert engine.info() == {"ok": True}
    assert engine.version == "1.41"
    assert server.requests[-1].target == "/v1.41/info"


def test_bodies_are_streamed_in_chunks(server: FakeServer, engine: Engine) -> None:
    pieces = [b"a" * 70000, b"", b"b" * 10, b"c"]
    server.on(
        "POST /images/load", Reply(chunks=[b'{"stream":"one"}\r\n{"str', b'eam":"two"}\r\n', b'{"stream":"three"}'])
    )
    response = engine.load(iter(pieces), quiet=True)
    assert [value["stream"] for value in response.values()] == ["one", "two", "three"]
    response.close()
    assert server.requests[0].body == b"".join(pieces)
    assert server.requests[0].query == {"quiet": "1"}


def test_a_refusal_in_the_middle_of_an_upload_is_seen(server: FakeServer, engine: Engine) -> None:
    listener = server._listener

    def refuse_early() -> None:
        sock, _ = listener.accept()
        sock.recv(100)
        sock.sendall(b'HTTP/1.1 413 Too Large\r\nContent-Length: 17\r\n\r\n{"message":"big"}')
        sock.shutdown(1)
        while sock.recv(1 << 20):
            pass
        sock.close()

    server._stop_write.send(b"x")
    server._threads[0].join(20)
    server._start(refuse_early)
    with pytest.raises(ApiError, match="big"):
        engine.load((b"x" * 65536 for _ in range(64)), quiet=False)


def test_long_answers_pass_in_pieces(server: FakeServer, engine: Engine) -> None:
    piece = bytes(range(256)) * 256
    server.on("GET /images/get", Reply(chunks=[piece] * 200))
    response = engine.save(["x"])
    digest, size = hashlib.sha256(), 0
    for chunk in response.chunks():
        digest.update(chunk)
        size += len(chunk)
    response.close()
    assert size == len(piece) * 200
    assert digest.digest() == hashlib.sha256(piece * 200).digest()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20000,
    ],
)
def test_broken_answers(server: FakeServer, engine: Engine, answer: bytes) -> None:
    def broken(request: Request, conversation: Conversation) -> None:
        conversation.socket.sendall(answer)

    server.on("GET /info", broken)
    with pytest.raises(BrokenReply):
        engine.info()


def test_interim_answers_are_skipped(server: FakeServer, engine: Engine) -> None:
    def slow(request: Request, conversation: Conversation) -> None:
        conversation.socket.sendall(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    server.on("GET /info", slow)
    assert engine.info() == {}


def test_an_answer_until_close(server: FakeServer, engine: Engine) -> None:
    def old(request: Request, conversation: Conversation) -> None:
        conversation.socket.sendall(b'HTTP/1.0 200 OK\r\n\r\n{"a":')
        conversation.socket.sendall(b"1}")

    server.on("GET /info", old)
    assert engine.info() == {"a": 1}
    assert engine.info() == {"a": 1}


def test_take_over_keeps_early_bytes(server: FakeServer, engine: Engine) -> None:
    def attach(request: Request, conversation: Conversation) -> None:
        conversation.take_over(first=b"early")
        conversation.socket.sendall(conversation.read(4).upper())

    server.on("POST /containers/x/attach", attach)
    stream = engine.receive_stream(engine.send_attach("x", {"stream": True, "stdin": False}))
    assert stream.multiplexed
    received = stream.first
    stream.stream.sendall(b"late")
    while len(received) < 9:
        received += stream.stream.recv(100)
    assert received == b"earlyLATE"
    stream.close()
    assert server.requests[0].headers["upgrade"] == "tcp"
    assert server.requests[0].query == {"stream": "1"}


def test_attach_to_nothing(server: FakeServer, engine: Engine) -> None:
    server.on("POST /containers/x/attach", refuse("404 Not Found", "No such container: x"))
    with pytest.raises(ApiError, match="No such container"):
        engine.receive_stream(engine.send_attach("x", {}))


def test_wait_is_registered_before_it_is_answered(server: FakeServer, engine: Engine) -> None:
    def wait(request: Request, conversation: Conversation) -> None:
        conversation.socket.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        conversation.server.wait_for("POST /containers/x/start")
        conversation.socket.sendall(b'10\r\n{"StatusCode":7}\r\n0\r\n\r\n')

    server.on("POST /containers/x/wait", wait)
    server.on("POST /containers/x/start", NO_CONTENT)
    pending = engine.receive_wait(engine.send_wait("x", "next-exit"))
    engine.act("x", "start")
    assert pending.result() == 7


def test_wait_with_an_error(server: FakeServer, engine: Engine) -> None:
    server.on("POST /containers/x/wait", {"StatusCode": -1, "Error": {"Message": "gone"}})
    with pytest.raises(ApiError, match="gone"):
        engine.receive_wait(engine.send_wait("x")).result()


def test_a_half_read_answer_does_not_poison_the_next(server: FakeServer) -> None:
    server.on("GET /big", Reply(b"x" * 100000))
    server.on("GET /small", Reply(b"ok"))
    connection = Connection(server.host, {"Host": "localhost"})
    next(connection.request("GET", "/big").chunks())
    assert connection.request("GET", "/small").read() == b"ok"
    connection.close()
