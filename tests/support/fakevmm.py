"""A machine's monitor without a machine: speaks ctl, vmcontrol and the report, and runs its guest as host processes.

The machine template loads it instead of bireme.vmm.child when BIREME_MONITOR names it, so it imports the standard
library and bireme alone. What it runs are commands of the host, found in /bin and /usr/bin. Words in the guest
process's environment make it misbehave:

    FAKE=hang        never says running
    FAKE=refuse      an error of stage "boot"
    FAKE=crash       ends with 255 and a reason after it said running
    FAKE=die         is killed before it says running
    FAKE=silent      never answers on the control socket
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any, NoReturn

from bireme.errors import BiremeError, Conflict, NotFound
from bireme.linux import fd as fdlib
from bireme.linux import process, tty
from bireme.linux.poll import Loop
from bireme.wire import vmcontrol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATHS = ("/bin", "/usr/bin")


class Guest:
    """One process on the host; `exited` is None while it runs."""

    def __init__(self, description: Mapping[str, Any], stdio: Sequence[int], console: int = -1) -> None:
        self.terminal = bool(description["terminal"])
        self.args = list(description["args"])
        self.pid = 0
        path = find(self.args[0])
        self.pid = process.fork()
        if self.pid == 0:
            try:
                self._become(path, description, stdio, console)
            finally:
                os._exit(127)

    def _become(self, path: str, description: Mapping[str, Any], stdio: Sequence[int], console: int) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        if console >= 0:
            tty.set_controlling(console)
            stdio = [console] * 3
        else:
            stdio = [*stdio]
        for target, source in enumerate([fdlib.move_above(os.dup(fd), 3) for fd in stdio]):
            os.dup2(source, target)
        fdlib.close_range_cloexec(3)
        env = dict(entry.split("=", 1) for entry in description["env"])
        os.execve(path, self.args, env)


def find(name: str) -> str:
    """OSError as execve would give it."""
    for path in [name] if "/" in name else [f"{directory}/{name}" for directory in PATHS]:
        if os.path.exists(path):
            if not os.access(path, os.X_OK) or os.path.isdir(path):
                raise PermissionError(13, "permission denied", name)
            return path
    raise FileNotFoundError(2, f'exec: "{name}": executable file not found in $PATH', name)


class FakeMachine:
    """One loop: children, control clients."""

    def __init__(self, plan: dict[str, Any], stdio: Sequence[int], starter: Any) -> None:
        self.plan = plan
        self.stdio = list(stdio)
        self.starter = starter
        self.loop = Loop()
        self.first: Guest | None = None
        self.execs: dict[str, dict[str, Any]] = {}
        self.clients: dict[socket.socket, bool] = {}
        self.paused = False
        self.report = os.open(plan["report_path"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self.word = dict(e.split("=", 1) for e in plan["guest"]["process"]["env"]).get("FAKE", "")

    def run(self) -> NoReturn:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self.listener.bind(self.plan["control_path"])
        self.listener.listen(8)
        wake, waker = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.loop.add(wake.fileno(), lambda _mask: self._reap(wake))
        if self.word != "silent":
            self.loop.add(self.listener.fileno(), lambda _mask: self._accept())
        self._start()
        while True:
            self.loop.run_once()

    def _start(self) -> None:
        if self.word == "die":
            os._exit(9)
        if self.word == "refuse":
            self.starter.failed("boot", 0, "kernel", "the kernel does not boot")
            os._exit(255)
        console = -1
        if self.plan["guest"]["process"]["terminal"]:
            terminal = tty.open_terminal("/dev/ptmx")
            console = terminal.slave
            self.starter.console(terminal.master)
            os.close(terminal.master)
        if self.word == "hang":
            return
        try:
            self.first = Guest(self.plan["guest"]["process"], self.stdio, console)
        except OSError as error:
            self.starter.failed("exec", error.errno, self.plan["guest"]["process"]["args"][0], str(error.strerror))
            os._exit(255)
        fdlib.close_quietly(console, *self.stdio)
        self.starter.running()
        if self.word == "crash":
            self._end(255, 0, "the guest died of a triple fault")

    def _end(self, code: int, number: int, reason: str = "") -> NoReturn:
        os.write(self.report, json.dumps({"reason": reason, "code": code, "signal": number}).encode())
        os._exit(code)

    def _reap(self, wake: socket.socket) -> None:
        wake.recv(4096)
        while True:
            try:
                ended = process.wait_any()
            except ChildProcessError:
                return
            if ended is None:
                return
            if self.first is not None and ended.pid == self.first.pid:
                self._end(ended.code, ended.signal)
            for row in self.execs.values():
                if row["pid"] == ended.pid:
                    row.update(code=ended.code, signal=ended.signal, at_ns=time.time_ns())
                    self._tell(vmcontrol.exec_exited(row))  # type: ignore[arg-type]

    def _tell(self, event: Mapping[str, Any]) -> None:
        for client in list(self.clients):
            self._send(client, event)

    def _send(self, client: socket.socket, message: Mapping[str, Any]) -> None:
        packet = vmcontrol.encode(message, spill=lambda text: fdlib.sealed_memfd("m", text))
        try:
            fdlib.send_fds(client, packet.data, packet.fds)
        except OSError:
            self._hang_up(client)

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        self.clients[client] = False
        self.loop.add(client.fileno(), lambda _mask: self._on_message(client))

    def _hang_up(self, client: socket.socket) -> None:
        self.clients.pop(client, None)
        if client.fileno() >= 0:
            self.loop.remove(client.fileno())
            client.close()

    def _on_message(self, client: socket.socket) -> None:
        data, fds = fdlib.recv_fds(client)
        if not data:
            self._hang_up(client)
            return
        message, own = vmcontrol.decode(data, fds, unspill=lambda fd, limit: fdlib.read_sealed(fd, limit))
        try:
            answer = getattr(self, "op_" + message["op"])(message, own)
            self._send(client, vmcontrol.reply(message["rid"], answer or {}))
        except (BiremeError, OSError) as error:
            self._send(client, vmcontrol.refusal(message["rid"], error))
        finally:
            fdlib.close_quietly(*own)
        if message["op"] == "hello":
            for row in self.execs.values():
                if row["code"] >= 0:
                    self._send(client, vmcontrol.exec_exited(row))  # type: ignore[arg-type]

    def op_hello(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        version = vmcontrol.agreed_version(message["version"])
        state = "paused" if self.paused else "running"
        return {"version": version, "state": state, "execs": list(self.execs.values())}

    def op_exec(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        names = vmcontrol.check_exec(message, len(fds))  # type: ignore[arg-type]
        given = dict(zip(names, fds, strict=True))
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            stdio = [given.get("stdin", null), given.get("stdout", null), given.get("stderr", null)]
            guest = Guest(message["process"], stdio, given.get("console", -1))
        except OSError as error:
            raise _Refusal(error, message["process"]["args"][0]) from error
        finally:
            os.close(null)
        self.execs[message["exec_id"]] = {
            "exec_id": message["exec_id"],
            "pid": guest.pid,
            "terminal": guest.terminal,
            "code": -1,
            "signal": 0,
            "at_ns": 0,
        }
        return {"pid": guest.pid}

    def op_exec_acknowledge(self, message: dict[str, Any], fds: list[int]) -> None:
        self.execs.pop(message["exec_id"], None)

    def op_exec_resize(self, message: dict[str, Any], fds: list[int]) -> None:
        self._exec(message)

    def op_exec_signal(self, message: dict[str, Any], fds: list[int]) -> None:
        os.kill(self._exec(message)["pid"], message["number"])

    def _exec(self, message: dict[str, Any]) -> dict[str, Any]:
        if message["exec_id"] not in self.execs:
            raise NotFound("no such exec", subject=message["exec_id"])
        return self.execs[message["exec_id"]]

    def op_signal(self, message: dict[str, Any], fds: list[int]) -> None:
        if self.first is None:
            raise Conflict("the machine has no process yet")
        os.kill(self.first.pid, message["number"])

    def op_resize(self, message: dict[str, Any], fds: list[int]) -> None:
        return None

    def op_pause(self, message: dict[str, Any], fds: list[int]) -> None:
        self._freeze(True)

    def op_resume(self, message: dict[str, Any], fds: list[int]) -> None:
        self._freeze(False)

    def _freeze(self, paused: bool) -> None:
        if self.paused == paused:
            raise Conflict("the machine is paused already" if paused else "the machine is not paused")
        self.paused = paused
        assert self.first is not None
        os.kill(self.first.pid, signal.SIGSTOP if paused else signal.SIGCONT)

    def op_processes(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        assert self.first is not None
        row = {"pid": 1, "ppid": 0, "uid": 0, "command": " ".join(self.first.args), "started_at_ns": 1, "cpu_ns": 5}
        return {"processes": [{**row, "tty": ""}], "truncated": False}

    def op_explain(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        machine = {"memory_bytes": self.plan["memory_bytes"], "vcpus": [{"index": 0, "exits": {"io": 3}}]}
        return {"machine": machine, "link": {}, "agent": {"software": "fake"}}

    def op_ping(self, message: dict[str, Any], fds: list[int]) -> None:
        return None


class _Refusal(BiremeError):
    """An exec that cannot run, as the agent tells it."""

    kind = "invalid"

    def __init__(self, error: OSError, subject: str) -> None:
        super().__init__(str(error.strerror), subject=subject)
        self.stage = "exec"
        self.errno = error.errno or 0


def warm() -> None:
    """There is nothing to prepare."""


def run(plan: dict[str, Any], stdio: Sequence[int], starter: Any) -> NoReturn:
    """What the machine template calls in the child."""
    FakeMachine(plan, stdio, starter).run()
