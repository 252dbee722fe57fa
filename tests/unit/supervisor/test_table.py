"""The table writes what recovery reads: every history ends in the same picture, whole or compacted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from bireme.errors import Conflict, NotFound
from bireme.linux.process import Exit
from bireme.supervisor.journal import Journal
from bireme.supervisor.recovery import Past
from bireme.supervisor.table import Exec, Instance, Table

if TYPE_CHECKING:
    from pathlib import Path


class NoPorts:
    """Relaying, as far as recovery tells it something."""

    def __init__(self) -> None:
        self.adopted: list[dict[str, Any]] = []

    def adopt(self, record: dict[str, Any], _held: dict[str, int]) -> None:
        self.adopted.append(record)


def instance(identity: str, number: int) -> Instance:
    record = {
        "slot": number,
        "place": number - 1,
        "uid_base": 1000 * number,
        "terminal": False,
        "open_stdin": True,
        "stdin_once": False,
        "log": {"path": "/x/log", "max_size_bytes": 0, "max_files": 1},
        "namespaces": ["pid", "net"],
        "pid": 100 + number,
    }
    return Instance(identity, None, record)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def table(path: Path) -> Table:
    journal = Journal(str(path))
    journal.replay()
    return Table(journal)


def past(path: Path) -> Past:
    journal = Journal(str(path))
    try:
        return Past(journal.replay(), cast("Any", NoPorts()), {})
    finally:
        journal.close()


def fill(table: Table) -> None:
    table.configured({"cgroup_subtree": "bireme-x"})
    for number, name in enumerate(("running", "exited", "gone", "launched"), 1):
        one = instance(name, number)
        table.launched(one)
        if name != "launched":
            table.started(one, 10 + number)
        if name in ("exited", "gone"):
            one.oom_killed = name == "exited"
            table.exited(one, Exit(one.pid, 137, 9), 20)
        if name == "gone":
            table.gone(one)
    for name in ("x", "y", "z"):
        exec_ = Exec(name, "running", 500, terminal=name == "x")
        table.exec_started(exec_)
        if name != "x":
            table.exec_exited(exec_, Exit(500, 3, 0), 30)
        if name == "z":
            table.exec_gone(exec_)
    table.tidy(list)


def check(found: Past) -> None:
    assert found.config == {"cgroup_subtree": "bireme-x"}
    assert set(found.instances) == {"running", "exited", "launched"}
    running, exited, launched = (found.instances[name] for name in ("running", "exited", "launched"))
    assert (running.pid, running.slot_number, running.place, running.uid_base) == (101, 1, 0, 1000)
    assert (running.started_at_ns, running.ended) == (11, None)
    assert (exited.ended, exited.oom_killed, exited.at_ns) == (Exit(102, 137, 9), True, 20)
    assert launched.started_at_ns == 0
    assert set(found.execs) == {"x", "y"}
    assert found.execs["x"].ended is None
    assert found.execs["x"].terminal
    assert found.execs["y"].ended == Exit(500, 3, 0)


def test_recovery_reads_what_the_table_wrote(table: Table, path: Path) -> None:
    fill(table)
    check(past(path))


def test_a_compacted_journal_tells_the_same(table: Table, path: Path) -> None:
    fill(table)
    journal = Journal(str(path))
    journal.replay()
    journal.compact([*table.records(), {"t": "ports", "id": "running", "entries": [], "names": []}])
    journal.close()
    check(past(path))
    assert b"gone" not in path.read_bytes()


def test_the_highest_slot_counts_even_when_it_is_gone(table: Table, path: Path) -> None:
    one = instance("late", 90)
    table.launched(one)
    table.gone(one)
    table.tidy(list)
    assert past(path).highest_slot == 90


def test_rows_and_events(table: Table) -> None:
    fill(table)
    running, exited = table.find("running"), table.find("exited")
    assert (running.row()["state"], running.row()["code"]) == ("running", -1)
    running.paused = True
    assert running.row()["state"] == "paused"
    assert (exited.row()["state"], exited.row()["code"], exited.row()["pid"]) == ("exited", 137, 0)
    assert exited.exit_event() == {
        "event": "exited",
        "id": "exited",
        "kind": "container",
        "code": 137,
        "signal": 9,
        "oom_killed": True,
        "error": "",
        "at_ns": 20,
    }


@pytest.mark.parametrize("identity", ["nobody", 5, None, ["x"]])
def test_what_is_not_there(table: Table, identity: object) -> None:
    with pytest.raises(NotFound):
        table.find(identity)
    with pytest.raises(NotFound):
        table.find_exec(identity)


def test_what_does_not_run(table: Table) -> None:
    fill(table)
    for name in ("exited", "launched"):
        with pytest.raises(Conflict):
            table.find_running(name)


def test_an_end_is_told_although_the_journal_is_full(table: Table) -> None:
    class Full(Journal):
        def flush(self) -> None:
            raise OSError(28, "no space")

    full = Table(Full("/dev/null"))
    one = instance("a", 1)
    full.instances["a"] = one
    full.exited(one, Exit(101, 0, 0), 5)
    assert one.ended is not None
