"""run and create."""

from __future__ import annotations

import os

from bireme.cli.create_body import create_body
from bireme.cli.errors import BadValue, CommandFailed
from bireme.cli.option import UNLIMITED, Verb
from bireme.cli.terminal import terminal_size
from bireme.cli.verbs.create_options import CREATE_OPTIONS, RUN_OPTIONS
from bireme.client.errors import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme.cli.invocation import Invocation

_CANNOT_RUN, _NOT_EXECUTABLE, _NOT_FOUND = 125, 126, 127
_NOT_FOUND_WORDS = ("executable file not found", "no such file or directory", "system cannot find the file specified")
_NOT_EXECUTABLE_WORDS = ("permission denied", "not a directory", "is a directory", "exec format error")


def start_exit_code(message: str) -> int:
    """What run and start exit with when the engine could not start the command (126, 127) or anything else (125)."""
    lowered = message.lower()
    if any(words in lowered for words in _NOT_FOUND_WORDS):
        return _NOT_FOUND
    return _NOT_EXECUTABLE if any(words in lowered for words in _NOT_EXECUTABLE_WORDS) else _CANNOT_RUN


def _check_pull(policy: str) -> None:
    if policy not in ("always", "missing", "never"):
        raise BadValue(f'invalid pull option: \'{policy}\': must be one of "always", "missing" or "never"')


def _reserve_cidfile(path: str) -> None:
    if not path:
        return
    if os.path.exists(path):
        raise BadValue(f"container ID file found, make sure the other container isn't running or delete {path}")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise BadValue(f"failed to create the container ID file: open {path}: {error.strerror}") from None


def _fill_cidfile(path: str, text: str) -> None:
    """Write the id, or remove the empty file when there is none."""
    if not path:
        return
    if text:
        with open(path, "w", encoding="ascii") as target:
            target.write(text)
    else:
        os.unlink(path)


def _create(invocation: Invocation, body: dict[str, Any]) -> str:
    args = invocation.args
    _check_pull(args["pull"])
    _reserve_cidfile(args["cidfile"])
    container = ""
    try:
        if args["pull"] == "always":
            _pull(invocation, body["Image"])
        try:
            container, warnings = invocation.engine.create_container(body, args["name"], args["platform"])
        except ApiError as error:
            if error.status != 404 or args["pull"] != "missing" or "no such image" not in error.message.lower():
                raise
            invocation.err(f"Unable to find image '{_tagged(body['Image'])}' locally")
            _pull(invocation, body["Image"])
            container, warnings = invocation.engine.create_container(body, args["name"], args["platform"])
    finally:
        _fill_cidfile(args["cidfile"], container)
    for warning in warnings:
        invocation.err(f"WARNING: {warning}")
    return container


def _tagged(image: str) -> str:
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"


def _pull(invocation: Invocation, image: str) -> None:
    from bireme.cli.progress import show_progress

    name, colon, tag = (image, "", "") if "@" in image else image.rpartition(":")
    if not colon or "/" in tag:
        name, tag = image, "" if "@" in image else "latest"
    with invocation.engine.pull(name, tag, invocation.args["platform"]) as response:
        show_progress(response.values(), 2, quiet=invocation.args["quiet"])


def create(invocation: Invocation) -> int:
    body = create_body(invocation.args, invocation.environ)
    invocation.out(_create(invocation, body))
    return 0


def run(invocation: Invocation) -> int:
    args = invocation.args
    if args["detach"]:
        return _run_detached(invocation)
    body = create_body(args, invocation.environ, console=terminal_size(1))
    if body.get("Tty") and body.get("AttachStdin") and not os.isatty(0):
        raise CommandFailed("the input device is not a TTY")
    container = _create(invocation, body)
    return _run_attached(invocation, container, body)


def _run_detached(invocation: Invocation) -> int:
    args = invocation.args
    if args["attach"]:
        raise CommandFailed("conflicting options: cannot specify both --attach and --detach")
    body = create_body(args, invocation.environ, detached=True, console=terminal_size(1))
    container = _create(invocation, body)
    try:
        invocation.engine.act(container, "start")
    except ApiError as error:
        invocation.out(container)
        raise _start_failure(invocation, error) from error
    invocation.out(container)
    return 0


def _start_failure(invocation: Invocation, error: ApiError) -> CommandFailed:
    text = (
        f"bireme: Error response from daemon: {error.message}\n\nRun '{invocation.command} --help' for more information"
    )
    return CommandFailed(text, start_exit_code(error.message))


def _run_attached(invocation: Invocation, container: str, body: dict[str, Any]) -> int:
    from bireme.cli.attachment import Attachment

    args = invocation.args
    attachment = Attachment(
        invocation,
        container,
        stdin=bool(body.get("AttachStdin")),
        stdout=bool(body.get("AttachStdout")),
        stderr=bool(body.get("AttachStderr")),
        terminal=bool(body.get("Tty")),
        proxy=args["sig-proxy"],
        detach_keys=invocation.detach_keys,
    )

    def start() -> None:
        try:
            invocation.engine.act(container, "start")
        except ApiError as error:
            raise _start_failure(invocation, error) from error

    code = attachment.follow(start, condition="removed" if args["rm"] else "next-exit")
    return code or 0


VERBS = {
    "container run": Verb(
        run,
        "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        "Create and run a new container from an image",
        RUN_OPTIONS,
        args=(1, UNLIMITED),
        interspersed=False,
        aliases=("container run", "run"),
        complete="images",
        usage_exit=_CANNOT_RUN,
    ),
    "container create": Verb(
        create,
        "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        "Create a new container",
        CREATE_OPTIONS,
        args=(1, UNLIMITED),
        interspersed=False,
        aliases=("container create", "create"),
        complete="images",
        usage_exit=_CANNOT_RUN,
    ),
}
