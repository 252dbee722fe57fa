"""explain: what a container really is on this host, as a tree.

The engine sends nested JSON and the tree shows any of it. Mounts, capabilities and processes, which would fill pages,
are first put into a line each; limits and layers are added from what inspect says, where the engine has not sent them.
"""

from __future__ import annotations

from bireme.cli.golang import show
from bireme.cli.listing import align
from bireme.cli.option import Option, Verb
from bireme.cli.output import Paint
from bireme.cli.units import binary_size
from bireme.cli.verbs.explain_machine import Lines, digest_machine
from bireme.client.jsontext import dumps_indented

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from bireme.cli.invocation import Invocation

_INLINE_WIDTH = 96
_LIST_WIDTH = 80
_ORDER = ("id", "pid", "slot", "spare", "limits", "cgroups", "root", "mounts", "namespaces", "uid_range", "security")


def _is_leaf(value: Any) -> bool:
    return not isinstance(value, dict | list) or not value


def _leaf(value: Any) -> str:
    if value is None:
        return "-"
    if value in ({}, [], ""):
        return "none"
    return show(value)


def _inline(value: Any) -> str:
    """A flat collection on one line, "" when it does not fit."""
    if isinstance(value, Lines) and len(value) > 1:
        return ""
    items = list(value.values()) if isinstance(value, dict) else list(value)
    if not all(_is_leaf(item) for item in items):
        return ""
    if isinstance(value, dict):
        text = "  ".join(f"{key}={_leaf(item)}" for key, item in value.items())
    else:
        text = " ".join(_leaf(item) for item in items)
    return text if len(text) <= _INLINE_WIDTH else ""


def _title(value: dict[str, Any], position: int) -> tuple[str, dict[str, Any]]:
    """A name for an item of a list, and what is left to show of it."""
    for key in ("name", "target", "destination", "path", "pid", "type"):
        if not isinstance(value.get(key), dict | list) and value.get(key) not in (None, ""):
            return str(value[key]), {other: item for other, item in value.items() if other != key}
    return str(position), value


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(str(key).replace("_", " "), item) for key, item in value.items()]
    children: list[tuple[str, Any]] = []
    for position, item in enumerate(value):
        if isinstance(item, dict):
            children.append(_title(item, position))
        else:
            children.append(("", item))
    return children


def tree(name: str, value: Any, paint: Paint) -> Iterator[str]:
    """The lines of `value` under `name`."""
    yield paint("bold", name)
    yield from _branches(value, "", paint)


def _branches(value: Any, indent: str, paint: Paint) -> Iterator[str]:
    children = _children(value)
    width = max((len(name) for name, item in children if _is_leaf(item) or _inline(item)), default=0)
    for position, (name, item) in enumerate(children):
        last = position == len(children) - 1
        stem = paint("dim", indent + ("└─ " if last else "├─ "))
        text = _leaf(item) if _is_leaf(item) else _inline(item)
        if text:
            label = paint("cyan", name) + " " * (width - len(name)) + "  " if name else ""
            yield f"{stem}{label}{text}".rstrip()
            continue
        yield stem + (paint("cyan", name) if name else paint("dim", "·"))
        yield from _branches(item, indent + ("   " if last else "│  "), paint)


_LIMITS = (
    ("memory", "Memory", binary_size),
    ("memory and swap", "MemorySwap", binary_size),
    ("memory reservation", "MemoryReservation", binary_size),
    ("cpus", "NanoCpus", lambda value: f"{value / 1e9:g}"),
    ("cpu shares", "CpuShares", str),
    ("cpu quota", "CpuQuota", lambda value: f"{value} us"),
    ("cpu period", "CpuPeriod", lambda value: f"{value} us"),
    ("cpuset", "CpusetCpus", str),
    ("memory nodes", "CpusetMems", str),
    ("pids", "PidsLimit", str),
    ("blkio weight", "BlkioWeight", str),
)


