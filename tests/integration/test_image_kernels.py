"""The kernel store with its jailed worker: what goes in, what is refused, names and the default, dying half-way."""

from __future__ import annotations

import hashlib
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bireme.errors import BiremeError, Conflict, Invalid, NotFound
from bireme.image.kernels import Kernel, KernelStore
from bireme.image.model import Progress
from tests.support import kernel, tar

pytestmark = pytest.mark.needs_root


@pytest.fixture
def store(tmp_path: Path) -> KernelStore:
    return KernelStore(str(tmp_path / "kernels"))


@pytest.fixture
def add(store: KernelStore, tmp_path: Path) -> Callable[..., Kernel]:
    def add_data(data: bytes, kind: str = "deb", name: str = "", **more: object) -> Kernel:
        path = tmp_path / "input"
        path.write_bytes(data)
        fd = os.open(path, os.O_RDONLY)
        try:
            return store.add([fd], kind, name, **more)  # type: ignore[arg-type]
        finally:
            os.close(fd)

    return add_data


def other(release: str = "6.9.1-other") -> bytes:
    """A second kernel, as an upload."""
    modules = {path: kernel.module(release=release) for path in kernel.MODULES}
    return kernel.upload(kernel.bzimage(release=release), modules)


def entries(store_root: Path) -> list[str]:
    return [name for name in os.listdir(store_root) if name not in ("names", "default")]


def test_zeros_of_a_vmlinux_take_no_blocks(add: Callable[..., Kernel]) -> None:
    data = kernel.VMLINUX + bytes(8 << 20)
    found = add(kernel.upload(data, kernel.MODULES), "tar")
    assert Path(found.image_path).read_bytes() == data
    assert os.stat(found.image_path).st_blocks * 512 < 1 << 20


def test_a_package(add: Callable[..., Kernel], tmp_path: Path) -> None:
    said: list[Progress] = []
    found = add(kernel.package(), name="cloud", on_progress=said.append)
    assert (found.release, found.names, found.default) == (kernel.RELEASE, ("cloud",), True)
    assert found.record.packages == ({"name": "linux-image-test", "version": "6.1-9"},)
    assert found.record.config["PVH"] == "y"
    assert found.record.config["ACPI"] == "n"
    assert found.record.modules == kernel.ORDER
    assert found.record.builtin == ("ext4",)
    assert found.layer_formats == ("erofs", "ext4")
    assert (found.format, Path(found.image_path).read_bytes()) == ("vmlinux", kernel.VMLINUX)
    archive = kernel.read_cpio(Path(found.modules_path).read_bytes())
    assert archive["modules/order"].decode().split() == [f"{name}.ko" for name in kernel.ORDER]
    assert archive["modules/virtio_rng.ko"] == kernel.MODULES["kernel/drivers/char/hw_random/virtio-rng.ko"]
    for name, part in found.record.files.items():
        data = Path(found.directory, name).read_bytes()
        assert (part.size_bytes, part.digest) == (len(data), f"sha256:{hashlib.sha256(data).hexdigest()}")
    record = Path(found.directory, "kernel.json").read_bytes()
    assert found.id == f"sha256:{hashlib.sha256(record).hexdigest()}" == f"sha256:{Path(found.directory).name}"
    assert sorted(os.listdir(found.directory)) == ["kernel.json", "modules", "vmlinux", "vmlinuz"]
    assert [one.action for one in said] == [
        "reading",
        f"kernel {kernel.RELEASE}: choosing modules",
        "unpacking vmlinux",
    ]


def test_the_same_package_is_the_same_kernel(store: KernelStore, add: Callable[..., Kernel]) -> None:
    first = add(kernel.package(), name="cloud")
    again = add(kernel.package(prefix="./usr/"), name="mine")
    assert again.id == first.id
    assert again.names == ("cloud", "mine")
    assert len(store.list()) == 1


def test_modules_in_a_package_of_their_own(add: Callable[..., Kernel]) -> None:
    image = kernel.package(modules={}, builtin="")
    modules = kernel.ar([(b"data.tar", tar.archive(*module_files()))])
    upload = tar.archive(tar.file(b"0.deb", image), tar.file(b"1.deb", modules))
    assert add(upload, "tar").record.modules == kernel.ORDER


def module_files() -> list[bytes]:
    base = f"./lib/modules/{kernel.RELEASE}"
    files = [tar.file(f"{base}/{path}".encode(), data) for path, data in kernel.MODULES.items()]
    return [*files, tar.file(f"{base}/modules.builtin".encode(), kernel.BUILTIN.encode())]


def test_compressed_modules(add: Callable[..., Kernel]) -> None:
    modules = {f"{path}.xz": lzma.compress(data) for path, data in kernel.MODULES.items()}
    found = add(kernel.upload(modules=modules), "tar")
    archive = kernel.read_cpio(Path(found.modules_path).read_bytes())
    assert archive["modules/overlay.ko"] == kernel.MODULES["kernel/fs/overlayfs/overlay.ko"]


def test_a_kernel_packed_in_an_unknown_way_boots_packed(add: Callable[..., Kernel]) -> None:
    image = kernel.bzimage(b"\x89LZO\0" + bytes(100))
    found = add(kernel.upload(image), "tar")
    assert (found.format, Path(found.image_path).read_bytes()) == ("bzimage", image)


