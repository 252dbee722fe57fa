"""The link with an agent that lies, floods, dies or says nothing, a fake main and fake clients."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.vmm.link import processes
from bireme.vmm.link.control import MAX_CLIENTS
from bireme.vmm.link.processes import MAX_UNCLAIMED
from bireme.wire import agent, vmcontrol
from bireme.wire.agent import Kind
from tests.support.fakeagent import HELLO, FakeAgent
from tests.support.guestconfig import guest_config, process
from tests.support.linked import Client, Linked, drain


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Linked]:
    with Linked(tmp_path, guest_config(stdin=True)) as bench:
        yield bench


@pytest.fixture
def fake(bench: Linked) -> Iterator[FakeAgent]:
    made = FakeAgent(bench)
    yield made
    made.close()


def failed(bench: Linked) -> dict[str, Any]:
    bench.until(lambda: bench.said("failed"))
    message = bench.said("failed")
    assert message is not None
    return message


def dropped(bench: Linked) -> str:
    """Why the last message was dropped."""
    return str(bench.link._session.last_dropped)


def test_a_life(bench: Linked, fake: FakeAgent) -> None:
    fields = fake.boot()
    assert fields["hostname"] == "guest"
    assert len(fields["entropy"]) == agent.ENTROPY_BYTES
    fake.streams["stdout"].sendall(b"out")
    fake.streams["stderr"].sendall(b"err")
    os.write(bench.stdin, b"in")
    bench.until(lambda: bench.output == b"out" and bench.errors == b"err")
    assert received(bench, fake.streams["stdin"], 2) == b"in"
    fake.end(3)
    bench.until(lambda: bench.said("ended"))
    assert bench.messages == [{"m": "running", "pid": 1}, {"m": "ended", "code": 3, "signal": 0}]
    assert fake.wait(Kind.SHUTDOWN)


def received(bench: Linked, sock: socket.socket, size: int) -> bytes:
    found = bytearray()

    def take() -> bool:
        try:
            found.extend(sock.recv(size))
        except BlockingIOError:
            return False
        return len(found) >= size

    bench.until(take)
    return bytes(found)


def test_a_signal_is_told_with_its_code(bench: Linked, fake: FakeAgent) -> None:
    fake.boot()
    fake.end(code=5, signal=9)
    bench.until(lambda: bench.said("ended"))
    assert bench.said("ended") == {"m": "ended", "code": 137, "signal": 9}


def test_the_end_waits_for_the_output(bench: Linked, fake: FakeAgent) -> None:
    fake.boot()
    fake.say(Kind.EXITED, number=0, code=0, signal=0)
    for _ in range(20):
        bench.turn()
    assert bench.said("ended") is None
    fake.streams["stdout"].sendall(b"late")
    fake.close_output()
    bench.until(lambda: bench.said("ended"))
    assert bench.output == b"late"


def send_what_fits(bench: Linked, sock: socket.socket, data: bytes) -> bytes:
    """The rest, once nobody takes more."""
    quiet = 0
    while data and quiet < 5:
        try:
            data, quiet = data[sock.send(data) :], 0
        except BlockingIOError:
            quiet += 1
            bench.turn()
    return data


def test_output_that_nobody_reads_outlives_the_machine(bench: Linked, fake: FakeAgent) -> None:
    """The agent gave up waiting; what it still holds comes once there is room in the host's pipe."""
    fake.boot()
    bench.read_output = False
    written = os.urandom(700_000)
    rest = send_what_fits(bench, fake.streams["stdout"], written)
    assert rest
    fake.say(Kind.EXITED, number=0, code=3, signal=0)
    assert not send_what_fits(bench, fake.streams["stdout"], rest)
    fake.close_output()
    bench.until(lambda: bench.said("ended"))
    assert bench.said("ended") == {"m": "ended", "code": 3, "signal": 0}
    assert drain(bench.stdout) == written


