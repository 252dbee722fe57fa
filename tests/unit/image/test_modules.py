from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.errors import Invalid
from bireme.image.modules import Selection, cpio_entry, module_name, parse_modinfo, select, write_archive
from tests.support import kernel

FILES = {module_name(path): data for path, data in kernel.MODULES.items()}


def choose(without: tuple[str, ...] = (), builtin: tuple[str, ...] = ("ext4", "jbd2")) -> Selection:
    available = {name: data for name, data in FILES.items() if name not in without}
    return select(available, builtin, available.__getitem__, kernel.RELEASE)


def test_what_is_needed_comes_first_and_what_is_not_stays_away() -> None:
    found = choose()
    assert found.order == kernel.ORDER
    assert found.builtin == ("ext4",)
    assert found.missing == ()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("virtio_mmio", "none of the machine's devices is found"),
        ("virtio_blk", "no root file system"),
        ("vmw_vsock_virtio_transport", "the agent cannot be reached"),
        ("overlay", "layers of an image"),
    ],
)
def test_a_machine_without_it_cannot_be(name: str, what: str) -> None:
    with pytest.raises(Invalid, match=f"kernel {kernel.RELEASE} has no {name}.*{what}") as error:
        choose(without=(name,))
    assert error.value.subject == name


def test_a_machine_without_it_is_told() -> None:
    found = choose(without=("erofs", "virtio_net"))
    assert [wanted.name for wanted in found.missing] == ["erofs", "virtio_net"]
    assert "libcrc32c" not in found.order


def test_a_lost_dependency() -> None:
    with pytest.raises(Invalid, match="module virtio_net needs net-failover"):
        choose(without=("net_failover",))


def test_a_dependency_that_is_built_in() -> None:
    assert "net_failover" not in choose(without=("net_failover",), builtin=("ext4", "net_failover")).order


def test_a_soft_dependency_may_be_absent() -> None:
    assert "crc32c_generic" not in choose(without=("crc32c_generic",)).order


def test_a_circle_ends() -> None:
    files = FILES | {"virtio": kernel.module("virtio_ring"), "virtio_ring": kernel.module("virtio")}
    found = select(files, ("ext4",), files.__getitem__, kernel.RELEASE)
    assert sorted(found.order) == sorted(kernel.ORDER)


def test_the_archive() -> None:
    out = bytearray()
    write_archive(out.extend, ("virtio", "virtio_rng"), FILES.__getitem__)
    assert kernel.read_cpio(bytes(out)) == {
        "modules": b"",
        "modules/virtio.ko": FILES["virtio"],
        "modules/virtio_rng.ko": FILES["virtio_rng"],
        "modules/order": b"virtio.ko\nvirtio_rng.ko\n",
    }
    assert len(out) % 4 == 0


@given(st.binary(max_size=50), st.text("abc/", min_size=1, max_size=20))
def test_entries_are_aligned(data: bytes, name: str) -> None:
    entry = cpio_entry(name, 0o100644, data)
    assert len(entry) % 4 == 0
    assert kernel.read_cpio(entry + cpio_entry("TRAILER!!!", 0)) == {name: data}


@pytest.mark.parametrize(
    ("path", "name"),
    [("kernel/fs/ext4/ext4.ko", "ext4"), ("a/virtio-rng.ko.xz", "virtio_rng"), ("crc32c-intel.ko.zst", "crc32c_intel")],
)
def test_names(path: str, name: str) -> None:
    assert module_name(path) == name


def test_any_damage_of_a_module_is_refused_or_harmless() -> None:
    good = kernel.module("a,b")
    assert parse_modinfo(good)["depends"] == ["a,b"]
    for at in range(len(good)):
        for value in (0, 0xFF):
            try:
                parse_modinfo(good[:at] + bytes([value]) + good[at + 1 :])
            except Invalid:
                pass
    for size in range(len(good)):
        with pytest.raises(Invalid):
            parse_modinfo(good[:size])
