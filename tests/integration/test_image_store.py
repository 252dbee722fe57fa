"""Images in and out on a real disk: every kind of archive, what is refused, and what a kill leaves."""

from __future__ import annotations

import gzip
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bireme.errors import BiremeError, Invalid, NotFound, Unsupported
from bireme.image.bootstrap import bootstrap
from bireme.image.model import ImageUser, Loaded, Progress
from bireme.image.store import ImageStore
from bireme.storage.codec import _zstd
from bireme.storage.content import ContentStore
from bireme.storage.db import Database
from bireme.storage.native import NativeSnapshotter
from bireme.storage.overlay import OverlaySnapshotter
from tests.support import image, tar

pytestmark = pytest.mark.needs_root


class Root:
    """A data root; `reopen` is the next engine."""

    def __init__(self, path: Path, snapshotter: type[OverlaySnapshotter | NativeSnapshotter]) -> None:
        self.path = path
        self._kind = snapshotter
        self.open()

    def open(self) -> None:
        self.db = Database.open(self.path / "db.sqlite")
        self.content = ContentStore(str(self.path / "content"))
        self.snapshotter = self._kind(str(self.path / "snapshots"))
        self.store = ImageStore(self.db, self.content, self.snapshotter)

    def reopen(self) -> None:
        self.db.close()
        self.open()

    def left(self) -> tuple[set[str], set[str], list[str]]:
        """Blobs, snapshots, files being written."""
        return (
            {blob.digest for blob in self.content.list()},
            {info.name for info in self.snapshotter.list()},
            os.listdir(self.path / "content/ingest"),
        )

    def check(self) -> None:
        """Everything the records refer to is there and is what it should be."""
        for found in self.store.list():
            for one in found.layers:
                assert self.content.size(one.digest) == one.blob_bytes
            for digest in (found.id, found.manifest):
                self.content.read(digest, 1 << 20)
            key = f"check-{os.urandom(4).hex()}"
            self.snapshotter.prepare(key, found.chain_id or None)
            self.snapshotter.remove(key)


