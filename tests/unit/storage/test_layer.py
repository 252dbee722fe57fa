from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bireme.errors import BiremeError, Invalid
from bireme.storage.layer import LayerWriter, check_link, split
from bireme.storage.tar import TarReader
from tests.support import tar

ME = {"uid": tar.octal(os.getuid(), 8), "gid": tar.octal(os.getgid(), 8)}
Style = Literal["overlay", "apply"]


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    old = os.umask(0)
    yield
    os.umask(old)


def f(name: bytes, data: bytes = b"", mode: int = 0o644, mtime: int = 1000) -> bytes:
    return tar.file(name, data, mode=tar.octal(mode, 8), mtime=mtime, **ME)


def d(name: bytes, mode: int = 0o755, mtime: int = 1000) -> bytes:
    return tar.directory(name, mode, mtime=mtime, **ME)


def s(name: bytes, target: bytes) -> bytes:
    return tar.header(name, b"2", target=target, **ME)


def h(name: bytes, target: bytes) -> bytes:
    return tar.header(name, b"1", target=target, **ME)


def apply(root: Path, *members: bytes, style: Style = "overlay") -> LayerWriter:
    root.mkdir(exist_ok=True)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    writer = LayerWriter(fd, style)
    try:
        writer.apply(TarReader(tar.chunks(tar.archive(*members), 700)))
    finally:
        writer.close()
        os.close(fd)
    return writer


def tree(root: Path) -> dict[str, str]:
    found = {}
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        name = str(path.relative_to(root))
        if stat.S_ISLNK(mode):
            found[name] = f"-> {os.readlink(path)}"
        elif stat.S_ISREG(mode):
            found[name] = path.read_text()
        else:
            found[name] = {stat.S_IFDIR: "/", stat.S_IFCHR: "char", stat.S_IFIFO: "fifo"}[stat.S_IFMT(mode)]
    return found


def test_kinds_modes_and_times(tmp_path: Path) -> None:
    root = tmp_path / "root"
    apply(
        root,
        d(b"./", 0o711, 50),
        d(b"a/", 0o1777, 77),
        f(b"a/f", b"data", 0o4751, 88),
        s(b"l", b"/anywhere"),
        h(b"hard", b"a/f"),
        tar.header(b"p", b"6", mode=tar.octal(0o600, 8), **ME),
    )
    assert tree(root) == {"a": "/", "a/f": "data", "l": "-> /anywhere", "hard": "data", "p": "fifo"}
    found = (root / "a/f").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime, found.st_nlink) == (0o4751, 88, 2)
    assert (stat.S_IMODE((root / "a").stat().st_mode), (root / "a").stat().st_mtime) == (0o1777, 77)
    assert (stat.S_IMODE(root.stat().st_mode), root.stat().st_mtime) == (0o711, 50)
    assert (root / "l").lstat().st_mtime == 0


def test_missing_parents_are_made_and_told(tmp_path: Path) -> None:
    writer = apply(tmp_path / "root", f(b"a/b/c", b"x"), d(b"a/"))
    assert writer.implied == {b"a/b"}
    assert (tmp_path / "root/a/b/c").read_text() == "x"


def test_later_entries_replace_earlier_ones(tmp_path: Path) -> None:
    root = tmp_path / "root"
    apply(
        root,
        f(b"x", b"1"),
        f(b"x", b"2"),
        d(b"y/"),
        f(b"y/in", b""),
        f(b"y", b"file"),
        f(b"z", b""),
        d(b"z/"),
        f(b"z/in", b"in"),
        s(b"l", b"x"),
        f(b"l", b"no link"),
        d(b"m/", 0o700),
        f(b"m/kept", b""),
        d(b"m/", 0o750),
    )
    assert tree(root) == {
        "x": "2", "y": "file", "z": "/", "z/in": "in", "l": "no link", "m": "/", "m/kept": ""
    }  # fmt: skip
    assert stat.S_IMODE((root / "m").stat().st_mode) == 0o750


