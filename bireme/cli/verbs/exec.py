"""exec: one more process in a running container."""

from __future__ import annotations

import os
import select

from bireme.cli.attachment import copy_streams
from bireme.cli.create_body import environment
from bireme.cli.errors import CommandFailed
from bireme.cli.option import UNLIMITED, Option, Verb
from bireme.cli.terminal import terminal_size
from bireme.client.errors import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme.cli.invocation import Invocation

_PATIENCE_MS = (1, 2, 5, 10, 20, 50, 100, 200, 300)


def _body(invocation: Invocation) -> dict[str, Any]:
    args = invocation.args
    attached = not args["detach"]
    body: dict[str, Any] = {
        "Cmd": args.rest[1:],
        "User": args["user"],
        "Privileged": args["privileged"],
        "Tty": args["tty"],
        "WorkingDir": args["workdir"],
        "Env": environment(args, invocation.environ),
        "DetachKeys": invocation.detach_keys,
        "AttachStdin": attached and args["interactive"],
        "AttachStdout": attached,
        "AttachStderr": attached,
    }
    body = {key: value for key, value in body.items() if value}
    size = terminal_size(1)
    if args["tty"] and size != (0, 0):
        body["ConsoleSize"] = list(size)
    return body


def execute(invocation: Invocation) -> int:
    args, engine = invocation.args, invocation.engine
    body = _body(invocation)
    if body.get("Tty") and body.get("AttachStdin") and not os.isatty(0):
        raise CommandFailed("the input device is not a TTY")
    exec_id = engine.create_exec(args.rest[0], body)
    how: dict[str, Any] = {"Detach": args["detach"], "Tty": args["tty"]}
    if "ConsoleSize" in body:
        how["ConsoleSize"] = body["ConsoleSize"]
    try:
        if args["detach"]:
            engine.start_exec_detached(exec_id, how)
            return 0
        stream = engine.start_exec(exec_id, how)
    except ApiError as error:
        raise _start_failure(error) from error
    try:
        detached = copy_streams(
            invocation,
            stream,
            f"/exec/{exec_id}",
            stdin=bool(args["interactive"]),
            terminal=bool(args["tty"]),
            detach_keys=invocation.detach_keys,
        )
    finally:
        stream.close()
    return 0 if detached else _exit_code(invocation, exec_id)


def _start_failure(error: ApiError) -> CommandFailed:
    from bireme.cli.verbs.create import start_exit_code

    code = start_exit_code(error.message)
    return CommandFailed(f"Error response from daemon: {error.message}", code if code > 125 else 1)


def _exit_code(invocation: Invocation, exec_id: str) -> int:
    """The code once the process has ended; its streams may close a moment before it does."""
    status = invocation.engine.exec_status(exec_id)
    for pause_ms in _PATIENCE_MS:
        if not status.get("Running"):
            break
        select.poll().poll(pause_ms)
        status = invocation.engine.exec_status(exec_id)
    return int(status.get("ExitCode") or 0)


VERBS = {
    "container exec": Verb(
        execute,
        "[OPTIONS] CONTAINER COMMAND [ARG...]",
        "Execute a command in a running container",
        (
            Option("detach", "bool", "Detached mode: run command in the background", "d"),
            Option("detach-keys", "string", "Override the key sequence for detaching a container"),
            Option("env", "env", "Set environment variables", "e"),
            Option("env-file", "list", "Read in a file of environment variables"),
            Option("interactive", "bool", "Keep STDIN open even if not attached", "i"),
            Option("privileged", "bool", "Give extended privileges to the command"),
            Option("tty", "bool", "Allocate a pseudo-TTY", "t"),
            Option("user", "string", 'Username or UID (format: "<name|uid>[:<group|gid>]")', "u"),
            Option("workdir", "string", "Working directory inside the container", "w"),
        ),
        args=(2, UNLIMITED),
        interspersed=False,
        aliases=("container exec", "exec"),
        complete="running",
    ),
}
