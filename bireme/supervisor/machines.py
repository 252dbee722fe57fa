"""What is a machine's own in a start: the template, names on the host, and its report when it has ended.

    launch{plan: {"machine": MachinePlan}}
      the first machine starts the template (template.py): one more helper, which imports bireme.vmm; none runs where
      there are containers alone
      a cold slot ---> template clones ---> child{pid}, ready ---> start{plan} + stdio
      console? ---> running, the end of ctl: the guest's program runs     or error{stage, errno, ...}

The supervisor gives every machine what has to be unique on the host: user ids, names of TAPs, a control socket and a
report file in RUN_ROOT/machines, both removed with the slot. A boot may take long; nothing here waits for it.
"""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

from bireme.errors import Invalid, Unavailable
from bireme.linux import process
from bireme.linux.cgroup import DeviceRule
from bireme.runtime import sync
from bireme.supervisor import program
from bireme.supervisor.fate import DIED, MAX_LOOKS, RAN, UNSURE, is_dead
from bireme.supervisor.nursery import Nursery, base36
from bireme.supervisor.service import Service

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from bireme.errors import BiremeError
    from bireme.linux.poll import Loop
    from bireme.supervisor.children import Children
    from bireme.supervisor.keeperlink import KeeperLink
    from bireme.supervisor.request import Launch
    from bireme.supervisor.slots import Slot, Slots
    from bireme.supervisor.table import Instance

DIRECTORY = "machines"
MAX_REPORT_BYTES = 16 << 10
MAX_REASON = 1000
_GRACE_S = 30.0
"""Beyond the machine's own boot deadlines (to its agent's first word, and from there to its program): then something
in it hangs that should have ended it."""
DEVICES = (
    DeviceRule(False),
    DeviceRule(True, "c", 1, 3, "rw"),
    DeviceRule(True, "c", 1, 9, "r"),
    DeviceRule(True, "c", 5, 2, "rw"),
    DeviceRule(True, "c", 10, 200, "rw"),
    DeviceRule(True, "c", 10, 232, "rw"),
    DeviceRule(True, "c", 136, -1, "rw"),
)
"""null, urandom, ptmx, net/tun, kvm, terminals: what a monitor opens before it is jailed. Disks are files."""
_NAMESPACES = ("ipc", "mnt", "net", "pid", "uts")
_NAMED_INTERFACES = 36
_MAX_NAME = 15


