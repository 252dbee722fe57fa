"""When the logger gets a stream, what it gets again, and when an end is reported."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, cast

import pytest

from bireme.linux.poll import HANGUP, READ
from bireme.supervisor.output import Client, Output, Outputs
from tests.support.faketools import FakeKeeper, FakeService, ManualLoop

if TYPE_CHECKING:
    from pathlib import Path


class Desk:
    """Outputs with one instance's pipes."""

    def __init__(self, directory: Path, *, log: bool = True) -> None:
        self.loop = ManualLoop()
        self.keeper = FakeKeeper()
        self.logger = FakeService()
        self.outputs = Outputs(cast("Any", self.loop), cast("Any", self.keeper), cast("Any", self.logger), (0, 1, 2))
        assert self.logger.take() == [{"op": "ledger"}]
        self.out, self.out_write = os.pipe()
        self.err, self.err_write = os.pipe()
        described = {"path": str(directory / "log"), "max_size_bytes": 5, "max_files": 2} if log else {}
        self.output = Output("slot/4", 2, raw=False, log=described, sources={"stdout": self.out, "stderr": self.err})
        self.keeper.hold({"slot/4/stdout": self.out, "slot/4/stderr": self.err})
        self.reported: list[str] = []
        self.output.on_drained = lambda: self.reported.append("drained")

    def client(self) -> tuple[Client, socket.socket]:
        ours, theirs = socket.socketpair()
        return Client(ours.detach(), True, False), theirs

    def finish(self) -> None:
        self.outputs.finish(self.output, lambda: self.reported.append("finished"))

    def close_writers(self) -> None:
        os.close(self.out_write)
        os.close(self.err_write)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_silence_never_reaches_the_logger(desk: Desk) -> None:
    desk.outputs.add(desk.output)
    desk.close_writers()
    desk.loop.callbacks[desk.out](HANGUP)
    assert not desk.output.drained
    desk.loop.callbacks[desk.err](HANGUP)
    assert desk.output.drained
    desk.finish()
    assert desk.reported == ["drained", "finished"]
    assert desk.logger.said == []
    assert desk.keeper.held == {}
    assert desk.loop.callbacks == {}


def test_an_end_seen_before_the_hang_up_is_found_by_looking(desk: Desk) -> None:
    desk.outputs.add(desk.output)
    desk.close_writers()
    desk.finish()
    assert desk.reported == ["finished", "drained"]
    assert desk.logger.said == []


def test_the_first_byte_hands_over(desk: Desk) -> None:
    desk.outputs.add(desk.output)
    desk.loop.callbacks[desk.out](READ)
    (said,) = desk.logger.take()
    assert (said["op"], said["key"]) == ("open", "slot/4")
    assert said["log"] == {"name": "log", "max_size_bytes": 5, "max_files": 2}
    assert [(s["stream"], s["index"], s["fresh"]) for s in said["sources"]] == [
        ("stdout", 5, True),
        ("stderr", 6, True),
    ]
    assert desk.loop.callbacks == {}
    desk.finish()
    assert desk.reported == []
    desk.logger.on_message({"event": "drained", "key": "slot/4"}, [])
    assert desk.reported == ["finished", "drained"]
    desk.close_writers()


def test_unread_bytes_at_the_end_are_handed_over(desk: Desk) -> None:
    desk.outputs.add(desk.output)
    os.write(desk.out_write, b"last words")
    desk.close_writers()
    desk.finish()
    assert [said["op"] for said in desk.logger.said] == ["open"]
    assert desk.reported == []


def test_a_stranger_delays_the_report_by_seconds_only(desk: Desk) -> None:
    desk.outputs.add(desk.output)
    desk.finish()
    desk.logger.take()
    desk.loop.fire()
    assert [said["op"] for said in desk.logger.take()] == ["settle"]
    assert desk.reported == []
    desk.logger.on_message({"event": "settled", "key": "slot/4"}, [])
    assert desk.reported == ["finished"]
    desk.loop.fire()
    assert desk.reported == ["finished"]
    desk.close_writers()


def test_a_logger_that_does_not_answer_does_not_hold_the_report(desk: Desk) -> None:
    desk.outputs.add(desk.output)
    desk.finish()
    desk.loop.fire()
    desk.loop.fire()
    assert desk.reported == ["finished"]
    desk.close_writers()


def test_clients_are_held_told_and_ended(desk: Desk) -> None:
    desk.outputs.add(desk.output)
    client, theirs = desk.client()
    desk.outputs.add_client(desk.output, client)
    assert "slot/4/client/0/10" in desk.keeper.held
    (said,) = desk.logger.take()
    assert said["sinks"] == [{"sink": 0, "stdout": True, "stderr": False}]
    second, other = desk.client()
    desk.outputs.add_client(desk.output, second)
    (said,) = desk.logger.take()
    assert (said["op"], said["sink"]) == ("sink", 1)
    desk.logger.on_message({"event": "gone", "key": "slot/4", "sink": 0}, [])
    assert list(desk.output.clients) == [1]
    assert "slot/4/client/0/10" not in desk.keeper.held
    desk.logger.on_message({"event": "drained", "key": "slot/4"}, [])
    for sock in (theirs, other):
        sock.settimeout(10)
        assert sock.recv(10) == b""
        sock.close()
    assert desk.keeper.held == {}
    third, late = desk.client()
    desk.outputs.add_client(desk.output, third)
    assert late.recv(10) == b""
    late.close()
    desk.close_writers()


def test_a_new_logger_gets_everything_again_and_then_begins(desk: Desk) -> None:
    desk.outputs.begin()
    desk.outputs.add(desk.output)
    client, theirs = desk.client()
    desk.outputs.add_client(desk.output, client)
    desk.logger.take()
    desk.logger.on_started()
    introduced, opened, begun = desk.logger.take()
    assert introduced == {"op": "ledger"}
    assert opened["sources"][0]["fresh"] is False
    assert opened["sinks"] == [{"sink": 0, "stdout": True, "stderr": False}]
    assert begun == {"op": "begin"}
    desk.outputs.release(desk.output)
    theirs.close()
    desk.close_writers()


def test_a_first_logger_does_not_begin_before_the_past_is_known(desk: Desk) -> None:
    desk.logger.on_started()
    assert desk.logger.take() == [{"op": "ledger"}]
    desk.outputs.resume(desk.output)
    desk.outputs.begin()
    assert [said["op"] for said in desk.logger.take()] == ["open", "begin"]
    desk.outputs.release(desk.output)
    desk.close_writers()


def test_a_log_directory_that_is_gone_keeps_the_output_flowing(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "absent")
    desk.outputs.add(desk.output)
    desk.loop.callbacks[desk.out](READ)
    (said,) = desk.logger.take()
    assert said["log"] == {}
    desk.outputs.release(desk.output)
    desk.close_writers()


def test_output_nobody_keeps_has_no_place_in_the_ledger(tmp_path: Path) -> None:
    desk = Desk(tmp_path, log=False)
    assert desk.output.ledger_index("stdout") == 0
    desk.outputs.release(desk.output)
    desk.close_writers()
