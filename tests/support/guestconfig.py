"""Configurations of a microVM's inside, complete, with what a test wants different."""

from __future__ import annotations

from typing import Any, cast

from bireme.runtime.defaults import DEFAULT_PATH
from bireme.wire.agent import GuestConfig, Process


def process(args: list[str], **changes: Any) -> Process:
    """A process of root without a terminal."""
    made: dict[str, Any] = {
        "args": args,
        "env": [f"PATH={DEFAULT_PATH}"],
        "cwd": "/",
        "user": "",
        "groups": [],
        "umask": 0o022,
        "terminal": False,
        "rows": 0,
        "columns": 0,
        "rlimits": [],
        "capabilities": None,
        "no_new_privileges": False,
        "oom_score_adj": None,
    }
    return cast("Process", made | changes)


def guest_config(**changes: Any) -> GuestConfig:
    """A machine without disks, interfaces and input that runs `true`."""
    made: dict[str, Any] = {
        "hostname": "guest",
        "domainname": "",
        "root": {"lower": [], "upper": None, "read_only": False},
        "interfaces": [],
        "files": [],
        "mounts": [],
        "sysctls": {},
        "shm_size_bytes": 64 << 20,
        "process": process(["true"]),
        "stdin": False,
    }
    return cast("GuestConfig", made | changes)
