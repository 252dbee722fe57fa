"""One start under way: what was asked for, and how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bireme.errors import Invalid
from bireme.linux.cgroup import limits_from_resources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bireme.linux import process
    from bireme.linux.cgroup import CgroupLimits
    from bireme.supervisor.server import Caller
    from bireme.supervisor.slots import Slot
    from bireme.supervisor.table import Instance


class Launch:
    """One start under way. `plan` is runtime.plan.LaunchPlan, or vmm.plan.MachineLaunch for a machine."""

    __slots__ = (
        "announced",
        "caller",
        "cold",
        "ended",
        "id",
        "instance",
        "joins",
        "limits",
        "log",
        "open_stdin",
        "owner",
        "plan",
        "sent_s",
        "slot",
        "stdin_once",
        "terminal",
    )

    def __init__(self, caller: Caller, message: Mapping[str, Any]) -> None:
        self.caller = caller
        self.id = _text(message, "id")
        plan = message["plan"]
        if not isinstance(plan, dict):
            raise Invalid("launch without a plan", subject=self.id)
        self.plan: dict[str, Any] = plan
        self.limits: CgroupLimits = limits_from_resources(message.get("limits") or {})
        self.log = _log_of(message.get("log"))
        self.terminal = bool(message.get("terminal"))
        self.open_stdin = bool(message.get("open_stdin"))
        self.stdin_once = bool(message.get("stdin_once"))
        self.slot: Slot | None = None
        self.instance: Instance | None = None
        self.owner = (0, 0)
        """What root of the instance is outside: (uid, gid)."""
        self.joins: dict[str, Any] = {}
        """What its instance's `joins` will be (table.py)."""
        self.sent_s = 0.0
        """When its first process was given the plan; monotonic."""
        self.cold = False
        self.announced = False
        """It said itself that it runs."""
        self.ended: process.Exit | None = None
        """It ended before we heard that it runs."""


def _text(message: Mapping[str, Any], key: str) -> str:
    value = message[key]
    if not isinstance(value, str) or not value or "/" in value or "\n" in value:
        raise Invalid(f"{key} {value!r} is not a name", subject=key)
    return value


def _log_of(given: object) -> dict[str, Any]:
    """Empty when nothing is kept."""
    if given is None or (isinstance(given, dict) and given.get("driver") in ("none", None)):
        return {}
    if not isinstance(given, dict) or given["driver"] != "json-file":
        raise Invalid(f"unknown log driver in {given!r}", subject="log")
    path = given["path"]
    if not isinstance(path, str) or not path.startswith("/"):
        raise Invalid(f"log path {path!r} is not absolute", subject="log")
    return {
        "path": path,
        "max_size_bytes": int(given.get("max_size_bytes") or 0),
        "max_files": int(given.get("max_files") or 1),
    }
