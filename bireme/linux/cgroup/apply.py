"""Doing what a plan says: writes in order, the spelling of other kernels, and refusals turned into the user's words."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from bireme.errors import BiremeError, Invalid, Unsupported
from bireme.linux.cgroup import tree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bireme.linux.cgroup.plan import Step, Write

_CPUSET_REFUSALS = (errno.EINVAL, errno.ERANGE, errno.EACCES, errno.ENOSPC)


def run_steps(name: str, steps: Sequence[Step], directories: Mapping[str, int]) -> None:
    """Write every step into cgroup `name`, below the descriptor of each controller; stops at the first refusal."""
    for step in steps:
        try:
            _write_all(name, step.writes, directories)
        except OSError as error:
            if not (step.retry and error.errno == errno.EINVAL and len(step.writes) > 1):
                raise _explain(name, step.writes, error, directories) from error
            try:
                _write_all(name, step.writes[::-1], directories)
            except OSError as again:
                raise _explain(name, step.writes, again, directories) from again


def _write_all(name: str, writes: Sequence[Write], directories: Mapping[str, int]) -> None:
    for write in writes:
        _write_one(name, write, directories)


def _write_one(name: str, write: Write, directories: Mapping[str, int]) -> None:
    fd = directories.get(write.controller)
    if fd is None:
        raise Unsupported(
            f"the cgroup controller {write.controller} is not available: cannot set {write.file}",
            subject=name,
            place=write.file,
        )
    try:
        tree.write_file(fd, f"{name}/{write.file}", write.value.encode())
    except FileNotFoundError:
        if write.alternative:
            file, value = write.alternative
            _write_one(name, write._replace(file=file, value=value, alternative=None), directories)
        elif not write.optional:
            raise
    except OSError as error:
        error.filename = write.file
        raise


def _explain(name: str, writes: Sequence[Write], error: OSError, directories: Mapping[str, int]) -> BiremeError:
    file = str(error.filename or "").rpartition("/")[2] or writes[0].file
    write = next((w for w in writes if w.file == file), writes[0])
    if error.errno == errno.ENOENT and file in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
        return Unsupported(
            "your kernel does not support swap limit capabilities or the cgroup is not mounted",
            subject=name,
            place=file,
            hint="boot with swapaccount=1",
        )
    if file == "memory.limit_in_bytes" and error.errno == errno.EINVAL:
        return Invalid(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
            subject=name,
            place=file,
        )
    if file in ("cpuset.cpus", "cpuset.mems") and error.errno in _CPUSET_REFUSALS:
        available = _available(file, directories["cpuset"])
        what = "CPUs" if file.endswith("cpus") else "memory nodes"
        return Invalid(
            f"Requested {what} are not available - requested {write.value}, available: {available}",
            subject=name,
            place=file,
        )
    return tree.write_error(name, file, write.value, error)


def _available(file: str, fd: int) -> str:
    effective = tree.read_optional(fd, f"{file}.effective").strip()
    return effective or tree.read_optional(fd, file).strip()
