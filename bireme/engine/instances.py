"""The verbs on instances, for every driver alike.

Nothing here knows what a container is: a driver gets a Placement and answers. Order matters for those who kill us: a
definition is committed before create answers, a start is known to the driver before it answers, an exit stays with
the driver until it is stored (`settle`), removal is committed before it answers and tidied up after.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from bireme.engine import names
from bireme.engine.abilities import need
from bireme.engine.define import ImageSource, merge
from bireme.engine.directories import Directories
from bireme.engine.events import Events
from bireme.engine.networks import Networks
from bireme.engine.placement import Snapshots, outline, place
from bireme.engine.policies import Policies
from bireme.engine.record import Definition, Instance, WaitCondition
from bireme.engine.sharing import join, settle
from bireme.engine.signals import parse_signal
from bireme.engine.table import InstanceTable
from bireme.engine.tasks import TaskGroup
from bireme.engine.tidy import Tidier
from bireme.errors import BiremeError, Conflict, Deadline, Invalid, NotModified, Unavailable, Unsupported
from bireme.instance.driver import Driver, Exec, ExitStatus, Pause, StartError, Update
from bireme.instance.driver import Volumes as MountsVolumes
from bireme.instance.spec import InstanceId, InstanceSpec, Limits, RestartPolicy
from bireme.instance.state import Status, Verb, apply

if TYPE_CHECKING:
    from bireme.engine.volumes import Claim, Volumes

log = logging.getLogger(__name__)
KILL_DEADLINE_S = 10.0


class Instances:
    """Create, start, stop, kill, pause, rename, remove, wait."""

    def __init__(
        self,
        table: InstanceTable,
        drivers: Mapping[str, Driver],
        images: ImageSource,
        snapshots: Callable[[], Snapshots],
        directories: Directories,
        networks: Networks,
        events: Events,
        tasks: TaskGroup,
        tidier: Tidier,
        volumes: Callable[[], Volumes],
        pin: Callable[[InstanceSpec], InstanceSpec] = lambda spec: spec,
    ) -> None:
        """`volumes` is called for instances that have some; `pin` settles what a definition names and may change its
        meaning later."""
        self._table = table
        self._drivers = drivers
        self._images = images
        self._snapshots = snapshots
        self._directories = directories
        self._networks = networks
        self._events = events
        self._tasks = tasks
        self._tidier = tidier
        self._volumes = volumes
        self._pin = pin
        self._early: list[tuple[InstanceId, ExitStatus]] | None = []
        self.policies = Policies(table, tasks, self._start_again, self._start, self.publish)
        for driver in drivers.values():
            driver.watch(self.exited)

    # questions

    def find(self, reference: str) -> Instance:
        return self._table.find(reference)

    def all(self) -> list[Instance]:
        """All instances, the newest first."""
        return sorted(self._table, key=lambda i: i.created_at_ns, reverse=True)

    def driver(self, instance: Instance) -> Driver:
        """Who runs it; Invalid for an isolation this engine has no driver for."""
        return self._driver(instance.spec.isolation)

    def _driver(self, isolation: str) -> Driver:
        driver = self._drivers.get(isolation)
        if driver is None:
            have = ", ".join(sorted(self._drivers))
            raise Invalid(f"isolation {isolation} is not available in this engine", hint=f"available: {have}")
        return driver

    def wait(self, reference: str, condition: WaitCondition = "not-running") -> asyncio.Future[ExitStatus]:
        """A future for the exit; registered when this returns."""
        return self.find(reference).wait(condition)

    # create and remove

    async def create(self, spec: InstanceSpec, name: str = "") -> tuple[InstanceId, list[str]]:
        """Commit a new instance; returns its id and warnings for the user."""
        driver = self._driver(spec.isolation)
        if spec.volumes and not isinstance(driver, MountsVolumes):
            raise Unsupported(
                f"the volume at {spec.volumes[0]} is not supported with isolation {spec.isolation}",
                hint="what is written there stays on the machine's own disk without it",
            )
        image = self._images.defaults(spec.image)
        identity = InstanceId(os.urandom(32).hex())
        name = name.removeprefix("/") or names.generate(self._table.has_name)
        self._table.reserve(name, identity)
        try:
            merged = merge(spec, image, spec.hostname or identity[:12])
            if merged.joins:
                merged = settle(merged, self._table)
            if merged.health is not None and merged.health.command:
                need(driver, Exec, "a health check")
            instance = await self._prepare(identity, name, merged, image.chain_id, driver)
        finally:
            self._table.release(name)
        self.publish(instance, "create")
        return identity, []

    async def _prepare(
        self, identity: InstanceId, name: str, spec: InstanceSpec, chain_id: str, driver: Driver
    ) -> Instance:
        directory = self._directories.make(identity)
        claim: Claim | None = None
        try:
            root = self._snapshots().prepare(identity, chain_id)
            if spec.wants_volumes and isinstance(driver, MountsVolumes):
                claim = await self._volumes().claim(identity, spec, root)
                spec = claim.spec
            instance = Instance(identity, name, Definition(spec=spec, root=root), time.time_ns(), directory)
            instance.etc_directory = self._directories.etc.directory(identity, directory)
            self._networks.check(instance)
            await driver.create(outline(instance))
            instance.definition = msgspec.structs.replace(instance.definition, spec=self._pin(spec))
            await self._table.insert(instance, claim.statements if claim is not None else ())
        except BaseException:
            self._tidier.add_files(identity)
            if claim is not None:
                await self._volumes().undo(claim)
            raise
        if claim is not None:
            await self._volumes().commit(claim)
        return instance

    async def remove(self, reference: str, force: bool = False, volumes: bool = False) -> None:
        """Forget an instance; `force` kills it first, `volumes` takes the anonymous volumes along that it alone has.
        Its disk and cgroups go after the answer."""
        instance = self.find(reference)
        if force and instance.active:
            await self._force_exit(instance)
        async with instance.locked():
            if self._table.get(instance.id) is None:
                return
            instance.state.status = apply(instance.status, Verb.REMOVE, f"/{instance.name}")
            try:
                await self._delete(instance, volumes)
            except BaseException:
                instance.state.status = Status.EXITED
                raise
        self._tidier.add(instance, self.driver(instance))
        self.publish(instance, "destroy")
        instance.release_remove_waiters()

    async def _delete(self, instance: Instance, volumes: bool) -> None:
        if not volumes or not instance.spec.uses_volumes:
            await self._table.delete(instance)
            return
        async with self._volumes().orphaned(instance) as statements:
            await self._table.delete(instance, statements)

    async def _force_exit(self, instance: Instance) -> None:
        instance.stop_requested = True
        if instance.spec.restart is not None and await self.policies.stays_down(instance):
            return
        gone = instance.wait("not-running")
        try:
            if instance.status is Status.PAUSED:
                await self._resume_quietly(instance)
            await self.driver(instance).signal(instance.id, 9)
        except Conflict:
            pass
        await asyncio.wait_for(gone, KILL_DEADLINE_S)

    async def rename(self, reference: str, name: str) -> None:
        instance = self.find(reference)
        name = name.removeprefix("/")
        if not name:
            raise Invalid("Neither old nor new names may be empty")
        if name == instance.name:
            raise Invalid("Renaming a container with the same name as its current name")
        old = instance.name
        await self._table.rename(instance, name)
        self.publish(instance, "rename", oldName=f"/{old}")

    # start and exit

    async def start(self, reference: str) -> None:
        """Run it; returns once its process executes."""
        await self._start(self.find(reference))

    async def _start(self, instance: Instance) -> None:
        async with instance.locked():
            await self._run(instance, Verb.START)
            instance.stop_requested = False
            instance.state.restart_count = 0
            if instance.spec.restart is not None:
                await self.policies.started(instance)
            instance.state.stopped_by_hand = False
        self._started(instance)

    async def _start_again(self, instance: Instance) -> None:
        """The wait of a restarting instance is over. When it cannot be started it stays down, unless a part of the
        engine was away."""
        async with instance.locked():
            if instance.status is not Status.RESTARTING or instance.stop_requested:
                return
            code = instance.exit_code
            try:
                await self._run(instance, Verb.RESTART)
            except (Unavailable, Deadline):
                instance.state.exit_code = code
                self.policies.back_off(instance)
                return
            except BiremeError as error:
                log.warning("%s is not started again: %s", instance.name, error)
                instance.state.exit_code = code
                self.policies.give_up(instance)
                return
        self._started(instance)

    async def _run(self, instance: Instance, verb: Verb) -> None:
        """Start its process; the lock is held."""
        apply(instance.status, verb, instance.id)
        try:
            endpoints = self._networks.take(instance)
            if instance.spec.uses_volumes:
                await self._volumes().use(instance)
            instance.state.ports = await self._networks.publish(instance, endpoints)
            placement = place(instance, self._directories.etc, endpoints, self._networks.gateway)
            if instance.spec.joins:
                placement = join(instance, placement, self._table)
            started = await self.driver(instance).start(placement)
        except BaseException as error:
            await self._start_failed(instance, error)
            raise
        state = instance.state
        state.status = apply(state.status, verb, instance.id)
        state.pid, state.started_at_ns = started.pid, started.started_at_ns
        state.endpoints = endpoints
        state.exit_code, state.error, state.oom_killed, state.settled = 0, "", False, False
        if instance.spec.health is not None:
            self.policies.begin_checks(instance)
        self._table.mark(instance)

    def _started(self, instance: Instance) -> None:
        if instance.spec.uses_volumes:
            self._volumes().started(instance)
        self.publish(instance, "start")

    async def _start_failed(self, instance: Instance, error: BaseException) -> None:
        await self._networks.give_back(instance)
        if instance.spec.uses_volumes:
            await self._volumes().leave(instance, ran=False)
        instance.state.ports = ()
        if isinstance(error, BiremeError):
            instance.state.error = error.message
            instance.state.exit_code = error.exit_code if isinstance(error, StartError) else 128
            self._table.mark(instance)
        if instance.spec.auto_remove and instance.status in (Status.CREATED, Status.EXITED):
            self._tasks.spawn(self.auto_remove(instance), "auto-remove")

    def exited(self, identity: InstanceId, status: ExitStatus) -> None:
        """The driver's callback: the first process ended and its output is in the log."""
        if self._early is not None:
            self._early.append((identity, status))
            return
        instance = self._table.get(identity)
        if instance is None:
            log.debug("exit of an instance that is removed: %s", identity)
            return
        self._tasks.spawn(self._exited(instance, status), "exit")

    def open(self) -> None:
        """Reconciliation is done: take the exits that came before it, and every later one at once."""
        early, self._early = self._early or [], None
        for identity, status in early:
            self.exited(identity, status)

    async def _exited(self, instance: Instance, status: ExitStatus) -> None:
        async with instance.locked():
            state = instance.state
            if not instance.running:
                self._table.mark(instance)
                return
            again = instance.spec.restart is not None and not self.policies.ends_for_good(instance, status.code)
            state.status = apply(state.status, Verb.BACK_OFF if again else Verb.EXIT, instance.id)
            state.restart_count += again
            state.exit_code, state.oom_killed, state.error = status.code, status.oom_killed, status.error
            state.finished_at_ns = status.finished_at_ns or time.time_ns()
            state.pid, state.settled = 0, True
            await self._networks.give_back(instance)
            if instance.spec.uses_volumes:
                await self._volumes().leave(instance)
            state.endpoints, state.ports = (), ()
            if state.health is not None:
                self.policies.follow_checks(instance)
            self._table.mark(instance)
        if status.oom_killed:
            self.publish(instance, "oom")
        if status.error:
            log.warning("%s ended: %s", instance.name, status.error)
        why = {"error": status.error} if status.error else {}
        self.publish(instance, "die", exitCode=str(status.code), **why)
        instance.release_exit_waiters()
        if again:
            self.policies.back_off(instance)
        elif instance.spec.auto_remove:
            await self.auto_remove(instance)

    async def auto_remove(self, instance: Instance) -> None:
        """--rm; somebody removing it at the same time is no error."""
        try:
            await self.remove(instance.id, volumes=True)
        except (Conflict, NotModified):
            pass

    def stored(self, batch: list[Instance]) -> None:
        """Run state reached the database: the driver may forget these exits."""
        for instance in batch:
            if instance.state.settled and not instance.running:
                self._tasks.spawn(self.driver(instance).settle(instance.id), "settle")

    # signals

    async def kill(self, reference: str, signal: str = "SIGKILL") -> None:
        instance = self.find(reference)
        number = parse_signal(signal or "SIGKILL")
        if not instance.active:
            raise Conflict(f"cannot kill container: {reference}: container {instance.id} is not running")
        instance.state.stopped_by_hand = True
        if instance.spec.restart is not None and await self.policies.killed(instance, number):
            return
        await self.driver(instance).signal(instance.id, number)
        self.publish(instance, "kill", signal=str(number))

    async def stop(
        self, reference: str, timeout_s: int | None = None, signal: str | None = None, by_hand: bool = True
    ) -> None:
        """The stop signal, a grace time, then SIGKILL. Negative waits for ever. Not `by_hand`: the engine ends it."""
        instance = self.find(reference)
        if not instance.active:
            raise NotModified(f"container {instance.id} is already stopped", subject=instance.id)
        number = parse_signal(signal or instance.spec.stop_signal or "SIGTERM")
        grace = instance.spec.stop_timeout_s if timeout_s is None else timeout_s
        instance.stop_requested = True
        instance.state.stopped_by_hand |= by_hand
        if instance.spec.restart is not None and await self.policies.stays_down(instance):
            self.publish(instance, "stop")
            return
        gone = instance.wait("not-running")
        await self._signal_quietly(instance, number)
        if instance.status is Status.PAUSED:
            await self._resume_quietly(instance)
        if not await _ends(gone, None if grace < 0 else float(grace)):
            await self._signal_quietly(instance, 9)
            if not await _ends(gone, KILL_DEADLINE_S):
                raise Conflict(f"container {instance.id} did not end {KILL_DEADLINE_S:.0f} s after SIGKILL")
        self.publish(instance, "stop")

    async def _signal_quietly(self, instance: Instance, number: int) -> None:
        """One that does not run, or does not answer, is not signalled: whoever stops it goes on to SIGKILL."""
        try:
            await self.driver(instance).signal(instance.id, number)
            self.publish(instance, "kill", signal=str(number))
        except (Conflict, Deadline):
            pass

    async def restart(self, reference: str, timeout_s: int | None = None, signal: str | None = None) -> None:
        instance = self.find(reference)
        if instance.active:
            await self.stop(instance.id, timeout_s, signal)
        await self.start(instance.id)
        self.publish(instance, "restart")

    async def pause(self, reference: str) -> None:
        await self._freeze(reference, Verb.PAUSE)

    async def resume(self, reference: str) -> None:
        await self._freeze(reference, Verb.RESUME)

    async def _resume_quietly(self, instance: Instance) -> None:
        """As `_signal_quietly`."""
        try:
            await self.resume(instance.id)
        except (Conflict, Deadline):
            pass

    async def _freeze(self, reference: str, verb: Verb) -> None:
        instance = self.find(reference)
        async with instance.locked():
            after = apply(instance.status, verb, instance.id)
            driver = need(self.driver(instance), Pause, "pause")
            await (driver.pause(instance.id) if verb is Verb.PAUSE else driver.resume(instance.id))
            instance.state.status = after
            if instance.state.health is not None:
                self.policies.follow_checks(instance)
            self._table.mark(instance)
        self.publish(instance, "pause" if verb is Verb.PAUSE else "unpause")

    async def update(self, reference: str, limits: Limits, restart: RestartPolicy | None) -> None:
        """Replace the limits, all of them, and the restart policy; a running instance feels them at once."""
        instance = self.find(reference)
        async with instance.locked():
            spec = msgspec.structs.replace(instance.spec, limits=limits, restart=restart)
            if instance.running and limits != instance.spec.limits:
                await need(self.driver(instance), Update, "update").update(instance.id, spec)
            await self._table.redefine(instance, msgspec.structs.replace(instance.definition, spec=spec))
        self.publish(instance, "update")

    def publish(self, instance: Instance, action: str, **more: str) -> None:
        """Tell subscribers; attributes are the labels, image and name, as Docker's."""
        spec = instance.spec
        self._events.publish(
            "container", action, instance.id, {**spec.labels, "image": spec.image, "name": instance.name, **more}
        )


async def _ends(gone: asyncio.Future[ExitStatus], timeout_s: float | None) -> bool:
    done, _ = await asyncio.wait([gone], timeout=timeout_s)
    return bool(done)
