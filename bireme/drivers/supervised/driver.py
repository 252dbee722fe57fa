"""What is alike in every driver whose instances are children of the supervisor.

This side holds nothing that matters: descriptors, pidfds and exit codes live in the supervisor and its keeper. After a
reconnect the driver asks what is there and repeats what was never settled.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from bireme.drivers.supervised.link import LaunchRefused, LinkLost, start_error
from bireme.drivers.supervised.readings import to_stat
from bireme.drivers.supervised.supervisor import SupervisorConnection
from bireme.instance.driver import Adopted, ExitStatus, OnExit, Placement, Started, Stat
from bireme.instance.spec import InstanceId
from bireme.wire import supervision
from bireme.wire.supervision import Launched

LOST_CODE = 255


class SupervisedDriver:
    """Start, signal, watch, settle, delete, adopt, Console and Stats over a shared connection."""

    kind = ""

    def __init__(self, supervisor: SupervisorConnection) -> None:
        self._supervisor = supervisor
        self._on_exit: OnExit | None = None
        self._running: set[InstanceId] = set()
        self._launching: dict[InstanceId, int] = {}
        """Starts that wait for their answer, and when an exit that was told meanwhile happened: an earlier run's, which
        is told again, or this one's."""
        supervisor.add(self)

    # Tenant

    def claims(self) -> list[str]:
        return []

    def held(self, rows: Sequence[supervision.InstanceRow]) -> None:
        """Instances that a new supervisor does not have: it and the keeper were killed together."""
        for identity in self._running - {row["id"] for row in rows}:
            self._ended(identity, ExitStatus(code=LOST_CODE, finished_at_ns=time.time_ns()))

    def event(self, message: Mapping[str, Any]) -> None:
        if message["event"] == "exited":
            self._ended(InstanceId(message["id"]), to_status(message))

    def _ended(self, identity: InstanceId, status: ExitStatus) -> None:
        self._running.discard(identity)
        if identity in self._launching:
            self._launching[identity] = status.finished_at_ns
        if self._on_exit is not None:
            self._on_exit(identity, status)

    # Driver

    def watch(self, on_exit: OnExit) -> None:
        self._on_exit = on_exit

    async def _launch(self, placement: Placement, plan: Mapping[str, Any], limits: Mapping[str, Any]) -> Launched:
        """Have the supervisor run a plan; `limits` are OCI linux.resources."""
        spec, identity = placement.spec, placement.id
        request: dict[str, Any] = {
            "id": identity,
            "plan": plan,
            "limits": limits,
            "log": _log_of(placement),
            "terminal": spec.process.terminal,
            "open_stdin": spec.open_stdin,
            "stdin_once": spec.stdin_once,
        }
        self._launching[identity] = 0
        try:
            try:
                answer, _ = await self._supervisor.call("launch", **request)
            except LinkLost:
                answer = await self._launch_again(identity, request)
        except LaunchRefused as refused:
            raise start_error(refused, spec.process.args[0]) from refused
        finally:
            ended_at_ns = self._launching.pop(identity)
        if answer["pid"] and ended_at_ns < answer["started_at_ns"]:
            self._running.add(identity)
        return cast(Launched, answer)

    async def _launch_again(self, identity: InstanceId, request: dict[str, Any]) -> dict[str, Any]:
        """The supervisor died during a launch: it runs if the new one has it, else it is launched once more."""
        await self._supervisor.ready()
        answer, _ = await self._supervisor.call("list")
        for row in answer["instances"]:
            if row["id"] == identity:
                return dict(row)
        answer, _ = await self._supervisor.call("launch", **request)
        return answer

    async def signal(self, instance: InstanceId, number: int) -> None:
        await self._supervisor.retried("signal", id=instance, signum=number, all=False)

    async def settle(self, instance: InstanceId) -> None:
        await self._supervisor.quietly("acknowledge", id=instance)

    async def delete(self, instance: InstanceId) -> None:
        self._running.discard(instance)
        await self._supervisor.quietly("delete", id=instance)

    async def adopt(self) -> list[Adopted]:
        rows = [to_adopted(row) for row in await self._rows()]
        self._running = {row.id for row in rows if row.running}
        return rows

    async def _rows(self) -> list[supervision.InstanceRow]:
        answer, _ = await self._supervisor.retried("list")
        return [row for row in answer["instances"] if supervision.kind_of(row) == self.kind]

    # Console

    async def attach(self, instance: InstanceId, *, stdout: bool, stderr: bool) -> int:
        _, fds = await self._supervisor.retried("attach", id=instance, stdout=stdout, stderr=stderr)
        return fds[0]

    async def stdin(self, instance: InstanceId) -> int:
        _, fds = await self._supervisor.retried("stdin", id=instance)
        return fds[0]

    async def close_stdin(self, instance: InstanceId) -> None:
        await self._supervisor.quietly("close_stdin", id=instance)

    async def resize(self, instance: InstanceId, rows: int, columns: int) -> None:
        await self._supervisor.retried("resize", id=instance, rows=rows, cols=columns)

    # Stats

    async def stats(self, instance: InstanceId) -> Stat:
        answer, _ = await self._supervisor.retried("stats", id=instance)
        return to_stat(answer, time.time_ns())


def to_started(answer: Launched) -> Started:
    return Started(pid=answer["pid"], started_at_ns=answer["started_at_ns"])


def to_status(message: Mapping[str, Any]) -> ExitStatus:
    """The end that an event or a row of the supervisor tells of."""
    return ExitStatus(
        code=message["code"],
        signal=message.get("signal", 0),
        oom_killed=message.get("oom_killed", False),
        finished_at_ns=message.get("at_ns", 0),
        error=message.get("error", ""),
    )


def to_adopted(row: supervision.InstanceRow) -> Adopted:
    ended = row["state"] == "exited"
    return Adopted(
        id=InstanceId(row["id"]),
        running=not ended,
        pid=row["pid"],
        started_at_ns=row["started_at_ns"],
        paused=row["state"] == "paused",
        exit=to_status(row) if ended else None,
    )


def _log_of(placement: Placement) -> supervision.Log:
    """`local` differs in its name and bounds only."""
    config = placement.spec.log
    return supervision.Log(
        driver="none" if config.driver == "none" else "json-file",
        path=placement.log_path,
        max_size_bytes=config.max_size_bytes,
        max_files=config.max_files,
    )
