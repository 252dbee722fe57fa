"""Logs of a real container: which lines, with what in front of them, until when; by the API and the command line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bireme.api.docker.times import format_log_time, parse_timestamp
from bireme.client.engine import Engine
from bireme.client.errors import ApiError
from bireme.instance.state import Status
from bireme.wire.stdcopy import Decoder
from tests.integration.test_api_containers import create, drive
from tests.support.daemon import RunningEngine, running_engine
from tests.support.pace import eventually
from tests.support.rawhttp import Client, ServedEngine

LINES = [b"one\n", b"two\n", b"oops\n", b"three\n"]
SCRIPT = "echo one; sleep 0.05; echo two; sleep 0.05; echo oops >&2; sleep 0.05; echo three; read go; echo last"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with running_engine(tmp_path_factory.mktemp("logs")) as running:
        done = running.bireme("run", "-di", "--name", "talk", "--net", "none", "busybox", "sh", "-c", SCRIPT)
        assert done.returncode == 0, done.stderr
        eventually(lambda: "three" in running.bireme("logs", "talk").stdout)
        yield running
        running.bireme("rm", "-f", "talk")


def logs(engine: RunningEngine, **query: object) -> list[bytes]:
    """The lines of both streams, in their order."""
    client = Engine(engine.host)
    try:
        response = client.open("GET", "/containers/talk/logs", {"stdout": 1, "stderr": 1, **query})
        with response:
            return [data for _, data in Decoder().feed(response.read())]
    finally:
        client.close()


@pytest.fixture
def times(engine: RunningEngine) -> list[int]:
    """When each line was written, in nanoseconds."""
    stamped = logs(engine, timestamps=1)
    assert [line.split(b" ", 1)[1] for line in stamped] == LINES
    assert {len(line.split()[0]) for line in stamped} == {len("2026-01-02T03:04:05.123456789Z")}
    return [parse_timestamp(line.split()[0].decode()) for line in stamped]


def seconds(time_ns: int) -> str:
    return f"{time_ns // 10**9}.{time_ns % 10**9:09d}"


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("all", LINES),
        ("0", []),
        ("1", LINES[-1:]),
        ("+2", LINES[-2:]),
        ("3", LINES[-3:]),
        ("99", LINES),
        ("-1", LINES),
        ("some", LINES),
    ],
)
def test_tail(engine: RunningEngine, tail: str, expected: list[bytes]) -> None:
    assert logs(engine, tail=tail) == expected
    shown = engine.bireme("logs", f"--tail={tail}", "talk")
    assert sorted((shown.stdout + shown.stderr).encode().splitlines(keepends=True)) == sorted(expected)


@pytest.mark.needs_root
def test_tail_counts_lines_before_anything_is_left_out(engine: RunningEngine, times: list[int]) -> None:
    assert logs(engine, tail="2", stderr="0") == [b"three\n"]
    assert logs(engine, tail="3", since=seconds(times[3])) == [b"three\n"]


@pytest.mark.needs_root
def test_since_and_until_to_the_nanosecond(engine: RunningEngine, times: list[int]) -> None:
    assert logs(engine, since=seconds(times[1])) == LINES[1:]
    assert logs(engine, since=seconds(times[1] + 1)) == LINES[2:]
    assert logs(engine, until=seconds(times[1])) == LINES[:2]
    assert logs(engine, until=seconds(times[1] - 1)) == LINES[:1]
    assert logs(engine, since=seconds(times[1]), until=seconds(times[2])) == LINES[1:3]
    assert logs(engine, since="0", until="0") == LINES
    assert logs(engine, since=str(times[0] // 10**9)) == LINES
    assert logs(engine, since=str(times[3] // 10**9 + 1)) == []
    assert logs(engine, until="1.5") == []


@pytest.mark.needs_root
def test_times_of_the_command_line(engine: RunningEngine, times: list[int]) -> None:
    stamp = format_log_time(times[3]).decode()
    assert engine.bireme("logs", "--since", stamp, "talk").stdout == "three\n"
    assert engine.bireme("logs", "--since", seconds(times[3]), "talk").stdout == "three\n"
    assert engine.bireme("logs", "--since", seconds(times[3] + 1), "talk").stdout == ""
    before = format_log_time(times[0]).decode()
    assert engine.bireme("logs", "--until", before, "talk").stdout == "one\n"
    assert engine.bireme("logs", "--since", "1h30m", "talk").stdout == "one\ntwo\nthree\n"
    assert engine.bireme("logs", "--until", "1h", "talk").stdout == ""
    bad = engine.bireme("logs", "--since", "yesterday", "talk")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert 'invalid time: "yesterday"' in bad.stderr


@pytest.mark.needs_root
def test_details_stand_behind_the_time(engine: RunningEngine) -> None:
    """This engine keeps no attributes of a line, so there is nothing but the space in front of it."""
    assert logs(engine, details=1) == [b" " + line for line in LINES]
    stamped = logs(engine, details=1, timestamps=1)
    assert [line[30:] for line in stamped] == [b"  " + line for line in LINES]


@pytest.mark.needs_root
def test_following_ends_at_until(engine: RunningEngine, times: list[int]) -> None:
    """The container goes on: only the time ends these."""
    assert logs(engine, follow=1, until=seconds(times[1])) == LINES[:2]
    shown = engine.bireme("logs", "-f", "--until", "-300ms", "talk")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "one\ntwo\nthree\n", "oops\n")
    assert engine.bireme("inspect", "-f", "{{.State.Running}}", "talk").stdout == "true\n"


@pytest.mark.needs_root
def test_following_nothing_but_what_is_new(engine: RunningEngine) -> None:
    client = Engine(engine.host)
    query = {"stdout": 1, "stderr": 1, "follow": 1, "tail": "0"}
    with client.open("GET", "/containers/talk/logs", query) as response:
        engine.bireme("attach", "talk", input="go\n")
        assert [data for _, data in Decoder().feed(response.read())] == [b"last\n"]
    assert logs(engine, follow=1, tail="1") == [b"last\n"]
    client.close()


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ({"stdout": "0", "stderr": "0"}, 400, "must specify at least one of 'stdout' or 'stderr'"),
        ({"since": "x"}, 400, 'invalid value for "since"'),
        ({"until": "1.2.3"}, 400, 'invalid value for "until"'),
    ],
)
@pytest.mark.needs_root
def test_what_is_refused(engine: RunningEngine, query: dict[str, object], status: int, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        logs(engine, **query)
    assert refused.value.status == status
    assert message in refused.value.message


def test_a_container_that_is_going_has_no_logs() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await create(client, "true")
        instance = here.services.instances.find(identity)
        for status in (Status.REMOVING, Status.DEAD):
            instance.status = status
            reply = await client.call("GET", f"/containers/{identity}/logs?stdout=1")
            assert reply.status == 409
            assert reply.message == "can not get logs from container which is dead or marked for removal"
        instance.status = Status.CREATED
        assert (await client.call("GET", f"/containers/{identity}/logs?stdout=1")).body == b""

    drive(scenario)
