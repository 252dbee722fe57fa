"""What is a container's own in a start: spares, the zygote, overlay and binds, and how its program is recognised."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

from bireme.errors import Internal
from bireme.linux import namespaces
from bireme.runtime import launch as starter
from bireme.runtime import spare
from bireme.runtime.plan import exec_namespaces, spare_kind
from bireme.supervisor import joining
from bireme.supervisor.fate import fate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bireme.errors import BiremeError
    from bireme.runtime.plan import LaunchPlan
    from bireme.supervisor.nursery import Nursery, Pool
    from bireme.supervisor.request import Launch
    from bireme.supervisor.slots import Slot, Slots
    from bireme.supervisor.table import Table


class Containers:
    """A Maker (launches.py)."""

    def __init__(self, table: Table, slots: Slots, nursery: Nursery, pool: Pool) -> None:
        self._table = table
        self._slots = slots
        self._nursery = nursery
        self._pool = pool

    def slot(self, request: Launch) -> Slot:
        return self._slots.make("cold", terminal=request.terminal, parent=_plan(request)["cgroup_path"])

    def claim(self, request: Launch) -> Slot | None:
        plan = _plan(request)
        kind = spare_kind(plan)
        interfaces = plan["network"]["interfaces"]
        return self._pool.claim(kind, interfaces[0]["bridge"] if interfaces else "") if kind else None

    def when_ready(self, slot: Slot, done: Callable[[Slot, BiremeError | None], None]) -> None:
        self._pool.when_ready(slot, done)

    def spawn(self, request: Launch, slot: Slot, done: Callable[[Slot, BiremeError | None], None]) -> None:
        plan = _plan(request)
        if joining.wants_others(plan):
            base = self._join(request, slot)
        else:
            base = _outside_root(plan["namespaces"].get("user", "")) or slot.uid_base
        wanted = spare.request_of(plan, slot.cgroup, base)
        request.owner = (wanted["uid"], wanted["gid"])
        own_network = plan["namespaces"].get("net") == ""
        interfaces = plan["network"]["interfaces"] if own_network else []
        self._nursery.spawn(slot, wanted, interfaces, done)

    def _join(self, request: Launch, slot: Slot) -> int:
        """What root of the joined user namespace is outside; its range of ids is not given to others meanwhile."""
        joined = joining.join(_plan(request), self._table)
        slot.spent = joined.fds
        request.joins = {"ids": joined.ids}
        if joined.place >= 0:
            self._slots.places.claim(joined.place)
            slot.range_place = request.joins["place"] = joined.place
        return joined.uid_base

    def provide(self, request: Launch, slot: Slot) -> list[int]:
        plan = _plan(request)
        starter.apply_outside(plan["process"], slot.pid)
        if "user" not in plan["namespaces"]:
            return starter.assemble(plan, -1, spent=self._slots.spent)
        userns = namespaces.open_namespace(slot.pid, "user")
        try:
            return starter.assemble(plan, userns, *request.owner, spent=self._slots.spent)
        finally:
            os.close(userns)

    def send(self, request: Launch, slot: Slot, stdio: Sequence[int], files: Sequence[int]) -> None:
        assert slot.ctl is not None
        owner = request.owner if stdio else None
        starter.send_start(slot.ctl, _plan(request), [*stdio, *files], owner=owner)

    def record(self, request: Launch) -> Mapping[str, Any]:
        assert request.slot is not None
        return {
            "namespaces": exec_namespaces(_plan(request)),
            "veth": request.slot.veth,
            "joins": request.joins,
            "cgroup": request.slot.cgroup,
        }

    def verdict(self, request: Launch, slot: Slot, looks: int) -> str:
        slot.close_spent()
        return fate(slot.pid, slot.pidfd, request.ended, looks)

    def died(self, request: Launch, slot: Slot) -> BiremeError:
        return Internal("the instance's first process was killed before it ran", place="start")


def _plan(request: Launch) -> LaunchPlan:
    return cast("LaunchPlan", request.plan)


def _outside_root(path: str) -> int:
    """What root of a user namespace given as /proc/PID/ns/user is outside; 0 for others."""
    parts = path.split("/")
    if len(parts) != 5 or parts[1] != "proc" or not parts[2].isdigit():
        return 0
    try:
        with open(f"/proc/{parts[2]}/uid_map") as file:
            inside, outside, _ = file.readline().split()
    except (OSError, ValueError):
        return 0
    return int(outside) if inside == "0" else 0
