"""The states of an instance and its legal transitions, as one table.

`apply` is the only way a state changes. A verb that is not in the table for a state raises Conflict (or NotModified
where Docker answers 304); a test walks all pairs.

              create          start            pause
    (nothing) ------> created ------> running -------> paused
                         |          | |  ^  ^----------  | |
                         |          | |  | start  resume | |
                         |     exit | |  |               | | back_off
                         |          | `--|---> restarting <-'
                         |          |    |<--------' | exit (stopped, or cannot be started)
                         |          v    | restart   |
                         |         exited <----------' <---- exit of a paused one
                         `---- remove ----|---- remove --> (nothing)

A restarting instance has no process: it waits until its restart policy starts it again.
"""

from __future__ import annotations

from enum import StrEnum

from bireme.errors import Conflict, NotModified


class Status(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    EXITED = "exited"
    REMOVING = "removing"
    DEAD = "dead"


class Verb(StrEnum):
    START = "start"
    EXIT = "exit"
    BACK_OFF = "back_off"
    RESTART = "restart"
    PAUSE = "pause"
    RESUME = "resume"
    REMOVE = "remove"
    FAIL_REMOVE = "fail_remove"


TRANSITIONS: dict[tuple[Status, Verb], Status] = {
    (Status.CREATED, Verb.START): Status.RUNNING,
    (Status.EXITED, Verb.START): Status.RUNNING,
    (Status.RUNNING, Verb.EXIT): Status.EXITED,
    (Status.PAUSED, Verb.EXIT): Status.EXITED,
    (Status.RUNNING, Verb.BACK_OFF): Status.RESTARTING,
    (Status.PAUSED, Verb.BACK_OFF): Status.RESTARTING,
    (Status.RESTARTING, Verb.RESTART): Status.RUNNING,
    (Status.RESTARTING, Verb.EXIT): Status.EXITED,
    (Status.RUNNING, Verb.PAUSE): Status.PAUSED,
    (Status.PAUSED, Verb.RESUME): Status.RUNNING,
    (Status.CREATED, Verb.REMOVE): Status.REMOVING,
    (Status.EXITED, Verb.REMOVE): Status.REMOVING,
    (Status.DEAD, Verb.REMOVE): Status.REMOVING,
    (Status.REMOVING, Verb.FAIL_REMOVE): Status.DEAD,
}

UNCHANGED: frozenset[tuple[Status, Verb]] = frozenset({(Status.RUNNING, Verb.START), (Status.RESTARTING, Verb.START)})

_PAUSED_START = "cannot start a paused container, try unpause instead"


def apply(status: Status, verb: Verb, name: str = "") -> Status:
    """The state after `verb`; raises NotModified or Conflict with Docker's wording when it is not legal."""
    after = TRANSITIONS.get((status, verb))
    if after is not None:
        return after
    if (status, verb) in UNCHANGED:
        raise NotModified(f"container {name} is already {status}", subject=name)
    raise Conflict(_refusal(status, verb, name), subject=name, place=f"state {status}")


def _refusal(status: Status, verb: Verb, name: str) -> str:
    if verb is Verb.START and status is Status.PAUSED:
        return _PAUSED_START
    if verb is Verb.START:
        return "container is marked for removal and cannot be started"
    if verb is Verb.PAUSE and status is Status.RESTARTING:
        return f"Container {name} is restarting, wait until the container is running"
    if verb is Verb.PAUSE:
        return f"container {name} is already paused" if status is Status.PAUSED else f"container {name} is not running"
    if verb is Verb.RESUME:
        return f"container {name} is not paused"
    if verb is Verb.REMOVE and status in (Status.RUNNING, Status.PAUSED, Status.RESTARTING):
        remedy = "unpause and then stop" if status is Status.PAUSED else "stop"
        return (
            f'cannot remove container "{name}": container is {status}: '
            f"{remedy} the container before removing or force remove"
        )
    if verb is Verb.REMOVE:
        return f"removal of container {name} is already in progress"
    return f"container {name} is {status}, {verb} is not possible"
