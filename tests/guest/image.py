"""The emulated machine's disk: Debian with systemd, our dependencies and a kernel, made from packages and kept.

Everything lies in one directory below the cache, named by a digest of this recipe: `vmlinux`, `initramfs`, `root.ext4`.
Nothing is installed on the host. A finished image gets its name by rename, so a build that was cut short is no image.

The kernel that the emulator starts is unpacked (Debian's is xz, which takes seconds to unpack under emulation). Kernels
for machines inside the machine lie in /opt/kernels/{cloud,generic}: vmlinuz, lib/modules/RELEASE, modules (a link to
it), release.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SUITE = "bookworm"
PYTHON = "3.11"
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "kmod", "procps", "iproute2", "nftables", "util-linux", "e2fsprogs"),
    *("python3", "python3-venv", "gcc", "libc6-dev", "make", "git", "busybox-static", "libseccomp2", "ca-certificates"),
    *("debootstrap", "mmdebstrap", "acl", "attr", "erofs-utils"),
)
BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4")
GUEST_KERNELS = {"cloud": "linux-image-cloud-amd64", "generic": "linux-image-amd64"}
KEPT_MODULES = (
    *("arch", "crypto", "fs", "lib", "mm", "net", "security", "virt", "kernel"),
    *("drivers/net/veth.ko", "drivers/net/tun.ko", "drivers/net/dummy.ko", "drivers/net/macvlan.ko"),
    *("drivers/net/ipvlan", "drivers/net/vxlan", "drivers/net/ifb.ko", "drivers/net/virtio_net.ko"),
    *("drivers/block/virtio_blk.ko", "drivers/block/loop.ko", "drivers/char/hw_random", "drivers/virtio"),
    *("drivers/vhost", "drivers/md/dm-mod.ko", "drivers/md/dm-verity.ko", "drivers/net/net_failover.ko"),
    "drivers/crypto/ccp",
)
SIZE_MIB = 4096
MASKED_SERVICES = (
    *("apt-daily", "apt-daily-upgrade", "e2scrub_reap", "systemd-timesyncd", "systemd-logind", "systemd-random-seed"),
    *("systemd-udevd", "systemd-udev-trigger", "systemd-udev-settle", "systemd-update-utmp", "systemd-pstore"),
    *("systemd-remount-fs", "systemd-journal-flush", "systemd-user-sessions", "systemd-update-utmp-runlevel"),
    *("systemd-binfmt", "modprobe@configfs", "modprobe@dm_mod", "modprobe@drm", "modprobe@efi_pstore"),
    *("modprobe@fuse", "modprobe@loop", "getty@tty1", "serial-getty@ttyS0", "systemd-sysusers"),
)
"""Nothing here needs them, and each costs a part of a second under emulation. Devices come from devtmpfs alone."""
MASKED_OTHERS = (
    *(f"{name}.timer" for name in ("apt-daily", "apt-daily-upgrade", "dpkg-db-backup", "e2scrub_all", "fstrim")),
    *("systemd-udevd-kernel.socket", "systemd-udevd-control.socket", "dev-hugepages.mount", "getty.target"),
    *("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount"),
)


class Image(NamedTuple):
    kernel: Path
    initramfs: Path
    disk: Path


def cache_directory() -> Path:
    return Path(os.environ.get("BIREME_CACHE") or Path.home() / ".cache" / "bireme") / "guest"


def dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tools = {"ruff", "mypy", "import-linter"}
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    return [text for text in wanted if text.split(">")[0] not in tools]


def recipe_digest() -> str:
    digest = hashlib.sha256()
    for path in (Path(__file__), HERE / "files/bireme-lane.service", HERE / "files/initramfs-init"):
        digest.update(path.read_bytes())
    digest.update("\n".join(dependencies()).encode())
    return digest.hexdigest()[:16]


def image() -> Image:
    """The image of this recipe, built when it is not there yet; older recipes' images are removed."""
    base = cache_directory()
    place = base / recipe_digest()
    if not place.is_dir():
        base.mkdir(parents=True, exist_ok=True)
        print(f"guest: making the machine's disk in {place}", flush=True)
        build(place)
        for old in base.iterdir():
            if old != place and old.is_dir() and not old.name.startswith("building-"):
                shutil.rmtree(old)
    return Image(place / "vmlinux", place / "initramfs", place / "root.ext4")


def build(place: Path) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="building-", dir=place.parent))
    try:
        root, output = scratch / "root", scratch / "output"
        output.mkdir()
        make_root(root)
        release = add_kernels(root, scratch, output / "vmlinux")
        add_python_packages(root, scratch)
        add_lane(root)
        write_initramfs(root, release, output / "initramfs")
        make_disk(root, output / "root.ext4")
        output.rename(place)
    finally:
        shutil.rmtree(scratch)


def run(*argv: str | Path, cwd: Path | None = None) -> str:
    """A command's output; its whole output is shown when it fails."""
    done = subprocess.run(argv, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"guest: {' '.join(map(str, argv))} failed:\n{done.stdout}")
    return done.stdout


def archive_lines() -> list[str]:
    """Where this host's own apt gets the suite from, as sources.list lines; empty when it uses another suite."""
    form = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    targets = run("apt-get", "indextargets", "--format", form, "Created-By: Packages")
    return sorted({line for line in targets.splitlines() if line.split()[2].startswith(SUITE)})


