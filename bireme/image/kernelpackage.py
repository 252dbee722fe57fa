"""Kernel packages of the distribution, as the host's own apt knows them: downloaded, never installed.

A flavour is a package that depends on the newest kernel of its kind; some distributions have the modules in a package
of their own, which the kernel's package depends on.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence

from bireme.errors import NotFound, Unavailable

FLAVOURS = {
    "cloud": ("linux-image-cloud-amd64", "linux-image-virtual"),
    "generic": ("linux-image-amd64", "linux-image-generic"),
}
"""What `bireme kernel add` can get: the packages of Debian and of Ubuntu."""

_PART = re.compile(r"linux-(?:image|modules)(?:-extra)?-(?:unsigned-)?\d[\w.+~-]*\Z")
_DEPENDS = re.compile(r"^\s*\|?(?:Pre)?Depends: (\S+)$", re.M)
_REMEDY = "apt-get update, or give the path of a package"

Say = Callable[[str], None]


def download(flavour: str, directory: str, say: Say) -> Sequence[str]:
    """Download what makes up the newest kernel of a flavour; the paths. Blocks.

    NotFound for an unknown flavour, Unavailable with the remedy when the packages cannot be had.
    """
    if flavour not in FLAVOURS:
        known = ", ".join(FLAVOURS)
        raise NotFound(f"no kernel flavour is called {flavour}", subject=flavour, hint=f"known: {known}; or a path")
    if not shutil.which("apt-get"):
        raise Unavailable("apt-get is missing: kernels of the distribution cannot be had", hint="give a path")
    packages = find_packages(FLAVOURS[flavour], _dependencies)
    if not packages:
        shown = " or ".join(FLAVOURS[flavour])
        raise Unavailable(f"no package of the kernel {flavour} is known ({shown})", subject=flavour, hint=_REMEDY)
    say(f"downloading {' '.join(packages)}")
    done = _run(["apt-get", "-o", "APT::Sandbox::User=root", "download", *packages], directory)
    paths = sorted(glob.glob(f"{glob.escape(directory)}/*.deb"))
    if done.returncode or len(paths) < len(packages):
        raise Unavailable(f"cannot download {' '.join(packages)}: {_last(done.stderr)}", subject=flavour, hint=_REMEDY)
    return paths


def find_packages(names: Sequence[str], dependencies: Callable[[str], Sequence[str]]) -> list[str]:
    """The packages of one kernel that the first known of `names` leads to; [] when none does."""
    for name in names:
        found = [package for package in dependencies(name) if _PART.match(package)]
        if found:
            first = found[0]
            return [first, *(package for package in dependencies(first) if _PART.match(package))]
    return []


def _dependencies(package: str) -> list[str]:
    done = _run(["apt-cache", "depends", "--important", package], "/")
    return _DEPENDS.findall(done.stdout) if not done.returncode else []


def _run(argv: Sequence[str], directory: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )


def _last(text: str) -> str:
    return " ".join(text.split())[-300:]
