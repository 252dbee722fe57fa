"""The container driver: an InstanceSpec becomes an OCI configuration, the supervisor runs it.

This side holds nothing that matters: descriptors, pidfds and exit codes live in the supervisor and its keeper. After a
reconnect the driver asks what is there and repeats what was never settled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bireme.drivers.container import config as oci
from bireme.drivers.container.link import LaunchRefused, LinkLost, SupervisorLink, start_error
from bireme.drivers.container.readings import process_rows, to_stat
from bireme.drivers.container.resources import for_update
from bireme.errors import Conflict, NotFound
from bireme.instance.driver import (
    Adopted,
    ExecStarted,
    ExitStatus,
    OnExit,
    Placement,
    ProcessRow,
    Started,
    Stat,
    Streams,
)
from bireme.instance.spec import ExecId, InstanceId, InstanceSpec, ProcessSpec
from bireme.linux.fd import close_quietly
from bireme.wire import supervision

LOST_CODE = 255
Settings = Callable[[], Mapping[str, Any]]


class ContainerDriver:
    """Driver with Exec, Console, Pause, Stats, Processes, Explain and Update."""

    name = "container"

    def __init__(
        self, socket_path: str, settings: Settings, host: oci.Host, revive: Callable[[], None] | None = None
    ) -> None:
        self._link = SupervisorLink(socket_path, self._event, self._greet, revive)
        self._settings = settings
        self._host = host
        self._on_exit: OnExit | None = None
        self._execs: dict[str, asyncio.Future[ExitStatus]] = {}
        self._running: set[InstanceId] = set()

    @property
    def link(self) -> SupervisorLink:
        return self._link

    async def run(self, connected: asyncio.Future[None]) -> None:
        """Keep the link up; ends with `close`."""
        await self._link.run(connected)

    def close(self) -> None:
        self._link.close()

    async def _greet(self, link: SupervisorLink) -> None:
        hello, _ = await link.ask("hello", version=supervision.VERSION, client="biremed", execs=list(self._execs))
        supervision.agreed_version(hello.get("version"))
        self._tell_lost({row["id"] for row in hello["instances"]})
        await link.ask("configure", **self._settings())

    def _tell_lost(self, held: set[str]) -> None:
        """Instances that a new supervisor does not have: it and the keeper were killed together."""
        for identity in self._running - held:
            self._ended(identity, ExitStatus(code=LOST_CODE, finished_at_ns=time.time_ns()))

    def _ended(self, identity: InstanceId, status: ExitStatus) -> None:
        self._running.discard(identity)
        if self._on_exit is not None:
            self._on_exit(identity, status)

    def watch(self, on_exit: OnExit) -> None:
        self._on_exit = on_exit

    def _event(self, message: dict[str, Any]) -> None:
        status = ExitStatus(
            code=message["code"],
            signal=message.get("signal", 0),
            oom_killed=message.get("oom_killed", False),
            finished_at_ns=message.get("at_ns", 0),
        )
        if message["event"] == "exited":
            self._ended(InstanceId(message["id"]), status)
        elif message["event"] == "exec_exited":
            self._exec_ended(message["exec_id"], status)

    # Driver

    async def create(self, placement: Placement) -> None:
        oci.check(placement, self._host)

    async def start(self, placement: Placement) -> Started:
        spec = placement.spec
        plan = oci.plan_instance(placement, self._host)
        request: dict[str, Any] = {
            "id": placement.id,
            "plan": plan,
            "limits": oci.resources(spec),
            "log": oci.log_of(placement),
            "terminal": spec.process.terminal,
            "open_stdin": spec.open_stdin,
            "stdin_once": spec.stdin_once,
        }
        try:
            answer, _ = await self._link.call("launch", **request)
        except LaunchRefused as refused:
            raise start_error(refused, spec.process.args[0]) from refused
        except LinkLost:
            answer = await self._launch_again(placement.id, request)
        if answer["pid"]:
            self._running.add(placement.id)
        return Started(pid=answer["pid"], started_at_ns=answer["started_at_ns"])

    async def _launch_again(self, identity: InstanceId, request: dict[str, Any]) -> dict[str, Any]:
        """The supervisor died during a launch: it runs if the new one has it, else it is launched once more."""
        await self._link.ready()
        answer, _ = await self._link.call("list")
        for row in answer["instances"]:
            if row["id"] == identity:
                return dict(row)
        try:
            answer, _ = await self._link.call("launch", **request)
        except LaunchRefused as refused:
            raise start_error(refused, request["plan"]["process"]["args"][0]) from refused
        return answer

    async def signal(self, instance: InstanceId, number: int) -> None:
        await self._retried("signal", id=instance, signum=number, all=False)

    async def settle(self, instance: InstanceId) -> None:
        await self._quietly("acknowledge", id=instance)

    async def delete(self, instance: InstanceId) -> None:
        self._running.discard(instance)
        await self._quietly("delete", id=instance)

    async def adopt(self) -> list[Adopted]:
        answer, _ = await self._retried("list")
        rows = [_adopted(row) for row in answer["instances"]]
        self._running = {row.id for row in rows if row.running}
        return rows

    async def _retried(self, op: str, fds: Sequence[int] = (), **fields: Any) -> tuple[dict[str, Any], list[int]]:
        """A call that may be repeated safely when the supervisor is replaced meanwhile."""
        try:
            return await self._link.call(op, fds, **fields)
        except LinkLost:
            await self._link.ready()
            return await self._link.call(op, fds, **fields)

    async def _quietly(self, op: str, **fields: Any) -> None:
        try:
            await self._retried(op, **fields)
        except NotFound:
            pass

    # Exec

    async def exec(
        self, instance: InstanceId, spec: InstanceSpec, exec_id: ExecId, process: ProcessSpec, stdin: bool
    ) -> ExecStarted:
        future: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self._execs[exec_id] = future
        try:
            answer, fds = await self._link.call(
                "exec",
                id=instance,
                exec_id=exec_id,
                plan=oci.plan_exec_process(process, spec),
                terminal=process.terminal,
                stdin=stdin,
            )
        except LaunchRefused as refused:
            del self._execs[exec_id]
            raise start_error(refused, process.args[0]) from refused
        except BaseException:
            del self._execs[exec_id]
            raise
        if process.terminal:
            return ExecStarted(pid=answer["pid"], streams=Streams(console=fds[0]))
        if not stdin:
            close_quietly(fds[0])
        return ExecStarted(
            pid=answer["pid"], streams=Streams(stdin=fds[0] if stdin else -1, stdout=fds[1], stderr=fds[2])
        )

    def _exec_ended(self, exec_id: str, status: ExitStatus) -> None:
        future = self._execs.get(exec_id)
        if future is not None and not future.done():
            future.set_result(status)

    async def exec_wait(self, exec_id: ExecId) -> ExitStatus:
        future = self._execs.get(exec_id)
        if future is None:
            raise NotFound(f"no exec {exec_id}", subject=exec_id)
        status = await asyncio.shield(future)
        if self._execs.pop(exec_id, None) is not None:
            await self._quietly("exec_acknowledge", exec_id=exec_id)
        return status

    async def exec_detach(self, exec_id: ExecId, streams: Streams) -> None:
        close_quietly(*(fd for fd in (streams.stdin, streams.stdout, streams.stderr, streams.console) if fd >= 0))
        await self._quietly("exec_drain", exec_id=exec_id)

    async def exec_resize(self, exec_id: ExecId, rows: int, columns: int) -> None:
        await self._retried("exec_resize", exec_id=exec_id, rows=rows, cols=columns)

    # Console

    async def attach(self, instance: InstanceId, *, stdout: bool, stderr: bool) -> int:
        _, fds = await self._retried("attach", id=instance, stdout=stdout, stderr=stderr)
        return fds[0]

    async def stdin(self, instance: InstanceId) -> int:
        _, fds = await self._retried("stdin", id=instance)
        return fds[0]

    async def close_stdin(self, instance: InstanceId) -> None:
        await self._quietly("close_stdin", id=instance)

    async def resize(self, instance: InstanceId, rows: int, columns: int) -> None:
        await self._retried("resize", id=instance, rows=rows, cols=columns)

    # Pause, Stats, Processes, Explain, Update

    async def pause(self, instance: InstanceId) -> None:
        await self._retried("pause", id=instance)

    async def resume(self, instance: InstanceId) -> None:
        await self._retried("resume", id=instance)

    async def update(self, instance: InstanceId, spec: InstanceSpec) -> None:
        await self._retried("update", id=instance, limits=for_update(spec.limits))

    async def stats(self, instance: InstanceId) -> Stat:
        answer, _ = await self._retried("stats", id=instance)
        return to_stat(answer, time.time_ns())

    async def processes(self, instance: InstanceId) -> list[ProcessRow]:
        answer, _ = await self._retried("processes", id=instance)
        if not answer.get("pids"):
            raise Conflict(f"container {instance} is not running", subject=instance)
        return process_rows(answer["pids"])

    async def explain(self, instance: InstanceId) -> Mapping[str, Any]:
        answer, _ = await self._retried("explain", id=instance)
        return answer


def _adopted(row: supervision.InstanceRow) -> Adopted:
    ended = row["state"] == "exited"
    status = ExitStatus(
        code=row["code"], signal=row["signal"], oom_killed=row["oom_killed"], finished_at_ns=row["at_ns"]
    )
    return Adopted(
        id=InstanceId(row["id"]),
        running=not ended,
        pid=row["pid"],
        started_at_ns=row["started_at_ns"],
        paused=row["state"] == "paused",
        exit=status if ended else None,
    )
