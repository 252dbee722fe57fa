"""The jailed worker on a real kernel: what it makes, what it refuses, what it may not do."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bireme.errors import BiremeError, Internal, Invalid
from bireme.linux import mount
from bireme.storage.codec import _zstd
from bireme.storage.decode import decoded
from bireme.storage.overlay import OverlaySnapshotter
from bireme.storage.tarwalk import write_tree
from bireme.storage.unpack import Unpacked, unpack
from tests.support import image, tar

pytestmark = pytest.mark.needs_root


@pytest.fixture
def snapshotter(tmp_path: Path) -> OverlaySnapshotter:
    return OverlaySnapshotter(str(tmp_path / "snapshots"))


def run(data: bytes, target: str, tmp_path: Path, **more: object) -> Unpacked:
    path = tmp_path / "blob"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        return unpack(fd, target, "overlay", **more)  # type: ignore[arg-type]
    finally:
        os.close(fd)


def listing(root: Path) -> list[tuple[object, ...]]:
    found = []
    for path in sorted(root.rglob("*")):
        one = path.lstat()
        found.append(
            (
                str(path.relative_to(root)),
                one.st_mode,
                one.st_uid,
                one.st_gid,
                one.st_nlink if not path.is_dir() else 0,
                one.st_rdev,
                one.st_mtime_ns,
                os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b"",
            )
        )
    return found


MEMBERS = [
    tar.directory(b"d/", 0o1777, mtime=5),
    tar.file(b"d/f", b"data" * 1000, uid=tar.octal(1000, 8), gid=tar.octal(1001, 8), mode=b"0004755\0", mtime=7),
    tar.link(b"hard", b"d/f"),
    tar.symlink(b"s", b"/d/f"),
    tar.header(b"null", b"3", major=1, minor=3, mode=b"0000666\0"),
    tar.header(b"fifo", b"6", mode=b"0000622\0"),
    tar.pax([(b"SCHILY.xattr.security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))]),
    tar.file(b"capable", b"x", mode=b"0000755\0"),
]


@pytest.mark.parametrize("pack", ["", "gzip", "zstd"])
def test_a_layer_becomes_files(snapshotter: OverlaySnapshotter, tmp_path: Path, pack: str) -> None:
    content = tar.archive(*MEMBERS)
    data = {"": bytes, "gzip": tar.compressed, "zstd": _zstd().compress}[pack](content)
    root = snapshotter.prepare("a", None)
    seen: list[int] = []
    done = run(data, root.upper, tmp_path, progress=seen.append)
    assert done == Unpacked(image.digest(data), len(data), image.digest(content), len(content), 4001, 7)
    assert seen[-1] == len(data)
    upper = Path(root.upper)
    found = (upper / "d/f").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), found.st_nlink) == (1000, 1001, 0o4755, 2)
    assert (upper / "null").lstat().st_rdev == os.makedev(1, 3)
    assert os.getxattr(upper / "capable", "security.capability")[:4] == b"\1\0\0\2"
    assert ((upper / "d").stat().st_mtime, (upper / "d").stat().st_uid) == (5, 0)


def test_same_tree_as_gnu_tar(snapshotter: OverlaySnapshotter, tmp_path: Path) -> None:
    archive = tmp_path / "source.tar"
    sparse = tmp_path / "source/usr/lib/sparse"
    sparse.parent.mkdir(parents=True)
    with open(sparse, "wb") as file:
        for at in (10_000, 500_000, 900_000):
            file.seek(at)
            file.write(os.urandom(5000))
        file.truncate(1 << 20)
    names = ["usr/lib/python3.11/json", "usr/lib/python3.11/email", "usr/share/perl5/Debconf"]
    present = [name for name in names if os.path.isdir(f"/{name}")]
    subprocess.run(["cp", "-a", "--parents", *present, tmp_path / "source"], check=True, cwd="/")
    for form in (["--format=gnu", "-S"], ["--format=pax", "-S"], ["--format=pax", "-S", "--sparse-version=0.1"]):
        subprocess.run(["tar", *form, "-C", tmp_path / "source", "-cf", archive, "."], check=True)
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        subprocess.run(["tar", "-C", theirs, "-xpf", archive], check=True)
        root = snapshotter.prepare("a", None)
        run(archive.read_bytes(), root.upper, tmp_path)
        assert listing(Path(root.upper)) == listing(theirs)
        snapshotter.remove("a")
        subprocess.run(["rm", "-rf", theirs], check=True)


def test_our_own_archives_come_back(snapshotter: OverlaySnapshotter, tmp_path: Path) -> None:
    first = snapshotter.prepare("a", None)
    run(tar.archive(*MEMBERS), first.upper, tmp_path)
    written = bytearray()
    write_tree(first.upper, written.extend)
    second = snapshotter.prepare("b", None)
    run(bytes(written), second.upper, tmp_path)
    assert listing(Path(second.upper)) == listing(Path(first.upper))


GOOD = tar.archive(tar.file(b"f", b"x" * 5000))

BAD = {
    "truncated": GOOD[:3000],
    "truncated gzip": tar.compressed(GOOD)[:-9],
    "garbage behind": GOOD + b"garbage",
    "garbage behind gzip": tar.compressed(GOOD) + b"garbage",
    "corrupt gzip": tar.compressed(GOOD)[:-5] + b"\xff" + tar.compressed(GOOD)[-4:],
    "no archive": b"hello" * 1000,
    "absolute": tar.archive(tar.file(b"/etc/x")),
    "climbing": tar.archive(tar.file(b"../x")),
    "through a link": tar.archive(tar.symlink(b"l", b"/"), tar.file(b"l/x")),
    "trusted attribute": tar.archive(tar.pax([(b"SCHILY.xattr.trusted.overlay.redirect", b"/")]), tar.directory(b"d")),
    "giant header": tar.header(b"x", b"x", size=1 << 32),
    "giant file": tar.header(b"x", size=1 << 32) + b"x" * 1000,
    "sparse beyond the file system": tar.pax(
        [(b"GNU.sparse.size", b"9223372036854775807"), (b"GNU.sparse.map", b"0,1")]
    )
    + tar.file(b"f", b"x"),
}


def _takes_any_size(path: Path) -> bool:
    path.touch()
    try:
        os.truncate(path, (1 << 63) - 1)
    except OSError:
        return False
    finally:
        path.unlink()
    return True


@pytest.mark.parametrize("name", list(BAD))
def test_bad_layers_are_refused(snapshotter: OverlaySnapshotter, tmp_path: Path, name: str) -> None:
    if name == "sparse beyond the file system" and _takes_any_size(tmp_path / "probe"):
        pytest.skip("this file system (tmpfs) takes files of any size")
    root = snapshotter.prepare("a", None)
    with pytest.raises(Invalid):
        run(BAD[name], root.upper, tmp_path)
    snapshotter.remove("a")
    assert snapshotter.sweep() == 0


def test_what_was_promised_is_compared(snapshotter: OverlaySnapshotter, tmp_path: Path) -> None:
    for key, promise in (("a", {"digest": image.digest(b"")}), ("b", {"diff_id": image.digest(b"")})):
        root = snapshotter.prepare(key, None)
        with pytest.raises(Invalid, match="expected"):
            run(GOOD, root.upper, tmp_path, **promise)


def test_a_bomb_ends_with_the_disk_not_the_memory(snapshotter: OverlaySnapshotter, tmp_path: Path) -> None:
    """300 MiB of zeros in a member that a small blob holds: read through in bounded pieces."""
    content = tar.header(b"f", size=1000) + bytes(1024) + bytes(300 << 20)
    root = snapshotter.prepare("a", None)
    done = run(tar.compressed(content), root.upper, tmp_path)
    assert done.content_bytes == len(content)


@pytest.fixture
def merged(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "merged"
    path.mkdir()
    yield path
    try:
        mount.umount(str(path))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def test_layers_merge_as_the_kernel_sees_them(snapshotter: OverlaySnapshotter, tmp_path: Path, merged: Path) -> None:
    layers = [
        [
            tar.directory(b"./"),
            tar.directory(b"a/", 0o711, uid=tar.octal(5, 8), mtime=9),
            tar.file(b"a/gone"),
            tar.file(b"a/kept", b"1"),
            tar.directory(b"b/"),
            tar.file(b"b/below"),
            tar.directory(b"c/"),
            tar.file(b"c/x"),
        ],
        [
            tar.file(b"a/.wh.gone"),
            tar.file(b"a/new", b"2"),
            tar.directory(b"b/"),
            tar.file(b"b/.wh..wh..opq"),
            tar.file(b"b/above", b"2"),
            tar.file(b".wh.c"),
            tar.directory(b"c/"),
            tar.file(b"c/y", b"2"),
        ],
    ]
    parent = None
    for number, members in enumerate(layers):
        root = snapshotter.prepare("u", parent)
        run(tar.archive(*members), root.upper, tmp_path, parents=snapshotter.parents("u"))
        parent = f"layer{number}"
        snapshotter.commit("u", parent)
    root = snapshotter.prepare("top", parent)
    options = f"lowerdir={':'.join(root.lower)},upperdir={root.upper},workdir={root.work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
    assert sorted(str(path.relative_to(merged)) for path in merged.rglob("*")) == [
        "a", "a/kept", "a/new", "b", "b/above", "c", "c/y"
    ]  # fmt: skip
    found = (merged / "a").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_mtime) == (0o711, 5, 9)
    (merged / "a/kept").write_text("written")
    assert Path(root.upper, "a/kept").read_text() == "written"
    subprocess.run(["umount", merged], check=True)
    snapshotter.remove("top")
    assert snapshotter.sweep() == 0


PROBE = """
import json, os, socket, sys
from bireme.storage import jail
from bireme.linux import capabilities
root = os.open(sys.argv[1], os.O_RDONLY)
jail.enter(root, os.getppid(), capabilities.mask_of(sys.argv[2:]))
found = {}
def attempt(name, call):
    try:
        call()
        found[name] = "allowed"
    except OSError as error:
        found[name] = "refused"
