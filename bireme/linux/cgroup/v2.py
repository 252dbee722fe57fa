"""Cgroup v2: one tree, controllers handed down by cgroup.subtree_control (admin-guide/cgroup-v2.rst).

What differs from v1: where the subtree may live (systemd.py), devices by a BPF program (bpf_device.py), one file to
kill everything (cgroup.kill, Linux 5.14), and joining that can be part of clone3 (CLONE_INTO_CGROUP with `clone_fd`),
which avoids the slow attach altogether. v2 does not check a cpuset against the machine: numbers that do not exist are
refused here.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import TYPE_CHECKING

from bireme.errors import BiremeError, Conflict, Deadline, Denied, Invalid, NotFound
from bireme.linux.cgroup import systemd, tree
from bireme.linux.cgroup.apply import run_steps
from bireme.linux.cgroup.bpf_device import ProgramCache, attach_program, replace_programs
from bireme.linux.cgroup.contract import DEFAULT_RULES, NO_LIMITS, CgroupLimits, DeviceRule
from bireme.linux.cgroup.devices import reduce_rules
from bireme.linux.cgroup.limits import parse_cpu_list
from bireme.linux.cgroup.plan import merge
from bireme.linux.cgroup.plan_v2 import plan_limits
from bireme.linux.cgroup.stats import CgroupStats, parse_flat, parse_io_stat, parse_number
from bireme.linux.libc import SyscallError

if TYPE_CHECKING:
    from collections.abc import Sequence

_WANTED = frozenset({"cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma", "misc"})
_ALWAYS = frozenset({"cgroup", "devices", "freezer"})


class CgroupsV2:
    """The v2 manager (contract.CgroupManager)."""

    version = 2

    def __init__(self, hierarchy: tree.MountedHierarchy, subtree: str, favordynmods: bool = False) -> None:
        self._parts = parts = tree.check_subtree(subtree)
        with open("/proc/self/cgroup") as file:
            own = systemd.own_cgroup(file.read())
        base = hierarchy.path if subtree.startswith("/") else systemd.find_base(hierarchy.path, own)
        self._path = "/".join([base, *parts])
        self._applied: dict[str, CgroupLimits] = {}
        self._programs = ProgramCache()
        self._dynmods = -1
        self._fd, self._controllers = _open_subtree(base, parts, hierarchy.path + own)
        if favordynmods:
            from bireme.linux.cgroup.dynmods import open_dynmods

            try:
                self._dynmods = open_dynmods()
            except BaseException:
                self.close()
                raise

    @property
    def controllers(self) -> frozenset[str]:
        return self._controllers | _ALWAYS

    def create(self, name: str, devices: Sequence[DeviceRule] = DEFAULT_RULES) -> None:
        tree.check_name(name)
        try:
            os.mkdir(name, 0o755, dir_fd=self._fd)
        except FileExistsError as error:
            raise Conflict(f"cgroup {name} exists already", subject=name) from error
        except OSError as error:
            raise tree.write_error(name, "cgroup", "directory", error) from error
        try:
            self._set_devices(name, devices, fresh=True)
        except BaseException:
            os.rmdir(name, dir_fd=self._fd)
            raise
        self._applied[name] = NO_LIMITS._replace(devices=tuple(devices))

    def _set_devices(self, name: str, devices: Sequence[DeviceRule], *, fresh: bool) -> None:
        program = self._programs.get(reduce_rules(devices))
        if fresh and program < 0:
            return
        fd = self.clone_fd(name)
        try:
            if fresh:
                attach_program(fd, program)
            else:
                replace_programs(fd, program)
        except SyscallError as error:
            kind = Denied if error.errno in (errno.EPERM, errno.EACCES) else Invalid
            raise kind(f"cannot set the device rules: {error}", subject=name, place="devices") from error
        finally:
            os.close(fd)

    def apply(self, name: str, limits: CgroupLimits) -> None:
        old = self._applied.get(name)
        if old is None and not self.exists(name):
            raise tree.missing(name)
        self._check(name, limits)
        steps = plan_limits(limits, old, lambda file: tree.read_optional(self._fd, f"{name}/{file}"))
        run_steps(name, steps, dict.fromkeys({w.controller for s in steps for w in s.writes}, self._fd))
        if limits.devices is not None and (old is None or limits.devices != old.devices):
            self._set_devices(name, limits.devices, fresh=False)
        self._applied[name] = merge(old or NO_LIMITS, limits)

    def _check(self, name: str, limits: CgroupLimits) -> None:
        if limits.check_before_update and limits.memory_bytes not in (None, -1):
            usage = parse_number(tree.read_optional(self._fd, f"{name}/memory.current"))
            if usage > (limits.memory_bytes or 0):
                raise Conflict(
                    f"unable to set memory limit to {limits.memory_bytes} (current usage: {usage})",
                    subject=name,
                    place="memory.limit",
                )
        for file, text in (("cpuset.cpus", limits.cpuset_cpus), ("cpuset.mems", limits.cpuset_mems)):
            available = tree.read_optional(self._fd, f"{file}.effective").strip() if text else ""
            if text and available and not parse_cpu_list(text) <= parse_cpu_list(available):
                what = "CPUs" if file.endswith("cpus") else "memory nodes"
                raise Invalid(
                    f"Requested {what} are not available - requested {text}, available: {available}",
                    subject=name,
                    place=file,
                )

    def join(self, name: str) -> None:
        procs = os.open(f"{name}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._fd)
        os.write(procs, b"0")
        os.close(procs)

    def attach(self, name: str, pid: int) -> None:
        try:
            tree.write_file(self._fd, f"{name}/cgroup.procs", str(pid).encode())
        except FileNotFoundError:
            raise tree.missing(name) from None
        except ProcessLookupError:
            raise NotFound(f"no process {pid}", subject=str(pid)) from None
        except OSError as error:
            raise tree.write_error(name, "cgroup.procs", str(pid), error) from error

    def procs_fds(self, name: str) -> list[int]:
        try:
            return [os.open(f"{name}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._fd)]
        except FileNotFoundError:
            raise tree.missing(name) from None

    def clone_fd(self, name: str) -> int:
        try:
            return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        except FileNotFoundError:
            raise tree.missing(name) from None

    def freeze(self, name: str, timeout_s: float = 10.0) -> None:
        self._write(name, "cgroup.freeze", b"1")
        if not tree.poll_until(lambda: self._events(name).get("frozen") == 1, timeout_s):
            self._write(name, "cgroup.freeze", b"0")
            raise Deadline(f"cgroup {name} did not freeze in {timeout_s:g} s", subject=name, place="cgroup.freeze")

    def thaw(self, name: str) -> None:
        self._write(name, "cgroup.freeze", b"0")

    def frozen(self, name: str) -> bool:
        try:
            return tree.read_file(self._fd, f"{name}/cgroup.freeze").strip() == "1"
        except FileNotFoundError:
            raise tree.missing(name) from None

    def _write(self, name: str, file: str, data: bytes) -> None:
        try:
            tree.write_file(self._fd, f"{name}/{file}", data)
        except FileNotFoundError:
            if not self.exists(name):
                raise tree.missing(name) from None
            raise tree.write_error(name, file, data.decode(), FileNotFoundError(errno.ENOENT, "no such file")) from None
        except OSError as error:
            raise tree.write_error(name, file, data.decode(), error) from error

    def _events(self, name: str) -> dict[str, int]:
        return parse_flat(tree.read_optional(self._fd, f"{name}/cgroup.events"))

    def pids(self, name: str) -> list[int]:
        if not self.exists(name):
            raise tree.missing(name)
        return tree.read_pids(self._fd, name)

    def kill(self, name: str, signum: int, wait_s: float = 1.0) -> bool:
        if not self.exists(name):
            raise tree.missing(name)

        def read() -> list[int]:
            return tree.read_pids(self._fd, name)

        if signum != signal.SIGKILL:
            return tree.signal_all(read, signum)
        try:
            tree.write_file(self._fd, f"{name}/cgroup.kill", b"1")
        except FileNotFoundError:
            tree.signal_all(read, signum)
        if tree.poll_until(lambda: self._events(name).get("populated", 0) == 0, wait_s):
            return True
        tree.signal_all(read, signum)
        return self._events(name).get("populated", 0) == 0

    def stats(self, name: str) -> CgroupStats:
        if not self.exists(name):
            raise tree.missing(name)

        def read(file: str) -> str:
            return tree.read_optional(self._fd, f"{name}/{file}")

        cpu = parse_flat(read("cpu.stat"))
        events = parse_flat(read("memory.events"))
        return CgroupStats(
            read_at_ns=time.time_ns(),
            cpu_total_ns=cpu.get("usage_usec", 0) * 1000,
            cpu_user_ns=cpu.get("user_usec", 0) * 1000,
            cpu_system_ns=cpu.get("system_usec", 0) * 1000,
            cpu_periods=cpu.get("nr_periods", 0),
            cpu_throttled_periods=cpu.get("nr_throttled", 0),
            cpu_throttled_ns=cpu.get("throttled_usec", 0) * 1000,
            memory_bytes=parse_number(read("memory.current")),
            memory_limit_bytes=parse_number(read("memory.max")),
            memory_max_bytes=parse_number(read("memory.peak")),
            memory_swap_bytes=parse_number(read("memory.swap.current")),
            memory_failures=events.get("max", 0),
            memory_stat=parse_flat(read("memory.stat")),
            pids=parse_number(read("pids.current")),
            pids_limit=parse_number(read("pids.max")),
            block=parse_io_stat(read("io.stat")),
            oom_kills=events.get("oom_kill", 0),
        )

    def oom_kills(self, name: str) -> int:
        return parse_flat(tree.read_optional(self._fd, f"{name}/memory.events")).get("oom_kill", 0)

    def remove(self, name: str) -> bool:
        done = tree.remove_directory(self._fd, tree.check_name(name))
        if done:
            self._applied.pop(name, None)
        return done

    def exists(self, name: str) -> bool:
        try:
            os.stat(tree.check_name(name), dir_fd=self._fd)
        except FileNotFoundError:
            return False
        return True

    def paths(self, name: str) -> dict[str, str]:
        return {"": f"{self._path}/{tree.check_name(name)}"}

    def list(self) -> list[str]:
        return sorted(tree.list_children(self._fd))

    def warm(self) -> None:
        try:
            self._programs.get(reduce_rules(DEFAULT_RULES))
        except BiremeError:
            pass
        device = tree.first_disk()
        if "io" not in self._controllers or not device:
            return
        name = f".warm-{os.getpid()}"
        try:
            os.mkdir(name, 0o755, dir_fd=self._fd)
            tree.write_file(self._fd, f"{name}/io.max", f"{device} rbps=1073741824".encode())
        except OSError:
            pass
        finally:
            tree.remove_directory(self._fd, name)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._programs.close()
        if self._dynmods >= 0:
            os.close(self._dynmods)
            self._dynmods = -1

    def close_subtree(self) -> bool:
        if not self._parts:
            self.close()
            return True
        left = [name for name in self.list() if not self.remove(name)]
        self.close()
        return not left and tree.remove_quietly(self._path)


def _open_subtree(base: str, parts: Sequence[str], own: str) -> tuple[int, frozenset[str]]:
    """The descriptor of the subtree, made when missing, and the controllers its children have."""
    path = base
    try:
        current = tree.open_directory(path)
        try:
            for part in parts:
                systemd.enable_controllers(current, _WANTED, may_move=path == own)
                tree.make_directory(current, part)
                below = tree.open_directory(part, current)
                os.close(current)
                current, path = below, f"{path}/{part}"
            return current, systemd.enable_controllers(current, _WANTED, may_move=path == own)
        except BaseException:
            os.close(current)
            raise
    except OSError as error:
        raise tree.write_error("/".join(parts), path, "directory", error) from error