@pytest.fixture(params=[OverlaySnapshotter, NativeSnapshotter], ids=["overlay", "native"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Root]:
    made = Root(tmp_path, request.param)
    yield made
    made.db.close()


def load(root: Root, data: bytes) -> Sequence[Loaded]:
    return root.store.load(io.BytesIO(data).read)


def nobody(_: str) -> list[ImageUser]:
    return []


BASE = image.layer(tar.directory(b"etc/"), tar.file(b"etc/name", b"base"), tar.file(b"gone", b"x"))
TOP = image.gzipped(tar.file(b"etc/name", b"top"), tar.file(b".wh.gone"), tar.file(b"new", b"new"))
LAYERS = [BASE, TOP]
ARCHIVES = {
    "docker": image.docker(LAYERS, ["test:1", "reg.example:5000/a/test:2"]),
    "legacy": image.legacy([BASE, TOP, BASE]),
    "layout": image.layout([image.gzipped(tar.file(b"f"))], {"org.opencontainers.image.ref.name": "test:1"}),
    "layout by platform": image.layout(
        [TOP], {"io.containerd.image.name": "docker.io/library/test:1"}, platforms=["s390x", "amd64"]
    ),
    "gzip": gzip.compress(image.docker(LAYERS)),
    "zstd": _zstd().compress(image.docker(LAYERS)),
}


def merged(root: Root, chain_id: str) -> set[str]:
    """Names in the merged root, read from the layers."""
    mounts = root.snapshotter.prepare("view", chain_id)
    found: set[str] = set()
    for layer in (*reversed(mounts.lower), mounts.upper):
        for path in Path(layer).rglob("*"):
            name = str(path.relative_to(layer))
            found.discard(name)
            if not path.is_char_device():
                found.add(name)
    root.snapshotter.remove("view")
    return found


@pytest.mark.parametrize("name", list(ARCHIVES))
def test_archives_of_every_kind(root: Root, name: str) -> None:
    (first, *_) = load(root, ARCHIVES[name])
    assert first.reference == "test:1"
    found = root.store.resolve("test:1")
    assert found.id == first.id
    assert found.config.cmd == ["sh"]
    root.reopen()
    assert root.store.resolve(found.id[7:19]) == found
    root.check()
    (again, *_) = load(root, ARCHIVES[name])
    assert again == first
    assert len(root.store.list()) == 1


def test_layers_are_what_the_archive_says(root: Root) -> None:
    loaded = load(root, ARCHIVES["docker"])
    assert [one.reference for one in loaded] == ["test:1", "reg.example:5000/a/test:2"]
    found = root.store.resolve("test:1")
    assert found.references == ("test:1", "reg.example:5000/a/test:2")
    assert [one.diff_id for one in found.layers] == [one.diff_id for one in LAYERS]
    assert found.size == len(b"base" + b"x" + b"top" + b"new")
    assert merged(root, found.chain_id) == {"etc", "etc/name", "new"}
    assert merged(root, found.chain_ids[0]) == {"etc", "etc/name", "gone"}
    history = root.store.history(found)
    assert [(step.id, step.created_by, step.size) for step in history] == [
        (found.id, "step 1", 6),
        ("<missing>", "step 0", 5),
    ]


def test_what_is_saved_is_loaded(root: Root) -> None:
    load(root, ARCHIVES["docker"])
    before = root.store.resolve("test:1")
    out = io.BytesIO()
    root.store.save(["test:1", "reg.example:5000/a/test:2"], out.write)
    same = io.BytesIO()
    root.store.save(["test:1", "reg.example:5000/a/test:2"], same.write)
    assert out.getvalue() == same.getvalue()
    root.store.remove(before.id, True, nobody)
    assert root.left() == (set(), set(), [])
    assert [one.reference for one in load(root, out.getvalue())] == ["test:1", "reg.example:5000/a/test:2"]
    assert root.store.resolve("test:1") == before


def test_saved_archives_are_docker_archives_and_layouts(root: Root) -> None:
    load(root, ARCHIVES["docker"])
    out = io.BytesIO()
    root.store.save(["test"], out.write)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        names = archive.getnames()
    assert {"manifest.json", "index.json", "oci-layout", "repositories"} < set(names)
    layout = tar.archive(
        *(
            tar.file(entry.name.encode(), data)
            for entry, data in members(out.getvalue())
            if entry.name not in ("manifest.json", "repositories")
        )
    )
    found = root.store.resolve("test:1")
    root.store.remove(found.id, True, nobody)
    assert load(root, layout) == [Loaded("test:1", found.id)]


def members(data: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for entry in archive:
            file = archive.extractfile(entry)
            assert file is not None
            yield entry, file.read()


def test_images_without_a_name(root: Root) -> None:
    (loaded,) = load(root, image.docker(LAYERS, []))
    assert loaded.reference == ""
    out = io.BytesIO()
    root.store.save([loaded.id], out.write)
    root.store.prune(nobody)
    assert not root.store.list()
    assert load(root, out.getvalue()) == [loaded]


def test_progress_is_told(root: Root) -> None:
    seen: list[Progress] = []
    big = image.gzipped(tar.file(b"big", os.urandom(6 << 20)))
    root.store.load(io.BytesIO(image.docker([big])).read, seen.append)
    layer_steps = [step for step in seen if step.action == "Loading layer"]
    assert layer_steps[-1].current == layer_steps[-1].total == len(big.blob)
    assert {step.action for step in seen} == {"Reading", "Loading layer", "Loaded layer"}


ONE = image.layer(tar.file(b"f", b"data" * 1000))
BIG_INDEX = tar.file(b"manifest.json", b" " * ((8 << 20) + 1))

BAD = {
    "empty": b"",
    "no archive": b"hello" * 300,
    "filesystem archive": tar.archive(tar.file(b"etc/passwd", b"root")),
    "truncated": image.docker([ONE])[:3000],
    "truncated gzip": gzip.compress(image.docker([ONE]))[:-20],
    "corrupt gzip": gzip.compress(image.docker([ONE]))[:-8] + bytes(8),
    "missing layer": image.docker([ONE]).replace(image.digest(ONE.blob)[7:].encode(), b"f" * 64, 1),
    "wrong blob digest": tar.archive(
        tar.file(b"blobs/sha256/" + b"0" * 64, b"data"), tar.file(b"manifest.json", b"[]")
    ),
    "wrong diff id": image.docker(
        [ONE], document=image.config([ONE], rootfs={"type": "layers", "diff_ids": [image.digest(b"no")]})
    ),
    "layers and config disagree": image.docker([ONE], document=image.config([ONE, ONE])),
    "hostile layer": image.docker([BASE, image.layer(tar.file(b"../x"))]),
    "corrupt layer": image.docker([image.Layer(ONE.content, gzip.compress(ONE.content)[:-4] + bytes(4))]),
    "absolute member": tar.archive(tar.file(b"/manifest.json", b"[]")),
    "climbing member": tar.archive(tar.file(b"../manifest.json", b"[]")),
    "link out": tar.archive(tar.symlink(b"x", b"../../etc/passwd"), tar.file(b"manifest.json", b"[]")),
    "link loop": tar.archive(
        tar.symlink(b"a", b"b"),
        tar.symlink(b"b", b"a"),
        tar.file(b"manifest.json", b'[{"Config": "a", "RepoTags": null, "Layers": []}]'),
    ),
    "device": tar.archive(tar.header(b"x", b"3", major=1, minor=3), tar.file(b"manifest.json", b"[]")),
    "malformed list": tar.archive(tar.file(b"manifest.json", b"{")),
    "list of nothing": tar.archive(tar.file(b"manifest.json", b"[]")),
    "list of numbers": tar.archive(tar.file(b"manifest.json", b"[1]")),
    "giant list": tar.archive(BIG_INDEX),
    "bad tag": image.docker([ONE], ["BAD:tag"]),
    "config is no config": image.docker([ONE], document=b"{}"),
    "sparse member": tar.archive(
        tar.pax([(b"GNU.sparse.size", b"1099511627776"), (b"GNU.sparse.map", b"0,4")]), tar.file(b"x", b"data")
    ),
    "empty layout": tar.archive(tar.file(b"index.json", b'{"schemaVersion":2,"manifests":[]}')),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_archives_are_refused_and_leave_nothing(root: Root, name: str) -> None:
    load(root, ARCHIVES["docker"])
    before = root.left()
    with pytest.raises(Invalid):
        load(root, BAD[name])
    assert root.left() == before
    root.check()
    assert len(root.store.list()) == 1


def test_images_for_others_are_refused(root: Root) -> None:
    with pytest.raises(NotFound, match="linux"):
        load(root, image.layout([TOP], platforms=["s390x", "ppc64le"]))
    with pytest.raises(Unsupported, match="windows"):
        load(root, image.docker([ONE], document=image.config([ONE], os="windows")))
    assert root.left() == (set(), set(), [])


def test_a_blob_must_have_the_content_it_claims_even_when_the_layer_is_there(root: Root) -> None:
    load(root, image.docker([ONE]))
    liar = image.Layer(ONE.content, tar.compressed(BASE.content))
    with pytest.raises(Invalid, match="diff id"):
        load(root, image.docker([liar], ["liar:1"]))


def test_what_an_archive_brings_in_vain_is_not_kept(root: Root) -> None:
    """The same image with other compression adds a name; members nobody refers to are forgotten."""
    load(root, image.docker([ONE]))
    before = root.left()
    twin = image.Layer(ONE.content, tar.compressed(ONE.content))
    load(root, image.docker([twin], ["twin:1"]))
    assert root.store.resolve("twin:1").id == root.store.resolve("test:1").id
    load(root, image.blob(b"nobody wants this") + tar.file(b"readme", b"hello") + image.docker([ONE], ["three:1"]))
    assert root.left() == before
    root.check()


def test_shared_layers_outlive_one_of_their_images(root: Root) -> None:
    load(root, image.docker([BASE], ["base:1"]))
    load(root, image.docker(LAYERS, ["both:1"]))
    top = root.store.resolve("both:1")
    removed = root.store.remove("both:1", False, nobody)
    assert [(one.action, one.subject) for one in removed] == [
        ("untagged", "both:1"),
        ("deleted", top.id),
        ("deleted", top.chain_id),
    ]
    root.check()
    assert root.store.resolve("base:1").chain_id == top.chain_ids[0]


def test_an_instance_keeps_its_layers(root: Root) -> None:
    load(root, image.docker(LAYERS))
    found = root.store.resolve("test:1")
    root.snapshotter.prepare("instance", found.chain_id)
    root.store.remove("test:1", True, lambda _: [ImageUser("c" * 64, False)])
    assert not root.store.list()
    assert root.snapshotter.mounts("instance").upper
    if isinstance(root.snapshotter, OverlaySnapshotter):
        assert all(os.path.isdir(path) for path in root.snapshotter.mounts("instance").lower)
    root.snapshotter.remove("instance")
    root.store.collect()
    assert root.left() == (set(), set(), [])


def test_loads_and_collections_at_once(root: Root) -> None:
    """What is being loaded is never collected, whatever else is removed meanwhile."""
    failures: list[BaseException] = []
    archives = [image.docker([BASE, image.layer(tar.file(b"n", b"%d" % n))], [f"t{n}:1"]) for n in range(6)]

    def work(archive: bytes, name: str, keep: bool) -> None:
        try:
            for _ in range(3):
                load(root, archive)
                if not keep:
                    root.store.remove(name, True, nobody)
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(archive, f"t{n}:1", n % 2 == 0)) for n, archive in enumerate(archives)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        root.store.collect()
        thread.join()
    assert not failures
    assert {name for found in root.store.list() for name in found.references} == {"t0:1", "t2:1", "t4:1"}
    root.check()


LOADER = """
import sys
from bireme.image.store import ImageStore
from bireme.storage.content import ContentStore
from bireme.storage.db import Database
from bireme.storage.overlay import OverlaySnapshotter
path = sys.argv[1]
db, content = Database.open(path + "/db.sqlite"), ContentStore(path + "/content")
store = ImageStore(db, content, OverlaySnapshotter(path + "/snapshots"))
print("ready", flush=True)
for step in sys.argv[2:]:
    if step.startswith("-"):
        store.remove(step[1:], False, lambda image_id: [])
    else:
        with open(step, "rb") as file:
            store.load(file.read)
    print(step, flush=True)
"""


def collect_all(root: Root) -> None:
    """A worker of the killed process dies with it, perhaps a moment later."""
    deadline = time.monotonic() + 30
    root.store.collect()
    while os.listdir(root.path / "snapshots/removed"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
        root.store.collect()


def name_of(step: str) -> str:
    return step[1:] if step.startswith("-") else f"kill{Path(step).name}:1"


def run_and_kill(data: Path, steps: Sequence[str], after_s: float) -> int:
    """Run the steps in a process that is killed after a while; how many it acknowledged."""
    process = subprocess.Popen([sys.executable, "-c", LOADER, str(data), *steps], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        killer = threading.Timer(after_s, process.send_signal, (signal.SIGKILL,))
        killer.start()
        done = sum(line.endswith("\n") for line in process.stdout)
        killer.join()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    return done


def test_kill_at_any_moment_of_loads_and_removals(tmp_path: Path) -> None:
    """What was acknowledged is so, what was not is whole or absent, and one collection cleans the rest."""
    steps = []
    for number in range(4):
        layers = [BASE, image.gzipped(*(tar.file(b"%d/%d" % (number, n), os.urandom(3000)) for n in range(60)))]
        path = tmp_path / str(number)
        path.write_bytes(image.docker(layers, [f"kill{number}:1"]))
        steps += [str(path)] if number % 2 else [str(path), f"-kill{number}:1"]
    for round_number in range(14):
        data = tmp_path / f"data{round_number}"
        data.mkdir()
        done = run_and_kill(data, steps, 0.03 * round_number)
        expected = {name_of(step) for step in steps[:done] if not step.startswith("-")}
        expected -= {name_of(step) for step in steps[:done] if step.startswith("-")}
        under_way = {name_of(step) for step in steps[done : done + 1]}
        root = Root(data, OverlaySnapshotter)
        images = root.store.list()
        assert {name for found in images for name in found.references} - under_way == expected - under_way
        collect_all(root)
        root.check()
        needed = {d for i in images for d in (i.id, i.manifest, *(one.digest for one in i.layers))}
        assert root.left() == (needed, {chain for i in images for chain in i.chain_ids}, [])
        for found in images:
            root.store.remove(found.id, True, nobody)
        root.store.collect()
        assert root.left() == (set(), set(), [])
        root.db.close()


def test_a_damaged_blob_is_noticed(root: Root) -> None:
    load(root, ARCHIVES["docker"])
    found = root.store.resolve("test:1")
    with open(root.content.path(found.layers[0].digest), "r+b") as file:
        file.write(b"x")
    with pytest.raises(BiremeError, match="damaged"):
        root.store.save(["test:1"], lambda data: None)


def wait_worker() -> int:
    """The pid of the unpack worker that this process started."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for task in Path("/proc/self/task").iterdir():
            for child in (task / "children").read_text().split():
                try:
                    if b"unpack_worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                        return int(child)
                except OSError:
                    continue
        time.sleep(0.005)
    raise AssertionError("no worker was started")


def test_a_killed_worker_fails_the_load_alone(root: Root) -> None:
    load(root, ARCHIVES["docker"])
    before = root.left()
    long = gzip.compress(tar.archive(tar.file(b"f"))) + gzip.compress(bytes(64 << 20), 1) * 40
    slow = image.Layer(ONE.content, long)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            load(root, image.docker([slow], ["slow:1"]))
        except BiremeError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    os.kill(wait_worker(), signal.SIGKILL)
    thread.join()
    assert [str(error) for error in failures] == ["unpack worker ended with signal 9"]
    assert root.left() == before
    root.check()


def test_bootstrap_busybox(root: Root) -> None:
    seen: list[Progress] = []
    found = bootstrap(root.store, "busybox", seen.append)
    assert found.references == ("busybox:latest",)
    assert found.config.cmd == ["sh"]
    assert found.config.env == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    names = merged(root, found.chain_id)
    assert {"bin/sh", "bin/true", "bin/sleep", "bin/httpd", "etc/passwd", "etc/group", "tmp", "usr/bin/env"} <= names
    mounts = root.snapshotter.prepare("a", found.chain_id)
    base = mounts.lower[0] if mounts.lower else mounts.upper
    done = subprocess.run(["chroot", base, "/bin/sh", "-c", "echo $((6 * 7)); id -un"], capture_output=True, check=True)
    assert done.stdout == b"42\nroot\n"
    assert os.stat(f"{base}/tmp").st_mode & 0o7777 == 0o1777
    assert bootstrap(root.store, "busybox").id == found.id
    with pytest.raises(NotFound, match="cannot bootstrap"):
        bootstrap(root.store, "nothing")
    out = io.BytesIO()
    root.store.save(["busybox"], out.write)
    root.store.remove("busybox", False, nobody)
    assert load(root, out.getvalue()) == [Loaded("busybox:latest", found.id)]


def test_a_full_disk_is_told_and_cleaned_up(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=True)
    try:
        root = Root(place, OverlaySnapshotter)
        with pytest.raises(BiremeError) as caught:
            load(root, image.docker([image.layer(tar.file(b"big", bytes(4 << 20)))]))
        assert caught.value.kind == "unavailable"
        with pytest.raises(BiremeError):
            load(root, image.docker([image.gzipped(tar.file(b"big", bytes(4 << 20)))]))
        assert root.left() == (set(), set(), [])
        load(root, image.docker([ONE]))
        root.db.close()
    finally:
        subprocess.run(["umount", place], check=True)
