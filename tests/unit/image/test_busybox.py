from __future__ import annotations

import lzma

import pytest

from bireme.errors import Invalid
from bireme.image.busybox import program_of_package
from tests.support import tar

PROGRAM = b"\x7fELF program"


def ar(*members: tuple[bytes, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members:
        out += (
            b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name, 0, 0, 0, b"100644", len(data)) + data + b"\n" * (len(data) % 2)
        )
    return out


@pytest.mark.parametrize("path", [b"./bin/busybox", b"./usr/bin/busybox"])
def test_the_program_is_found(path: bytes) -> None:
    data = lzma.compress(tar.archive(tar.directory(b"./"), tar.file(b"./x", b"no"), tar.file(path, PROGRAM, mtime=7)))
    package = ar((b"debian-binary", b"2.0"), (b"control.tar.xz", b""), (b"data.tar.xz", data))
    assert program_of_package(package) == (PROGRAM, 7 * 10**9)


@pytest.mark.parametrize(
    "package",
    [
        b"",
        b"no package",
        ar((b"debian-binary", b"2.0\n")),
        ar((b"data.tar", tar.archive(tar.file(b"./bin/other", b"x")))),
        ar((b"data.tar", b"x")).replace(b"`\n", b"xx"),
        ar((b"data.tar.xz", lzma.compress(b"x" * 1000)[:-9])),
    ],
)
def test_what_is_no_package_is_refused(package: bytes) -> None:
    with pytest.raises(Invalid):
        program_of_package(package)