attempt("list", lambda: os.listdir("/"))
attempt("host file", lambda: os.open("/etc/passwd", os.O_RDONLY))
attempt("climb", lambda: os.open("../../etc/passwd", os.O_RDONLY))
attempt("climb from root", lambda: os.open("../../etc/passwd", os.O_RDONLY, dir_fd=root))
attempt("connect", lambda: socket.socket().connect(("127.0.0.1", 1)))
attempt("fork", lambda: os.fork())
attempt("signal", lambda: os.kill(1, 0))
attempt("chroot", lambda: os.chroot("."))
attempt("setuid", lambda: os.setuid(0))
attempt("chown", lambda: os.chown("mine", 5, 5))
attempt("mknod", lambda: os.mknod("null", 0o20666, os.makedev(1, 3)))
found["caps"] = capabilities.names_of(capabilities.get_sets()[0])
found["bounding"] = capabilities.bounding()
found["uid"] = os.getuid()
os.write(1, json.dumps(found).encode())
os._exit(0)
"""


KEPT = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP"]


def probe(target: Path, *kept: str) -> dict[str, object]:
    target.mkdir()
    (target / "mine").write_text("")
    command = [sys.executable, "-c", PROBE, str(target), *kept]
    done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_the_jail_holds(tmp_path: Path) -> None:
    target = tmp_path / "target"
    found = probe(target, *KEPT)
    assert found == {
        "list": "allowed",
        "host file": "refused",
        "climb": "refused",
        "climb from root": "refused",
        "connect": "refused",
        "fork": "refused",
        "signal": "refused",
        "chroot": "refused",
        "setuid": "refused",
        "chown": "allowed",
        "mknod": "allowed",
        "caps": KEPT,
        "bounding": 0,
        "uid": 65534,
    }
    assert (target / "mine").stat().st_uid == 5


def test_the_jail_of_a_decoder_allows_nothing(tmp_path: Path) -> None:
    found = probe(tmp_path / "target")
    assert (found.pop("caps"), found.pop("bounding"), found.pop("uid")) == ([], 0, 65534)
    assert found.pop("list") == "allowed"
    assert set(found.values()) == {"refused"}


def test_a_dead_worker_is_an_error_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho broken >&2\nkill -9 $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(Internal, match="signal 9") as caught:
        run(GOOD, str(tmp_path), tmp_path)
    assert "broken" in str(caught.value)


def test_errors_carry_the_entry(snapshotter: OverlaySnapshotter, tmp_path: Path) -> None:
    root = snapshotter.prepare("a", None)
    with pytest.raises(BiremeError) as caught:
        run(tar.archive(tar.file(b"ok"), tar.file(b"../bad")), root.upper, tmp_path)
    assert caught.value.subject == "../bad"


@pytest.mark.parametrize("most", [1000, 1 << 20])
@pytest.mark.parametrize("size", [0, 1, 3 << 20])
def test_decoding_in_a_worker(size: int, most: int) -> None:
    content = os.urandom(size // 2) + bytes(size - size // 2)
    for data in (content, tar.compressed(content), _zstd().compress(content)):
        with decoded(tar.reader(data, most)) as chunks:
            assert b"".join(iter(chunks, b"")) == content


@pytest.mark.parametrize("damage", [lambda d: d[:-9], lambda d: d + b"garbage", lambda d: d[:-6] + b"\xff" + d[-5:]])
def test_damage_is_told_by_the_decoding_worker(damage: Callable[[bytes], bytes]) -> None:
    data = damage(tar.compressed(os.urandom(100_000)))
    with pytest.raises(Invalid, match="gzip"), decoded(tar.reader(data)) as chunks:
        list(iter(chunks, b""))


def test_a_reader_may_stop_anywhere() -> None:
    data = tar.compressed(bytes(64 << 20))
    with decoded(tar.reader(data)) as chunks:
        assert chunks()
    with pytest.raises(ZeroDivisionError), decoded(lambda count: data[:count] if count < 100 else 1 // 0) as chunks:
        list(iter(chunks, b""))


def _children() -> set[str]:
    return {child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()}


def test_a_killed_decoding_worker_is_an_error() -> None:
    data = tar.compressed(os.urandom(1 << 20))
    before = _children()

    def read(count: int) -> bytes:
        if count > 100:
            (child,) = _children() - before
            os.kill(int(child), signal.SIGKILL)
        return data[:count]

    with pytest.raises(Internal, match="signal 9"), decoded(read) as chunks:
        list(iter(chunks, b""))