class Machines:
    """A Maker (launches.py)."""

    def __init__(self, run_root: str, loop: Loop, keeper: KeeperLink, children: Children, slots: Slots) -> None:
        self._slots = slots
        self._directory = os.path.join(run_root, DIRECTORY)
        self._loop = loop
        self._template = Service("machines", run_root, loop, children, _become_template)
        self._template.on_started = self._template_started
        self.nursery = Nursery(loop, keeper, children, self._template)
        self._subtree = ""
        self._tag = ""

    def configure(self, subtree: str, tag: str) -> None:
        self._subtree, self._tag = subtree, tag

    def _template_started(self) -> None:
        self._template.send({"op": "configure", "subtree": self._subtree})
        self.nursery.zygote_started()

    def stop(self) -> None:
        """Nothing runs any more."""
        if self._template.begun:
            self._template.stop()
        self.sweep(set())
        try:
            os.rmdir(self._directory)
        except FileNotFoundError:
            return

    def sweep(self, alive: set[str]) -> None:
        """Sockets and reports of slots that are gone."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return
        for name in names:
            path = os.path.join(self._directory, name)
            if path not in alive:
                os.unlink(path)

    def slot(self, request: Launch) -> Slot:
        count = len(_machine(request)["interfaces"])
        if count > _NAMED_INTERFACES:
            raise Invalid(
                f"a machine has at most {_NAMED_INTERFACES} network interfaces, not {count}", subject=request.id
            )
        return self._slots.make("machine", terminal=request.terminal, devices=DEVICES)

    def claim(self, request: Launch) -> Slot | None:
        """There are no spares of machines."""
        return None

    def when_ready(self, slot: Slot, done: Callable[[Slot, BiremeError | None], None]) -> None:
        raise NotImplementedError("machines have no spares")

    def spawn(self, request: Launch, slot: Slot, done: Callable[[Slot, BiremeError | None], None]) -> None:
        os.makedirs(self._directory, 0o700, exist_ok=True)
        plan = _machine(request)
        plan["uid"] = slot.uid_base
        plan["control_path"] = os.path.join(self._directory, f"{slot.cgroup}.control")
        plan["report_path"] = os.path.join(self._directory, f"{slot.cgroup}.report")
        for number, interface in enumerate(plan["interfaces"]):
            interface["tap"] = tap_name(self._tag, slot.number, number)
        slot.files = (plan["control_path"], plan["report_path"])
        request.owner = (slot.uid_base, slot.uid_base)
        self.nursery.spawn(slot, {"cgroup": slot.cgroup}, [], done)
        if not self._template.begun:
            self._template.start()

    def provide(self, request: Launch, slot: Slot) -> list[int]:
        limit_s = 2 * float(_machine(request)["boot_timeout_s"]) + _GRACE_S
        self._loop.call_later(limit_s, lambda: _give_up(request, slot))
        return []

    def send(self, request: Launch, slot: Slot, stdio: Sequence[int], files: Sequence[int]) -> None:
        assert slot.ctl is not None
        sync.send_message(slot.ctl, {"m": "start", "plan": request.plan["machine"]}, stdio)

    def record(self, request: Launch) -> Mapping[str, Any]:
        plan = _machine(request)
        return {
            "namespaces": list(_NAMESPACES),
            "machine": {
                "control": plan["control_path"],
                "report": plan["report_path"],
                "taps": {f"eth{n}": interface["tap"] for n, interface in enumerate(plan["interfaces"])},
            },
        }

    def verdict(self, request: Launch, slot: Slot, looks: int) -> str:
        """It says itself that it runs, and closes ctl after that."""
        if request.announced:
            return RAN
        if looks > MAX_LOOKS:
            process.pidfd_send_signal(slot.pidfd, signal.SIGKILL)
            return DIED
        return DIED if request.ended is not None or is_dead(slot.pidfd) else UNSURE

    def died(self, request: Launch, slot: Slot) -> BiremeError:
        report = read_report(slot.files[1]) if slot.files else {}
        reason = report.get("reason") or "the machine's monitor was killed before the guest's program ran"
        return Unavailable(str(reason), subject=request.id, place="boot")


def _give_up(request: Launch, slot: Slot) -> None:
    if not request.announced and request.slot is slot and slot.pidfd >= 0:
        process.pidfd_send_signal(slot.pidfd, signal.SIGKILL)


def _machine(request: Launch) -> dict[str, Any]:
    plan = request.plan["machine"]
    if not isinstance(plan, dict) or not isinstance(plan.get("interfaces"), list):
        raise Invalid("launch of a machine without its plan", subject=request.id)
    return plan


def tap_name(tag: str, slot: int, number: int) -> str:
    """The host's end of a machine's interface `number`. Slots are never used again and the last digit is the
    interface's alone, so no two machines of an engine meet; the kernel takes 15 bytes (IFNAMSIZ)."""
    name = f"t{tag}{base36(slot * _NAMED_INTERFACES + number)}"
    if number >= _NAMED_INTERFACES:
        raise Invalid(f"a machine has at most {_NAMED_INTERFACES} network interfaces", subject=f"eth{number}")
    if len(name) > _MAX_NAME:
        raise Invalid(f"the name {name} is longer than the kernel's {_MAX_NAME} bytes", subject=f"eth{number}")
    return name


def _become_template(control: socket.socket) -> None:
    """In a fork of the supervisor: start afresh, since our memory knows what instances were told."""
    control.set_inheritable(True)
    program.execute("template", "--control-fd", str(control.fileno()))


def read_report(path: str) -> dict[str, Any]:
    """What a machine's monitor wrote about its end; empty when there is nothing that can be believed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        found = json.loads(os.read(fd, MAX_REPORT_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    finally:
        os.close(fd)
    return found if isinstance(found, dict) else {}


def tell_end(instance: Instance, ended: process.Exit, *, killed: bool) -> process.Exit:
    """The end of a machine as its report has it, and why (Instance.error). `killed`: we were asked to kill it.

    The first process of a pid namespace cannot die of a signal of its own: the report says which one it was.
    """
    report = read_report(instance.machine["report"])
    reason, number = report.get("reason"), report.get("signal")
    if isinstance(reason, str) and reason:
        instance.error = reason[:MAX_REASON]
    elif not report and not killed and not instance.oom_killed:
        how = f"was killed by signal {ended.signal}" if ended.signal else f"ended with code {ended.code}"
        instance.error = f"the machine's monitor {how}"
    if isinstance(number, int) and 0 < number < 65 and not ended.signal and ended.code == 128 + number:
        return process.Exit(ended.pid, ended.code, number)
    return ended


_COUNTERS = ("bytes", "packets", "errors", "dropped")


def tap_counters(taps: Mapping[str, str], host: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Counters by the guest's interface: what the host's TAP sends, the guest receives."""
    found = {}
    for name, tap in taps.items():
        if tap in host:
            swapped = {f"rx_{key}": host[tap].get(f"tx_{key}", 0) for key in _COUNTERS}
            found[name] = swapped | {f"tx_{key}": host[tap].get(f"rx_{key}", 0) for key in _COUNTERS}
    return found
