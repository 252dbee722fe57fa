"""Layers as disks on a real kernel: mounted, merged, made by many at once, killed half-way, removed with the layer."""

from __future__ import annotations

import ast
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bireme.errors import NotFound, Unavailable
from bireme.linux import mount
from bireme.storage import blocks, tool
from bireme.storage.blocks import Format, LayerImage, find_image, layer_image
from bireme.storage.native import NativeSnapshotter
from bireme.storage.overlay import OverlaySnapshotter
from tests.support.pace import eventually

pytestmark = pytest.mark.needs_root
FORMATS: tuple[Format, ...] = ("erofs", "ext4")


@pytest.fixture(params=FORMATS)
def kind(request: pytest.FixtureRequest) -> Format:
    found: Format = request.param
    if not tool.find_tool(f"mkfs.{found}"):
        pytest.skip(f"mkfs.{found} is not installed")
    return found


@pytest.fixture
def snapshotter(tmp_path: Path) -> OverlaySnapshotter:
    return OverlaySnapshotter(str(tmp_path / "snapshots"))


def fill_lower(root: Path) -> None:
    (root / "kept").write_bytes(b"below\n" * 3000)
    (root / "gone").write_text("x")
    (root / "replaced").mkdir()
    (root / "replaced/old").write_text("old")


def fill_upper(root: Path) -> None:
    """Everything an unpacked layer can hold."""
    os.mknod(root / "gone", stat.S_IFCHR, os.makedev(0, 0))
    (root / "replaced").mkdir()
    os.setxattr(root / "replaced", "trusted.overlay.opaque", b"y")
    (root / "replaced/new").write_text("new")
    (root / "first").write_text("data")
    os.link(root / "first", root / "second")
    os.setxattr(root / "first", "user.note", b"\0value")
    os.setxattr(root / "first", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.chown(root / "first", 1000, 123456)
    os.chmod(root / "first", 0o4750)
    os.utime(root / "first", ns=(10**18, 981173106 * 10**9))
    os.symlink("/where/ever", root / "link")
    os.mkfifo(root / "fifo")
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(8, 1))
    (root / os.fsdecode(b"odd \xff\n name")).write_text("")
    (root / "secret").write_text("nobody may read me")
    os.chmod(root / "secret", 0)
    os.chmod(root, 0o1777)
    os.chown(root, 5, 6)


def commit(snapshotter: OverlaySnapshotter, name: str, parent: str | None, fill: object) -> None:
    root = Path(snapshotter.prepare(f"key-{name}", parent).upper)
    fill(root)  # type: ignore[operator]
    snapshotter.commit(f"key-{name}", name)


@pytest.fixture
def layers(snapshotter: OverlaySnapshotter) -> tuple[str, ...]:
    commit(snapshotter, "lower", None, fill_lower)
    commit(snapshotter, "upper", "lower", fill_upper)
    return snapshotter.prepare("machine", "upper").layers


@contextmanager
def mounted(image: LayerImage, where: Path) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", image.format, "-o", "loop,ro", image.path, where], check=True)
    try:
        yield where
    finally:
        mount.umount(str(where))


@contextmanager
def merged(lower: list[Path | str], where: Path) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    mount.mount("overlay", str(where), "overlay", 1, "lowerdir=" + ":".join(map(str, lower)))
    try:
        yield where
    finally:
        mount.umount(str(where))


