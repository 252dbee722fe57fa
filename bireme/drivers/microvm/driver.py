"""The microVM driver: an InstanceSpec becomes a machine plan, the supervisor runs it, its agent is asked the rest.

supervisor link       launch, SIGKILL, exits, output, stdin, counters of the host, limits
control socket        other signals, exec, pause, processes, what the machine and the agent say of themselves
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import msgspec

from bireme.drivers.microvm import config as machines
from bireme.drivers.microvm import refusals
from bireme.drivers.microvm.control import PATIENCE_S, MachineControl
from bireme.drivers.microvm.execs import ExecTable
from bireme.drivers.microvm.inside import process_rows
from bireme.drivers.microvm.limits import check_limits, memory_of, resources, resources_for_update
from bireme.drivers.supervised.driver import SupervisedDriver, to_started
from bireme.drivers.supervised.supervisor import SupervisorConnection
from bireme.errors import BiremeError, Conflict, Unsupported
from bireme.instance.driver import Adopted, ExecStarted, ExitStatus, Placement, ProcessRow, Started, Streams
from bireme.instance.spec import ExecId, InstanceId, InstanceSpec, ProcessSpec
from bireme.storage.blocks import layer_image
from bireme.storage.disks import DEFAULT_BYTES, WritableDisks
from bireme.wire import supervision

SIGKILL = 9
DISK = "disk.ext4"
_SERIAL = 20


class BootKernel(Protocol):
    """The part of a stored kernel that a machine needs."""

    @property
    def image_path(self) -> str: ...

    @property
    def format(self) -> Literal["vmlinux", "bzimage"]: ...

    @property
    def modules_path(self) -> str: ...

    @property
    def layer_formats(self) -> Sequence[Literal["erofs", "ext4"]]: ...


class Kernels(Protocol):
    """Where kernels are found."""

    def hold(self, text: str = "") -> AbstractContextManager[BootKernel]:
        """By name, "" for the default; NotFound with the remedy. It is not removed while it is held."""
        ...


class Stores(msgspec.Struct, frozen=True, kw_only=True):
    """What machines are made of."""

    kernels: Kernels
    disks: WritableDisks
    agent_archive: Callable[[], str]
    """The path of the initramfs with the agent; Unavailable when there is none."""


class MicrovmDriver(SupervisedDriver):
    """Driver with Exec, Console, Pause, Stats, Processes, Explain and Update."""

    name = "microvm"
    kind = "machine"

    def __init__(
        self,
        supervisor: SupervisorConnection,
        stores: Stores,
        unusable: Callable[[], tuple[str, str]] = lambda: ("", ""),
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`unusable` says why this host runs no machines, and the remedy; "" when it does."""
        super().__init__(supervisor)
        self._unusable = unusable
        self._patience_s = patience_s
        self._stores = stores
        self._controls: dict[InstanceId, MachineControl] = {}
        self._execs = ExecTable()

    def close(self) -> None:
        for control in self._controls.values():
            control.close()

    # Tenant

    def held(self, rows: Sequence[supervision.InstanceRow]) -> None:
        self._know(rows)
        super().held(rows)

    def _ended(self, identity: InstanceId, status: ExitStatus) -> None:
        control = self._controls.pop(identity, None)
        if control is not None:
            control.close()
        self._execs.instance_ended(identity, status.finished_at_ns)
        super()._ended(identity, status)

    def _know(self, rows: Sequence[supervision.InstanceRow]) -> None:
        for row in rows:
            if row["state"] != "exited":
                self._add_control(InstanceId(row["id"]), row["control"])

    async def _rows(self) -> list[supervision.InstanceRow]:
        rows = await super()._rows()
        self._know(rows)
        return rows

    def _add_control(self, identity: InstanceId, path: str) -> MachineControl:
        """A machine that was started anew has a socket of its own."""
        control = self._controls.get(identity)
        if control is None or control.path != path:
            if control is not None:
                control.close()
            control = self._controls[identity] = MachineControl(identity, path, self._told, self._patience_s)
        return control

    def _control(self, identity: InstanceId) -> MachineControl:
        control = self._controls.get(identity)
        if control is None:
            raise Conflict(f"container {identity} is not running", subject=identity)
        return control

    def _told(self, control: MachineControl, message: Mapping[str, Any]) -> bool:
        identity = message.get("exec_id")
        if message.get("event") != "exec_exited" or not isinstance(identity, str):
            return False
        if self._execs.ended(identity, message):
            return True
        control.post_soon("exec_acknowledge", exec_id=identity)
        return False

    # Driver

    async def create(self, placement: Placement) -> None:
        self._check_usable()
        refusals.check_spec(placement.spec)
        refusals.check_layers(len(placement.root.layers))
        await asyncio.to_thread(self._gather, placement)

    async def start(self, placement: Placement) -> Started:
        self._check_usable()
        self._supervisor.require(supervision.MACHINES, "a microvm")
        spec = placement.spec
        with self._stores.kernels.hold(spec.kernel) as kernel:
            parts = await asyncio.to_thread(self._parts, placement, kernel)
            plan = machines.launch_plan(machines.plan_machine(placement, parts))
            answer = await self._launch(placement, plan, resources(spec.limits))
        if placement.id in self._running:
            self._add_control(placement.id, answer["control"])
        return to_started(answer)

    def _check_usable(self) -> None:
        reason, hint = self._unusable()
        if reason:
            raise Unsupported(
                f"isolation microvm is not available on this host: {reason}", subject="microvm", hint=hint
            )

    def _gather(self, placement: Placement) -> None:
        """Make what takes long, so that a start need not: images of the layers, the disk."""
        with self._stores.kernels.hold(placement.spec.kernel) as kernel:
            self._stores.agent_archive()
            self._layers(placement, kernel)
            self._disk(placement)

    def _parts(self, placement: Placement, kernel: BootKernel) -> machines.Parts:
        """Everything that is files; blocks."""
        return machines.Parts(
            kernel={"path": kernel.image_path, "format": kernel.format},
            initrd=[kernel.modules_path, self._stores.agent_archive()],
            layers=self._layers(placement, kernel),
            writable=self._disk(placement),
            texts=machines.texts_of(placement),
        )

    def _layers(self, placement: Placement, kernel: BootKernel) -> list[machines.LayerDisk]:
        images = [layer_image(layer, kernel.layer_formats) for layer in placement.root.layers]
        return [
            machines.LayerDisk(str(image.path), image.format, image.digest.partition(":")[2][:_SERIAL])
            for image in images
        ]

    def _disk(self, placement: Placement) -> str:
        """The instance's own disk: what it holds stays over restarts and goes with the directory. "" for a read-only
        root."""
        if placement.spec.read_only_root:
            return ""
        path = self.disk_path(placement.directory)
        if not os.path.exists(path):
            self._stores.disks.make(path, placement.spec.disk_size_bytes or DEFAULT_BYTES)
        return path

    def disk_path(self, directory: str) -> str:
        return f"{directory}/{DISK}"

    async def signal(self, instance: InstanceId, number: int) -> None:
        if number == SIGKILL:
            await super().signal(instance, number)
            return
        control = self._control(instance)
        if control.paused:
            await control.post("signal", number=number, all=False)
        else:
            await control.call("signal", number=number, all=False)

    async def delete(self, instance: InstanceId) -> None:
        control = self._controls.pop(instance, None)
        if control is not None:
            control.close()
        await super().delete(instance)

    async def adopt(self) -> list[Adopted]:
        """Each machine is asked whether it stands still; one that does not answer counts as running."""
        rows = await super().adopt()
        controls = [self._controls[row.id] for row in rows if row.running and row.id in self._controls]
        await asyncio.gather(*(control.connect() for control in controls), return_exceptions=True)
        return [
            msgspec.structs.replace(row, paused=True) if row.running and self._is_paused(row.id) else row
            for row in rows
        ]

    def _is_paused(self, instance: InstanceId) -> bool:
        control = self._controls.get(instance)
        return control is not None and control.paused

    # Exec

    async def exec(
        self, instance: InstanceId, spec: InstanceSpec, exec_id: ExecId, process: ProcessSpec, stdin: bool
    ) -> ExecStarted:
        plan = machines.plan_process(process, spec)
        return await self._execs.start(self._control(instance), exec_id, plan, stdin)

    async def exec_wait(self, exec_id: ExecId) -> ExitStatus:
        return await self._execs.wait(exec_id)

    async def exec_detach(self, exec_id: ExecId, streams: Streams) -> None:
        self._execs.detach(streams)

    async def exec_resize(self, exec_id: ExecId, rows: int, columns: int) -> None:
        await self._execs.control(exec_id).call("exec_resize", exec_id=exec_id, rows=rows, cols=columns)

    async def exec_signal(self, exec_id: ExecId, number: int) -> None:
        await self._execs.control(exec_id).call("exec_signal", exec_id=exec_id, number=number)

    # Console: as for containers, and the terminal inside is the one that counts

    async def resize(self, instance: InstanceId, rows: int, columns: int) -> None:
        await super().resize(instance, rows, columns)
        await self._control(instance).call("resize", rows=rows, cols=columns)

    # Pause, Processes, Explain, Update

    async def pause(self, instance: InstanceId) -> None:
        control = self._control(instance)
        await control.call("pause")
        control.paused = True

    async def resume(self, instance: InstanceId) -> None:
        control = self._control(instance)
        await control.call("resume")
        control.paused = False

    async def processes(self, instance: InstanceId) -> list[ProcessRow]:
        """As the agent sees them: pids are the machine's."""
        answer = await self._control(instance).call("processes")
        return process_rows(answer.get("processes"))

    async def update(self, instance: InstanceId, spec: InstanceSpec) -> None:
        """Limits of the cgroup; memory and vCPUs are what the machine was started with."""
        check_limits(spec.limits)
        if await self._memory(instance) != memory_of(spec.limits):
            raise Unsupported(
                "the memory of a running microvm cannot be changed",
                subject=instance,
                hint="stop it, update it, start it",
            )
        await self._supervisor.retried("update", id=instance, limits=resources_for_update(spec.limits))

    async def _memory(self, instance: InstanceId) -> int:
        answer = await self._control(instance).call("explain")
        machine = answer.get("machine")
        return int(machine.get("memory_bytes", 0)) if isinstance(machine, dict) else 0

    async def explain(self, instance: InstanceId) -> Mapping[str, Any]:
        answer, _ = await self._supervisor.retried("explain", id=instance)
        try:
            inside = await self._control(instance).call("explain")
        except BiremeError as error:
            inside = {"agent": {"error": error.message}}
        host = {key: answer[key] for key in _HOST if key in answer}
        return {**host, **inside, "jail": answer.get("processes", [])}


_HOST = ("id", "kind", "pid", "slot", "uid_range", "cgroups", "network", "log")
