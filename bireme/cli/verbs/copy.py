"""cp: between a container and this machine, or a pipe."""

from __future__ import annotations

import base64
import os
import posixpath
import stat

from bireme.cli.copypaths import (
    Thing,
    asserts_directory,
    keep_ending,
    local_path,
    plan_copy,
    rebase_name,
    split_argument,
    split_entry,
)
from bireme.cli.errors import CommandFailed
from bireme.cli.localtar import Packing, Source, unpack
from bireme.cli.option import Option, Verb
from bireme.cli.output import write_all
from bireme.cli.units import human_size
from bireme.client import jsontext
from bireme.client.errors import ApiError
from bireme.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from bireme.cli.invocation import Invocation
    from bireme.client.http import Response

_GO_DIRECTORY, _GO_LINK = 1 << 31, 1 << 27
_GO_SPECIAL = 1 << 26 | 1 << 25 | 1 << 24
_SIZE = 256 << 10
_LINKS_MAX = 10
_STAT = "x-docker-container-path-stat"


def copy(invocation: Invocation) -> int:
    source, target = invocation.args.rest
    if not source:
        raise CommandFailed("source can not be empty")
    if not target:
        raise CommandFailed("destination can not be empty")
    from_container, from_path = split_argument(source)
    to_container, to_path = split_argument(target)
    if from_container and to_container:
        raise CommandFailed("copying between containers is not supported")
    if from_container:
        _copy_out(invocation, from_container, from_path, to_path)
    elif to_container:
        _copy_in(invocation, to_container, from_path, to_path)
    else:
        raise CommandFailed("must specify at least one container source")
    return 0


def _quiet(invocation: Invocation) -> bool:
    return bool(invocation.args["quiet"]) if "quiet" in invocation.args.given else not os.isatty(1)


def _archive_path(container: str) -> str:
    return f"/containers/{quote(container)}/archive"


def _stat_of(response: Response) -> dict[str, Any]:
    return dict(jsontext.loads(base64.b64decode(response.headers.get(_STAT, "")).decode()))


def _stat(invocation: Invocation, container: str, path: str) -> dict[str, Any] | None:
    """What a path in the container is; None when that cannot be told, and the copy itself will say why."""
    try:
        with invocation.engine.open("HEAD", _archive_path(container), {"path": path}) as response:
            return _stat_of(response)
    except ApiError:
        return None


# out of a container


def _copy_out(invocation: Invocation, container: str, path: str, target: str) -> None:
    if target != "-":
        target = local_path(target)
        _check_output(target)
    rebase = ""
    if invocation.args["follow-link"]:
        found = _stat(invocation, container, path)
        if found is not None and found["mode"] & _GO_LINK:
            path, rebase = rebase_name(path, posixpath.join(split_entry(path)[0], found["linkTarget"]))
    with invocation.engine.open("GET", _archive_path(container), {"path": path}) as response:
        found = _stat_of(response)
        if target == "-":
            for chunk in response.chunks():
                write_all(1, chunk)
            return
        thing = Thing(path, True, bool(found["mode"] & _GO_DIRECTORY), rebase)
        directory, old, new = plan_copy(thing, local_target(target))
        archive = Source(response.chunks())
        in_archive = split_entry(path)[1]
        unpack(archive, directory, in_archive, new if new != old else rebase or in_archive)
    if not _quiet(invocation):
        invocation.err(f"Successfully copied {human_size(archive.size, 3)} to {target}")


def _check_output(path: str) -> None:
    directory = posixpath.dirname(posixpath.normpath(path))
    if directory not in ("", ".") and not os.path.exists(directory):
        raise CommandFailed(f'invalid output path: directory "{directory}" does not exist')
    if os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path):
        raise CommandFailed("invalid output path: must be a directory or a regular file")


