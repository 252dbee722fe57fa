"""The process part of a plan: who runs what with which rights. Pure."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, NotRequired, TypedDict

from bireme.errors import Invalid
from bireme.linux import capabilities

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bireme.oci.runtime_spec import CapabilitySets, Process

RLIMITS: dict[str, int] = {
    name: getattr(resource, name)
    for name in (
        "RLIMIT_AS",
        "RLIMIT_CORE",
        "RLIMIT_CPU",
        "RLIMIT_DATA",
        "RLIMIT_FSIZE",
        "RLIMIT_MEMLOCK",
        "RLIMIT_MSGQUEUE",
        "RLIMIT_NICE",
        "RLIMIT_NOFILE",
        "RLIMIT_NPROC",
        "RLIMIT_RSS",
        "RLIMIT_RTPRIO",
        "RLIMIT_RTTIME",
        "RLIMIT_SIGPENDING",
        "RLIMIT_STACK",
    )
    if hasattr(resource, name)
} | {"RLIMIT_LOCKS": 10, "RLIMIT_RTTIME": 15}

_INFINITY = (1 << 64) - 1
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}


class CapabilityPlan(TypedDict):
    """Bit masks of the five sets."""

    bounding: int
    effective: int
    permitted: int
    inheritable: int
    ambient: int


class ExecPlan(TypedDict):
    """One process. `user` and `group_names` (text, resolved inside) win over `uid`, `gid` when not empty.

    `seccomp`: "", "default", or a compiled program in base64. `rlimits` rows are [number, soft, hard], -1 = unlimited.
    """

    args: list[str]
    env: list[str]
    cwd: str
    uid: int
    gid: int
    groups: list[int]
    user: str
    group_names: list[str]
    umask: int
    capabilities: CapabilityPlan
    no_new_privs: bool
    seccomp: str
    seccomp_flags: int
    """SECCOMP_FILTER_FLAG_* the filter is loaded with."""
    terminal: bool
    rows: int
    columns: int
    rlimits: list[list[int]]
    oom_score_adj: int | None
    io_priority: int
    """Class in the upper bits as for ioprio_set(2), -1 = left alone."""
    pass_files: NotRequired[int]


def plan_process(
    process: Process, *, user: str, groups: Sequence[str], seccomp: str, seccomp_flags: int = 0
) -> ExecPlan:
    """Check and flatten the specification's process; Invalid says what is wrong."""
    args = process.get("args", [])
    if not args:
        raise Invalid("no command specified", subject="args")
    _check_texts("argument", args)
    env = process.get("env", [])
    _check_texts("environment variable", env)
    cwd = process.get("cwd", "/") or "/"
    if not cwd.startswith("/"):
        raise Invalid(f"the working directory '{cwd}' is invalid, it needs to be an absolute path", subject=cwd)
    identity = process.get("user", {})
    box = process.get("consoleSize")
    return {
        "args": list(args),
        "env": list(env),
        "cwd": cwd,
        "uid": _id(identity.get("uid", 0)),
        "gid": _id(identity.get("gid", 0)),
        "groups": [_id(gid) for gid in identity.get("additionalGids", [])],
        "user": user,
        "group_names": list(groups),
        "umask": identity.get("umask", 0o022),
        "capabilities": plan_capabilities(process.get("capabilities")),
        "no_new_privs": bool(process.get("noNewPrivileges")),
        "seccomp": seccomp,
        "seccomp_flags": seccomp_flags,
        "terminal": bool(process.get("terminal")),
        "rows": box["height"] if box else 0,
        "columns": box["width"] if box else 0,
        "rlimits": _rlimits(process),
        "oom_score_adj": _oom_score_adj(process),
        "io_priority": _io_priority(process),
    }


def _check_texts(what: str, texts: Sequence[str]) -> None:
    for text in texts:
        if not isinstance(text, str) or "\0" in text:
            raise Invalid(f"{what} {text!r} is not a string without NUL", subject=what)


def _id(value: int) -> int:
    if not 0 <= value <= 0x7FFFFFFF:
        raise Invalid("uids and gids must be in range 0-2147483647", subject=str(value))
    return value


def plan_capabilities(sets: CapabilitySets | None) -> CapabilityPlan:
    """Masks; without the object the process has none. Names the kernel does not know are Invalid."""
    given: CapabilitySets = sets or {}
    return {
        "bounding": capabilities.mask_of(given.get("bounding", [])),
        "effective": capabilities.mask_of(given.get("effective", [])),
        "permitted": capabilities.mask_of(given.get("permitted", [])),
        "inheritable": capabilities.mask_of(given.get("inheritable", [])),
        "ambient": capabilities.mask_of(given.get("ambient", [])),
    }


def _rlimits(process: Process) -> list[list[int]]:
    rows: list[list[int]] = []
    for entry in process.get("rlimits", []):
        name = entry.get("type", "")
        number = RLIMITS.get(name)
        if number is None:
            raise Invalid(f"unknown rlimit {name!r}", subject=name)
        if any(row[0] == number for row in rows):
            raise Invalid(f"rlimit {name} is listed twice", subject=name)
        soft, hard = _rlimit(entry["soft"]), _rlimit(entry["hard"])
        if hard != -1 and (soft == -1 or soft > hard):
            raise Invalid(f"rlimit {name}: soft limit {soft} is above the hard limit {hard}", subject=name)
        rows.append([number, soft, hard])
    return rows


def _rlimit(value: int) -> int:
    return -1 if value < 0 or value >= _INFINITY else value


def _oom_score_adj(process: Process) -> int | None:
    value = process.get("oomScoreAdj")
    if value is not None and not -1000 <= value <= 1000:
        raise Invalid(f"Invalid value {value}, range for oom score adj is [-1000, 1000]", subject="oomScoreAdj")
    return value


def _io_priority(process: Process) -> int:
    wanted = process.get("ioPriority")
    if not wanted:
        return -1
    number = _IO_CLASSES.get(wanted.get("class", ""))
    level = wanted.get("priority", 0)
    if number is None or not 0 <= level <= 7:
        raise Invalid(f"invalid ioPriority {wanted}", subject="ioPriority")
    return number << 13 | level
