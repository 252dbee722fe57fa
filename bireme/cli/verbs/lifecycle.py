"""stop, restart, kill, rm, pause, unpause, wait and rename."""

from __future__ import annotations

from bireme.cli.errors import CommandFailed
from bireme.cli.many import act_on_all, each
from bireme.cli.option import UNLIMITED, Option, Verb
from bireme.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bireme.cli.invocation import Invocation
    from bireme.client.engine import Query

_SEVERAL = "CONTAINER [CONTAINER...]"


def _post_all(invocation: Invocation, verb: str, query: Query) -> int:
    names = invocation.args.rest
    return act_on_all(invocation, "POST", [(name, f"/containers/{quote(name)}/{verb}", query) for name in names])


def _timing(invocation: Invocation) -> Query:
    args = invocation.args
    query: Query = {"signal": args["signal"]}
    for option in ("timeout", "time"):
        if option in args.given:
            query["t"] = str(args[option])
    return query


def stop(invocation: Invocation) -> int:
    return _post_all(invocation, "stop", _timing(invocation))


def restart(invocation: Invocation) -> int:
    return _post_all(invocation, "restart", _timing(invocation))


def kill(invocation: Invocation) -> int:
    return _post_all(invocation, "kill", {"signal": invocation.args["signal"]})


def pause(invocation: Invocation) -> int:
    return _post_all(invocation, "pause", {})


def unpause(invocation: Invocation) -> int:
    return _post_all(invocation, "unpause", {})


def remove(invocation: Invocation) -> int:
    args = invocation.args
    query: Query = {"force": args["force"], "link": args["link"], "v": args["volumes"]}
    names = [(name, name.strip("/")) for name in args.rest]
    if any(not bare for _, bare in names):
        raise CommandFailed("container name cannot be empty")
    return act_on_all(invocation, "DELETE", [(name, f"/containers/{quote(bare)}", query) for name, bare in names])


def wait(invocation: Invocation) -> int:
    engine = invocation.engine

    def one(name: str) -> str:
        return str(engine.receive_wait(engine.send_wait(name)).result())

    return 1 if each(invocation, invocation.args.rest, one) else 0


def rename(invocation: Invocation) -> int:
    old, new = (name.strip() for name in invocation.args.rest)
    if not old or not new:
        raise CommandFailed("Error: Neither old nor new names may be empty")
    invocation.engine.act(old, "rename", {"name": new})
    return 0


_SIGNAL = Option("signal", "string", "Signal to send to the container", "s")
_TIMING = (
    _SIGNAL,
    Option("timeout", "int", "Seconds to wait before killing the container", "t"),
    Option("time", "int", "Seconds to wait before killing the container", hidden=True),
)

VERBS = {
    "container stop": Verb(
        stop,
        f"[OPTIONS] {_SEVERAL}",
        "Stop one or more running containers",
        _TIMING,
        args=(1, UNLIMITED),
        aliases=("container stop", "stop"),
        complete="running",
    ),
    "container restart": Verb(
        restart,
        f"[OPTIONS] {_SEVERAL}",
        "Restart one or more containers",
        _TIMING,
        args=(1, UNLIMITED),
        aliases=("container restart", "restart"),
        complete="containers",
    ),
    "container kill": Verb(
        kill,
        f"[OPTIONS] {_SEVERAL}",
        "Kill one or more running containers",
        (_SIGNAL,),
        args=(1, UNLIMITED),
        aliases=("container kill", "kill"),
        complete="running",
    ),
    "container pause": Verb(
        pause,
        _SEVERAL,
        "Pause all processes within one or more containers",
        args=(1, UNLIMITED),
        aliases=("container pause", "pause"),
        complete="running",
    ),
    "container unpause": Verb(
        unpause,
        _SEVERAL,
        "Unpause all processes within one or more containers",
        args=(1, UNLIMITED),
        aliases=("container unpause", "unpause"),
        complete="running",
    ),
    "container rm": Verb(
        remove,
        f"[OPTIONS] {_SEVERAL}",
        "Remove one or more containers",
        (
            Option("force", "bool", "Force the removal of a running container (uses SIGKILL)", "f"),
            Option("link", "bool", "Remove the specified link", "l"),
            Option("volumes", "bool", "Remove anonymous volumes associated with the container", "v"),
        ),
        args=(1, UNLIMITED),
        aliases=("container rm", "container remove", "rm"),
        complete="containers",
    ),
    "container wait": Verb(
        wait,
        _SEVERAL,
        "Block until one or more containers stop, then print their exit codes",
        args=(1, UNLIMITED),
        aliases=("container wait", "wait"),
        complete="running",
    ),
    "container rename": Verb(
        rename,
        "CONTAINER NEW_NAME",
        "Rename a container",
        args=(2, 2),
        aliases=("container rename", "rename"),
        complete="containers",
    ),
}
