"""`delete`: take a container that stopped away, and what is left of one whose creator was killed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bireme.errors import BiremeError, Conflict, NotFound
from bireme.linux import process
from bireme.linux.cgroup.tree import poll_until
from bireme.runtime import state as store
from bireme.runtime.command import cgroup

if TYPE_CHECKING:
    from bireme.runtime.main import Options
    from bireme.runtime.state import Container

_DEADLINE_S = 10.0


def run(options: Options) -> int:
    force = options.flag("force")
    try:
        container = store.load(options.root, options.id, lock=True)
    except NotFound:
        if force:
            return 0
        raise
    status = container.status()
    if status in (store.RUNNING, store.PAUSED, store.CREATING) and not force:
        raise Conflict(
            f"cannot delete container {container.id} that is not stopped: {status}",
            subject=container.id,
            hint="--force",
        )
    destroy(container, force=force or status == store.CREATED)
    return 0


def destroy(container: Container, *, force: bool) -> None:
    """End what runs, remove the cgroup, run poststop hooks, forget it. The container's lock is held, and goes."""
    if container.alive():
        _kill(container)
    if not cgroup.remove(container.data, kill=force or not _has_own_pids(container)):
        raise Conflict("container has processes that do not end", subject=container.id, place="cgroup")
    problem = _after_stop(container)
    container.remove()
    if problem is not None:
        raise problem


def _kill(container: Container) -> None:
    pid = int(container.data["pid"])
    pidfd = process.pidfd_open(pid)
    try:
        if not container.alive():
            return
        process.pidfd_send_signal(pidfd, 9)
        if container.data.get("cgroup"):
            manager, name = cgroup.open_of(container.data)
            try:
                if manager.exists(name):
                    manager.kill(name, 9, _DEADLINE_S)
            finally:
                manager.close()
        if not poll_until(lambda: not container.alive(), _DEADLINE_S):
            raise Conflict(f"process {pid} does not end", subject=container.id)
    finally:
        os.close(pidfd)


def _has_own_pids(container: Container) -> bool:
    """With a pid namespace of its own nothing outlives the first process."""
    return bool(container.data.get("namespaces", {}).get("pid") == "")


def _after_stop(container: Container) -> BiremeError | None:
    """poststop hooks; the first problem is told when all is gone."""
    try:
        entries = container.config().get("hooks", {}).get("poststop")
    except (OSError, ValueError):
        return None
    if not entries:
        return None
    from bireme.runtime import hooks

    problem = None
    for hook in entries:
        try:
            hooks.run("poststop", [hook], container.hook_state(store.STOPPED), container.data.get("bundle", ""))
        except BiremeError as error:
            problem = problem or error
    return problem