def _limits(inspected: dict[str, Any]) -> dict[str, str]:
    config = inspected.get("HostConfig") or {}
    return {
        label: "unlimited" if config[key] == -1 else text(config[key])
        for label, key, text in _LIMITS
        if config.get(key)
    }


def _root(inspected: dict[str, Any]) -> dict[str, Any]:
    """The snapshot under the container: layers topmost first, and where its own changes are."""
    driver = inspected.get("GraphDriver") or {}
    data = driver.get("Data") or {}
    root: dict[str, Any] = {"driver": driver.get("Name")}
    if data.get("LowerDir"):
        root["layers"] = str(data["LowerDir"]).split(":")
    for key, label in (("UpperDir", "changes"), ("WorkDir", "work")):
        if data.get(key):
            root[label] = data[key]
    return root


def _mount_lines(mounts: list[dict[str, Any]]) -> Lines:
    """As findmnt shows them, by path."""
    rows = []
    for mount in mounts:
        part, source = str(mount.get("root") or "/"), str(mount.get("source") or "")
        where = source if part == "/" else part if source.startswith("/") else f"{source}[{part}]"
        rows.append("\t".join(str(mount.get(key) or "") for key in ("target", "type", "flags")) + f"\t{where}")
    return Lines(align(sorted(rows), min_width=0, padding=2))


def _capability_lines(names: list[str]) -> Lines:
    lines, line = Lines(), ""
    for name in (str(name).removeprefix("CAP_").lower() for name in names):
        if line and len(line) + len(name) + 1 > _LIST_WIDTH:
            lines.append(line)
            line = ""
        line = f"{line} {name}".lstrip()
    return Lines([*lines, line] if line else [])


def _process_lines(processes: list[dict[str, Any]]) -> Lines:
    keys = list(dict.fromkeys(key for process in processes for key in process))
    rows = ("\t".join(show(process.get(key, "")) for key in keys) for process in processes)
    return Lines(align(["\t".join(key.upper() for key in keys), *rows], min_width=0))


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def digest(answer: dict[str, Any]) -> dict[str, Any]:
    """The same facts in a fixed order, with long parts put into lines."""
    if answer.get("kind") == "machine":
        return digest_machine(answer)
    shown = {key: answer[key] for key in _ORDER if key in answer} | answer
    if _is_table(shown.get("mounts")):
        shown["mounts"] = _mount_lines(shown["mounts"])
    if _is_table(shown.get("processes")):
        shown["processes"] = _process_lines(shown["processes"])
    security = shown.get("security")
    if isinstance(security, dict):
        shown["security"] = security = dict(security)
        if security.get("bounding") == security.get("capabilities"):
            security.pop("bounding", None)
        for key in ("capabilities", "bounding"):
            if isinstance(security.get(key), list):
                security[key] = _capability_lines(security[key])
    return shown


def explain(invocation: Invocation) -> int:
    name = invocation.args.rest[0]
    answer = invocation.engine.explain(name)
    if "limits" not in answer or "root" not in answer:
        inspected = invocation.engine.container(name)
        answer = {"limits": _limits(inspected), "root": _root(inspected)} | answer
    if invocation.args["json"]:
        invocation.out(dumps_indented(answer))
        return 0
    for line in tree(str(answer.pop("name", name)), digest(answer), Paint(1)):
        invocation.out(line)
    return 0


VERBS = {
    "explain": Verb(
        explain,
        "[OPTIONS] CONTAINER",
        "Show what a container really is on this host",
        (Option("json", "bool", "Print in JSON format"),),
        args=(1, 1),
        details=(
            "Namespaces with their inode numbers, cgroup paths and limits, the mount plan and its layers,\n"
            "capabilities and seccomp, and the processes as the host sees them.\n"
            "Of a microVM: memory slots, vCPUs with their exits by reason, devices and queues, the agent,\n"
            "and what its jail leaves to each process."
        ),
        complete="running",
    ),
}
