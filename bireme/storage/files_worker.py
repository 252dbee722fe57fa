"""The process that reads or writes files of an instance: `python -I -m bireme.storage.files_worker REQUEST`.

It enters the root (view.py) and jails itself there before it looks at a path or at a byte of an archive. Verbs:

    stat     what a path is
    get      the same as progress, then a tar archive of it on `output`
    put      the archive that `input` delivers, plain or compressed, into a directory
    export   the whole root as an archive on `output`
    changes  what differs from the image, as JSON on `output`
    diff     the same as a layer, compressed, on `output`; its diff_id
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

from bireme.errors import Denied
from bireme.linux.path import Resolve, openat2, read_file_in_root
from bireme.oci.digest import SHA256, new_hash, prepare_for_long
from bireme.runtime.identity import look_up, parse_group, parse_passwd
from bireme.runtime.outside import make_plain_root
from bireme.runtime.plan import RootPlan
from bireme.runtime.processplan import ExecPlan
from bireme.storage import jail
from bireme.storage.answering import Say, serve
from bireme.storage.codec import GzipEncoder, decode
from bireme.storage.compare import Change, ChangeKind, compare
from bireme.storage.extract import READ_ONLY_MOUNT, READ_ONLY_ROOT, Extractor, is_read_only
from bireme.storage.pack import VANISHED, Packer
from bireme.storage.tar import TarReader
from bireme.storage.tarwrite import TarWriter, make_entry
from bireme.storage.view import FILES_MAX, READER, Found, View, base_name, enter

_RECURSION = 10_000
_COLLECT_BYTES = 256 << 10
_PASSWD_BYTES = 4 << 20
_BENEATH = Resolve.RESOLVE_BENEATH | Resolve.RESOLVE_NO_SYMLINKS

_GO_MODES = (
    (stat.S_ISUID, 1 << 23),
    (stat.S_ISGID, 1 << 22),
    (stat.S_ISVTX, 1 << 20),
)
_GO_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}


def main() -> int:
    sys.setrecursionlimit(_RECURSION)
    return serve(_work, "the archive needs too much memory")


def _work(request: dict[str, Any], say: Say) -> dict[str, Any]:
    verbs: dict[str, Callable[[dict[str, Any], Say], dict[str, Any]]] = {
        "stat": _stat,
        "get": _get,
        "put": _put,
        "export": _export,
        "changes": _changes,
        "diff": _diff,
    }
    return verbs[request["verb"]](request, say)


# stat and get


def _stat(request: dict[str, Any], _say: Say) -> dict[str, Any]:
    view = enter(request, write=False)
    return _describe(view, view.find(request["path"]), request["path"])


def _get(request: dict[str, Any], say: Say) -> dict[str, Any]:
    view = enter(request, write=False)
    path = request["path"]
    found = view.find(path)
    directory = -1
    if stat.S_ISDIR(found.stat.st_mode):
        directory = _open_found(view, found, path)
    say(_describe(view, found, path))
    with Output(request["output"]) as output:
        writer = TarWriter(output.write)
        name = base_name(path)
        Packer(writer, view).found(found, directory, b"" if name == "/" else os.fsencode(name))
        writer.finish()
    return {}


def _open_found(view: View, found: Found, path: str) -> int:
    """A mount is entered when it is what was asked for."""
    if found.parent < 0:
        return view.open_directory(path)
    try:
        return os.open(found.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=found.parent)
    except OSError as error:
        raise view.missing(path) from error


def _describe(view: View, found: Found, path: str) -> dict[str, Any]:
    """What X-Docker-Container-Path-Stat says, the time as nanoseconds."""
    link = stat.S_ISLNK(found.stat.st_mode)
    return {
        "name": base_name(path),
        "size": found.stat.st_size,
        "mode": go_mode(found.stat.st_mode),
        "mtime_ns": found.stat.st_mtime_ns,
        "linkTarget": view.follow(found) if link else "",
    }


def go_mode(mode: int) -> int:
    """A mode of stat(2) as Go's os.FileMode."""
    bits = _GO_KINDS.get(stat.S_IFMT(mode), 0) | mode & 0o777
    return bits | sum(go for unix, go in _GO_MODES if mode & unix)


