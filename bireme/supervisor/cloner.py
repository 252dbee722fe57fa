"""What the two programs share whose children become instances' first processes: zygote.py and template.py.

One message, one clone (or several in a row). The first one, and one whenever that changes, is configure{subtree}: the
cgroups that children join. Nothing is answered here: children speak on sockets of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bireme.linux import fd as fdlib
from bireme.linux.cgroup import open_cgroups
from bireme.linux.cgroup.parents import Parents
from bireme.supervisor.service import unspill
from bireme.wire import supervision

if TYPE_CHECKING:
    import socket


class Cloner:
    """The loop. A subclass says what it does before the first message (`warm`) and with each (`obey`)."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._cgroups: Parents | None = None

    def warm(self) -> None:
        raise NotImplementedError

    def obey(self, message: dict[str, Any], fds: list[int]) -> None:
        """Any message but configure. What is left in `fds` afterwards is closed."""
        raise NotImplementedError

    def run(self) -> None:
        """Until the supervisor closes the socket."""
        self.warm()
        while True:
            data, fds = fdlib.recv_fds(self._control)
            if not data:
                return
            message, own = supervision.decode(data, fds, unspill=unspill)
            if message["op"] == "configure":
                self._configure(message["subtree"])
            else:
                self.obey(message, own)
                if self._cgroups is not None:
                    self._cgroups.forget()
            fdlib.close_quietly(*own)

    def _configure(self, subtree: str) -> None:
        if self._cgroups is not None:
            self._cgroups.close()
        self._cgroups = Parents(open_cgroups(subtree))


def give_up_protection() -> None:
    """Keeper and supervisor may be spared by the OOM killer (oom_score_adj below 0); what becomes an instance must not
    inherit that. Raising the value needs no right; proc(5)."""
    with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
        if int(file.read(16)) < 0:
            file.write(b"0")
