"""What few instances have: a restart policy, a health check. Each is loaded with the first that has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bireme.engine.record import Instance
from bireme.engine.signals import parse_signal
from bireme.engine.table import InstanceTable
from bireme.engine.tasks import TaskGroup
from bireme.instance.state import Status, Verb, apply

if TYPE_CHECKING:
    from bireme.engine.execs import Execs
    from bireme.engine.health import Checks
    from bireme.engine.restart import Restarts, Start


SIGKILL = 9


class Policies:
    """Told by Instances what happens to an instance that has one of these. `again` starts a restarting instance,
    `start` an ended one; `publish` is that of Instances."""

    def __init__(
        self,
        table: InstanceTable,
        tasks: TaskGroup,
        again: Start,
        start: Start,
        publish: Callable[[Instance, str], None],
    ) -> None:
        self._table = table
        self._tasks = tasks
        self._again = again
        self._start = start
        self._publish = publish
        self._open = False
        self._restarting: Restarts | None = None
        self._checking: Checks | None = None
        self.execs: Execs
        """Set when the engine is put together: execs need Instances, which has us."""

    @property
    def _restarts(self) -> Restarts:
        if self._restarting is None:
            from bireme.engine.restart import Restarts

            self._restarting = Restarts(self._again, self._start, self._tasks)
            if self._open:
                self._restarting.open(())
        return self._restarting

    @property
    def _checks(self) -> Checks:
        if self._checking is None:
            from bireme.engine.health import Checks

            self._checking = Checks(self.execs, self._tasks, self._publish, self._table.mark)
        return self._checking

    # restart policies

    def ends_for_good(self, instance: Instance, exit_code: int) -> bool:
        """Whether one that has just ended stays so."""
        policy = instance.spec.restart
        if policy is None or instance.stop_requested:
            return True
        from bireme.engine.restart import wants_restart

        return not wants_restart(policy, exit_code, instance.restart_count, instance.state.stopped_by_hand)

    def back_off(self, instance: Instance) -> None:
        """Start it again when its wait is over."""
        self._restarts.schedule(instance, (instance.finished_at_ns - instance.started_at_ns) / 1e9)

    async def started(self, instance: Instance) -> None:
        """A user started it: what a user did to it before is forgotten, in the database too."""
        self._restarts.cancel(instance)
        if instance.state.stopped_by_hand:
            instance.state.stopped_by_hand = False
            await self._table.store(instance)

    async def killed(self, instance: Instance, number: int) -> bool:
        """A user signals it. True when that is all: it has no process. As in Docker any signal ends the policy's
        rule over this run, unless the definition names the signal that stops it and this is another."""
        named = instance.spec.stop_signal
        if number == SIGKILL or named in ("", "SIGTERM") or number == parse_signal(named):
            instance.stop_requested = True
        return await self.stays_down(instance) or instance.status is Status.RESTARTING

    async def stays_down(self, instance: Instance) -> bool:
        """Somebody ends it, which a killed engine must not forget. True when it was restarting, and so has ended."""
        await self._table.store(instance)
        if not instance.stop_requested:
            return False
        async with instance.locked():
            restarting = instance.status is Status.RESTARTING
            if restarting:
                self.give_up(instance)
        return restarting

    def give_up(self, instance: Instance) -> None:
        """End a restarting instance; called with its lock held."""
        self._restarts.cancel(instance)
        instance.state.status = apply(instance.status, Verb.EXIT, instance.id)
        self._table.mark(instance)
        instance.release_exit_waiters()

    def open(self) -> None:
        """The engine can start instances: it does what an engine before it had to leave."""
        self._open = True
        policed = [instance for instance in self._table if instance.spec.restart is not None]
        if policed:
            self._restarts.open(policed)
        for instance in self._table:
            if instance.spec.health is not None and instance.running:
                self._checks.follow(instance)

    def close(self) -> None:
        """The engine ends."""
        if self._restarting is not None:
            self._restarting.close()
        if self._checking is not None:
            self._checking.close()

    # health checks

    def begin_checks(self, instance: Instance) -> None:
        """It was started."""
        self._checks.begin(instance)

    def follow_checks(self, instance: Instance) -> None:
        """It ended, was paused or resumed."""
        self._checks.follow(instance)
