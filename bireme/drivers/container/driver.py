"""The container driver: an InstanceSpec becomes an OCI configuration, the supervisor runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from bireme.drivers.container import config as oci
from bireme.drivers.container.plans import Plans
from bireme.drivers.container.volumeparts import give_parts, open_parts
from bireme.drivers.supervised.driver import SupervisedDriver, to_started, to_status
from bireme.drivers.supervised.limits import for_update
from bireme.drivers.supervised.link import LaunchRefused, start_error
from bireme.drivers.supervised.readings import process_rows
from bireme.drivers.supervised.supervisor import SupervisorConnection
from bireme.errors import Conflict, NotFound
from bireme.instance.driver import ExecStarted, ExitStatus, Placement, ProcessRow, RootView, Started, Streams
from bireme.instance.spec import ExecId, InstanceId, InstanceSpec, ProcessSpec
from bireme.linux.fd import close_quietly
from bireme.runtime.plan import LaunchPlan
from bireme.wire import supervision


class ContainerDriver(SupervisedDriver):
    """Driver with Exec, Console, Pause, Stats, Processes, Files, Explain, Update and Volumes."""

    name = "container"
    kind = "container"
    mounts_volumes = True

    def __init__(self, supervisor: SupervisorConnection, host: oci.Host) -> None:
        super().__init__(supervisor)
        self._host = host
        self._plans = Plans()
        self._execs: dict[str, asyncio.Future[ExitStatus]] = {}

    def claims(self) -> list[str]:
        return list(self._execs)

    def event(self, message: Mapping[str, Any]) -> None:
        if message["event"] == "exec_exited":
            self._exec_ended(message["exec_id"], to_status(message))
        else:
            super().event(message)

    # Driver

    async def create(self, placement: Placement) -> None:
        self._plans.keep(placement, oci.check(placement, self._host))

    async def start(self, placement: Placement) -> Started:
        if placement.spec.cdi_devices:
            from bireme.drivers.container.cdi import inject

            placement = await asyncio.to_thread(inject, placement)
        plan = self._plans.take(placement) or oci.plan_instance(placement, self._host)
        if any(mount.subpath or mount.mounted for mount in placement.spec.mounts):
            return await self._start_with_parts(placement, plan)
        return to_started(await self._launch(placement, plan, oci.resources(placement.spec)))

    async def _start_with_parts(self, placement: Placement, plan: LaunchPlan) -> Started:
        """Volumes of which a part is mounted, or that are mounts themselves, are opened on this side: links in them
        lead nowhere else, and the supervisor may have another view of the host's mounts."""
        opened = await asyncio.to_thread(open_parts, placement.spec.mounts)
        try:
            give_parts(plan, opened)
            return to_started(await self._launch(placement, plan, oci.resources(placement.spec)))
        finally:
            close_quietly(*opened.values())

    # Exec

    async def exec(
        self, instance: InstanceId, spec: InstanceSpec, exec_id: ExecId, process: ProcessSpec, stdin: bool
    ) -> ExecStarted:
        future: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self._execs[exec_id] = future
        try:
            answer, fds = await self._supervisor.call(
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
            await self._supervisor.quietly("exec_acknowledge", exec_id=exec_id)
        return status

    async def exec_detach(self, exec_id: ExecId, streams: Streams) -> None:
        close_quietly(*(fd for fd in (streams.stdin, streams.stdout, streams.stderr, streams.console) if fd >= 0))
        await self._supervisor.quietly("exec_drain", exec_id=exec_id)

    async def exec_resize(self, exec_id: ExecId, rows: int, columns: int) -> None:
        await self._supervisor.retried("exec_resize", exec_id=exec_id, rows=rows, cols=columns)

    async def exec_signal(self, exec_id: ExecId, number: int) -> None:
        await self._supervisor.retried("exec_signal", exec_id=exec_id, signum=number)

    # Files

    async def view(self, placement: Placement, *, running: bool) -> RootView:
        descriptors: tuple[int, ...] = ()
        if running:
            self._supervisor.require(supervision.NAMESPACES, "access to the files of a running container")
            _, fds = await self._supervisor.retried("namespaces", id=placement.id)
            descriptors = tuple(fds)
        return RootView(
            root=oci.root_layers(placement, self._host),
            mounts=oci.visible_mounts(placement),
            read_only=placement.spec.read_only_root,
            descriptors=descriptors,
        )

    # Pause, Processes, Explain, Update

    async def pause(self, instance: InstanceId) -> None:
        await self._supervisor.retried("pause", id=instance)

    async def resume(self, instance: InstanceId) -> None:
        await self._supervisor.retried("resume", id=instance)

    async def update(self, instance: InstanceId, spec: InstanceSpec) -> None:
        await self._supervisor.retried("update", id=instance, limits=for_update(spec.limits))

    async def processes(self, instance: InstanceId) -> list[ProcessRow]:
        answer, _ = await self._supervisor.retried("processes", id=instance)
        if not answer.get("pids"):
            raise Conflict(f"container {instance} is not running", subject=instance)
        return process_rows(answer["pids"])

    async def explain(self, instance: InstanceId) -> Mapping[str, Any]:
        answer, _ = await self._supervisor.retried("explain", id=instance)
        return answer
