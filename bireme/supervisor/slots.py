"""Slots: what an instance stands on. Cgroups, a range of user ids, pipes, a socket to its first process, a netns.

A slot is made before anyone knows which instance gets it (a spare) or for one instance (the cold path), used once, and
taken down in idle time: pages and counters of one instance never show in the next. Its number names the cgroup
(`s<number>`) and the descriptors with the keeper (`slot/<number>/...`) and is never used again under one run root; its
place is a small number that is, and gives the range of user ids and the logger's ledger entries.
"""

from __future__ import annotations

import heapq
import os
import signal
from typing import TYPE_CHECKING

from bireme.errors import NotFound, Unavailable
from bireme.linux import fd as fdlib
from bireme.linux.cgroup.parents import Parents
from bireme.supervisor import program

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Sequence

    from bireme.linux.cgroup.contract import CgroupManager, DeviceRule
    from bireme.supervisor.keeperlink import KeeperLink

UID_BASE = 0x10000000
UID_RANGE = 65536
_NETNS_BATCH = 24
_MAX_BACKLOG = 64
_MAX_SPENT = 128
_MAX_TRIES = 200


class Slot:
    """One slot; -1 where a descriptor is not (any more)."""

    __slots__ = (
        "cgroup",
        "console",
        "ctl",
        "err_read",
        "err_write",
        "files",
        "kind",
        "netns",
        "number",
        "out_read",
        "out_write",
        "pid",
        "pidfd",
        "place",
        "range_place",
        "ready",
        "spent",
        "stdin_write",
        "tries",
        "uid_base",
        "veth",
    )

    def __init__(self, number: int, place: int, kind: str, uid_base: int) -> None:
        self.number = number
        self.place = place
        self.kind = kind
        self.uid_base = uid_base
        self.cgroup = f"s{number}"
        self.ctl: socket.socket | None = None
        self.pid = 0
        self.pidfd = self.netns = self.console = self.stdin_write = -1
        self.out_read = self.out_write = self.err_read = self.err_write = -1
        self.veth = ""
        self.files: tuple[str, ...] = ()
        """Paths that go with the slot."""
        self.ready = False
        self.tries = 0
        self.range_place = -1
        """The other place whose range of ids this one uses too."""
        self.spent: Sequence[int] = ()
        """Descriptors that nobody needs once the program runs."""

    def close_spent(self) -> None:
        if self.spent:
            fdlib.close_quietly(*self.spent)
            self.spent = ()

    @property
    def key(self) -> str:
        return str(self.number)

    def name(self, what: str) -> str:
        """What the keeper calls a descriptor of this slot."""
        return f"slot/{self.number}/{what}"

    def to_hold(self) -> dict[str, int]:
        """What the keeper must have before a plan goes to the first process."""
        fds = {"pidfd": self.pidfd, "stdout": self.out_read, "stderr": self.err_read}
        return {self.name(what): fd for what, fd in fds.items() if fd >= 0}

    def names(self) -> list[str]:
        return [self.name(what) for what in ("stdout", "stderr", "pidfd", "console", "stdin")]


class Places:
    """The smallest free numbers. One that several use is free when all of them gave it back."""

    def __init__(self) -> None:
        self._next = 0
        self._free: list[int] = []
        self._used: set[int] = set()
        self._more: dict[int, int] = {}
        """Users beyond the first one."""

    def take(self) -> int:
        while self._free:
            place = heapq.heappop(self._free)
            if place not in self._used:
                self._used.add(place)
                return place
        while self._next in self._used:
            self._next += 1
        self._used.add(self._next)
        return self._next

    def claim(self, place: int) -> None:
        """One that a predecessor gave out, or that is used once more."""
        if place in self._used:
            self._more[place] = self._more.get(place, 0) + 1
        self._used.add(place)

    def give_back(self, place: int) -> None:
        if self._more.get(place):
            self._more[place] -= 1
        elif place in self._used:
            self._used.discard(place)
            heapq.heappush(self._free, place)


