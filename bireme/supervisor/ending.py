"""The end of everything of a run root: only when nothing runs, and then without leaving anything."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from bireme.errors import Conflict
from bireme.linux import fd as fdlib
from bireme.supervisor import program

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bireme.supervisor.main import Supervisor
    from bireme.supervisor.server import Caller

_STEP_S = 0.02
_PATIENCE = 500


class Ending:
    """`shutdown` is the operation, `wish` the same asked for by a signal."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._steps = 0
        self.begun = False

    def reason_to_stay(self) -> str:
        """What runs, or "" when nothing does."""
        supervisor = self._supervisor
        running = [instance.id for instance in supervisor.table if instance.ended is None]
        if running:
            return f"{len(running)} instances run, {running[0]} among them"
        if supervisor.launches.under_way:
            return "an instance is being started"
        return ""

    def shutdown(self, _caller: Caller, _message: dict[str, Any], fds: list[int]) -> Mapping[str, Any]:
        """Conflict while something runs; otherwise everything is gone when keeper and socket are."""
        fdlib.close_quietly(*fds)
        reason = self.reason_to_stay()
        if reason:
            raise Conflict(f"the supervisor cannot end: {reason}", hint="stop the instances first")
        self._begin()
        return {}

    def wish(self) -> None:
        """SIGTERM to us or to the keeper."""
        reason = self.reason_to_stay()
        if reason:
            program.log("supervisor", f"asked to end, refused: {reason}")
        else:
            self._begin()

    def _begin(self) -> None:
        if not self.begun:
            self.begun = True
            self._supervisor.pool.discard_all()
            self._supervisor.loop.call_later(_STEP_S, self._step)

    def _step(self) -> None:
        """Spares on their way arrive and leave, cgroups become empty."""
        supervisor = self._supervisor
        self._steps += 1
        while supervisor.slots.tidy():
            pass
        supervisor.slots.retry()
        if (supervisor.pool.building or supervisor.slots.backlog) and self._steps < _PATIENCE:
            supervisor.loop.call_later(_STEP_S, self._step)
            return
        self._finish()

    def _finish(self) -> None:
        supervisor = self._supervisor
        for helper in (supervisor.zygote, supervisor.logger, supervisor.relay):
            helper.stop()
        supervisor.machines.stop()
        if supervisor.slots.configured and not supervisor.slots.cgroups.close_subtree():
            program.log("supervisor", "something is left in the cgroups")
        supervisor.server.close()
        self._remove_files()
        supervisor.keeper.end()
        supervisor.loop.stop()

    def _remove_files(self) -> None:
        """The journal stays when it holds exits that nobody has taken notice of."""
        supervisor = self._supervisor
        supervisor.journal.flush()
        names = ["supervisor.sock", "supervisor.pid", "supervisor.lock", "logger.lock"]
        if not supervisor.table.instances:
            names.append("journal")
        for name in names:
            try:
                os.unlink(os.path.join(supervisor.run_root, name))
            except FileNotFoundError:
                continue
        os.rmdir(os.path.join(supervisor.run_root, "void"))
