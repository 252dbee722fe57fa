"""Cgroup v1: one hierarchy per controller (or group of controllers), cgroups(7) and admin-guide/cgroup-v1.

A name is one directory in every mounted hierarchy; creating nine of them with the default device rules takes about
400 us. Traps handled here:

- an attach takes a system-wide lock that costs 10 ms after a quiet period: see dynmods.py;
- a new cpuset cgroup has no CPUs and refuses processes: the subtree gets its parent's and `cgroup.clone_children`, so
  that the kernel fills in every child;
- "devices" inherits its parent's rules: each cgroup writes its own list once, at create, and only differences later;
- FROZEN is not reached at once, and a fork race can leave FREEZING for good: FROZEN is written again while waiting;
- a SIGKILLed process that is frozen dies only when thawed.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import TYPE_CHECKING

from bireme.errors import BiremeError, Conflict, Deadline, Denied, NotFound, Unsupported
from bireme.linux.cgroup import tree
from bireme.linux.cgroup.apply import run_steps
from bireme.linux.cgroup.contract import DEFAULT_RULES, NO_LIMITS, CgroupLimits, DeviceRule
from bireme.linux.cgroup.devices import DevicePolicy, plan_device_writes, reduce_rules
from bireme.linux.cgroup.plan import merge
from bireme.linux.cgroup.plan_v1 import plan_limits
from bireme.linux.cgroup.stats import (
    CgroupStats,
    parse_blkio,
    parse_flat,
    parse_limit_v1,
    parse_number,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_USER_HZ_NS = 10_000_000
_DEFAULT_POLICY = reduce_rules(DEFAULT_RULES)
_DEFAULT_WRITES = plan_device_writes(_DEFAULT_POLICY, None)


class CgroupsV1:
    """The v1 manager (contract.CgroupManager)."""

    version = 1

    def __init__(self, hierarchies: Sequence[tree.MountedHierarchy], subtree: str, favordynmods: bool = False) -> None:
        self._parts = tree.check_subtree(subtree)
        self._subtree = "/".join(self._parts)
        self._mounts: list[tuple[int, str, tuple[str, ...]]] = []
        self._fds: dict[str, int] = {}
        self._applied: dict[str, CgroupLimits] = {}
        self._policies: dict[str, DevicePolicy] = {}
        self._dynmods = -1
        self._cpuset_by_hand = -1
        try:
            for hierarchy in hierarchies:
                fd = self._open_hierarchy(hierarchy)
                self._mounts.append((fd, f"{hierarchy.path}/{self._subtree}", hierarchy.controllers))
                self._fds.update(dict.fromkeys(hierarchy.controllers, fd))
            if favordynmods:
                from bireme.linux.cgroup.dynmods import open_dynmods

                self._dynmods = open_dynmods()
        except BaseException:
            self.close()
            raise
        home = next((c for c in ("pids", "freezer", "memory", "systemd") if c in self._fds), None)
        if home is None:
            raise Unsupported("no cgroup hierarchy is mounted", hint="mount cgroup v1 controllers or cgroup2")
        self._home = self._fds[home]
        self._devices = self._fds.get("devices", -1)

    @property
    def controllers(self) -> frozenset[str]:
        return frozenset(self._fds)

    def _open_hierarchy(self, hierarchy: tree.MountedHierarchy) -> int:
        cpuset = "cpuset" in hierarchy.controllers
        current = tree.open_directory(hierarchy.path)
        try:
            for part in self._parts:
                made = tree.make_directory(current, part)
                below = tree.open_directory(part, current)
                current, parent = below, current
                try:
                    if cpuset:
                        _fill_cpuset(parent, below)
                        if made:
                            tree.write_file(below, "cgroup.clone_children", b"1")
                finally:
                    os.close(parent)
            if cpuset and tree.read_file(current, "cgroup.clone_children").strip() != "1":
                self._cpuset_by_hand = current
            if "memory" in hierarchy.controllers and self._parts:
                _use_hierarchy(current)
        except BaseException as error:
            os.close(current)
            if isinstance(error, OSError):
                place = f"{hierarchy.path}/{self._subtree}"
                raise tree.write_error(self._subtree, place, "directory", error) from error
            raise
        return current

    def create(self, name: str, devices: Sequence[DeviceRule] = DEFAULT_RULES) -> None:
        tree.check_name(name)
        made: list[int] = []
        try:
            for fd, _, _ in self._mounts:
                os.mkdir(name, 0o755, dir_fd=fd)
                made.append(fd)
            if self._cpuset_by_hand >= 0:
                self._fill_child(name)
            if self._devices >= 0:
                default = devices is DEFAULT_RULES
                policy = _DEFAULT_POLICY if default else reduce_rules(devices)
                self._write_devices(name, _DEFAULT_WRITES if default else plan_device_writes(policy, None))
                self._policies[name] = policy
        except (OSError, BiremeError) as error:
            for fd in made:
                os.rmdir(name, dir_fd=fd)
            if isinstance(error, FileExistsError):
                raise Conflict(f"cgroup {name} exists already", subject=name) from error
            if isinstance(error, OSError):
                raise tree.write_error(name, "cgroup", "directory", error) from error
            raise
        self._applied[name] = NO_LIMITS._replace(devices=tuple(devices))

    def _fill_child(self, name: str) -> None:
        child = tree.open_directory(name, self._cpuset_by_hand)
        try:
            _fill_cpuset(self._cpuset_by_hand, child)
        finally:
            os.close(child)

    def _write_devices(self, name: str, writes: list[tuple[str, bytes]]) -> None:
        opened: dict[str, int] = {}
        try:
            for file, line in writes:
                fd = opened.get(file)
                if fd is None:
                    fd = os.open(f"{name}/{file}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._devices)
                    opened[file] = fd
                os.write(fd, line)
        except OSError as error:
            if error.errno == errno.EPERM:
                raise Denied(
                    f"the device rule {line.decode()} is more than this machine's own cgroup may use",
                    subject=name,
                    place=file,
                ) from error
            raise
        finally:
            for fd in opened.values():
                os.close(fd)

    def apply(self, name: str, limits: CgroupLimits) -> None:
        if limits.unified:
            raise Unsupported("unified resources need cgroup v2", subject=name, place="linux.resources.unified")
        old = self._applied.get(name)
        if old is None and not self.exists(name):
            raise tree.missing(name)
        if limits.check_before_update and limits.memory_bytes not in (None, -1):
            self._check_usage(name, limits.memory_bytes or 0)
        run_steps(name, plan_limits(limits, old, lambda: self._current_memsw(name)), self._fds)
        if limits.devices is not None and self._devices >= 0 and (old is None or limits.devices != old.devices):
            policy = reduce_rules(limits.devices)
            try:
                self._write_devices(name, plan_device_writes(policy, self._policies.get(name)))
            except OSError as error:
                raise tree.write_error(name, "devices", "these rules", error) from error
            self._policies[name] = policy
        self._applied[name] = merge(old or NO_LIMITS, limits)

    def _current_memsw(self, name: str) -> int:
        text = tree.read_optional(self._fds["memory"], f"{name}/memory.memsw.limit_in_bytes")
        return parse_limit_v1(text) or -1

    def _check_usage(self, name: str, limit: int) -> None:
        usage = parse_number(tree.read_optional(self._fds["memory"], f"{name}/memory.usage_in_bytes"))
        if usage > limit:
            raise Conflict(
                f"unable to set memory limit to {limit} (current usage: {usage})", subject=name, place="memory.limit"
            )

    def join(self, name: str) -> None:
        path = f"{name}/cgroup.procs"
        for fd, _, _ in self._mounts:
            procs = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=fd)
            os.write(procs, b"0")
            os.close(procs)

    def attach(self, name: str, pid: int) -> None:
        data = str(pid).encode()
        for fd, _, _ in self._mounts:
            try:
                tree.write_file(fd, f"{name}/cgroup.procs", data)
            except FileNotFoundError:
                raise tree.missing(name) from None
            except ProcessLookupError:
                raise NotFound(f"no process {pid}", subject=str(pid)) from None
            except OSError as error:
                raise tree.write_error(name, "cgroup.procs", str(pid), error) from error

    def procs_fds(self, name: str) -> list[int]:
        fds: list[int] = []
        try:
            for fd, _, _ in self._mounts:
                fds.append(os.open(f"{name}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=fd))
        except FileNotFoundError:
            for fd in fds:
                os.close(fd)
            raise tree.missing(name) from None
        return fds

    def clone_fd(self, name: str) -> int:
        return -1

    def freeze(self, name: str, timeout_s: float = 10.0) -> None:
        fd, path = self._freezer(name)

        def is_frozen() -> bool:
            tree.write_file(fd, path, b"FROZEN")
            return tree.read_file(fd, path).strip() == "FROZEN"

        try:
            if tree.poll_until(is_frozen, timeout_s):
                return
            tree.write_file(fd, path, b"THAWED")
        except FileNotFoundError:
            raise tree.missing(name) from None
        raise Deadline(f"cgroup {name} did not freeze in {timeout_s:g} s", subject=name, place=path)

    def thaw(self, name: str) -> None:
        fd, path = self._freezer(name)
        try:
            tree.write_file(fd, path, b"THAWED")
        except FileNotFoundError:
            raise tree.missing(name) from None

    def frozen(self, name: str) -> bool:
        fd, path = self._freezer(name)
        try:
            return tree.read_file(fd, path).strip() != "THAWED"
        except FileNotFoundError:
            raise tree.missing(name) from None

    def _freezer(self, name: str) -> tuple[int, str]:
        fd = self._fds.get("freezer")
        if fd is None:
            raise Unsupported("the cgroup controller freezer is not mounted", subject=name)
        return fd, f"{name}/freezer.state"

    def pids(self, name: str) -> list[int]:
        if not self.exists(name):
            raise tree.missing(name)
        return tree.read_pids(self._home, name)

    def kill(self, name: str, signum: int, wait_s: float = 1.0) -> bool:
        if not self.exists(name):
            raise tree.missing(name)

        def read() -> list[int]:
            return tree.read_pids(self._home, name)

        settled = tree.signal_all(read, signum)
        if not settled and "freezer" in self._fds:
            settled = self._kill_frozen(name, signum)
        if signum != signal.SIGKILL:
            return settled
        fd, path = self._freezer(name) if "freezer" in self._fds else (-1, "")
        if fd >= 0 and tree.read_optional(fd, path).strip() not in ("", "THAWED"):
            tree.write_file(fd, path, b"THAWED")

        def is_empty() -> bool:
            left = read()
            for pid in left:
                try:
                    os.kill(pid, signum)
                except ProcessLookupError:
                    pass
            return not left

        return tree.poll_until(is_empty, wait_s)

    def _kill_frozen(self, name: str, signum: int) -> bool:
        """For a fork bomb: nothing forks while it is frozen (or freezing), so one more pass catches all."""
        fd, path = self._freezer(name)
        was = tree.read_file(fd, path).strip()
        tree.write_file(fd, path, b"FROZEN")
        try:
            time.sleep(0.001)
            return tree.signal_all(lambda: tree.read_pids(self._home, name), signum)
        finally:
            if was == "THAWED":
                tree.write_file(fd, path, b"THAWED")

    def stats(self, name: str) -> CgroupStats:
        if not self.exists(name):
            raise tree.missing(name)

        def read(controller: str, file: str) -> str:
            fd = self._fds.get(controller)
            return tree.read_optional(fd, f"{name}/{file}") if fd is not None else ""

        cpu = parse_flat(read("cpu", "cpu.stat"))
        times = parse_flat(read("cpuacct", "cpuacct.stat"))
        memory_bytes = parse_number(read("memory", "memory.usage_in_bytes"))
        with_swap = parse_number(read("memory", "memory.memsw.usage_in_bytes"))
        return CgroupStats(
            read_at_ns=time.time_ns(),
            cpu_total_ns=parse_number(read("cpuacct", "cpuacct.usage")),
            cpu_user_ns=times.get("user", 0) * _USER_HZ_NS,
            cpu_system_ns=times.get("system", 0) * _USER_HZ_NS,
            cpu_percpu_ns=tuple(int(n) for n in read("cpuacct", "cpuacct.usage_percpu").split()),
            cpu_periods=cpu.get("nr_periods", 0),
            cpu_throttled_periods=cpu.get("nr_throttled", 0),
            cpu_throttled_ns=cpu.get("throttled_time", 0),
            memory_bytes=memory_bytes,
            memory_limit_bytes=parse_limit_v1(read("memory", "memory.limit_in_bytes")),
            memory_max_bytes=parse_number(read("memory", "memory.max_usage_in_bytes")),
            memory_swap_bytes=max(with_swap - memory_bytes, 0),
            memory_failures=parse_number(read("memory", "memory.failcnt")),
            memory_stat=parse_flat(read("memory", "memory.stat")),
            pids=parse_number(read("pids", "pids.current")),
            pids_limit=parse_number(read("pids", "pids.max")),
            block=self._block_stats(name),
            oom_kills=self.oom_kills(name),
        )

    def _block_stats(self, name: str) -> dict[str, dict[str, int]]:
        fd = self._fds.get("blkio")
        if fd is None:
            return {}
        block: dict[str, dict[str, int]] = {}
        for policy in ("throttle", "bfq"):
            for file, unit in (("io_service_bytes_recursive", "bytes"), ("io_serviced_recursive", "ios")):
                parse_blkio(tree.read_optional(fd, f"{name}/blkio.{policy}.{file}"), unit, block)
            if block:
                break
        return block

    def oom_kills(self, name: str) -> int:
        fd = self._fds.get("memory")
        if fd is None:
            return 0
        return parse_flat(tree.read_optional(fd, f"{name}/memory.oom_control")).get("oom_kill", 0)

    def remove(self, name: str) -> bool:
        tree.check_name(name)
        done = True
        for fd, _, _ in self._mounts:
            done = tree.remove_directory(fd, name) and done
        if done:
            self._applied.pop(name, None)
            self._policies.pop(name, None)
        return done

    def exists(self, name: str) -> bool:
        try:
            os.stat(tree.check_name(name), dir_fd=self._home)
        except FileNotFoundError:
            return False
        return True

    def paths(self, name: str) -> dict[str, str]:
        return {c: f"{path}/{tree.check_name(name)}" for _, path, controllers in self._mounts for c in controllers}

    def list(self) -> list[str]:
        names: set[str] = set()
        for fd, _, _ in self._mounts:
            names.update(tree.list_children(fd))
        return sorted(names)

    def warm(self) -> None:
        fd = self._fds.get("blkio")
        device = tree.first_disk()
        if fd is None or not device:
            return
        name = f".warm-{os.getpid()}"
        try:
            os.mkdir(name, 0o755, dir_fd=fd)
            tree.write_file(fd, f"{name}/blkio.throttle.read_bps_device", f"{device} 1073741824".encode())
        except OSError:
            pass
        finally:
            tree.remove_directory(fd, name)

    def close(self) -> None:
        for fd, _, _ in self._mounts:
            os.close(fd)
        self._mounts = []
        self._fds = {}
        if self._dynmods >= 0:
            os.close(self._dynmods)
            self._dynmods = -1

    def close_subtree(self) -> bool:
        if not self._parts:
            self.close()
            return True
        left = [name for name in self.list() if not self.remove(name)]
        subtrees = [path for _, path, _ in self._mounts]
        self.close()
        return not left and all(tree.remove_quietly(path) for path in subtrees)


def _fill_cpuset(parent: int, child: int) -> None:
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not tree.read_file(child, file).strip():
            tree.write_file(child, file, tree.read_file(parent, file).strip().encode())


def _use_hierarchy(fd: int) -> None:
    """Before Linux 5.11 a memory cgroup counts its children only when told to."""
    if tree.read_optional(fd, "memory.use_hierarchy").strip() == "0":
        try:
            tree.write_file(fd, "memory.use_hierarchy", b"1")
        except OSError:
            pass
