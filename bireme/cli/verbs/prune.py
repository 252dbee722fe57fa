"""container prune, image prune, volume prune and system prune."""

from __future__ import annotations

import sys

from bireme.cli.errors import CommandFailed
from bireme.cli.filters import encode_filters
from bireme.cli.option import Option, Verb
from bireme.cli.units import human_size
from bireme.client.errors import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bireme.cli.invocation import Invocation

_NOT_THERE = (404, 405, 501)


def _confirmed(invocation: Invocation, warning: str) -> bool:
    if invocation.args["force"]:
        return True
    sys.stdout.write(f"WARNING! {warning}\nAre you sure you want to continue? [y/N] ")
    sys.stdout.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        invocation.out("")
    return answer.strip().lower() in ("y", "yes")


def _ask(invocation: Invocation, noun: str, filters: list[tuple[str, str]]) -> dict[str, Any]:
    return invocation.engine.call("POST", f"/{noun}/prune", {"filters": encode_filters(filters)}) or {}


def _containers(invocation: Invocation, filters: list[tuple[str, str]]) -> tuple[list[str], int]:
    answer = _ask(invocation, "containers", filters)
    names = [str(name) for name in answer.get("ContainersDeleted") or ()]
    return _section("Deleted Containers:", names), int(answer.get("SpaceReclaimed") or 0)


def _networks(invocation: Invocation, filters: list[tuple[str, str]]) -> tuple[list[str], int]:
    answer = _ask(invocation, "networks", filters)
    return _section("Deleted Networks:", [str(name) for name in answer.get("NetworksDeleted") or ()]), 0


def _images(invocation: Invocation, filters: list[tuple[str, str]]) -> tuple[list[str], int]:
    dangling = ("dangling", "false" if invocation.args["all"] else "true")
    answer = _ask(invocation, "images", [dangling, *filters])
    names = [
        f"{key.lower()}: {row[key]}"
        for row in answer.get("ImagesDeleted") or ()
        for key in ("Untagged", "Deleted")
        if row.get(key)
    ]
    return _section("Deleted Images:", names), int(answer.get("SpaceReclaimed") or 0)


def _volumes(invocation: Invocation, filters: list[tuple[str, str]]) -> tuple[list[str], int]:
    """All unused ones with --all, which system prune does not have for volumes."""
    everything = [("all", "true")] if invocation.args["all"] and "volumes" not in invocation.args.values else []
    answer = _ask(invocation, "volumes", [*everything, *filters])
    names = [str(name) for name in answer.get("VolumesDeleted") or ()]
    return _section("Deleted Volumes:", names), int(answer.get("SpaceReclaimed") or 0)


def _section(title: str, names: list[str]) -> list[str]:
    return [title, *names, ""] if names else []


def _prune(invocation: Invocation, warning: str, steps: tuple[Callable[..., tuple[list[str], int]], ...]) -> int:
    if not _confirmed(invocation, warning):
        return 0
    space = 0
    for step in steps:
        try:
            lines, freed = step(invocation, list(invocation.args["filter"]))
        except ApiError as error:
            if len(steps) == 1 or error.status not in _NOT_THERE:
                raise
            continue
        space += freed
        for line in lines:
            invocation.out(line)
    invocation.out(f"Total reclaimed space: {human_size(space)}")
    return 0


def prune_containers(invocation: Invocation) -> int:
    return _prune(invocation, "This will remove all stopped containers.", (_containers,))


def prune_images(invocation: Invocation) -> int:
    which = "images without at least one container associated to them" if invocation.args["all"] else "dangling images"
    return _prune(invocation, f"This will remove all {which}.", (_images,))


def prune_volumes(invocation: Invocation) -> int:
    which = "local volumes" if invocation.args["all"] else "anonymous local volumes"
    return _prune(invocation, f"This will remove all {which} not used by at least one container.", (_volumes,))


def prune_system(invocation: Invocation) -> int:
    images = (
        "all images without at least one container associated to them"
        if invocation.args["all"]
        else "all dangling images"
    )
    doomed = ["all stopped containers", "all networks not used by at least one container", images]
    steps = [_containers, _networks, _images]
    if invocation.args["volumes"]:
        if any(name == "until" for name, _ in invocation.args["filter"]):
            raise CommandFailed('ERROR: The "until" filter is not supported with "--volumes"')
        doomed.insert(2, "all anonymous volumes not used by at least one container")
        steps.insert(1, _volumes)
    warning = "This will remove:\n" + "\n".join(f"  - {what}" for what in doomed) + "\n"
    return _prune(invocation, warning, tuple(steps))


_FILTER = Option("filter", "filter", 'Provide filter values (e.g. "until=<timestamp>")')
_FORCE = Option("force", "bool", "Do not prompt for confirmation", "f")

VERBS = {
    "container prune": Verb(prune_containers, "[OPTIONS]", "Remove all stopped containers", (_FILTER, _FORCE)),
    "image prune": Verb(
        prune_images,
        "[OPTIONS]",
        "Remove unused images",
        (Option("all", "bool", "Remove all unused images, not just dangling ones", "a"), _FILTER, _FORCE),
    ),
    "system prune": Verb(
        prune_system,
        "[OPTIONS]",
        "Remove unused data",
        (
            Option("all", "bool", "Remove all unused images not just dangling ones", "a"),
            Option("filter", "filter", 'Provide filter values (e.g. "label=<key>=<value>")'),
            _FORCE,
            Option("volumes", "bool", "Prune anonymous volumes"),
        ),
    ),
    "volume prune": Verb(
        prune_volumes,
        "[OPTIONS]",
        "Remove unused local volumes",
        (
            Option("all", "bool", "Remove all unused volumes, not just anonymous ones", "a"),
            Option("filter", "filter", 'Provide filter values (e.g. "label=<label>")'),
            _FORCE,
        ),
    ),
}
