"""The instances and execs the supervisor answers for, and their records in the journal.

    launch -> (started) -> exited -> gone        exec -> exec_exited -> exec_gone

An instance is in the table from its launch until its exit is acknowledged or it is deleted; its slot is taken down as
soon as it has ended. `launch` is written before the program can run, `started` before the client hears of it: what a
successor finds without `started` was never acknowledged, and is ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bireme.errors import Conflict, NotFound
from bireme.supervisor import program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from bireme.linux.process import Exit
    from bireme.supervisor.journal import Journal, Record
    from bireme.supervisor.output import Output
    from bireme.supervisor.slots import Slot
    from bireme.wire.supervision import ExecRow, InstanceRow


_NOTHING: dict[str, Any] = {}


class Instance:
    """One instance. `ended` is set when its first process was reaped, `reported` when its output is drained too."""

    __slots__ = (
        "at_ns",
        "cgroup",
        "cgroups",
        "ended",
        "error",
        "id",
        "joined",
        "joins",
        "killed",
        "log",
        "machine",
        "namespaces",
        "oom_killed",
        "open_stdin",
        "output",
        "paused",
        "pid",
        "place",
        "reported",
        "slot",
        "slot_number",
        "started_at_ns",
        "stdin_once",
        "terminal",
        "uid_base",
        "veth",
    )

    def __init__(self, identity: str, slot: Slot | None, record: Mapping[str, Any]) -> None:
        self.id = identity
        self.slot = slot
        self.slot_number: int = record["slot"]
        self.cgroup: str = record.get("cgroup") or f"s{self.slot_number}"
        self.place: int = record["place"]
        self.uid_base: int = record["uid_base"]
        self.terminal: bool = record["terminal"]
        self.open_stdin: bool = record["open_stdin"]
        self.stdin_once: bool = record["stdin_once"]
        self.log: dict[str, Any] = record["log"]
        self.namespaces: list[str] = record["namespaces"]
        self.machine: dict[str, Any] = record.get("machine") or {}
        """Of a machine: `control` and `report` paths, `taps` by interface; empty for a container."""
        self.joins: dict[str, Any] = record.get("joins") or _NOTHING
        """`ids` of the instances whose namespaces it is in, and the `place` whose range of ids it uses with them."""
        self.joined = False
        """Others are, or were, in its namespaces."""
        self.veth: str = record.get("veth", "")
        self.error = ""
        """Why it ended, when not by itself."""
        self.killed = False
        """We were asked to kill it."""
        self.cgroups: dict[str, str] = {}
        self.pid: int = record["pid"]
        self.output: Output | None = None
        self.started_at_ns = 0
        self.ended: Exit | None = None
        self.at_ns = 0
        self.oom_killed = False
        self.paused = False
        self.reported = False

    @property
    def running(self) -> bool:
        return self.started_at_ns > 0 and self.ended is None

    @property
    def kind(self) -> str:
        return "machine" if self.machine else "container"

    def row(self) -> InstanceRow:
        ended = self.ended
        return {
            "id": self.id,
            "kind": self.kind,
            "state": "exited" if ended else "paused" if self.paused else "running",
            "pid": 0 if ended else self.pid,
            "slot": self.slot_number,
            "started_at_ns": self.started_at_ns,
            "terminal": self.terminal,
            "open_stdin": self.open_stdin,
            "code": ended.code if ended else -1,
            "signal": ended.signal if ended else 0,
            "oom_killed": self.oom_killed,
            "at_ns": self.at_ns,
            "error": self.error,
            "uid_base": self.uid_base,
            "cgroups": self.cgroups,
            "control": self.machine.get("control", ""),
        }

    def exit_event(self) -> dict[str, Any]:
        assert self.ended is not None
        return {
            "event": "exited",
            "id": self.id,
            "kind": self.kind,
            "code": self.ended.code,
            "signal": self.ended.signal,
            "oom_killed": self.oom_killed,
            "at_ns": self.at_ns,
            "error": self.error,
        }


class Exec:
    """One more process of an instance. `streams` are our duplicates of its output, by keeper's name."""

    __slots__ = (
        "at_ns",
        "claimed",
        "console",
        "ended",
        "id",
        "instance",
        "pid",
        "pidfd",
        "running",
        "streams",
        "terminal",
    )

    def __init__(self, identity: str, instance: str, pid: int, *, terminal: bool) -> None:
        self.id = identity
        self.instance = instance
        self.pid = pid
        self.terminal = terminal
        self.pidfd = -1
        self.console = -1
        self.streams: dict[str, int] = {}
        self.claimed = True
        self.running = False
        self.ended: Exit | None = None
        self.at_ns = 0

    def name(self, what: str) -> str:
        return f"exec/{self.id}/{what}"

    def row(self) -> ExecRow:
        ended = self.ended
        return {
            "id": self.instance,
            "exec_id": self.id,
            "pid": 0 if ended else self.pid,
            "terminal": self.terminal,
            "code": ended.code if ended else -1,
            "signal": ended.signal if ended else 0,
            "at_ns": self.at_ns,
        }

    def exit_event(self) -> dict[str, Any]:
        assert self.ended is not None
        return {
            "event": "exec_exited",
            "id": self.instance,
            "exec_id": self.id,
            "code": self.ended.code,
            "signal": self.ended.signal,
            "at_ns": self.at_ns,
        }


