"""Who the process is: users and groups looked up inside the root, ids and capabilities changed in the right order.

The files are the image's, so they are read through openat2 below the root, bounded, and parsed leniently as libc does:
lines that are no entries are skipped. Texts of errors are Docker's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bireme.linux import capabilities, process
from bireme.linux.libc import SyscallError
from bireme.linux.path import read_file_in_root
from bireme.runtime.sync import StartFailed

if TYPE_CHECKING:
    from bireme.runtime.processplan import CapabilityPlan, ExecPlan

FILE_BYTES = 4 << 20
"""More of /etc/passwd and /etc/group is not read."""

_MAX_ID = 0x7FFFFFFF


class PasswdEntry(NamedTuple):
    name: str
    uid: int
    gid: int
    home: str


class GroupEntry(NamedTuple):
    name: str
    gid: int
    members: tuple[str, ...]


class Identity(NamedTuple):
    """The ids inside; `home` is "" when the user has no entry."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def parse_passwd(text: str) -> list[PasswdEntry]:
    """passwd(5)."""
    found = []
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) >= 4 and fields[0] and not line.startswith("#") and (uid := _number(fields[2])) is not None:
            found.append(PasswdEntry(fields[0], uid, _number(fields[3]) or 0, fields[5] if len(fields) > 5 else ""))
    return found


def parse_group(text: str) -> list[GroupEntry]:
    """group(5)."""
    found = []
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) >= 3 and fields[0] and not line.startswith("#") and (gid := _number(fields[2])) is not None:
            members = tuple(filter(None, fields[3].split(","))) if len(fields) > 3 else ()
            found.append(GroupEntry(fields[0], gid, members))
    return found


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _read(root: int, name: str) -> str:
    try:
        return read_file_in_root(root, name, FILE_BYTES).decode("utf-8", "replace")
    except SyscallError:
        return ""


def resolve(what: ExecPlan, root: int) -> Identity:
    """The identity of a process in the root file system `root` (a directory descriptor)."""
    passwd = parse_passwd(_read(root, "/etc/passwd"))
    if not what["user"] and not what["group_names"]:
        entry = _by_uid(passwd, what["uid"])
        return Identity(what["uid"], what["gid"], tuple(what["groups"]), entry.home if entry else "")
    groups = parse_group(_read(root, "/etc/group"))
    return look_up(what, passwd, groups)


def _by_uid(passwd: list[PasswdEntry], uid: int) -> PasswdEntry | None:
    return next((entry for entry in passwd if entry.uid == uid), None)


def look_up(what: ExecPlan, passwd: list[PasswdEntry], groups: list[GroupEntry]) -> Identity:
    """Docker's rules: "user[:group]" by name or number; a user alone brings the groups it is a member of."""
    user, colon, group = what["user"].partition(":")
    uid, gid, home, name = what["uid"], what["gid"], "", ""
    if user:
        uid, gid, home, name = _look_up_user(user, passwd)
    else:
        entry = _by_uid(passwd, uid)
        if entry is not None:
            home, name = entry.home, entry.name
    more: list[int] = list(what["groups"])
    if colon and group:
        gid = _look_up_group(group, groups)
    elif user and name:
        more += [entry.gid for entry in groups if name in entry.members]
    more += [_look_up_group(text, groups) for text in what["group_names"]]
    if user:
        more.insert(0, gid)
    return Identity(uid, gid, tuple(dict.fromkeys(more)), home)


def _look_up_user(user: str, passwd: list[PasswdEntry]) -> tuple[int, int, str, str]:
    for entry in passwd:
        if entry.name == user:
            return entry.uid, entry.gid, entry.home, entry.name
    uid = _number(user)
    if uid is None:
        raise StartFailed("user", 0, user, f"unable to find user {user}: no matching entries in passwd file")
    _check_range(uid)
    entry_or_none = _by_uid(passwd, uid)
    if entry_or_none is None:
        return uid, 0, "", ""
    return uid, entry_or_none.gid, entry_or_none.home, entry_or_none.name


def _look_up_group(group: str, groups: list[GroupEntry]) -> int:
    for entry in groups:
        if entry.name == group:
            return entry.gid
    gid = _number(group)
    if gid is None:
        raise StartFailed("user", 0, group, f"unable to find group {group}: no matching entries in group file")
    _check_range(gid)
    return gid


def _check_range(value: int) -> None:
    if value > _MAX_ID:
        raise StartFailed("user", 0, str(value), "uids and gids must be in range 0-2147483647")


def environment(env: list[str], who: Identity) -> dict[str, str]:
    """The environment as execve takes it, with HOME when nobody set it. A later definition wins."""
    found: dict[str, str] = {}
    for text in env:
        key, _, value = text.partition("=")
        if key:
            found[key] = value
    if not found.get("HOME"):
        found["HOME"] = who.home or "/"
    return found


def change(who: Identity, bounding: int) -> None:
    """Shrink the bounding set and take the ids; the permitted capabilities stay and are all effective."""
    capabilities.drop_bounding(bounding)
    capabilities.keep_over_setuid(True)
    try:
        process.set_ids(who.uid, who.gid, who.groups)
    except OSError as error:
        raise StartFailed(
            "user",
            error.errno or 0,
            f"{who.uid}:{who.gid}",
            f"setting user {who.uid}:{who.gid} failed: not mapped in the user namespace",
        ) from None
    capabilities.set_effective_to_permitted()


def give_up(caps: CapabilityPlan) -> None:
    """Leave the capabilities of the plan and no others."""
    capabilities.keep_over_setuid(False)
    _, have, _ = capabilities.get_sets()
    permitted = caps["permitted"] & have
    capabilities.set_sets(caps["effective"] & permitted, permitted, caps["inheritable"] & have)
    capabilities.set_ambient(caps["ambient"] & permitted & caps["inheritable"])
