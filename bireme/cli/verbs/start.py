"""start, with or without our terminal."""

from __future__ import annotations

import os

from bireme.cli.errors import CommandFailed
from bireme.cli.many import each
from bireme.cli.option import UNLIMITED, Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bireme.cli.invocation import Invocation


def start(invocation: Invocation) -> int:
    args = invocation.args
    if args["attach"] or args["interactive"]:
        return _attached(invocation)

    def one(name: str) -> str:
        invocation.engine.act(name, "start")
        return name

    failed = each(invocation, args.rest, one)
    if failed:
        raise CommandFailed("Error: failed to start containers: " + ", ".join(failed))
    return 0


def _attached(invocation: Invocation) -> int:
    from bireme.cli.attachment import Attachment

    args, engine = invocation.args, invocation.engine
    if len(args.rest) > 1:
        raise CommandFailed("you cannot start and attach multiple containers at once")
    container = engine.container(args.rest[0])
    config, name = container.get("Config") or {}, str(container["Id"])
    terminal, stdin = bool(config.get("Tty")), bool(args["interactive"] and config.get("OpenStdin"))
    if terminal and stdin and not os.isatty(0):
        raise CommandFailed("the input device is not a TTY")
    attachment = Attachment(
        invocation,
        name,
        stdin=stdin,
        stdout=True,
        stderr=True,
        terminal=terminal,
        proxy=args["sig-proxy"] and not terminal,
        detach_keys=invocation.detach_keys,
    )
    removed = bool((container.get("HostConfig") or {}).get("AutoRemove"))
    code = attachment.follow(lambda: engine.act(name, "start"), condition="removed" if removed else "next-exit")
    return code or 0


VERBS = {
    "container start": Verb(
        start,
        "[OPTIONS] CONTAINER [CONTAINER...]",
        "Start one or more stopped containers",
        (
            Option("attach", "bool", "Attach STDOUT/STDERR and forward signals", "a"),
            Option("detach-keys", "string", "Override the key sequence for detaching a container"),
            Option("interactive", "bool", "Attach container's STDIN", "i"),
            Option("sig-proxy", "bool", "Proxy received signals to the process", default=True, hidden=True),
        ),
        args=(1, UNLIMITED),
        aliases=("container start", "start"),
        complete="containers",
    ),
}
