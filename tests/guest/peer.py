"""A second disk for measurements: QEMU as Debian packs it, with all that it needs, to run in the emulated machine."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from tests.guest.image import SUITE, archive_lines, cache_directory, make_disk, run

PACKAGES = ("qemu-system-x86", "seabios", "qemu-system-data")
BUSY = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/lib/x86_64-linux-gnu/dri", "var")
"""Taken out again."""


def peer_disk() -> Path:
    """The disk of this recipe, made when it is not there yet. Its root is a file system to chroot into."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    place = cache_directory().parent / "guest-peer" / f"{digest}.ext4"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        print(f"guest: making the disk with QEMU in {place}", flush=True)
        _make(place)
        for old in place.parent.iterdir():
            if old != place and old.is_file():
                old.unlink()
    return place


def _make(place: Path) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="building-", dir=place.parent))
    try:
        root, disk = scratch / "root", scratch / "disk"
        options = ["--quiet", "--mode=root", "--variant=extract", f"--include={','.join(PACKAGES)}"]
        options += ["--aptopt=Acquire::Check-Valid-Until false"]
        run("mmdebstrap", *options, SUITE, root, *archive_lines())
        for name in BUSY:
            shutil.rmtree(root / name, ignore_errors=True)
        for name in ("proc", "dev", "tmp", "work"):
            (root / name).mkdir(exist_ok=True)
        make_disk(root, disk)
        disk.rename(place)
    finally:
        shutil.rmtree(scratch)