class Table:
    """Instances and execs by id; every change is a journal record."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.instances: dict[str, Instance] = {}
        self.execs: dict[str, Exec] = {}
        self.config: Record = {}
        self.parents: dict[str, list[str]] = {}
        """Directories made for `--cgroup-parent` (linux/cgroup/parents.py)."""

    def find(self, identity: object) -> Instance:
        instance = self.instances.get(identity) if isinstance(identity, str) else None
        if instance is None:
            raise NotFound(f"the supervisor has no instance {identity}", subject=str(identity))
        return instance

    def find_running(self, identity: object) -> tuple[Instance, Slot]:
        instance = self.find(identity)
        if not instance.running or instance.slot is None:
            raise Conflict(f"container {identity} is not running", subject=str(identity))
        return instance, instance.slot

    def find_exec(self, identity: object) -> Exec:
        found = self.execs.get(identity) if isinstance(identity, str) else None
        if found is None:
            raise NotFound(f"the supervisor has no exec {identity}", subject=str(identity))
        return found

    def __iter__(self) -> Iterator[Instance]:
        return iter(self.instances.values())

    def configured(self, config: Record) -> None:
        self.config = config
        self._journal.write({"t": "config", "config": config})

    def parents_changed(self) -> None:
        """Written before such a directory is made."""
        self._journal.write(self._parents_record())

    def _parents_record(self) -> Record:
        return {"t": "parents", "made": dict(self.parents)}

    def launched(self, instance: Instance) -> None:
        """Written before the instance's program may run."""
        self.instances[instance.id] = instance
        self._journal.write(_launch_record(instance))

    def started(self, instance: Instance, at_ns: int) -> None:
        instance.started_at_ns = at_ns
        self._journal.write({"t": "started", "id": instance.id, "at_ns": at_ns})

    def exited(self, instance: Instance, ended: Exit, at_ns: int) -> None:
        instance.ended = ended
        instance.at_ns = at_ns
        self._write_whatever_happens(_exited_record(instance))

    def gone(self, instance: Instance) -> None:
        """Acknowledged, deleted, or never started."""
        if self.instances.get(instance.id) is instance:
            del self.instances[instance.id]
            self._journal.defer({"t": "gone", "id": instance.id})

    def exec_started(self, exec_: Exec) -> None:
        self.execs[exec_.id] = exec_
        self._journal.write(_exec_record(exec_))

    def exec_exited(self, exec_: Exec, ended: Exit, at_ns: int) -> None:
        exec_.ended = ended
        exec_.at_ns = at_ns
        self._write_whatever_happens(_exec_exited_record(exec_))

    def _write_whatever_happens(self, record: Record) -> None:
        """An end cannot be refused: without room in the run root it is told all the same, and written later."""
        try:
            self._journal.write(record)
        except OSError as error:
            program.log("supervisor", f"the journal has no room: {error}")

    def exec_gone(self, exec_: Exec) -> None:
        if self.execs.pop(exec_.id, None) is not None:
            self._journal.defer({"t": "exec_gone", "exec_id": exec_.id})

    def tidy(self, others: Callable[[], list[Record]]) -> None:
        """Idle time: write what was deferred, compact. `others` gives the records of whoever else writes here."""
        self._journal.flush()
        if self._journal.wants_compaction:
            self._journal.compact([*self.records(), *others()])

    def records(self) -> Iterable[Record]:
        """What is alive, as a journal."""
        yield {"t": "config", "config": self.config}
        if self.parents:
            yield self._parents_record()
        for instance in self:
            yield _launch_record(instance)
            if instance.started_at_ns:
                yield {"t": "started", "id": instance.id, "at_ns": instance.started_at_ns}
            if instance.ended is not None:
                yield _exited_record(instance)
        for exec_ in self.execs.values():
            yield _exec_record(exec_)
            if exec_.ended is not None:
                yield _exec_exited_record(exec_)


def _launch_record(instance: Instance) -> Record:
    return {
        "t": "launch",
        "id": instance.id,
        "slot": instance.slot_number,
        "place": instance.place,
        "uid_base": instance.uid_base,
        "pid": instance.pid,
        "terminal": instance.terminal,
        "open_stdin": instance.open_stdin,
        "stdin_once": instance.stdin_once,
        "log": instance.log,
        "namespaces": instance.namespaces,
        "machine": instance.machine,
        "veth": instance.veth,
        "joins": instance.joins,
        "cgroup": instance.cgroup,
    }


def _exited_record(instance: Instance) -> Record:
    assert instance.ended is not None
    return {
        "t": "exited",
        "id": instance.id,
        "code": instance.ended.code,
        "signal": instance.ended.signal,
        "oom": instance.oom_killed,
        "at_ns": instance.at_ns,
        "error": instance.error,
    }


def _exec_record(exec_: Exec) -> Record:
    return {"t": "exec", "id": exec_.instance, "exec_id": exec_.id, "pid": exec_.pid, "terminal": exec_.terminal}


def _exec_exited_record(exec_: Exec) -> Record:
    assert exec_.ended is not None
    return {
        "t": "exec_exited",
        "exec_id": exec_.id,
        "code": exec_.ended.code,
        "signal": exec_.ended.signal,
        "at_ns": exec_.at_ns,
    }
