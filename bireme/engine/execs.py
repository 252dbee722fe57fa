"""More processes inside running instances: defined by create, run once by start, remembered for a while."""

from __future__ import annotations

import asyncio
import os
import time

import msgspec

from bireme.engine.abilities import need
from bireme.engine.instances import Instances
from bireme.engine.record import Instance
from bireme.engine.tasks import TaskGroup
from bireme.errors import BiremeError, Conflict, Invalid, NotFound
from bireme.instance.driver import Exec, StartError, Streams
from bireme.instance.spec import ExecId, InstanceId, ProcessSpec
from bireme.instance.state import Status

KEEP_FINISHED_NS = 300 * 10**9


class ExecRecord:
    """One exec: `exit_code` is None until it ended."""

    __slots__ = (
        "detach_keys",
        "ending",
        "exit_code",
        "finished_at_ns",
        "id",
        "instance_id",
        "pid",
        "process",
        "running",
        "started",
        "stderr",
        "stdin",
        "stdout",
    )

    def __init__(
        self,
        identity: ExecId,
        instance_id: InstanceId,
        process: ProcessSpec,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        detach_keys: str,
    ) -> None:
        self.id = identity
        self.instance_id = instance_id
        self.process = process
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.detach_keys = detach_keys
        self.running = False
        self.started = False
        self.exit_code: int | None = None
        self.pid = 0
        self.finished_at_ns = 0
        self.ending: asyncio.Task[None] | None = None


class Execs:
    """create, start, resize, find."""

    def __init__(self, instances: Instances, tasks: TaskGroup) -> None:
        self._instances = instances
        self._tasks = tasks
        instances.policies.execs = self
        self._records: dict[str, ExecRecord] = {}

    def create(
        self,
        reference: str,
        process: ProcessSpec,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        detach_keys: str = "",
    ) -> ExecId:
        """Define an exec in a running instance; what is not said comes from the instance's own process."""
        instance = self._running(reference)
        need(self._instances.driver(instance), Exec, "exec")
        if not process.args:
            raise Invalid("no exec command specified")
        self._forget_old()
        identity = ExecId(os.urandom(32).hex())
        record = ExecRecord(identity, instance.id, complete(process, instance), stdin, stdout, stderr, detach_keys)
        self._records[identity] = record
        self._instances.publish(instance, "exec_create: " + " ".join(process.args), execID=identity)
        return identity

    def find(self, identity: str) -> ExecRecord:
        record = self._records.get(identity)
        if record is None:
            raise NotFound(f"No such exec instance: {identity}", subject=identity)
        return record

    def forget(self, identity: str) -> None:
        """Nobody will ask for it any more."""
        self._records.pop(identity, None)

    def of(self, instance_id: str) -> list[str]:
        """Ids of the running execs of an instance, for inspect."""
        return [r.id for r in self._records.values() if r.instance_id == instance_id and r.running]

    async def start(self, identity: str, detach: bool = False) -> Streams | None:
        """Run it; its streams belong to the caller (None when detached)."""
        record = self.find(identity)
        if record.started:
            raise Conflict(f"Error: Exec command {identity} has already run", subject=identity)
        instance = self._running(record.instance_id)
        driver = need(self._instances.driver(instance), Exec, "exec")
        record.started = True
        try:
            begun = await driver.exec(
                instance.id, instance.spec, record.id, record.process, record.stdin and not detach
            )
        except BiremeError as error:
            record.exit_code = error.exit_code if isinstance(error, StartError) else 126
            record.finished_at_ns = time.time_ns()
            raise
        record.running, record.pid = True, begun.pid
        record.ending = self._tasks.spawn(self._finish(record, driver), "exec")
        self._instances.publish(instance, "exec_start: " + " ".join(record.process.args), execID=record.id)
        if not detach:
            return begun.streams
        await self._detach(driver, record, begun.streams)
        return None

    async def _detach(self, driver: Exec, record: ExecRecord, streams: Streams) -> None:
        """A detached exec has nobody at its streams: the driver drains what we give back."""
        await driver.exec_detach(record.id, streams)

    async def _finish(self, record: ExecRecord, driver: Exec) -> None:
        status = await driver.exec_wait(record.id)
        record.exit_code, record.running, record.pid = status.code, False, 0
        record.finished_at_ns = status.finished_at_ns or time.time_ns()
        try:
            instance = self._instances.find(record.instance_id)
        except NotFound:
            self._records.pop(record.id, None)
            return
        self._instances.publish(instance, "exec_die", execID=record.id, exitCode=str(status.code))

    async def wait(self, identity: str) -> None:
        """Until it has ended and its exit code is there to be asked for; at once when it was never started."""
        ending = self.find(identity).ending
        if ending is not None:
            await asyncio.wait([ending])

    async def kill(self, identity: str, number: int) -> None:
        """Signal its process and wait until it has ended; one that has is left alone."""
        record = self.find(identity)
        if not record.running:
            return
        driver = need(self._instances.driver(self._instances.find(record.instance_id)), Exec, "exec")
        try:
            await driver.exec_signal(record.id, number)
        except (Conflict, NotFound):
            pass
        await self.wait(identity)

    async def resize(self, identity: str, rows: int, columns: int) -> None:
        record = self.find(identity)
        if not record.running:
            raise Conflict(f"exec {identity} is not running", subject=identity)
        instance = self._instances.find(record.instance_id)
        driver = need(self._instances.driver(instance), Exec, "exec")
        await driver.exec_resize(record.id, rows, columns)

    def _running(self, reference: str) -> Instance:
        instance = self._instances.find(reference)
        if instance.status is Status.PAUSED:
            raise Conflict(f"Container {reference} is paused, unpause the container before exec", subject=reference)
        if instance.status is Status.RESTARTING:
            raise Conflict(
                f"Container {reference} is restarting, wait until the container is running", subject=reference
            )
        if not instance.running:
            raise Conflict(f"container {instance.id} is not running", subject=reference)
        return instance

    def _forget_old(self) -> None:
        limit = time.time_ns() - KEEP_FINISHED_NS
        for key in [k for k, r in self._records.items() if r.finished_at_ns and r.finished_at_ns < limit]:
            del self._records[key]


def complete(process: ProcessSpec, instance: Instance) -> ProcessSpec:
    """User, directory and environment of the instance's own process where the exec says nothing."""
    base = instance.spec.process
    env = {e.partition("=")[0]: e for e in base.env}
    if process.terminal:
        env.setdefault("TERM", "TERM=xterm")
    env.update({e.partition("=")[0]: e for e in process.env})
    return msgspec.structs.replace(
        process,
        env=tuple(env.values()),
        user=process.user or base.user,
        working_dir=process.working_dir or base.working_dir,
        groups=process.groups or base.groups,
    )
