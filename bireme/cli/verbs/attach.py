"""attach: our terminal on a container that runs already."""

from __future__ import annotations

import os

from bireme.cli.attachment import Attachment
from bireme.cli.errors import CommandFailed
from bireme.cli.option import Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bireme.cli.invocation import Invocation


def attach(invocation: Invocation) -> int:
    args, engine = invocation.args, invocation.engine
    container = engine.container(args.rest[0])
    state, config = container.get("State") or {}, container.get("Config") or {}
    if not state.get("Running"):
        raise CommandFailed("cannot attach to a stopped container, start it first")
    if state.get("Paused"):
        raise CommandFailed("cannot attach to a paused container, unpause it first")
    if state.get("Restarting"):
        raise CommandFailed("cannot attach to a restarting container, wait until it is running")
    terminal, stdin = bool(config.get("Tty")), bool(config.get("OpenStdin")) and not args["no-stdin"]
    if terminal and stdin and not os.isatty(0):
        raise CommandFailed("the input device is not a TTY")
    attachment = Attachment(
        invocation,
        str(container["Id"]),
        stdin=stdin,
        stdout=True,
        stderr=True,
        terminal=terminal,
        proxy=args["sig-proxy"] and not terminal,
        detach_keys=invocation.detach_keys,
    )
    code = attachment.follow(None, condition="")
    if code is None:
        invocation.err("read escape sequence")
        return 0
    return code


VERBS = {
    "container attach": Verb(
        attach,
        "[OPTIONS] CONTAINER",
        "Attach local standard input, output, and error streams to a running container",
        (
            Option("detach-keys", "string", "Override the key sequence for detaching a container"),
            Option("no-stdin", "bool", "Do not attach STDIN"),
            Option("sig-proxy", "bool", "Proxy all received signals to the process", default=True),
        ),
        args=(1, 1),
        aliases=("container attach", "attach"),
        complete="running",
    ),
}
