"""explain: what a container really is on this host, as a tree.

The engine sends nested JSON; the tree shows any of it. What has a well-known shape (namespaces, control groups, mounts,
processes) gets a line per item that reads like the tool one would have used to find it out.
"""

from __future__ import annotations

from bireme.cli.golang import show
from bireme.cli.option import Option, Verb
from bireme.cli.output import Paint
from bireme.client.jsontext import dumps_indented

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_INLINE_WIDTH = 96


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


def explain(invocation: Invocation) -> int:
    answer = invocation.engine.explain(invocation.args.rest[0])
    if invocation.args["json"]:
        invocation.out(dumps_indented(answer))
        return 0
    for line in tree(str(answer.get("name") or invocation.args.rest[0]), answer, Paint(1)):
        invocation.out(line)
    return 0


if TYPE_CHECKING:
    from bireme.cli.invocation import Invocation

VERBS = {
    "explain": Verb(
        explain,
        "[OPTIONS] CONTAINER",
        "Show what a container really is on this host",
        (Option("json", "bool", "Print in JSON format"),),
        args=(1, 1),
        details=(
            "Namespaces with their inode numbers, cgroup paths and limits, the mount plan and its layers,\n"
            "capabilities and seccomp, and the processes as the host sees them."
        ),
        complete="running",
    ),
}
