"""When the keeper is gone: the supervisor becomes it, because it is the parent of the instances.

Starts under way are given a moment to finish. Then everything the keeper held is passed through execve(2) to the
keeper's program, which starts a new supervisor; helpers notice that their sockets close, and end.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bireme.supervisor import program

if TYPE_CHECKING:
    from collections.abc import Callable

    from bireme.linux.poll import Loop

_RETRY_S = 0.01
_PATIENCE = 200


class Succession:
    """`begin` once; `busy` says whether starts are under way; `flush` writes what is pending."""

    def __init__(
        self,
        loop: Loop,
        run_root: str,
        lock: int,
        held: Callable[[], dict[str, int]],
        busy: Callable[[], bool],
        flush: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._run_root = run_root
        self._lock = lock
        self._held = held
        self._busy = busy
        self._flush = flush
        self._tries = 0

    def begin(self) -> None:
        """Execute the keeper as soon as nothing is half done."""
        self._tries += 1
        if self._busy() and self._tries < _PATIENCE:
            self._loop.call_later(_RETRY_S, self.begin)
            return
        program.log("supervisor", f"the keeper is gone, process {os.getpid()} takes its place")
        self._flush()
        held = self._held()
        table = os.memfd_create("held", 0)
        for name, fd in held.items():
            try:
                os.set_inheritable(fd, True)
            except OSError as error:
                program.log("supervisor", f"descriptor {fd} of {name} is not there: {error}")
            else:
                os.write(table, f"{fd} {name}\n".encode())
        os.set_inheritable(self._lock, True)
        options = {"run-root": self._run_root, "adopt": str(table), "lock-fd": str(self._lock), "sealed": "yes"}
        program.execute("keeper", *(word for name, value in options.items() for word in (f"--{name}", value)))