def test_sparse_files_have_holes(tmp_path: Path) -> None:
    size = 8 << 20
    records = [(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.map", b"4194304,4,%d,0" % size)]
    writer = apply(tmp_path / "root", tar.pax(records), f(b"f", b"data"))
    found = (tmp_path / "root/f").stat()
    assert found.st_size == size
    assert found.st_blocks * 512 < size
    assert (tmp_path / "root/f").read_bytes()[4194304:4194308] == b"data"
    assert writer.size_bytes == 4


def test_extended_attributes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    records = [(b"SCHILY.xattr.user.color", b"blue"), (b"SCHILY.xattr.security.selinux", b"x")]
    try:
        apply(root, tar.pax(records), f(b"f"))
        assert os.getxattr(root / "f", "user.color") == b"blue"
    except OSError as error:
        pytest.skip(str(error))
    for name in (b"trusted.overlay.redirect", b"trusted.x", b"user.overlay.opaque"):
        with pytest.raises(Invalid, match="not allowed"):
            apply(root, tar.pax([(b"SCHILY.xattr." + name, b"/")]), f(b"g"))


HOSTILE = {
    "absolute": [f(b"/etc/passwd")],
    "climbing": [f(b"../x")],
    "climbing inside": [f(b"a/../../x")],
    "only climbing": [d(b"..")],
    "symlink out": [s(b"l", b"../../etc")],
    "symlink out of a directory": [s(b"a/b/l", b"../../../x")],
    "symlink without target": [s(b"l", b"")],
    "through an absolute link": [s(b"l", b"/tmp"), f(b"l/pwned")],
    "through a link to the root": [s(b"l", b"/"), f(b"l/pwned")],
    "directory through an absolute link": [s(b"l", b"/tmp"), d(b"l/pwned/")],
    "link through an absolute link": [s(b"l", b"/etc"), h(b"x", b"l/passwd")],
    "special through a link": [s(b"l", b"/tmp"), tar.header(b"l/p", b"6", **ME)],
    "whiteout through a link": [s(b"l", b"/tmp"), f(b"l/.wh.x")],
    "swapped midway": [d(b"a/"), f(b"a/ok"), s(b"a", b"/tmp"), f(b"a/pwned")],
    "swapped above": [d(b"a/"), d(b"a/b/"), f(b"a/b/ok"), s(b"a", b"/"), f(b"a/b/pwned")],
    "hard link out": [h(b"x", b"../../etc/passwd")],
    "hard link to nothing": [h(b"x", b"etc/passwd")],
    "hard link absolute": [h(b"x", b"/etc/passwd")],
    "hard link to a directory": [d(b"a/"), h(b"x", b"a")],
    "hard link to the root": [h(b"x", b"./")],
    "loop": [s(b"a", b"b"), s(b"b", b"a"), f(b"a/x")],
    "file as parent": [f(b"a"), f(b"a/b")],
    "root is no directory": [f(b".")],
    "whiteout of dot": [f(b".wh..")],
    "whiteout of dot dot": [f(b".wh...")],
    "whiteout of nothing": [f(b".wh.")],
    "name too long": [tar.pax([(b"path", b"x" * 256)]), f(b"f")],
}


@pytest.mark.parametrize("name", list(HOSTILE))
@pytest.mark.parametrize("style", ["overlay", "apply"])
def test_hostile_archives_are_refused(tmp_path: Path, name: str, style: Style) -> None:
    before = set(os.listdir("/tmp"))
    with pytest.raises(Invalid):
        apply(tmp_path / "root", *HOSTILE[name], style=style)
    assert {path.name for path in tmp_path.iterdir()} == {"root"}
    assert "pwned" not in set(os.listdir("/tmp")) - before


def test_links_inside_are_followed(tmp_path: Path) -> None:
    apply(tmp_path / "root", d(b"usr/"), d(b"usr/lib/"), s(b"lib", b"usr/lib"), f(b"lib/x", b"x"), h(b"y", b"lib/x"))
    assert (tmp_path / "root/usr/lib/x").read_text() == "x"
    assert (tmp_path / "root/y").stat().st_nlink == 2


def test_an_error_names_the_entry(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        apply(tmp_path / "root", f(b"fine"), f(b"../x"))
    assert caught.value.subject == "../x"


def test_an_error_is_text_whatever_the_name(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        apply(tmp_path / "root", tar.long_name(b"../\xff\xfe" + b"x" * 300), f(b"short"))
    assert caught.value.subject.encode() == rb"../\xff\xfe" + b"x" * 195


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def test_overlay_whiteouts(tmp_path: Path) -> None:
    root = tmp_path / "root"
    writer = apply(
        root,
        d(b"a/"),
        f(b"a/.wh.gone"),
        d(b"b/"),
        f(b"b/.wh..wh..opq"),
        f(b"b/new", b""),
        f(b".wh..wh.plnk"),
        f(b".wh.again"),
        d(b"again/"),
        f(b".wh.file"),
        f(b"file", b"back"),
        f(b"kept", b"here"),
        f(b".wh.kept"),
        d(b"dir/"),
        f(b".wh.dir"),
    )
    assert is_whiteout(root / "a/gone")
    assert writer.opaque == {b"b", b"again", b"dir"}
    assert (root / "file").read_text() == "back"
    assert (root / "kept").read_text() == "here"
    assert not (root / ".wh..wh.plnk").exists()


def test_a_whiteout_is_a_parent_no_more(tmp_path: Path) -> None:
    writer = apply(tmp_path / "root", f(b".wh.a"), f(b"a/b", b"x"))
    assert (tmp_path / "root/a/b").read_text() == "x"
    assert writer.opaque == {b"a"}


def test_applied_whiteouts(tmp_path: Path) -> None:
    root = tmp_path / "root"
    apply(
        root,
        d(b"a/"),
        f(b"a/gone", b""),
        f(b"a/stays", b""),
        d(b"b/"),
        d(b"b/old/"),
        f(b"b/old/x", b""),
        f(b"b/y", b""),
        f(b"c", b""),
        style="apply",
    )
    apply(
        root,
        f(b"a/.wh.gone"),
        f(b"b/new", b"new"),
        f(b"b/.wh..wh..opq"),
        f(b".wh.c"),
        f(b".wh.never"),
        f(b"mine", b"mine"),
        f(b".wh.mine"),
        style="apply",
    )
    assert tree(root) == {"a": "/", "a/stays": "", "b": "/", "b/new": "new", "mine": "mine"}


def test_a_replaced_deep_directory_goes_away_whole(tmp_path: Path) -> None:
    deep = b"/".join([b"d"] * 300)
    apply(tmp_path / "root", f(deep + b"/x"), f(b"d", b"file"))
    assert tree(tmp_path / "root") == {"d": "file"}


def test_split_and_links() -> None:
    assert split(b"./a//b/./c/") == [b"a", b"b", b"c"]
    assert split(b"./") == []
    check_link(b"a/b/c", b"../../x/../y")
    check_link(b"a", b"/../../x")
    with pytest.raises(Invalid):
        check_link(b"a/b", b"x/../../../y")


NAMES = st.sampled_from(
    [b"a", b"b", b"a/b", b"a/b/c", b"../a", b"/a", b"l", b"l/x", b"m/../l/x", b".wh.a", b"a/.wh..wh..opq"]
)
TARGETS = st.sampled_from([b"a", b"/", b"/tmp", b"..", b"../..", b"b", b".", b"a/b", b"l"])
MEMBERS = st.one_of(
    st.builds(f, NAMES),
    st.builds(d, NAMES),
    st.builds(s, NAMES, TARGETS),
    st.builds(h, NAMES, TARGETS),
    st.builds(lambda name: tar.header(name, b"6", **ME), NAMES),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(MEMBERS, max_size=12), st.sampled_from(["overlay", "apply"]))
def test_no_sequence_of_entries_writes_outside(
    tmp_path_factory: pytest.TempPathFactory, members: list[bytes], style: Style
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    try:
        apply(outside / "root", *members, style=style)
    except BiremeError:
        pass
    assert os.listdir(outside) in ([], ["root"])
    assert not os.path.lexists("/a")
    assert not os.path.lexists("/tmp/x")