class Output:
    """Collects small writes to a descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = int(fd)
        self._parts: list[bytes] = []
        self._size = 0

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.flush()

    def write(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _COLLECT_BYTES:
            self.flush()

    def flush(self) -> None:
        view = memoryview(b"".join(self._parts))
        self._parts.clear()
        self._size = 0
        while view:
            view = view[os.write(self._fd, view) :]


# put


def _put(request: dict[str, Any], _say: Say) -> dict[str, Any]:
    source = int(request["input"])
    chunks = decode(lambda count: os.read(source, count))
    view = enter(request, write=True)
    path = request["path"]
    target = view.open_directory(path)
    if is_read_only(target):
        mounted = view.in_mount(view.place_of(target))
        raise Denied(READ_ONLY_MOUNT if mounted else READ_ONLY_ROOT, subject=path)
    owner = _owner(view, request["owner"]) if request["owner"] else None
    extractor = Extractor(view, target, owner, keep_kinds=request["keep_kinds"])
    try:
        extractor.apply(TarReader(chunks))
    finally:
        extractor.close()
    while chunks():
        pass
    return {}


def _owner(view: View, user: str) -> tuple[int, int]:
    what = {"user": user, "uid": 0, "gid": 0, "groups": [], "group_names": []}
    who = look_up(
        cast(ExecPlan, what),
        parse_passwd(_read_text(view, "/etc/passwd")),
        parse_group(_read_text(view, "/etc/group")),
    )
    return who.uid, who.gid


def _read_text(view: View, path: str) -> str:
    try:
        return read_file_in_root(view.root, path, _PASSWD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


# the whole root


def _export(request: dict[str, Any], _say: Say) -> dict[str, Any]:
    root, _, _ = _enter_layers(request)
    view = View(root, request["proc"], request["container"], ())
    with Output(request["output"]) as output:
        writer = TarWriter(output.write)
        Packer(writer, view).contents(os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root), b"", b"/", 1)
        writer.finish()
    return {}


def _changes(request: dict[str, Any], _say: Say) -> dict[str, Any]:
    changes = compare(*_enter_layers(request))
    with Output(request["output"]) as output:
        output.write(b"[" if changes else b"null")
        for number, change in enumerate(changes):
            text = json.dumps(
                {"Path": change.path.decode("utf-8", "replace"), "Kind": int(change.kind)}, separators=(",", ":")
            )
            output.write((b"," if number else b"") + text.encode())
        output.write(b"]\n" if changes else b"\n")
    return {}


def _diff(request: dict[str, Any], _say: Say) -> dict[str, Any]:
    encoder, hasher = GzipEncoder(), new_hash()
    prepare_for_long()
    new, old, upper = _enter_layers(request)
    changes = compare(new, old, upper)
    view = View(new, request["proc"], request["container"], ())
    with Output(request["output"]) as output:

        def sink(data: bytes) -> None:
            hasher.update(data)
            if packed := encoder.encode(data):
                output.write(packed)

        writer = TarWriter(sink)
        packer = Packer(writer, view)
        for change in changes:
            _add_change(writer, packer, new, change)
        writer.finish()
        output.write(encoder.finish())
    return {"diff_id": f"{SHA256}:{hasher.hexdigest()}", "changes": len(changes)}


def _add_change(writer: TarWriter, packer: Packer, root: int, change: Change) -> None:
    above, _, name = change.path.lstrip(b"/").rpartition(b"/")
    if change.kind is ChangeKind.DELETED:
        writer.add(make_entry((above + b"/" if above else b"") + b".wh." + name, mode=0))
        return
    try:
        parent = openat2(root, above or b".", os.O_RDONLY | os.O_DIRECTORY, resolve=_BENEATH)
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            packer.leaf(parent, name, change.path.lstrip(b"/"), found)
        finally:
            os.close(parent)
    except OSError as error:
        if error.errno not in VANISHED:
            raise


def _enter_layers(request: dict[str, Any]) -> tuple[int, int, int]:
    """Descriptors of the root as it is, of the image's, and of where the differences are; jailed in the first."""
    proc = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    new = _open_tree(request["root"])
    old = _open_tree(request["image"]) if request["image"] else -1
    upper = os.open(request["upper"], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW) if request["upper"] else -1
    request["proc"] = proc
    jail.enter(new, int(request["parent"]), READER, files=FILES_MAX)
    return new, old, upper


def _open_tree(root: Mapping[str, Any]) -> int:
    """The tree's own descriptor stays open: with it the mount would go."""
    tree = make_plain_root(cast(RootPlan, root))
    return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)


if __name__ == "__main__":
    sys.exit(main())
