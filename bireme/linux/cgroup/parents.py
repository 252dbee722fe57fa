"""A manager that also has cgroups below parents a user names (--cgroup-parent).

Names without a slash are those of the subtree; "/PARENT/LEAF" is LEAF below PARENT, a path from the top of the
hierarchies. A parent that is missing is made in each of them, and removed again with its last cgroup; one that was
there stays. `made` tells which, for whoever has to know it after this process: parent -> directories.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bireme.linux.cgroup import open_cgroups, tree
from bireme.linux.cgroup.contract import DEFAULT_RULES, CgroupLimits, CgroupManager, DeviceRule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bireme.linux.cgroup.stats import CgroupStats


class Parents:
    """A CgroupManager; `own` is the manager of the subtree, and belongs to this object."""

    def __init__(self, own: CgroupManager) -> None:
        self._own = own
        self._open: dict[str, CgroupManager] = {}
        self.made: dict[str, list[str]] = {}
        self.on_parent: Callable[[], None] = lambda: None
        """Called when `made` has changed; before a new parent is made, after an old one is gone."""

    def _of(self, name: str) -> tuple[CgroupManager, str]:
        if "/" not in name:
            return self._own, name
        parent, _, leaf = name.rpartition("/")
        manager = self._open.get(parent)
        if manager is None:
            manager = self._open[parent] = open_cgroups(parent or "/")
        return manager, leaf

    def _know(self, name: str) -> None:
        parent = name.rpartition("/")[0]
        if parent and parent not in self.made:
            self.made[parent] = _missing(parent)
            self.on_parent()

    @property
    def version(self) -> int:
        return self._own.version

    @property
    def controllers(self) -> frozenset[str]:
        return self._own.controllers

    def create(self, name: str, devices: Sequence[DeviceRule] = DEFAULT_RULES) -> None:
        if "/" in name:
            self._know(name)
        manager, leaf = self._of(name)
        manager.create(leaf, devices)

    def apply(self, name: str, limits: CgroupLimits) -> None:
        manager, leaf = self._of(name)
        manager.apply(leaf, limits)

    def join(self, name: str) -> None:
        manager, leaf = self._of(name)
        manager.join(leaf)

    def attach(self, name: str, pid: int) -> None:
        manager, leaf = self._of(name)
        manager.attach(leaf, pid)

    def procs_fds(self, name: str) -> list[int]:
        manager, leaf = self._of(name)
        return manager.procs_fds(leaf)

    def clone_fd(self, name: str) -> int:
        manager, leaf = self._of(name)
        return manager.clone_fd(leaf)

    def freeze(self, name: str, timeout_s: float = 10.0) -> None:
        manager, leaf = self._of(name)
        manager.freeze(leaf, timeout_s)

    def thaw(self, name: str) -> None:
        manager, leaf = self._of(name)
        manager.thaw(leaf)

    def frozen(self, name: str) -> bool:
        manager, leaf = self._of(name)
        return manager.frozen(leaf)

    def pids(self, name: str) -> list[int]:
        manager, leaf = self._of(name)
        return manager.pids(leaf)

    def kill(self, name: str, signum: int, wait_s: float = 1.0) -> bool:
        manager, leaf = self._of(name)
        return manager.kill(leaf, signum, wait_s)

    def stats(self, name: str) -> CgroupStats:
        manager, leaf = self._of(name)
        return manager.stats(leaf)

    def oom_kills(self, name: str) -> int:
        manager, leaf = self._of(name)
        return manager.oom_kills(leaf)

    def remove(self, name: str) -> bool:
        manager, leaf = self._of(name)
        done = manager.remove(leaf)
        if done and manager is not self._own:
            self._let_go(name.rpartition("/")[0])
        return done

    def exists(self, name: str) -> bool:
        manager, leaf = self._of(name)
        return manager.exists(leaf)

    def paths(self, name: str) -> dict[str, str]:
        manager, leaf = self._of(name)
        return manager.paths(leaf)

    def list(self) -> list[str]:
        """The subtree's alone; `below` has the others."""
        return self._own.list()

    def below(self) -> Sequence[str]:
        """Names below the parents in `made`, whoever made them; a parent that is gone is forgotten."""
        found: set[str] = set()
        for parent in list(self.made):
            if _missing(parent):
                self._let_go(parent)
            else:
                manager, _ = self._of(f"{parent}/")
                found.update(f"{parent}/{leaf}" for leaf in manager.list())
        return sorted(found)

    def _let_go(self, parent: str) -> None:
        """Close it, and remove what was made for it once that is empty."""
        manager = self._open.pop(parent, None)
        if manager is not None:
            manager.close()
        made = self.made.get(parent)
        if made is not None and not [path for path in reversed(made) if not _remove(path)]:
            del self.made[parent]
            self.on_parent()

    def warm(self) -> None:
        self._own.warm()

    def forget(self) -> None:
        """Close what is open of the parents: another process may remove and make them anew."""
        while self._open:
            self._open.popitem()[1].close()

    def close(self) -> None:
        self.forget()
        self._own.close()

    def close_subtree(self) -> bool:
        for parent in list(self.made):
            self._let_go(parent)
        return self._own.close_subtree()


def _remove(path: str) -> bool:
    """False only when it is still in use."""
    try:
        return tree.remove_quietly(path)
    except OSError:
        return True


def _missing(parent: str) -> list[str]:
    """Directories that the parent lacks, outermost first, in every hierarchy of this machine."""
    with open("/proc/self/mountinfo") as file:
        hierarchies = tree.find_hierarchies(file.read(), tree.known_controllers())
    found = []
    for hierarchy in hierarchies:
        path = hierarchy.path
        for part in tree.check_subtree(parent):
            path = f"{path}/{part}"
            if not os.path.isdir(path):
                found.append(path)
    return found