def test_without_erofs_layers_are_ext4(add: Callable[..., Kernel]) -> None:
    modules = {path: data for path, data in kernel.MODULES.items() if "erofs" not in path}
    found = add(kernel.upload(modules=modules), "tar")
    assert found.layer_formats == ("ext4",)
    assert [entry["name"] for entry in found.record.missing] == ["erofs"]


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"", "deb", "not a Debian package"),
        (b"root:x:0:0", "deb", "not a Debian package"),
        (kernel.package()[:-500], "deb", "truncated"),
        (kernel.upload()[:2000], "tar", "truncated"),
        (kernel.upload(b"no kernel"), "tar", "vmlinuz is not a kernel"),
        (kernel.upload(kernel.bzimage()[:1500]), "tar", "vmlinuz is truncated"),
        (tar.archive(tar.file(b"else", b"x")), "tar", "there is no kernel in it"),
        (kernel.upload(modules={}, builtin=""), "tar", "there are no modules of kernel"),
        (kernel.upload(modules={}), "tar", "has no virtio_mmio"),
        (kernel.upload(kernel.bzimage(release="6.2.0")), "tar", "the modules are of another kernel"),
        (kernel.upload(modules=kernel.MODULES | {"kernel/fs/overlayfs/overlay.ko": b"x"}), "tar", "not an ELF file"),
        (
            tar.archive(tar.file(b"vmlinuz", kernel.bzimage()), tar.file(b"vmlinuz", b"x")),
            "tar",
            "more than one kernel",
        ),
    ],
)
def test_what_is_refused_leaves_nothing(
    add: Callable[..., Kernel], tmp_path: Path, data: bytes, kind: str, words: str
) -> None:
    with pytest.raises(Invalid, match=words):
        add(data, kind)
    assert entries(tmp_path / "kernels") == []


def test_names_of_an_archive_are_no_paths(add: Callable[..., Kernel], tmp_path: Path) -> None:
    evil = tar.archive(
        *(tar.file(f"modules/../../../{path}".encode(), data) for path, data in kernel.MODULES.items()),
        tar.file(b"/etc/evil", b"x"),
        tar.file(b"modules/../modules.builtin", b"x"),
    )
    found = add(kernel.upload()[: -len(tar.END)] + evil, "tar")
    assert found.record.modules == kernel.ORDER
    assert sorted(os.listdir(found.directory)) == ["kernel.json", "modules", "vmlinux", "vmlinuz"]


def test_names_and_the_default(store: KernelStore, add: Callable[..., Kernel]) -> None:
    with pytest.raises(NotFound, match="bireme kernel add cloud"):
        store.resolve()
    first, second = add(kernel.package(), name="cloud"), add(other(), "tar")
    assert second.names == ("6.9.1-other",)
    assert not second.default
    assert [found.id for found in store.list()] == [second.id, first.id]
    for text in ("", "cloud", kernel.RELEASE, first.id, first.id[7:], first.id[:15], first.id[7:15]):
        assert store.resolve(text).id == first.id
    assert store.set_default("6.9.1-other").default
    assert store.resolve("").id == second.id
    assert store.resolve("cloud").default is False
    for text in ("nope", "clou", "ffff" * 16, "../names", "sha256:"):
        with pytest.raises(NotFound, match="there are: "):
            store.resolve(text)


def test_a_name_moves_to_what_was_added_last(store: KernelStore, add: Callable[..., Kernel]) -> None:
    first, second = add(kernel.package(), name="cloud"), add(other(), "tar", "cloud")
    assert store.resolve("cloud").id == second.id
    assert store.resolve(first.release).names == ()


@pytest.mark.parametrize("name", ["../x", ".hidden", "a b", "a/b", "abcd1234", "x" * 65])
def test_names_that_may_not_be(add: Callable[..., Kernel], name: str) -> None:
    with pytest.raises(Invalid, match="invalid kernel name"):
        add(kernel.package(), name=name)


def test_removal(store: KernelStore, add: Callable[..., Kernel], tmp_path: Path) -> None:
    first, second = add(kernel.package(), name="cloud"), add(other(), "tar")
    with pytest.raises(Conflict, match="in use by one, two, three and 1 more"):
        store.remove("cloud", lambda _: ("one", "two", "three", "four"))
    with store.hold("cloud"), pytest.raises(Conflict, match="being booted"):
        store.remove("cloud", force=True)
    assert store.remove("cloud", lambda _: ("one",), force=True).id == first.id
    assert [found.id for found in store.list()] == [second.id]
    with pytest.raises(NotFound, match="bireme kernel default"):
        store.resolve("")
    store.remove(second.id)
    assert entries(tmp_path / "kernels") == []
    assert os.listdir(tmp_path / "kernels/names") == []
    assert add(kernel.package()).default


def test_what_a_dead_engine_was_adding_goes(tmp_path: Path, add: Callable[..., Kernel]) -> None:
    found = add(kernel.package(), name="cloud")
    root = tmp_path / "kernels"
    (root / "0123.new/scratch").mkdir(parents=True)
    (root / "0123.new/vmlinux").write_text("half")
    (root / "4567.new").symlink_to("nothing")
    again = KernelStore(str(root))
    assert [one.id for one in again.list()] == [found.id]
    assert entries(root) == [Path(found.directory).name]


def test_a_store_survives_its_engine(tmp_path: Path, add: Callable[..., Kernel]) -> None:
    found = add(kernel.package(), name="cloud")
    assert KernelStore(str(tmp_path / "kernels")).resolve("cloud") == found


def test_damage_at_any_place_is_an_error_of_ours(add: Callable[..., Kernel], tmp_path: Path) -> None:
    package, kinds = kernel.package(), set()
    for at in range(70, len(package), len(package) // 12):
        try:
            add(package[:at] + bytes([package[at] ^ 0x55]) + package[at + 1 :])
        except BiremeError as error:
            kinds.add(error.kind)
    assert kinds <= {"invalid", "unsupported"}
