"""Health checks: a command runs inside now and then, and its exit codes tell whether the instance works.

The rules and times are dockerd's. A check that has been set up and has not succeeded yet is `starting`: while the start
period lasts it runs every start interval and failures do not count. One success makes it `healthy`, `retries` failures
in a row `unhealthy`. It also is `unhealthy` while nobody checks: paused, or ended.

Between two probes an instance costs one timer, and one without a check nothing. This module is loaded with the first
check.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from bireme.engine.execs import Execs
from bireme.engine.probeoutput import ProbeOutput
from bireme.engine.record import Health, Instance, Probe
from bireme.engine.tasks import TaskGroup
from bireme.errors import BiremeError
from bireme.instance.spec import ExecId, HealthCheck, ProcessSpec
from bireme.instance.state import Status

log = logging.getLogger(__name__)
INTERVAL_NS = 30 * 10**9
TIMEOUT_NS = 30 * 10**9
START_INTERVAL_NS = 5 * 10**9
RETRIES = 3
LOG_ENTRIES = 5
START_DEADLINE_S = 30.0
SIGKILL = 9


def next_interval_ns(check: HealthCheck, status: str, since_start_ns: int) -> int:
    """How long until the next probe."""
    if status == "starting" and since_start_ns < check.start_period_ns:
        return check.start_interval_ns or START_INTERVAL_NS
    return check.interval_ns or INTERVAL_NS


def judge(check: HealthCheck, before: Health, probe: Probe, started_at_ns: int) -> Health:
    """The health after one more probe."""
    entries = (*before.log, probe)[-LOG_ENTRIES:]
    if probe.exit_code == 0:
        return Health(status="healthy", log=entries)
    excused = before.status == "starting" and probe.start_ns - started_at_ns < check.start_period_ns
    if excused:
        return msgspec.structs.replace(before, log=entries)
    failing = before.failing + 1
    status = "unhealthy" if failing >= (check.retries or RETRIES) else before.status
    return Health(status=status, failing=failing, log=entries)


class _Monitor:
    """The checks of one run of an instance: a timer between probes, a task during one."""

    __slots__ = ("probing", "timer")

    def __init__(self) -> None:
        self.timer: asyncio.TimerHandle | None = None
        self.probing: asyncio.Task[None] | None = None

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if self.probing is not None:
            self.probing.cancel()


class Checks:
    """One monitor for every running instance that has a check."""

    def __init__(
        self,
        execs: Execs,
        tasks: TaskGroup,
        publish: Callable[[Instance, str], None],
        mark: Callable[[Instance], None],
    ) -> None:
        self._execs = execs
        self._tasks = tasks
        self._publish = publish
        self._mark = mark
        self._monitors: dict[str, _Monitor] = {}

    def begin(self, instance: Instance) -> None:
        """It was started: what was found before counts no more, its log stays."""
        check = instance.spec.health
        if check is None or not check.command:
            return
        self._stop(instance)
        before = instance.state.health
        instance.state.health = Health(log=before.log if before is not None else ())
        self.follow(instance)

    def follow(self, instance: Instance) -> None:
        """Check it while it runs, and only then."""
        check = instance.spec.health
        if instance.status is not Status.RUNNING or check is None or not check.command:
            self._stop(instance)
            return
        if instance.id in self._monitors:
            return
        if instance.state.health is None:
            instance.state.health = Health()
        monitor = self._monitors[instance.id] = _Monitor()
        self._arm(instance, monitor, check)

    def _stop(self, instance: Instance) -> None:
        monitor = self._monitors.pop(instance.id, None)
        health = instance.state.health
        if monitor is None or health is None:
            return
        monitor.stop()
        instance.state.health = msgspec.structs.replace(health, status="unhealthy")

    def _arm(self, instance: Instance, monitor: _Monitor, check: HealthCheck) -> None:
        status = instance.state.health.status if instance.state.health is not None else ""
        wait_ns = next_interval_ns(check, status, time.time_ns() - instance.started_at_ns)
        loop = asyncio.get_running_loop()
        monitor.timer = loop.call_later(wait_ns / 1e9, self._due, instance, monitor, check)

    def _due(self, instance: Instance, monitor: _Monitor, check: HealthCheck) -> None:
        monitor.timer = None
        monitor.probing = self._tasks.spawn(self._check(instance, monitor, check), "health check")

    async def _check(self, instance: Instance, monitor: _Monitor, check: HealthCheck) -> None:
        start_ns = time.time_ns()
        try:
            code, output = await self._probe(instance, check)
        except (BiremeError, OSError) as error:
            code, output = -1, str(error) or f"timed out starting health check for container {instance.id}"
            log.warning("health check of %s: %s", instance.name, output)
        if self._monitors.get(instance.id) is not monitor:
            return
        monitor.probing = None
        self._found(instance, check, Probe(start_ns=start_ns, end_ns=time.time_ns(), exit_code=code, output=output))
        self._arm(instance, monitor, check)

    def _found(self, instance: Instance, check: HealthCheck, probe: Probe) -> None:
        before = instance.state.health or Health()
        after = instance.state.health = judge(check, before, probe, instance.started_at_ns)
        if after.status != before.status:
            self._mark(instance)
            self._publish(instance, f"health_status: {after.status}")

    async def _probe(self, instance: Instance, check: HealthCheck) -> tuple[int, str]:
        """Run the command once; its exit code and the beginning of its output."""
        identity = self._execs.create(instance.id, ProcessSpec(args=check.command))
        try:
            return await self._run(identity, check)
        finally:
            self._execs.forget(identity)

    async def _run(self, identity: ExecId, check: HealthCheck) -> tuple[int, str]:
        """dockerd does not count the start of the process as time of the check."""
        async with asyncio.timeout(START_DEADLINE_S):
            streams = await self._execs.start(identity)
        assert streams is not None
        output = ProbeOutput(streams.stdout, streams.stderr)
        timeout_ns = check.timeout_ns or TIMEOUT_NS
        try:
            async with asyncio.timeout(timeout_ns / 1e9):
                await self._execs.wait(identity)
        except TimeoutError:
            await self._kill(identity)
            text = output.text()
            said = f"Health check exceeded timeout ({go_duration(timeout_ns)})"
            return -1, f"{said}: {text}" if text else said
        except asyncio.CancelledError:
            self._tasks.spawn(self._kill(identity), "end of a health check")
            raise
        else:
            await output.ended()
            code = self._execs.find(identity).exit_code
            return -1 if code is None else code, output.text()
        finally:
            output.close()

    async def _kill(self, identity: ExecId) -> None:
        """Probes must not pile up: whoever ends one waits until it is gone."""
        await self._execs.kill(identity, SIGKILL)

    def close(self) -> None:
        """The engine ends; instances keep the health they have."""
        for monitor in self._monitors.values():
            monitor.stop()
        self._monitors.clear()


def go_duration(duration_ns: int) -> str:
    """As Go prints a duration: 1m30s, 1.5s, 300ms."""
    if duration_ns < 10**9:
        for unit, size in (("ms", 10**6), ("µs", 10**3)):
            if duration_ns >= size:
                return _decimal(duration_ns, size) + unit
        return f"{duration_ns}ns"
    minutes, rest = divmod(duration_ns, 60 * 10**9)
    text = _decimal(rest, 10**9) + "s"
    if not minutes:
        return text
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)