def test_output_that_fits_nowhere_is_told_as_lost(
    bench: Linked, fake: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STALLED_FIRST_S", 0.05)
    fake.boot()
    bench.read_output = False
    assert send_what_fits(bench, fake.streams["stdout"], bytes(4 << 20))
    fake.say(Kind.EXITED, number=0, code=3, signal=0)
    bench.until(lambda: bench.said("ended"))
    lost = "the end of the output is lost: nobody read stdout and stderr for 0.05 s"
    assert bench.said("ended") == {"m": "ended", "code": 3, "signal": 0, "lost": lost}


def test_why_the_program_could_not_start(bench: Linked, fake: FakeAgent) -> None:
    fake.say(Kind.HELLO, **HELLO)
    rid, _ = fake.wait(Kind.CONFIGURE)
    fake.say(Kind.ERROR, rid, stage="exec", errno=2, subject="x", message='exec: "x": not found')
    assert failed(bench) == {
        "m": "failed",
        "stage": "exec",
        "errno": 2,
        "subject": "x",
        "message": 'exec: "x": not found',
    }


@pytest.mark.parametrize("hello", [False, True])
def test_an_agent_that_says_nothing(tmp_path: Path, hello: bool) -> None:
    with Linked(tmp_path, guest_config(), boot_timeout_s=0.05) as bench:
        fake = FakeAgent(bench)
        if hello:
            fake.say(Kind.HELLO, **HELLO)
        message = failed(bench)
        assert message["stage"] == "agent"
        what = "did not finish its configuration" if hello else "did not answer"
        assert message["message"] == f"the machine's agent {what} within 0.05 s"
        fake.close()


def test_an_agent_of_another_time(bench: Linked, fake: FakeAgent) -> None:
    fake.say(Kind.HELLO, **(HELLO | {"version": 9, "oldest": 7}))
    assert "protocol versions 7 to 9" in failed(bench)["message"]


def test_an_agent_that_dies(bench: Linked, fake: FakeAgent) -> None:
    fake.boot()
    fake.control.close()
    assert failed(bench)["message"] == "the agent ended its connection"
    assert bench.said("ended") is None


def test_an_agent_that_dies_after_the_end_was_told(bench: Linked, fake: FakeAgent) -> None:
    fake.boot()
    fake.say(Kind.EXITED, number=0, code=4, signal=0)
    fake.control.shutdown(socket.SHUT_WR)
    bench.until(lambda: bench.said("ended"))
    assert bench.said("failed") is None


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", agent.HEAD.pack(agent.MAX_FROM_AGENT + 1, 1, 0, 0), b"\0" * 6 + b"\1" * 6]
)
def test_what_cannot_be_a_frame_ends_the_machine(bench: Linked, fake: FakeAgent, data: bytes) -> None:
    fake.boot()
    fake.raw(data)
    assert "announces" in failed(bench)["message"]


@pytest.mark.parametrize(
    ("kind", "rid", "fields", "why"),
    [
        (Kind.OK, 999, {}, "an answer to 999, which nobody asked"),
        (Kind.HELLO, 0, HELLO, "hello twice"),
        (Kind.HELLO, 0, {}, "hello without version"),
        (Kind.EXITED, 0, {"number": 77, "code": 0, "signal": 0}, "the end of process 77"),
        (Kind.EXITED, 0, {"number": -1, "code": 0, "signal": 0}, "the end of process -1"),
        (Kind.EXITED, 0, {"number": 0}, "exited without code, signal"),
        (Kind.CONFIGURE, 1, {}, "message of kind 2"),
    ],
)
def test_what_means_nothing_is_dropped(
    bench: Linked, fake: FakeAgent, kind: Kind, rid: int, fields: dict[str, Any], why: str
) -> None:
    fake.boot()
    fake.say(kind, rid, **fields)
    bench.until(lambda: why in dropped(bench))
    fake.end(1)
    bench.until(lambda: bench.said("ended"))


def test_nothing_counts_before_hello(bench: Linked, fake: FakeAgent) -> None:
    fake.say(Kind.EXITED, number=0, code=0, signal=0)
    bench.until(lambda: dropped(bench) == "exited before hello")
    fake.boot()


def test_codes_and_signals_that_are_none(bench: Linked, fake: FakeAgent) -> None:
    fake.boot()
    fake.end(code=-(1 << 40) + 7, signal=1 << 40)
    bench.until(lambda: bench.said("ended"))
    assert bench.said("ended") == {"m": "ended", "code": 7, "signal": 0}


def test_a_flood_of_frames_changes_nothing(bench: Linked, fake: FakeAgent) -> None:
    fake.boot()
    client = bench.client()
    frame = agent.encode(Kind.OK, 5, {"message": "x" * 1000})
    rest = frame * 2000
    while rest:
        try:
            rest = rest[fake.control.send(rest) :]
        except BlockingIOError:
            bench.turn()
    assert client.ok("ping") == {}
    bench.until(lambda: bench.link._session.counters["dropped"] >= 2000)
    fake.end()
    bench.until(lambda: bench.said("ended"))


def test_a_second_control_connection_is_refused(bench: Linked, fake: FakeAgent) -> None:
    fake.boot()
    second = FakeAgent(bench)
    bench.until(lambda: second.hear() and second.gone)
    second.close()
    fake.end()
    bench.until(lambda: bench.said("ended"))


def test_tokens_are_needed_and_used_once(bench: Linked, fake: FakeAgent) -> None:
    fields = fake.boot()
    for token in (fields["stdout_token"], b"x" * 16):
        stranger = fake.stream(token)
        stranger.sendall(b"forged")
        bench.until(lambda stranger=stranger: hung_up(stranger))
        stranger.close()
    assert bench.output == b""


