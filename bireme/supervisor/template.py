"""The machine template: a program that has imported the monitor, and clones itself for every machine.

Like the zygote it never sees a plan (plans go straight to the child), so what its children inherit is nobody's; unlike
the zygote it is a fresh interpreter from the start, because it is wanted late, when the supervisor's memory is not
pristine any more. Its pages are shared by all machines.

    supervisor                               template
      configure{subtree}             ---->
      spawn{request} + [ctl]         ---->   clones the child (CLONE_PARENT: the supervisor is its parent), goes on
                                             the child: child{pid}+[pidfd] (said by the template), ready, see sync.py

The child is process 1 of a pid namespace, in the slot's cgroup, still with root's rights on the host: it opens what its
plan names, forks its device processes, and jails itself (bireme.vmm).
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

from bireme.errors import BiremeError
from bireme.linux import fd as fdlib
from bireme.linux import process
from bireme.linux.process import CloneFlags
from bireme.runtime import sync
from bireme.runtime.cloning import clone_into
from bireme.supervisor import program
from bireme.supervisor.cloner import Cloner, give_up_protection

if TYPE_CHECKING:
    from collections.abc import Sequence


NAME = "bireme-machines"
CHILD_NAME = "bireme-vmm"
MONITOR = "bireme.vmm.child"
"""The module whose `run` becomes a machine; BIREME_MONITOR names another one (a test's)."""
FAILED = 255
_FLAGS = CloneFlags.CLONE_PARENT | CloneFlags.CLONE_NEWPID
"""Its other namespaces the child makes when it has opened what it needs (bireme.vmm.jail.leave_host)."""


class Monitor(Protocol):
    """What the module offers."""

    def warm(self) -> None:
        """Once, before the first machine."""
        ...

    def run(self, plan: dict[str, Any], stdio: Sequence[int], starter: Starter) -> NoReturn: ...


class Starter:
    """A machine's words to the supervisor; see runtime/sync.py."""

    def __init__(self, ctl: socket.socket) -> None:
        self._ctl = ctl

    def fileno(self) -> int:
        """To be kept open until `running` or `failed`; -1 after that."""
        return self._ctl.fileno()

    def console(self, master: int) -> None:
        """The pty the first process talks to; the descriptor stays the caller's."""
        sync.send_message(self._ctl, {"m": "console"}, [master])

    def running(self) -> None:
        """The guest's program was executed; nothing more can be said."""
        sync.send_message(self._ctl, {"m": "running"})
        self._ctl.close()

    def failed(self, stage: str, number: int, subject: str, message: str) -> None:
        """It will not run; nothing more can be said, and nothing can when it runs or the supervisor is gone."""
        if self._ctl.fileno() < 0:
            return
        try:
            sync.send_message(
                self._ctl, {"m": "error", "stage": stage, "errno": number, "subject": subject, "message": message}
            )
        except OSError:
            pass
        self._ctl.close()


class Template(Cloner):
    """A clone for each message."""

    def __init__(self, control: socket.socket, monitor: Monitor) -> None:
        super().__init__(control)
        self._monitor = monitor

    def warm(self) -> None:
        self._monitor.warm()
        gc.collect()
        gc.freeze()

    def obey(self, message: dict[str, Any], fds: list[int]) -> None:
        with socket.socket(fileno=os.dup(fds[0])) as ctl:
            try:
                self._spawn(message["request"]["cgroup"], ctl)
            except (OSError, BiremeError) as error:
                sync.report(ctl, "clone", error)

    def _spawn(self, cgroup: str, ctl: socket.socket) -> None:
        reader, writer = os.pipe()
        pidfd = -1
        try:
            pid, pidfd, joined = clone_into(self._cgroups, cgroup, int(_FLAGS))
            if pid == 0:
                self._child(ctl, reader, writer, "" if joined else cgroup)
            sync.send_message(ctl, {"m": "child", "pid": pid}, [pidfd])
            os.write(writer, b"+")
        finally:
            fdlib.close_quietly(reader, writer, pidfd)

    def _child(self, ctl: socket.socket, reader: int, writer: int, cgroup: str) -> NoReturn:
        """Waits until the supervisor has heard of it, then for its plan; never returns."""
        code = FAILED
        try:
            os.close(writer)
            if os.read(reader, 1) != b"+":
                os._exit(1)
            if cgroup and self._cgroups is not None:
                self._cgroups.join(cgroup)
            process.set_name(CHILD_NAME)
            process.set_dumpable(False)
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
            os.setsid()
            fdlib.close_all_but([ctl.fileno()])
            sync.send_message(ctl, {"m": "ready"})
            started = sync.receive_message(ctl)
            if started is None:
                os._exit(0)
            message, stdio = started
            self._monitor.run(message["plan"], stdio, Starter(ctl))
        except BaseException as error:
            program.log_traceback("vmm", f"{type(error).__name__}: {error}")
            sync.report(ctl, "monitor", error)
        finally:
            os._exit(code)


def main() -> None:
    """`--control-fd N`."""
    options = program.parse_arguments("template", sys.argv[1:], ("control-fd",))
    control = socket.socket(fileno=int(options["control-fd"]))
    control.set_inheritable(False)
    process.set_name(NAME)
    process.set_pdeathsig(signal.SIGKILL)
    fdlib.close_all_but([control.fileno()])
    give_up_protection()
    monitor = import_module(os.environ.get("BIREME_MONITOR", MONITOR))
    Template(control, cast("Monitor", monitor)).run()


if __name__ == "__main__":
    main()
