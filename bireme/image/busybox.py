"""The busybox image: Debian's static busybox under the names of its applets.

The program comes from the installed package busybox-static, else the package is downloaded (not installed) and taken
apart here: a .deb is an ar archive with a compressed tar inside.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable

from bireme.errors import Invalid, Unavailable
from bireme.image import deb
from bireme.storage.codec import decode
from bireme.storage.tar import Kind, TarReader
from bireme.storage.tarwrite import TarWriter, make_entry

_PACKAGE = "busybox-static"
_INSTALLED = ("/usr/bin/busybox", "/bin/busybox")
_SIZE_MAX = 64 << 20
_ELF_MAGIC = b"\x7fELF"

_DIRECTORIES: tuple[tuple[bytes, int], ...] = (
    (b"bin", 0o755),
    (b"dev", 0o755),
    (b"etc", 0o755),
    (b"home", 0o755),
    (b"mnt", 0o755),
    (b"proc", 0o555),
    (b"root", 0o700),
    (b"run", 0o755),
    (b"sys", 0o555),
    (b"tmp", 0o1777),
    (b"usr", 0o755),
    (b"usr/bin", 0o755),
    (b"usr/sbin", 0o755),
    (b"var", 0o755),
    (b"var/spool", 0o755),
    (b"var/tmp", 0o1777),
    (b"var/www", 0o755),
)

_FILES: tuple[tuple[bytes, bytes, int], ...] = (
    (
        b"etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\n"
        b"daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
        b"bin:x:2:2:bin:/bin:/bin/false\n"
        b"sys:x:3:3:sys:/dev:/bin/false\n"
        b"www-data:x:33:33:www-data:/var/www:/bin/false\n"
        b"operator:x:37:37:Operator:/var:/bin/false\n"
        b"nobody:x:65534:65534:nobody:/home:/bin/false\n",
        0o644,
    ),
    (
        b"etc/group",
        b"root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nwheel:x:10:root\n"
        b"www-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n",
        0o644,
    ),
    (b"etc/shadow", b"root:*:::::::\nnobody:*:::::::\n", 0o600),
    (b"etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n", 0o644),
)


def write_root(sink: Callable[[bytes], object], say: Callable[[str], None]) -> int:
    """Write the root as a tar archive; the time the program was built. Unavailable when it cannot be had."""
    say(f"reading {_PACKAGE}")
    program, built_ns = read_program()
    applets = list_applets(program)
    say("packing")
    writer = TarWriter(sink)
    writer.add(make_entry(b"./", Kind.DIRECTORY, mode=0o755))
    for name, mode in _DIRECTORIES:
        writer.add(make_entry(name, Kind.DIRECTORY, mode=mode))
    writer.add_bytes(b"bin/busybox", program, mode=0o755)
    for applet in applets:
        writer.add(make_entry(b"bin/" + applet, Kind.LINK, mode=0o755, target=b"bin/busybox"))
    writer.add(make_entry(b"usr/bin/env", Kind.SYMLINK, mode=0o777, target=b"../../bin/env"))
    for name, data, mode in _FILES:
        writer.add_bytes(name, data, mode=mode)
    writer.finish()
    return built_ns


def read_program() -> tuple[bytes, int]:
    """The static busybox and its time: the installed one, else the one of the package."""
    if _is_installed():
        for path in _INSTALLED:
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    return _checked(file.read(_SIZE_MAX)), os.fstat(file.fileno()).st_mtime_ns
    program, built_ns = _download()
    return _checked(program), built_ns


def _is_installed() -> bool:
    """Other packages bring a dynamic /bin/busybox, so the package system is asked."""
    try:
        done = subprocess.run(
            ["dpkg-query", "--show", "--showformat=${db:Status-Status}", _PACKAGE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0 and done.stdout.strip() == b"installed"


def _checked(program: bytes) -> bytes:
    if not program.startswith(_ELF_MAGIC):
        raise Invalid(f"{_PACKAGE} has no program", subject=_PACKAGE)
    return program


def _download() -> tuple[bytes, int]:
    remedy = f"apt-get update && apt-get install {_PACKAGE}"
    if not shutil.which("apt-get"):
        raise Unavailable(f"{_PACKAGE} is not installed and apt-get is missing", subject=_PACKAGE, hint=remedy)
    with tempfile.TemporaryDirectory(prefix="bireme-busybox-") as directory:
        done = subprocess.run(
            ["apt-get", "download", _PACKAGE],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        packages = glob.glob(f"{directory}/*.deb")
        if done.returncode or not packages:
            detail = done.stderr.decode("utf-8", "replace").strip()[-300:]
            raise Unavailable(f"cannot download {_PACKAGE}: {detail}", subject=_PACKAGE, hint=remedy)
        with open(packages[0], "rb") as file:
            return program_of_package(file.read(_SIZE_MAX))


def program_of_package(package: bytes) -> tuple[bytes, int]:
    """bin/busybox out of a .deb, and its time; Invalid when it is none or has none."""
    for member in deb.iter_members(deb.reader_of(package)):
        if not member.name.startswith("data.tar"):
            continue
        archive = TarReader(decode(member.read))
        for entry in archive:
            path = entry.name.removeprefix(b"./")
            if entry.kind is Kind.FILE and path in (b"bin/busybox", b"usr/bin/busybox") and entry.size <= _SIZE_MAX:
                return b"".join(archive.data()), entry.mtime_ns
    raise Invalid(f"{_PACKAGE} has no busybox", subject=_PACKAGE)


def list_applets(program: bytes) -> list[bytes]:
    """What `busybox --list` says, without busybox itself."""
    with tempfile.TemporaryDirectory(prefix="bireme-busybox-") as directory:
        path = f"{directory}/busybox"
        with open(path, "wb") as file:
            file.write(program)
        os.chmod(path, 0o700)
        done = subprocess.run([path, "--list"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    names = sorted(set(done.stdout.split()))
    if done.returncode or not names or any(b"/" in name or name.startswith(b".") for name in names):
        raise Invalid("busybox --list gave no list of applets", subject=_PACKAGE)
    return [name for name in names if name != b"busybox"]
