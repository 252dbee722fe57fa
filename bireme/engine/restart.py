"""Restart policies: who is started again, when, and what comes back with the engine.

The rules and times are dockerd's. The wait before a restart begins at 100 ms and doubles up to a minute; a run of ten
seconds or more begins anew. Nothing of this is stored but the state `restarting`, the count and whether a user stopped
the instance: an engine that replaces a killed one starts what was waiting at once.

This module is loaded with the first instance that has a policy.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from bireme.engine.record import Instance
from bireme.engine.tasks import TaskGroup
from bireme.errors import BiremeError, NotModified
from bireme.instance.spec import RestartPolicy
from bireme.instance.state import Status

log = logging.getLogger(__name__)
FIRST_DELAY_S = 0.1
MAX_DELAY_S = 60.0
CALM_RUN_S = 10.0
STARTS_AT_ONCE = 4

Start = Callable[[Instance], Awaitable[None]]


def next_delay(previous_s: float, ran_s: float) -> float:
    """Seconds to wait before the next start; `previous_s` is the last such wait, 0 when there was none."""
    if not previous_s or ran_s >= CALM_RUN_S:
        return FIRST_DELAY_S
    return min(previous_s * 2, MAX_DELAY_S)


def wants_restart(policy: RestartPolicy, exit_code: int, restarts: int, by_hand: bool) -> bool:
    """Whether the policy starts an instance again that ended with `exit_code` after so many restarts. Only
    `unless-stopped` asks whether a user ended it: the others are overruled by whoever stops it (`cancel`)."""
    match policy.name:
        case "always":
            return True
        case "unless-stopped":
            return not by_hand
        case _:
            return exit_code != 0 and (not policy.retries or restarts < policy.retries)


def comes_back(instance: Instance) -> bool:
    """Whether an engine that has just begun starts it: it ran before, and the policy says so. Docker starts one with
    on-failure also after a stop by hand had made it fail; we do not."""
    state, policy = instance.state, instance.spec.restart
    if policy is None or state.status is not Status.EXITED or not state.started_at_ns:
        return False
    if policy.name == "on-failure" and state.stopped_by_hand:
        return False
    return wants_restart(policy, state.exit_code, state.restart_count, state.stopped_by_hand)


class Restarts:
    """The waits that are under way. `again` starts a restarting instance, `start` one that has ended."""

    def __init__(self, again: Start, start: Start, tasks: TaskGroup) -> None:
        self._again = again
        self._start = start
        self._tasks = tasks
        self._delays: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._held: list[Instance] | None = []

    def schedule(self, instance: Instance, ran_s: float) -> None:
        """Start it after the wait that is due."""
        delay = self._delays[instance.id] = next_delay(self._delays.get(instance.id, 0.0), ran_s)
        if self._held is None:
            self._arm(instance, delay)
        else:
            self._held.append(instance)

    def _arm(self, instance: Instance, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._timers[instance.id] = loop.call_later(delay_s, self._due, instance)

    def _due(self, instance: Instance) -> None:
        self._timers.pop(instance.id, None)
        self._tasks.spawn(self._run(instance), "restart")

    async def _run(self, instance: Instance) -> None:
        await self._again(instance)

    def cancel(self, instance: Instance) -> None:
        """No restart of it is due any more, and the next wait is a short one."""
        self._delays.pop(instance.id, None)
        timer = self._timers.pop(instance.id, None)
        if timer is not None:
            timer.cancel()

    def open(self, instances: Iterable[Instance]) -> None:
        """The engine can start things: those that waited when an engine ended, and those that come back with it."""
        self._held = None
        found = list(instances)
        for instance in found:
            if instance.status is Status.RESTARTING:
                self._arm(instance, self._delays.get(instance.id, 0.0))
        coming = [instance for instance in found if comes_back(instance)]
        if coming:
            self._tasks.spawn(self._start_all(coming), "restart")

    async def _start_all(self, instances: list[Instance]) -> None:
        """Those that join another's namespaces come last."""
        gate = asyncio.Semaphore(STARTS_AT_ONCE)

        async def one(instance: Instance) -> None:
            async with gate:
                try:
                    await self._start(instance)
                except NotModified:
                    pass
                except BiremeError as error:
                    log.warning("%s is not started again: %s", instance.name, error)

        for joining in (False, True):
            await asyncio.gather(*(one(i) for i in instances if bool(i.spec.joins) is joining))

    def close(self) -> None:
        """The engine ends: what waits is for the next one."""
        self._held = []
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
