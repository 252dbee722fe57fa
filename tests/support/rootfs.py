"""A root file system of one static busybox, enough to run commands in."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

BUSYBOX = "/bin/busybox"


def make_busybox_root(path: str) -> None:
    """Fill `path`: /bin with every applet as a link, and the directories and accounts programs expect."""
    if not os.path.exists(BUSYBOX):
        pytest.fail("busybox-static is not installed; run `make test`, which installs it")
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root", "home", "var"):
        os.makedirs(f"{path}/{name}", exist_ok=True)
    os.chmod(f"{path}/tmp", 0o1777)
    shutil.copy(BUSYBOX, f"{path}/bin/busybox")
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            os.symlink("busybox", f"{path}/bin/{applet}")
    with open(f"{path}/etc/passwd", "w", encoding="ascii") as file:
        file.write("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    with open(f"{path}/etc/group", "w", encoding="ascii") as file:
        file.write("root:x:0:\nnobody:x:65534:\n")
