"""A machine of the engine: what a clone of the machine template becomes (`run`), from its plan to its end.

    main (this)                                   host                     supervisor
      open kernel, disks, TAPs, /dev/kvm,
        control socket, report            <-----> (still root)
      leave the host's namespaces and root
      fork block, net, link, entropy              each jails itself
      VM, kernel into memory, own jail
      vCPUs run; link talks to the agent
      link: running    ---------------------------------------------------> running, the end of ctl
      link: ended{code, signal}                                              (what the guest's process did)
      power-off, or 5 s                   ------> report, exit status

It is process 1 of its pid namespace, so everything here dies with it. Every end has a reason: in the report, and on ctl
while the guest's program does not run yet. A stage that fails says its name: memory, disk, network, kernel, kvm, boot.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from bireme.errors import BiremeError, Internal, to_wire
from bireme.linux.poll import Loop
from bireme.vmm import allowlist, jail
from bireme.vmm.assembly import DEVICE_LOST, Assembly
from bireme.vmm.host import StageFailed, open_files, open_report, stage
from bireme.vmm.link import Link, LinkFiles
from bireme.vmm.machine import Machine, MachineEnd
from bireme.vmm.virtio.block import BlockPath, block_device
from bireme.vmm.virtio.console import ConsolePath, console_device
from bireme.vmm.virtio.net import NetPath, net_device
from bireme.vmm.virtio.rng import RngPath, rng_device
from bireme.vmm.virtio.vsock import VsockPath, vsock_device
from bireme.vmm.workers import WorkerLost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bireme.vmm.host import Files
    from bireme.vmm.plan import MachinePlan

FAILED = 255
POWER_OFF_S = 5.0
"""What the agent has to kill, sync and unmount after the first process has ended."""
_ANSWER_S = 10.0
_MAX_LINE = 1 << 20
_MAX_REASON = 1000


class Starter(Protocol):
    """A machine's words to the supervisor (supervisor/template.py)."""

    def fileno(self) -> int: ...

    def console(self, master: int) -> None: ...

    def running(self) -> None: ...

    def failed(self, stage: str, number: int, subject: str, message: str) -> None: ...


def warm() -> None:
    """What the template does once, so that no machine has to, or could: in the jail there are no files to read."""
    allowlist.warm()
    sys.path_importer_cache.clear()  # a clone that frees it in its jail would copy all pages it lies in


def run(plan: dict[str, Any], stdio: Sequence[int], starter: Starter) -> NoReturn:
    """Be the machine of this plan (a MachinePlan)."""
    code = FAILED
    try:
        code = Child(plan, starter).run(stdio)  # type: ignore[arg-type]
    finally:
        os._exit(code)