def hung_up(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_connections_without_a_token_are_bounded(bench: Linked, fake: FakeAgent) -> None:
    fake.boot()
    strangers = [fake.stream(b"short") for _ in range(MAX_UNCLAIMED)]
    bench.until(lambda: bench.link.describe()["unclaimed"] == MAX_UNCLAIMED)
    one_more = fake.stream(b"")
    bench.until(lambda: hung_up(one_more))
    for sock in (*strangers, one_more):
        sock.close()
    bench.until(lambda: bench.link.describe()["unclaimed"] == 0)


def exec_(client: Client, bench: Linked, **changes: Any) -> tuple[int, list[int]]:
    reading, writing = zip(*(os.pipe() for _ in range(2)), strict=True)
    fields = {"exec_id": "e", "process": process(["x"]), "stdin": False} | changes
    rid = client.ask("exec", list(writing), **fields)
    for fd in writing:
        os.close(fd)
    return rid, list(reading)


def test_an_exec(bench: Linked, fake: FakeAgent) -> None:
    fake.boot()
    client = bench.client()
    rid, reading = exec_(client, bench)
    asked, fields = fake.wait(Kind.EXEC)
    fake.connect_streams(fields)
    fake.say(Kind.OK, asked, pid=44)
    bench.until(lambda: rid in client.replies)
    assert client.replies[rid]["ok"] == {"pid": 44}
    fake.streams["stdout"].sendall(b"text")
    fake.say(Kind.EXITED, number=fields["number"], code=2, signal=0)
    bench.until(lambda: client.events)
    assert client.events[0]["code"] == 2
    assert os.read(reading[0], 10) == b"text"
    assert client.ok("exec_acknowledge", exec_id="e") == {}
    for fd in reading:
        os.close(fd)


def test_a_request_longer_than_the_window_is_sent_as_room_comes(bench: Linked, fake: FakeAgent) -> None:
    fake.boot()
    client = bench.client()
    env = [f"V{number}=" + "x" * 1000 for number in range(100)]
    _, reading = exec_(client, bench, process=process(["x"], env=env))
    _, fields = fake.wait(Kind.EXEC)
    assert fields["process"]["env"] == env
    for fd in reading:
        os.close(fd)


def test_an_exec_that_could_not_start_leaves_nothing(bench: Linked, fake: FakeAgent) -> None:
    fake.boot()
    client = bench.client()
    rid, reading = exec_(client, bench)
    asked, _ = fake.wait(Kind.EXEC)
    fake.say(Kind.ERROR, asked, stage="user", errno=-5, subject="", message="no")
    bench.until(lambda: rid in client.replies)
    error = client.replies[rid]["error"]
    assert (error["stage"], error["errno"], error["message"]) == ("user", 0, "no")
    assert [os.read(fd, 1) for fd in reading] == [b"", b""]
    assert len(bench.link.describe()["processes"]) == 1
    assert client.ok("hello", version=1)["execs"] == []
    for fd in reading:
        os.close(fd)


def test_an_exec_s_end_before_its_start_is_dropped(bench: Linked, fake: FakeAgent) -> None:
    fake.boot()
    client = bench.client()
    _, reading = exec_(client, bench)
    asked, fields = fake.wait(Kind.EXEC)
    fake.say(Kind.EXITED, number=fields["number"], code=2, signal=0)
    bench.until(lambda: dropped(bench).startswith("the end of process 1"))
    fake.say(Kind.OK, asked)
    bench.until(lambda: client.replies)
    for fd in reading:
        os.close(fd)


def test_questions_are_answered_when_the_agent_dies(bench: Linked, fake: FakeAgent) -> None:
    fake.boot()
    client = bench.client()
    rid = client.ask("processes")
    fake.wait(Kind.PROCESSES)
    fake.control.close()
    bench.until(lambda: rid in client.replies)
    assert client.replies[rid]["error"]["kind"] == "unavailable"


def test_answers_hold_what_was_asked_for(bench: Linked, fake: FakeAgent) -> None:
    fake.boot()
    client = bench.client()
    answers: list[tuple[str, Kind, dict[str, Any]]] = [
        ("processes", Kind.PROCESSES, {"processes": [{"pid": 5, "kernel": "x"}, {}], "stage": "x"}),
        ("stats", Kind.STATS, {"pids": 3, "hostname": "x"}),
        ("signal", Kind.SIGNAL, {"pid": 3}),
    ]
    found = {}
    for op, kind, fields in answers:
        rid = client.ask(op, number=1)
        asked, _ = fake.wait(kind)
        fake.say(Kind.OK, asked, **fields)
        bench.until(lambda rid=rid: rid in client.replies)
        found[op] = client.replies[rid]["ok"]
    row = {"pid": 5, "ppid": 0, "uid": 0, "command": "", "started_at_ns": 0, "cpu_ns": 0, "tty": ""}
    assert found["processes"] == {"processes": [row, row | {"pid": 0}], "truncated": False}
    assert found["stats"] == dict.fromkeys(vmcontrol.GuestStats.__annotations__, 0) | {"pids": 3}
    assert found["signal"] == {}


def test_nothing_is_executed_while_it_boots(bench: Linked) -> None:
    client = bench.client()
    assert client.ok("hello", version=1)["state"] == "booting"
    rid, reading = exec_(client, bench)
    bench.until(lambda: rid in client.replies)
    assert client.replies[rid]["error"]["message"] == "the machine is not running: booting"
    for fd in reading:
        os.close(fd)


@pytest.mark.parametrize(
    ("op", "fields", "text"),
    [
        ("nosuch", {}, "unknown operation 'nosuch'"),
        (None, {}, "unknown operation None"),
        ("signal", {"number": "x"}, "malformed 'signal'"),
        ("signal", {}, "malformed 'signal'"),
        ("resize", {"rows": 1}, "malformed 'resize'"),
        ("exec_signal", {"exec_id": ["x"], "number": 1}, "no exec ['x']"),
        ("exec_signal", {"exec_id": "x", "number": 1}, "no exec 'x'"),
        ("exec", {}, "exec_id None is not a name"),
        ("signal", {"number": 1 << 70}, "not a number of 64 bits"),
    ],
)
def test_requests_that_are_refused(bench: Linked, fake: FakeAgent, op: Any, fields: dict[str, Any], text: str) -> None:
    fake.boot()
    client = bench.client()
    assert text in client.call(op, **fields)["error"]["message"]
    assert client.ok("ping") == {}


def test_hello_comes_first(bench: Linked) -> None:
    client = Client(bench)
    bench.clients.append(client)
    assert client.call("ping")["error"]["message"] == "hello comes first"
    assert client.call("hello", version=0)["error"]["kind"] == "unsupported"
    assert client.call("hello")["error"]["kind"] == "invalid"
    assert client.ok("hello", version=7)["version"] == vmcontrol.VERSION


@pytest.mark.parametrize("data", [b"x", b"[]", b"{}", b'{"rid":"x"}', b"@9", b"[" * 3000])
def test_a_client_that_makes_no_sense_is_dropped(bench: Linked, data: bytes) -> None:
    client = Client(bench)
    bench.clients.append(client)
    client._sock.send(data)
    bench.until(lambda: client.closed)
    assert bench.client().ok("ping") == {}


def test_clients_are_bounded(bench: Linked) -> None:
    for _ in range(MAX_CLIENTS):
        bench.client()
    one_more = Client(bench)
    bench.clients.append(one_more)
    bench.until(lambda: one_more.closed)


def test_main_that_goes_away_ends_the_link(bench: Linked) -> None:
    bench._main.shutdown(socket.SHUT_RDWR)
    bench.loop.run()


def test_pause_that_main_refuses(bench: Linked, fake: FakeAgent) -> None:
    fake.boot()
    bench.refusals["pause"] = {"kind": "internal", "message": "no"}
    client = bench.client()
    assert client.call("pause")["error"]["message"] == "no"
    assert client.ok("hello", version=1)["state"] == "running"


def test_the_clock_is_set_after_a_pause(bench: Linked, fake: FakeAgent) -> None:
    fake.boot()
    client = bench.client()
    client.ok("pause")
    client.ok("resume")
    _, fields = fake.wait(Kind.CLOCK)
    assert fields["clock_ns"] > 1_500_000_000_000_000_000


FRAME = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda kind, rid, body: agent.HEAD.pack(len(body), kind, 0, rid) + body,
        st.integers(0, 40),
        st.integers(0, 5),
        st.binary(max_size=60),
    ),
    st.builds(
        lambda number, code, signal: agent.encode(Kind.EXITED, 0, {"number": number, "code": code, "signal": signal}),
        st.integers(-2, 2),
        st.integers(-(1 << 63), (1 << 63) - 1),
        st.integers(-(1 << 63), (1 << 63) - 1),
    ),
)


@given(st.lists(FRAME, max_size=10))
def test_anything_an_agent_says(tmp_path_factory: pytest.TempPathFactory, frames: list[bytes]) -> None:
    with Linked(tmp_path_factory.mktemp("link"), guest_config()) as bench:
        fake = FakeAgent(bench)
        fake.boot()
        for frame in frames:
            try:
                fake.raw(frame)
            except OSError:
                break
            bench.turn(0)
        assert bench.client().ok("ping") == {}
        fake.close()
        bench.until(lambda: bench.said("failed") or bench.said("ended"))