def make_root(root: Path) -> None:
    options = ["--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    options += ["--aptopt=Acquire::Check-Valid-Until false", "--dpkgopt=path-exclude=/usr/share/doc/*"]
    options += ["--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/man/*"]
    run("mmdebstrap", *options, SUITE, root, *archive_lines())


def fetch_kernel(meta_package: str, scratch: Path) -> tuple[Path, str]:
    """Debian's newest kernel package behind `meta_package`, unpacked: the tree and the kernel's release."""
    depends = run("apt-cache", "depends", "--important", meta_package)
    package = next(line.split()[1] for line in depends.splitlines() if line.strip().startswith("Depends: linux-image-"))
    run("apt-get", "-o", "APT::Sandbox::User=root", "download", package, cwd=scratch)
    tree = scratch / package
    run("dpkg-deb", "-x", next(scratch.glob(f"{package}_*.deb")), tree)
    return tree, package.removeprefix("linux-image-")


def add_kernels(root: Path, scratch: Path, kernel: Path) -> str:
    """The lane's own kernel (to `kernel`, its modules into the root) and the guests'; returns the lane's release."""
    lane = ""
    for name, meta_package in GUEST_KERNELS.items():
        tree, release = fetch_kernel(meta_package, scratch)
        place = root / "opt/kernels" / name
        modules = place / "lib/modules" / release
        copy_modules(tree / "lib/modules" / release, modules)
        run("chroot", root, "depmod", "-b", f"/opt/kernels/{name}", release)
        shutil.copy(tree / "boot" / f"vmlinuz-{release}", place / "vmlinuz")
        (place / "modules").symlink_to(f"lib/modules/{release}")
        (place / "release").write_text(f"{release}\n")
        if name == "generic":
            kernel.write_bytes(unpack_kernel((place / "vmlinuz").read_bytes()))
            shutil.copytree(modules, root / "usr/lib/modules" / release, copy_function=os.link)
            lane = release
    return lane


def copy_modules(source: Path, target: Path) -> None:
    """The modules that a test may want, with the listings depmod starts from."""
    target.mkdir(parents=True)
    for listing in source.glob("modules.*"):
        shutil.copy(listing, target)
    for name in KEPT_MODULES:
        entry = source / "kernel" / name
        if entry.is_dir():
            shutil.copytree(entry, target / "kernel" / name)
        elif entry.exists():
            (target / "kernel" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(entry, target / "kernel" / name)


def unpack_kernel(image: bytes) -> bytes:
    """The ELF inside a bzImage with an xz payload. Documentation/x86/boot.rst: setup_sects, payload_offset, _length."""
    setup_bytes = ((image[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[setup_bytes + offset : setup_bytes + offset + length]
    return lzma.LZMADecompressor().decompress(payload)


def add_python_packages(root: Path, scratch: Path) -> None:
    wheels = root / "var/tmp/wheels"
    for_guest = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
    for platform in ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64"):
        for_guest += ["--platform", platform]
    run(sys.executable, "-m", "pip", "download", "-q", "-d", wheels, *for_guest, *dependencies(), cwd=scratch)
    run("chroot", root, "python3", "-m", "venv", "/opt/venv")
    offline = ["--no-index", "--find-links", "/var/tmp/wheels", "--no-cache-dir", "--root-user-action", "ignore"]
    run("chroot", root, "/opt/venv/bin/pip", "install", "-q", *offline, *dependencies())
    shutil.rmtree(wheels)


def add_lane(root: Path) -> None:
    units = root / "etc/systemd/system"
    shutil.copy(HERE / "files/bireme-lane.service", units)
    target = units / "multi-user.target.wants"
    target.mkdir(exist_ok=True)
    (target / "bireme-lane.service").symlink_to("../bireme-lane.service")
    for unit in (*(f"{name}.service" for name in MASKED_SERVICES), *MASKED_OTHERS):
        (units / unit).symlink_to("/dev/null")
    (root / "etc/hostname").write_text("guest\n")
    (root / "etc/fstab").write_text("")
    (root / "srv/bireme").mkdir(parents=True)


def module_order(directory: Path, names: Iterable[str]) -> list[str]:
    """Paths of the modules and all they need, in the order insmod wants them."""
    needs = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    by_name = {Path(path).stem.replace("-", "_"): path for path in needs}
    order: list[str] = []
    for name in names:
        if name in by_name:
            order += [path for path in [*reversed(needs[by_name[name]]), by_name[name]] if path not in order]
    return order


def cpio_entry(name: str, mode: int, data: bytes = b"") -> bytes:
    """One member of a newc archive (initramfs buffer format, Documentation/driver-api/early-userspace)."""
    path = name.encode() + b"\0"
    fields = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def initramfs_members(root: Path, release: str) -> Iterator[bytes]:
    directory = root / "usr/lib/modules" / release
    order = module_order(directory, (*BOOT_MODULES, "crc32c_generic"))
    for name in ("bin", "modules", "dev", "proc", "sys", "root"):
        yield cpio_entry(name, 0o040755)
    yield cpio_entry("bin/busybox", 0o100755, (root / "usr/bin/busybox").read_bytes())
    yield cpio_entry("init", 0o100755, (HERE / "files/initramfs-init").read_bytes())
    for path in order:
        yield cpio_entry(f"modules/{Path(path).name}", 0o100644, (directory / path).read_bytes())
    listing = "".join(f"{Path(path).name}\n" for path in order)
    yield cpio_entry("modules/order", 0o100644, listing.encode())
    yield cpio_entry("TRAILER!!!", 0)


def write_initramfs(root: Path, release: str, target: Path) -> None:
    target.write_bytes(gzip.compress(b"".join(initramfs_members(root, release)), compresslevel=1))


def make_disk(root: Path, disk: Path) -> None:
    with open(disk, "wb") as file:
        file.truncate(SIZE_MIB << 20)
    run("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-d", root, disk)