def describe(root: Path) -> dict[str, tuple[object, ...]]:
    """All there is to know of a tree."""
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        one = path.lstat()
        attributes = {name: os.getxattr(path, name) for name in os.listxattr(path, follow_symlinks=False)}
        content: object = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        links = one.st_nlink if path.is_file() else 0
        device = one.st_rdev if stat.S_ISCHR(one.st_mode) or stat.S_ISBLK(one.st_mode) else 0
        facts = (one.st_mode, one.st_uid, one.st_gid, links, device, one.st_mtime_ns // 10**9, content, attributes)
        found[str(path.relative_to(root))] = facts
    return found


def test_nothing_of_a_layer_is_lost(layers: tuple[str, ...], kind: Format, tmp_path: Path) -> None:
    for layer in layers:
        image = layer_image(layer, (kind,))
        assert image.size_bytes == image.path.stat().st_size
        assert image.size_bytes % 4096 == 0
        with mounted(image, tmp_path / "mnt") as root:
            assert describe(root) == describe(Path(layer))


def test_a_guest_merges_them_as_the_host_does(layers: tuple[str, ...], kind: Format, tmp_path: Path) -> None:
    upper, lower = (layer_image(layer, (kind,)) for layer in layers)
    with (
        mounted(upper, tmp_path / "u") as top,
        mounted(lower, tmp_path / "l") as below,
        merged([top, below], tmp_path / "guest") as guest,
        merged(list(layers), tmp_path / "host") as host,
    ):
        assert describe(guest) == describe(host)
        assert sorted(os.listdir(guest / "replaced")) == ["new"]
        assert not (guest / "gone").exists()


def test_an_empty_layer(snapshotter: OverlaySnapshotter, kind: Format, tmp_path: Path) -> None:
    commit(snapshotter, "empty", None, lambda root: None)
    with mounted(layer_image(snapshotter.prepare("m", "empty").layers[0], (kind,)), tmp_path / "mnt") as root:
        assert os.listdir(root) == []


@pytest.mark.parametrize("name", ["lost+found", "a/b/lost+found.old"])
def test_what_one_tool_leaves_out_the_other_takes(snapshotter: OverlaySnapshotter, name: str, tmp_path: Path) -> None:
    commit(snapshotter, "odd", None, lambda root: (root / name).mkdir(0o711, parents=True))
    layer = snapshotter.prepare("m", "odd").layers[0]
    with mounted(layer_image(layer), tmp_path / "mnt") as root:
        assert describe(root) == describe(Path(layer))


def test_it_is_made_once(layers: tuple[str, ...], kind: Format) -> None:
    found: list[tuple[LayerImage, int]] = []

    def make() -> None:
        image = layer_image(layers[0], (kind,))
        found.append((image, image.path.stat().st_ino))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_formats_that_the_guest_does_not_read_are_not_offered(layers: tuple[str, ...]) -> None:
    assert layer_image(layers[0], ("ext4",)).format == "ext4"
    assert find_image(layers[0], ("erofs",)) is None
    with pytest.raises(Unavailable, match="is not installed"):
        layer_image(layers[0], ())


def test_it_goes_with_the_layer(snapshotter: OverlaySnapshotter, layers: tuple[str, ...], kind: Format) -> None:
    path = layer_image(layers[0], (kind,)).path
    snapshotter.remove("machine")
    snapshotter.remove("upper")
    assert snapshotter.sweep() == 0
    assert not path.exists()
    assert not path.parents[1].exists()
    with pytest.raises(NotFound):
        layer_image(layers[0], (kind,))
    assert find_image(layers[0]) is None


def test_a_full_tree_has_one_layer(tmp_path: Path, kind: Format) -> None:
    snapshotter = NativeSnapshotter(str(tmp_path / "native"))
    Path(snapshotter.prepare("one", None).upper, "file").write_text("x")
    snapshotter.commit("one", "lower")
    Path(snapshotter.prepare("two", "lower").upper, "more").write_text("y")
    snapshotter.commit("two", "upper")
    layers = snapshotter.prepare("machine", "upper").layers
    assert layers == snapshotter.mounts("machine").layers
    assert len(layers) == 1
    with mounted(layer_image(layers[0], (kind,)), tmp_path / "mnt") as root:
        assert sorted(os.listdir(root)) == ["file", "more"]


def leftovers(layer: str) -> list[str]:
    return [name for name in os.listdir(os.path.dirname(layer)) if name.startswith("image.")]


def tools_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state_of(pid: int) -> str:
    """The letter in /proc/PID/stat, "" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_kill_half_way(snapshotter: OverlaySnapshotter, kind: Format) -> None:
    """The engine dies while a tool works: the tool dies too, what it wrote does not count, the next call cleans up."""
    commit(snapshotter, "big", None, lambda root: [(root / f"f{n}").write_bytes(bytes(300)) for n in range(4000)])
    layer = snapshotter.prepare("m", "big").layers[0]
    code = f"from bireme.storage.blocks import layer_image; layer_image({layer!r}, ({kind!r},))"
    maker = subprocess.Popen([sys.executable, "-c", code], cwd=Path(blocks.__file__).parents[2])
    try:
        eventually(lambda: leftovers(layer))
        worker = eventually(lambda: tools_of(maker.pid))[0]
    finally:
        maker.kill()
        maker.wait()
    eventually(lambda: state_of(worker) in "Z")
    assert find_image(layer) is None
    assert all(name.endswith(".new") for name in leftovers(layer))
    assert layer_image(layer, (kind,)).path.stat().st_size > 4000 * 300
    assert leftovers(layer) == [f"image.{kind}"]


def test_a_full_disk(tmp_path: Path, kind: Format) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount.mount("none", str(small), "tmpfs", 0, "size=6m")
    try:
        layer = small / "layer/fs"
        layer.mkdir(parents=True)
        (layer / "data").write_bytes(os.urandom(4 << 20))
        with pytest.raises(Unavailable, match=f"mkfs.{kind} failed"):
            layer_image(str(layer), (kind,))
        assert leftovers(str(layer)) == []
    finally:
        mount.umount(str(small))


PRISONER = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
could = [f"descriptor {n}" for n in range(3, 1000) if not closed(n)]
could += filter(os.path.exists, ("/proc/1", "/sys/fs", "/dev/null", "/etc/passwd", "/root", "/home", "/tmp"))
for path in ("/source/file", "/source/more", "/usr/bin/more", "/more"):
    could += [f"write {path}"] if opens(path) else []
could += ["mount"] if not libc.mount(b"none", b"/target", b"tmpfs", 0, None) else []
could += ["unshare"] if not libc.unshare(0x10000000) else []
could += ["chroot"] if not libc.chroot(b"/target") else []
could += [f"uid {os.getuid()}"] if os.getresuid() != (65534, 65534, 65534) else []
could += [name for _, name in socket.if_nameindex() if name != "lo"]
with open("/target/answer", "w") as file:
    file.write(repr((os.listdir("/"), os.path.isfile("/source/file"), could)))
"""
HELPERS = """
import os
def closed(n):
    try:
        os.fstat(n)
    except OSError:
        return True
def opens(path):
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
    except OSError:
        return False
    return True
"""


def test_the_jail(tmp_path: Path) -> None:
    """A program in it sees the two directories and the host's programs, and can do nothing to the host."""
    (tmp_path / "s").mkdir()
    (tmp_path / "t").mkdir()
    os.chown(tmp_path / "t", tool.NOBODY, tool.NOBODY)
    (tmp_path / "s/file").write_text("x")
    source, target = (os.open(tmp_path / name, os.O_RDONLY | os.O_DIRECTORY) for name in "st")
    keep = ("CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN")
    try:
        argv = ["/usr/bin/python3", "-I", "-c", HELPERS + PRISONER]
        tool.run_tool(argv, source, target, keep=keep, file_max_bytes=4096)
        with pytest.raises(Unavailable, match="sh failed with code 7: last words"):
            tool.run_tool(["/bin/sh", "-c", "echo last words; exit 7"], source, target, file_max_bytes=0)
    finally:
        os.close(source)
        os.close(target)
    seen, reads, could = ast.literal_eval((tmp_path / "t/answer").read_text())
    assert set(seen) <= {"source", "target", "etc", "usr", "bin", "sbin", "lib", "lib32", "lib64"}
    assert reads
    assert could == []
    assert (tmp_path / "s/file").read_text() == "x"
