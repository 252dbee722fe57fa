"""Streams and readings of one instance: attach, stdin, resize, top, stats, explain, limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bireme.engine.abilities import need
from bireme.engine.instances import Instances
from bireme.engine.record import Instance
from bireme.errors import Conflict
from bireme.instance.driver import Console, Explain, Processes, ProcessRow, Stat, Stats
from bireme.instance.state import Status


class Consoles:
    """What a user sees of an instance, through its driver's abilities."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances

    async def attach(self, reference: str, stdout: bool, stderr: bool) -> int:
        """A descriptor that yields output from now on; the caller closes it. Legal before start."""
        instance = self._instances.find(reference)
        driver = need(self._instances.driver(instance), Console, "attach")
        fd = await driver.attach(instance.id, stdout=stdout, stderr=stderr)
        self._instances.publish(instance, "attach")
        return fd

    async def stdin(self, reference: str) -> int:
        """A descriptor that writes to stdin of a running instance; the caller closes it."""
        instance = self._running(reference)
        return await need(self._instances.driver(instance), Console, "attach").stdin(instance.id)

    async def close_stdin(self, reference: str) -> None:
        instance = self._instances.find(reference)
        await need(self._instances.driver(instance), Console, "attach").close_stdin(instance.id)

    async def resize(self, reference: str, rows: int, columns: int) -> None:
        instance = self._running(reference)
        await need(self._instances.driver(instance), Console, "resize").resize(instance.id, rows, columns)

    async def top(self, reference: str) -> list[ProcessRow]:
        instance = self._running(reference)
        return await need(self._instances.driver(instance), Processes, "top").processes(instance.id)

    async def stats(self, reference: str) -> Stat:
        """One reading; all zero when it does not run, as Docker answers."""
        instance = self._instances.find(reference)
        if not instance.running:
            return Stat(read_at_ns=0)
        return await need(self._instances.driver(instance), Stats, "stats").stats(instance.id)

    async def explain(self, reference: str) -> Mapping[str, Any]:
        instance = self._instances.find(reference)
        return await need(self._instances.driver(instance), Explain, "explain").explain(instance.id)

    def _running(self, reference: str) -> Instance:
        instance = self._instances.find(reference)
        if instance.status is Status.RESTARTING:
            raise Conflict(
                f"Container {instance.id} is restarting, wait until the container is running", subject=instance.id
            )
        if not instance.running:
            raise Conflict(f"container {instance.id} is not running", subject=instance.id)
        return instance