class Child:
    """The main process of one machine."""

    def __init__(self, plan: MachinePlan, starter: Starter) -> None:
        self.plan = plan
        self.starter = starter
        self.report = open_report(plan["report_path"])
        self.loop = Loop()
        self.outcome: tuple[int, int] | None = None
        self.failure: StageFailed | None = None
        self.lost = ""
        self.runs = False

    def run(self, stdio: Sequence[int]) -> int:
        """From the plan to the exit status."""
        try:
            end = self._boot(stdio)
        except StageFailed as failure:
            self.failure = failure
            end = MachineEnd("failed", failure.message)
        except Exception as error:
            # The last boundary: without a report nobody would learn why the machine is gone.
            self.failure = StageFailed("boot", 0, "", to_wire(Internal(f"{type(error).__name__}: {error}"))["message"])
            end = MachineEnd("failed", self.failure.message)
        return self._conclude(end)

    def _boot(self, stdio: Sequence[int]) -> MachineEnd:
        plan = self.plan
        files = open_files(plan, stdio, self.starter.console)
        with stage("memory"):
            self.machine = Machine(plan["memory_bytes"], plan["vcpus"])
        self.assembly = Assembly(self.machine, self._jail_of)
        self._add_devices(files)
        with stage("boot"):
            jail.leave_host()
            self.assembly.start()
        with stage("kvm"):
            self.machine.create(files.kvm)
        with stage("kernel"):
            self.machine.boot(files.kernel, files.initrds, plan["cmdline"])
        with stage("boot"):
            self.assembly.wait_ready()
        self._watch()
        self._enter_jail()
        self.machine.run()
        self.loop.run()
        end = self.machine.wait()
        assert end is not None
        return end

    def _add_devices(self, files: Files) -> None:
        plan, add = self.plan, self.assembly.add
        with stage("disk"):
            disks = [
                block_device(BlockPath(f"disk{n}", fd, read_only=disk["read_only"], serial=disk["serial"]))
                for n, (fd, disk) in enumerate(zip(files.disks, plan["disks"], strict=True))
            ]
            add("block", disks)
        with stage("network"):
            interfaces = [
                net_device(NetPath(f"net{n}", fd, mac=interface["mac"], mtu=interface["mtu"]))
                for n, (fd, interface) in enumerate(zip(files.taps, plan["interfaces"], strict=True))
            ]
        rare = [rng_device(RngPath())] if plan["rng"] else []
        rare += [console_device(ConsolePath())] if plan["console"] else []
        self.assembly.add_network(interfaces, rare)
        self._add_link(files)

    def _add_link(self, files: Files) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.link = ours
        self._line = bytearray()
        vsock = VsockPath()
        link_files = LinkFiles(theirs, files.control, files.stdio)
        guest, timeout_s = self.plan["guest"], self.plan["boot_timeout_s"]

        def body(loop: Loop) -> None:
            Link(loop, vsock, link_files, guest, boot_timeout_s=timeout_s)  # type: ignore[arg-type]

        self.assembly.add("link", [vsock_device(vsock)], body=body, keep=link_files.fds())
        self._theirs = link_files

    def _jail_of(self, kind: str) -> Any:
        uid = self.plan["uid"]
        return lambda keep: jail.enter(kind, uid, keep)

    def _enter_jail(self) -> None:
        self._theirs.main.close()
        keep = [*self.machine.fds(), *self.assembly.fds(), self.link.fileno(), self.loop.fileno()]
        keep += [fd for fd in (self.report, self.starter.fileno()) if fd >= 0]
        with stage("boot"):
            jail.enter("vmm", self.plan["uid"], keep)

    # Running: one loop, three things to hear of.

    def _watch(self) -> None:
        self.assembly.watch(self.loop)
        self.link.setblocking(False)
        self.loop.add(self.link.fileno(), lambda _mask: self._hear())
        self.loop.add(self.machine.end_fd, lambda _mask: self._ended())

    def _ended(self) -> None:
        """The machine is over; what the link said before that still counts."""
        self.loop.remove(self.machine.end_fd)
        self._hear()
        self.loop.stop()

    def _hear(self) -> None:
        """The link's words. It talks to the guest, so it is believed as little: nonsense ends the machine."""
        while data := self._receive():
            self._line += data
            *lines, rest = bytes(self._line).split(b"\n")
            self._line = bytearray(rest)
            try:
                for line in lines:
                    self._obey(json.loads(line))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                self.machine.end(DEVICE_LOST, f"the link process says what makes no sense: {type(error).__name__}")
            if len(self._line) > _MAX_LINE:
                self.machine.end(DEVICE_LOST, "the link process says too much")
                self.loop.remove(self.link.fileno())
                return

    def _receive(self) -> bytes:
        """What there is to hear; nothing once the link is gone (its pidfd tells why)."""
        try:
            data = self.link.recv(65536)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self.loop.remove(self.link.fileno())
        return data

    def _obey(self, message: Mapping[str, Any]) -> None:
        kind = message["m"]
        if kind == "running":
            self.runs = True
            self.starter.running()
        elif kind == "failed":
            words = [str(message[name]) for name in ("stage", "subject", "message")]
            self.failure = StageFailed(words[0], int(message["errno"]), *words[1:])
            self._give_time(POWER_OFF_S if self.runs else 0.0)
        elif kind == "ended":
            self.outcome = int(message["code"]), int(message["signal"])
            self.lost = str(message.get("lost", ""))[:_MAX_REASON]
            self._give_time(POWER_OFF_S)
        else:
            self._answer(kind, message["rid"])

    def _give_time(self, time_s: float) -> None:
        """For the agent to power off: what a program wrote has to reach the disks. Without one there is no need."""
        self.loop.call_later(time_s, lambda: self.machine.end("stopped", "the agent did not power off"))

    def _answer(self, kind: str, number: int) -> None:
        actions = {"pause": self.assembly.pause, "resume": self.assembly.resume, "describe": self.assembly.describe}
        try:
            answer: dict[str, Any] = {"rid": number, "ok": actions[kind]() or {}}
        except (BiremeError, WorkerLost) as error:
            answer = {"rid": number, "error": to_wire(error)}
        self.link.settimeout(_ANSWER_S)
        try:
            self.link.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            self.machine.end(DEVICE_LOST, "the link process does not listen")
        finally:
            self.link.setblocking(False)

    # The end.

    def _conclude(self, end: MachineEnd) -> int:
        """Say why, where somebody listens; the exit status."""
        failure = self.failure
        if failure is None and not self.runs:
            said = self.assembly.last_words()
            text = f"the guest ended before its agent answered: {_text(end)}"
            failure = StageFailed("boot", 0, "", f"{text} (its console: {said})" if said else text)
        if failure is not None and not self.runs:
            self.starter.failed(failure.stage, failure.number, failure.subject, failure.message)
        if self.outcome is not None:
            code, signum = self.outcome
            self._report(self.lost, code, signum)
            return 128 + signum if signum else code & 0xFF
        self._report(failure.message if failure is not None else _text(end), FAILED, 0, end.kind)
        return FAILED

    def _report(self, reason: str, code: int, signum: int, kind: str = "") -> None:
        data = json.dumps({"reason": reason, "code": code, "signal": signum, "kind": kind}).encode()
        try:
            os.write(self.report, data)
        except OSError:
            return


def _text(end: MachineEnd) -> str:
    return f"{end.kind}: {end.detail}" if end.detail else end.kind
