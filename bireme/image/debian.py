"""A minimal Debian as a tar archive, made by mmdebstrap, else by debootstrap.

Both run the packages' own scripts, so this is for archives the administrator trusts. What would differ from run to run
(logs, caches, host files) is removed and times are clamped to the newest package file's, so the result is as
reproducible as the packages are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable

from bireme.errors import Unavailable
from bireme.storage.tarwalk import write_tree

_CHUNK = 1 << 20
_EPOCH = "1686355200"
"""The day bookworm was released: what goes into files that hold a date (shadow)."""
_HOST_FILES = ("etc/hostname", "etc/resolv.conf", "etc/machine-id")
_VOLATILE = (
    "var/log/alternatives.log",
    "var/log/apt",
    "var/log/bootstrap.log",
    "var/log/dpkg.log",
    "var/cache/ldconfig/aux-cache",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
)
_EMPTIED = ("var/cache/apt", "var/lib/apt/lists")

Sink = Callable[[bytes], object]
Say = Callable[[str], None]


def writer(suite: str) -> Callable[[Sink, Say], int]:
    """A function that writes the root of Debian `suite`."""
    return lambda sink, say: write_root(suite, sink, say)


def write_root(suite: str, sink: Sink, say: Say) -> int:
    """Write the archive to `sink`; the newest package's time. Unavailable when no tool is installed or it fails."""
    if not shutil.which("mmdebstrap") and not shutil.which("debootstrap"):
        raise Unavailable(
            "neither mmdebstrap nor debootstrap is installed",
            subject=f"debian:{suite}",
            hint="apt-get install mmdebstrap",
        )
    with tempfile.TemporaryDirectory(prefix="bireme-debian-") as directory:
        root = f"{directory}/root"
        say(f"installing Debian {suite}")
        if shutil.which("mmdebstrap"):
            _run(["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", suite, root])
        else:
            _run(["debootstrap", "--variant=minbase", suite, root])
        for name in (*_HOST_FILES, *_VOLATILE):
            _remove(f"{root}/{name}")
        for name in _EMPTIED:
            _remove_files(f"{root}/{name}")
        say("packing")
        newest_ns = _newest_package_file(root)
        write_tree(root, sink, newest_ns=newest_ns)
    return newest_ns


def _run(command: list[str]) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": _EPOCH, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
        raise Unavailable(
            f"{command[0]} failed with code {done.returncode}: {' '.join(lines[-3:])[:500]}",
            subject=command[0],
            hint="is a package archive reachable?",
        )


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _remove_files(path: str) -> None:
    for directory, _, names in os.walk(path):
        for name in names:
            os.unlink(f"{directory}/{name}")


def _newest_package_file(root: str) -> int:
    """Package files carry the packages' times: the newest of them stands for "now" in everything made by scripts."""
    newest = 0
    for directory, _, names in os.walk(f"{root}/usr/share/doc"):
        for name in names:
            newest = max(newest, os.lstat(f"{directory}/{name}").st_mtime_ns)
    return newest
