"""update: the limits of containers that exist."""

from __future__ import annotations

from bireme.cli.create_body import LIMIT_FIELDS, restart_policy
from bireme.cli.errors import CommandFailed
from bireme.cli.many import each
from bireme.cli.option import UNLIMITED, Option, Verb
from bireme.cli.verbs.create_options import CREATE_OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme.cli.invocation import Invocation

_NAMES = tuple(name for name, _ in LIMIT_FIELDS if name != "cgroup-parent")


def update(invocation: Invocation) -> int:
    args = invocation.args
    if not args.given:
        raise CommandFailed("you must provide one or more flags when using this command")
    fields = dict(LIMIT_FIELDS)
    body: dict[str, Any] = {fields[name]: args[name] for name in _NAMES if name in args.given}
    if "restart" in args.given:
        body["RestartPolicy"] = restart_policy(args["restart"], False)
    warnings: list[str] = []

    def one(name: str) -> str:
        answer = invocation.engine.act(name, "update", None, body) or {}
        warnings.extend(str(warning) for warning in answer.get("Warnings") or ())
        return name

    failed = each(invocation, args.rest, one)
    for warning in warnings:
        invocation.out(warning)
    return 1 if failed else 0


VERBS = {
    "container update": Verb(
        update,
        "[OPTIONS] CONTAINER [CONTAINER...]",
        "Update configuration of one or more containers",
        (
            *(option for option in CREATE_OPTIONS if option.name in _NAMES),
            Option("restart", "string", "Restart policy to apply when a container exits"),
        ),
        args=(1, UNLIMITED),
        aliases=("container update", "update"),
        complete="containers",
    ),
}
