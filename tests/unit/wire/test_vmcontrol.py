"""Control of a running machine: the messages that are its own; the codec is wire/supervision's and tested there."""

from __future__ import annotations

from typing import Any

import pytest

from bireme.errors import Invalid, Unsupported
from bireme.wire import vmcontrol
from tests.support.guestconfig import process


def exec_message(**changes: Any) -> Any:
    return {"exec_id": "e1", "process": process(["sh"]), "stdin": False} | changes


def test_playbook() -> None:
    packet = vmcontrol.encode(vmcontrol.request(3, "exec_signal", exec_id="e1", number=15), spill=lambda _: -1)
    assert packet.data == b'{"rid":3,"op":"exec_signal","exec_id":"e1","number":15}'
    message, fds = vmcontrol.decode(packet.data, unspill=lambda *_: b"")
    assert message == {"rid": 3, "op": "exec_signal", "exec_id": "e1", "number": 15}
    assert not fds


@pytest.mark.parametrize(
    ("message", "names"),
    [
        (exec_message(), ("stdout", "stderr")),
        (exec_message(stdin=True), ("stdin", "stdout", "stderr")),
        (exec_message(process=process(["sh"], terminal=True), stdin=True), ("console",)),
    ],
)
def test_descriptors_of_an_exec(message: Any, names: tuple[str, ...]) -> None:
    assert vmcontrol.check_exec(message, len(names)) == names
    with pytest.raises(Invalid, match="needs the descriptors"):
        vmcontrol.check_exec(message, len(names) + 1)


@pytest.mark.parametrize("changes", [{"exec_id": ""}, {"exec_id": 3}, {"exec_id": "x" * 129}, {"process": []}])
def test_execs_that_are_none(changes: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        vmcontrol.check_exec(exec_message(**changes), 2)


def test_the_end_of_an_exec() -> None:
    row: vmcontrol.ExecRow = {"exec_id": "e", "pid": 9, "terminal": False, "code": 137, "signal": 9, "at_ns": 1}
    assert vmcontrol.exec_exited(row) == {
        "event": "exec_exited",
        "exec_id": "e",
        "code": 137,
        "signal": 9,
        "at_ns": 1,
    }


def test_versions() -> None:
    assert vmcontrol.agreed_version(1) == 1
    assert vmcontrol.agreed_version(9) == 1
    with pytest.raises(Unsupported):
        vmcontrol.agreed_version(0)
    for bad in (None, "1", True):
        with pytest.raises(Invalid):
            vmcontrol.agreed_version(bad)
