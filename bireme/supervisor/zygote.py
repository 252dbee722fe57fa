"""The zygote: a template that every instance's first process is cloned from, and nothing else.

It is forked before the supervisor knows of any instance and never sees a plan (plans go straight to the child), so the
memory its children inherit holds nobody's environment. Its replacement, should it be killed, is a fresh interpreter for
the same reason: the supervisor's memory is not pristine any more.

    supervisor                               zygote
      configure{subtree}             ---->
      spawn{request} + [ctl]         ---->   clones the stage (CLONE_PARENT: the supervisor is its parent), goes on
      spares{requests} + [ctl, ...]  ---->   the same for several children, cloned in a row
      exec{request} + [ctl, pidfd]   ---->   the same for one more process of an instance
      park{} + [ctl]                 ---->   the same for one that will become such a process: runtime/parked.py

Nothing is answered: the stage and the child speak on ctl, and what fails here is reported there too.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

from bireme.linux import fd as fdlib
from bireme.linux import process
from bireme.runtime import exec as runtime_exec
from bireme.runtime import parked, spare, sync
from bireme.supervisor import program
from bireme.supervisor.cloner import Cloner, give_up_protection

NAME = "bireme-zygote"
"""In /proc/PID/comm, also of children that have not executed anything yet."""


class Zygote(Cloner):
    """A clone for each message; several for `spares`."""

    def warm(self) -> None:
        spare.warm()

    def obey(self, message: dict[str, Any], fds: list[int]) -> None:
        operation = message["op"]
        if operation == "spares":
            self._make_spares(message["requests"], [_socket(fds.pop(0)) for _ in message["requests"]])
            return
        with _socket(fds.pop(0)) as ctl:
            try:
                if operation == "spawn":
                    spare.spawn(message["request"], ctl, self._cgroups)
                elif operation == "park":
                    parked.spawn_parked(ctl)
                else:
                    runtime_exec.spawn_exec(message["request"], ctl, fds[0], self._cgroups)
            except OSError as error:
                sync.report(ctl, "clone", error)

    def _make_spares(self, requests: list[spare.SpawnRequest], ctls: list[socket.socket]) -> None:
        try:
            spare.spawn_several(requests, ctls, self._cgroups)
        except OSError as error:
            for ctl in ctls:
                sync.report(ctl, "clone", error)
        for ctl in ctls:
            ctl.close()


def _socket(fd: int) -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=fd)


def run(control: socket.socket) -> None:
    """What the fork does."""
    process.set_name(NAME)
    fdlib.close_all_but([control.fileno()])
    give_up_protection()
    Zygote(control).run()


def main() -> None:
    """What the fresh interpreter does: `--control-fd N`."""
    options = program.parse_arguments("zygote", sys.argv[1:], ("control-fd",))
    control = socket.socket(fileno=int(options["control-fd"]))
    control.set_inheritable(False)
    run(control)


def replace(control: socket.socket) -> None:
    """In the fork of a supervisor that has seen instances: start afresh."""
    control.set_inheritable(True)
    program.execute("zygote", "--control-fd", str(control.fileno()))
