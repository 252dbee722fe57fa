"""docker cp's rules about paths: what a trailing slash or dot means, and how the entries of the archive are renamed.

destination is a directory              entries go below it under the source's own name ("dir/." gives its contents)
destination is a file, source is none   refused: cannot copy directory
destination does not exist              the source is renamed to it, unless it ends in "/" and the source is a file
"""

from __future__ import annotations

import posixpath

from bireme.cli.errors import CommandFailed


class Thing:
    """One end of a copy, as its stat told."""

    __slots__ = ("exists", "is_directory", "path", "rebase")

    def __init__(self, path: str, exists: bool, is_directory: bool, rebase: str = "") -> None:
        self.path = path
        self.exists = exists
        self.is_directory = is_directory
        self.rebase = rebase
        """The name that the source goes by when a link was followed to it."""


def split_argument(argument: str) -> tuple[str, str]:
    """(container, path); "" for a path of this machine."""
    if argument.startswith("/"):
        return "", argument
    container, colon, path = argument.partition(":")
    if not colon or container.startswith("."):
        return "", argument
    return container, path


def names_current(path: str) -> bool:
    """Whether the last step is "."."""
    return path == "." or path.endswith("/.")


def asserts_directory(path: str) -> bool:
    return path.endswith("/") or names_current(path)


def split_entry(path: str) -> tuple[str, str]:
    """Directory and last step, a "." at the end kept as the last step."""
    clean = go_clean(path)
    if names_current(path) and clean != "/":
        return clean, "."
    directory, base = posixpath.split(clean)
    return directory or ".", base or "/"


def go_clean(path: str) -> str:
    """Go's filepath.Clean."""
    clean = posixpath.normpath(path or ".")
    return clean[1:] if clean.startswith("//") else clean


def keep_ending(clean: str, original: str) -> str:
    """`clean` with the "/" or "/." that `original` ends in."""
    if not names_current(clean) and names_current(original):
        clean = clean + "." if clean.endswith("/") else clean + "/."
    if not clean.endswith("/") and original.endswith("/"):
        clean += "/"
    return clean


def local_path(path: str) -> str:
    return keep_ending(posixpath.abspath(path), path)


def rebase_name(path: str, resolved: str) -> tuple[str, str]:
    """(resolved path with the endings of `path`, the name to go by when it differs)."""
    resolved = keep_ending(resolved, path)
    before, after = split_entry(path)[1], split_entry(resolved)[1]
    return resolved, before if before != after else ""


def plan_copy(source: Thing, target: Thing) -> tuple[str, str, str]:
    """(directory to unpack in, first step of the archive's names, what takes its place): the last two are equal when
    nothing is renamed. CommandFailed in docker's words."""
    base = source.rebase or split_entry(source.path)[1]
    directory, name = split_entry(target.path)
    if target.exists and target.is_directory:
        return target.path, base, base
    if target.exists and source.is_directory:
        raise CommandFailed("cannot copy directory")
    if not target.exists and not source.is_directory and asserts_directory(target.path):
        raise CommandFailed("no such directory")
    return directory, base, name


def renamed(name: str, old: str, new: str) -> str:
    """A member's name with its first step replaced."""
    old = "" if old == "/" else old
    if old == new or not name.startswith(old):
        return name
    return new + name[len(old) :]
