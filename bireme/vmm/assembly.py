"""Devices of a machine in processes of their own: which are there, and how main lives with them.

    block     every disk            link      vsock, agent, streams (link/)
    net       every interface, random numbers and the console; without an interface a process `entropy` has these two

    add ... add -> start (forks) -> Machine.create, boot -> wait_ready -> run

The order of `add` is the order of windows, interrupt lines and ACPI nodes, and so of the guest's names: the first disk
is /dev/vda. A device process that ends takes the machine with it: a guest whose disk is gone is no use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bireme.vmm.virtio.mmio import MmioTransport
from bireme.vmm.workers import Worker, WorkerLost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bireme.linux.poll import Loop
    from bireme.vmm.machine import Machine
    from bireme.vmm.virtio.device import VirtioDevice

    Jail = Callable[[list[int]], None]

_LAST_WORDS = 200

DEVICE_LOST = "device-lost"
"""The kind of end (MachineEnd) of a machine whose device process died."""


class Assembly:
    """A machine's device processes. `jail_of` gives what a kind of process shuts itself in with, None for no jail."""

    def __init__(self, machine: Machine, jail_of: Callable[[str], Jail | None]) -> None:
        self.machine = machine
        self.workers: list[Worker] = []
        self._jail_of = jail_of

    def add(
        self,
        kind: str,
        devices: Sequence[VirtioDevice],
        *,
        body: Callable[[Loop], None] | None = None,
        keep: Sequence[int] = (),
    ) -> None:
        """One process for these devices; `body` adds to its loop what needs the descriptors `keep`."""
        if not devices:
            return
        paths = [device.path for device in devices]
        worker = Worker(kind, paths, self.machine.memory, self._jail_of(kind), body=body, keep=keep)
        for device in devices:
            self.machine.slot(MmioTransport(device, worker))
        self.workers.append(worker)

    def add_network(self, interfaces: Sequence[VirtioDevice], rare: Sequence[VirtioDevice]) -> None:
        """The interfaces, and in the same process what is rarely asked for: a process costs 3 MiB, and this one never
        waits for a disk, which a kernel that prints would wait for as well."""
        if interfaces:
            self.add("net", [*interfaces, *rare])
        else:
            self.add("entropy", rare)

    def start(self) -> None:
        """Fork them all. This process has one thread and no VM yet."""
        for worker in self.workers:
            worker.start()

    def wait_ready(self) -> None:
        """All are jailed and listen; WorkerLost with the reason otherwise."""
        for worker in self.workers:
            worker.wait_ready()

    def watch(self, loop: Loop) -> None:
        """End the machine when one of them ends or fails."""
        for worker in self.workers:
            loop.add(worker.events_fd, self._event_of(loop, worker))
            loop.add(worker.pidfd, self._death_of(loop, worker))

    def _event_of(self, loop: Loop, worker: Worker) -> Callable[[int], None]:
        def event(_mask: int) -> None:
            try:
                worker.read_event()
            except WorkerLost as lost:
                loop.remove(worker.events_fd)
                self.machine.end(DEVICE_LOST, str(lost))

        return event

    def _death_of(self, loop: Loop, worker: Worker) -> Callable[[int], None]:
        def died(_mask: int) -> None:
            loop.remove(worker.pidfd)
            self.machine.end(DEVICE_LOST, worker.lost or f"device process {worker.name} ended")

        return died

    def pause(self) -> None:
        """Stop the vCPUs, then the devices but for the link, which has to say "resume" later."""
        self.machine.pause()
        for worker in self.workers:
            if worker.name != "link":
                worker.pause()

    def resume(self) -> None:
        for worker in self.workers:
            if worker.name != "link":
                worker.resume()
        self.machine.resume()

    def describe(self) -> dict[str, Any]:
        return self.machine.describe() | {"processes": [worker.describe() for worker in self.workers]}

    def last_words(self) -> str:
        """The last line on the guest's console, printable, "" without one: what a kernel dies of stands there."""
        paths = [path for worker in self.workers if worker.name in ("net", "entropy") for path in _paths(worker)]
        text = "\n".join(str(path.get("tail", "")) for path in paths)
        said = next((line for line in reversed(text.splitlines()) if line.strip()), "")
        return "".join(letter for letter in said if letter.isprintable())[:_LAST_WORDS]

    def fds(self) -> list[int]:
        """What main keeps open for them."""
        return [fd for worker in self.workers for fd in worker.fds()]

    def close(self) -> None:
        """End the machine and its processes, in this order: nobody reads a guest that still runs."""
        self.machine.close()
        for worker in self.workers:
            worker.stop()


def _paths(worker: Worker) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = worker.describe().get("paths", [])
    return found