class Slots:
    """Makes and takes down slots."""

    def __init__(self, keeper: KeeperLink) -> None:
        self._keeper = keeper
        self._cgroups: CgroupManager | None = None
        self._uid_base = UID_BASE
        self._prefix = ""
        self.places = Places()
        self._next_number = 1
        self._dead: list[Slot] = []
        self._stuck: list[Slot] = []
        self._dead_namespaces: list[int] = []
        self.spent: list[int] = []
        """Descriptors to close when nobody waits: each of them waits for the kernel."""

    def configure(self, cgroups: CgroupManager, uid_base: int, prefix: str = "") -> None:
        """`prefix` begins the names of our cgroups below parents that others use too."""
        self._cgroups = cgroups
        self._uid_base = uid_base
        self._prefix = prefix

    @property
    def configured(self) -> bool:
        return self._cgroups is not None

    @property
    def cgroups(self) -> CgroupManager:
        """Unavailable before the engine said which subtree is ours."""
        if self._cgroups is None:
            raise Unavailable("the supervisor is not configured yet", place="supervisor")
        return self._cgroups

    def claim(self, slot: Slot) -> None:
        """A slot of a predecessor is in use."""
        self.places.claim(slot.place)
        self.pass_number(slot.number)

    def pass_number(self, number: int) -> None:
        """Never use this number or a lower one."""
        self._next_number = max(self._next_number, number + 1)

    def make(self, kind: str, *, terminal: bool = False, devices: Sequence[DeviceRule] = (), parent: str = "") -> Slot:
        """Cgroups and pipes; the first process comes later. `devices`: other rules than a container's. `parent`: where
        its cgroups go, a path from the top of the hierarchies, "" for our own subtree."""
        place = self.places.take()
        slot = Slot(self._next_number, place, kind, self._uid_base + place * UID_RANGE)
        self._next_number += 1
        if parent:
            slot.cgroup = f"{parent.rstrip('/')}/{self._prefix}-{slot.number}"
        try:
            if devices:
                self.cgroups.create(slot.cgroup, devices)
            else:
                self.cgroups.create(slot.cgroup)
            if not terminal:
                self._make_pipes(slot)
        except BaseException:
            self.dispose(slot)
            raise
        return slot

    def _make_pipes(self, slot: Slot) -> None:
        slot.out_read, slot.out_write = os.pipe2(os.O_CLOEXEC)
        slot.err_read, slot.err_write = os.pipe2(os.O_CLOEXEC)

    def drop_pipes(self, slot: Slot) -> None:
        """For an instance with a terminal."""
        self._keeper.drop([slot.name("stdout"), slot.name("stderr")])
        fdlib.close_quietly(slot.out_read, slot.out_write, slot.err_read, slot.err_write)
        slot.out_read = slot.out_write = slot.err_read = slot.err_write = -1

    def dispose(self, slot: Slot, *, keep_place: bool = False) -> None:
        """Close what is open now; cgroups and namespaces follow in `tidy`. The first process is gone or leaves by
        itself, since its socket closes. `keep_place`: its output still flows, `places.give_back` comes later."""
        if slot.ctl is not None:
            slot.ctl.close()
            slot.ctl = None
        self._keeper.drop(slot.names())
        fdlib.close_quietly(
            slot.pidfd, slot.console, slot.stdin_write, slot.out_read, slot.out_write, slot.err_read, slot.err_write
        )
        slot.pidfd = slot.console = slot.stdin_write = -1
        slot.out_read = slot.out_write = slot.err_read = slot.err_write = -1
        slot.close_spent()
        if slot.netns >= 0:
            self._dead_namespaces.append(slot.netns)
            slot.netns = -1
        if slot.range_place >= 0:
            self.places.give_back(slot.range_place)
            slot.range_place = -1
        if not keep_place:
            self.places.give_back(slot.place)
        for path in slot.files:
            _unlink(path)
        self._dead.append(slot)
        self._tidy_under_load()

    @property
    def backlog(self) -> int:
        """Slots not taken down yet."""
        return len(self._dead) + len(self._stuck)

    def tidy(self) -> bool:
        """One piece of idle work; False when nothing is left to do now."""
        if self._dead:
            self._remove(self._dead.pop())
            return True
        if self.spent:
            os.close(self.spent.pop())
            return True
        if self._dead_namespaces:
            self.close_namespaces()
        return False

    def _tidy_under_load(self) -> None:
        """There may be no idle time for long: keep the backlog small."""
        if len(self._dead) > _MAX_BACKLOG:
            self._remove(self._dead.pop(0))
        while len(self.spent) > _MAX_SPENT:
            os.close(self.spent.pop(0))
        if len(self._dead_namespaces) >= _NETNS_BATCH:
            self.close_namespaces()

    def close_namespaces(self) -> None:
        """Together: the kernel then takes their links down in one go."""
        fdlib.close_quietly(*self._dead_namespaces)
        self._dead_namespaces.clear()

    def _remove(self, slot: Slot) -> None:
        if self._cgroups is None or self._cgroups.remove(slot.cgroup):
            return
        slot.tries += 1
        if slot.tries > 3:
            self.kill_all(slot)
        if slot.tries < _MAX_TRIES:
            self._stuck.append(slot)
        else:
            program.log("supervisor", f"cgroup {slot.cgroup} stays for now: something in it does not die")

    def kill_all(self, slot: Slot) -> None:
        """Every process of the slot's cgroup; one that is (half) gone has none left."""
        try:
            self.cgroups.kill(slot.cgroup, signal.SIGKILL, wait_s=0.0)
        except NotFound:
            return

    def retry(self) -> bool:
        """Try again what was busy; True when something is (again) waiting."""
        self._dead.extend(self._stuck)
        self._stuck.clear()
        return bool(self._dead)

    @property
    def stuck(self) -> bool:
        return bool(self._stuck)

    def remove_leftovers(self, alive: Iterable[str]) -> None:
        """Cgroups of a predecessor's spares and of instances that ended meanwhile."""
        keep = set(alive)
        for name in self.cgroups.list():
            if name in keep or not name.startswith("s") or not name[1:].isdigit():
                continue
            self._remove_leftover(int(name[1:]), name)
        for name in self._below() - keep:
            prefix, _, number = name.rpartition("/")[2].rpartition("-")
            if prefix == self._prefix and number.isdigit():
                self._remove_leftover(int(number), name)

    def _below(self) -> set[str]:
        """Cgroups below other parents than our subtree."""
        return set(self.cgroups.below()) if isinstance(self.cgroups, Parents) else set()

    def _remove_leftover(self, number: int, name: str) -> None:
        self.pass_number(number)
        leftover = Slot(number, -1, "", 0)
        leftover.cgroup = name
        self.kill_all(leftover)
        self._dead.append(leftover)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