def local_target(path: str) -> Thing:
    """The destination on this machine, links followed; CommandFailed when its parent is no directory."""
    for _ in range(_LINKS_MAX):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            parent = split_entry(path)[0]
            if not os.path.isdir(parent):
                raise CommandFailed("not a directory") from None
            return Thing(path, False, False)
        except OSError as error:
            raise CommandFailed(f"lstat {path}: {(error.strerror or '').lower()}") from None
        if not stat.S_ISLNK(found.st_mode):
            return Thing(path, True, stat.S_ISDIR(found.st_mode))
        path = os.path.join(posixpath.dirname(path.rstrip("/")), os.readlink(path))
    raise CommandFailed(f"too many symlinks in {path}")


# into a container


def _copy_in(invocation: Invocation, container: str, source: str, path: str) -> None:
    if source != "-":
        source = local_path(source)
    thing = _container_target(invocation, container, path)
    packing: Packing | None = None
    if source == "-":
        if not thing.is_directory:
            raise CommandFailed(f'destination "{container}:{path}" must be a directory')
        directory, body = thing.path, _stdin()
    else:
        origin = local_source(source, follow=invocation.args["follow-link"])
        directory, old, new = plan_copy(origin, thing)
        packing = Packing(origin.path.rstrip("/") or "/", new if new != old else old)
        body = packing.pieces()
    query: dict[str, object] = {
        "path": directory,
        "noOverwriteDirNonDir": "true",
        "copyUIDGID": "true" if invocation.args["archive"] else None,
    }
    headers = {"Content-Type": "application/x-tar"}
    with invocation.engine.open("PUT", _archive_path(container), query, body, headers) as response:
        response.read()
    if packing is not None and not _quiet(invocation):
        invocation.err(f"Successfully copied {human_size(packing.size, 3)} to {container}:{thing.path}")


def _container_target(invocation: Invocation, container: str, path: str) -> Thing:
    found, where = _stat(invocation, container, path), path
    if found is not None and found["mode"] & _GO_LINK:
        where = posixpath.join(split_entry(path)[0], found["linkTarget"])
        found = _stat(invocation, container, where)
    if found is None:
        return Thing(where, False, False)
    if found["mode"] & _GO_SPECIAL:
        raise CommandFailed(f'destination "{container}:{path}" must be a directory or a regular file')
    return Thing(where, True, bool(found["mode"] & _GO_DIRECTORY))


def local_source(path: str, *, follow: bool) -> Thing:
    """The source on this machine; CommandFailed when it is not there."""
    rebase = ""
    try:
        if follow:
            resolved, rebase = rebase_name(path, os.path.realpath(path, strict=True))
        elif asserts_directory(path):
            real = os.path.realpath(path, strict=True)
            resolved = keep_ending(real, path)
            if path.endswith("/") and posixpath.basename(path.rstrip("/")) != posixpath.basename(real):
                rebase = posixpath.basename(path.rstrip("/"))
        else:
            directory, base = posixpath.split(path)
            resolved = posixpath.join(os.path.realpath(directory, strict=True), base)
        found = os.lstat(resolved)
    except OSError as error:
        raise CommandFailed(f"lstat {path}: {(error.strerror or '').lower()}") from None
    return Thing(resolved, True, stat.S_ISDIR(found.st_mode), rebase)


def _stdin() -> Iterator[bytes]:
    while data := os.read(0, _SIZE):
        yield data


VERBS = {
    "container cp": Verb(
        copy,
        "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n       bireme cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
        "Copy files/folders between a container and the local filesystem",
        (
            Option("archive", "bool", "Archive mode (copy all uid/gid information)", "a"),
            Option("follow-link", "bool", "Always follow symbol link in SRC_PATH", "L"),
            Option(
                "quiet",
                "bool",
                "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is "
                "attached",
                "q",
            ),
        ),
        args=(2, 2),
        aliases=("container cp", "cp"),
        complete="files",
        details="Use '-' as the source to read a tar archive from stdin\n"
        "and extract it to a directory destination in a container.\n"
        "Use '-' as the destination to stream a tar archive of a\n"
        "container source to stdout.",
    ),
}
