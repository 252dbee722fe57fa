"""Options of mount(8), and parts of volumes."""

from __future__ import annotations

import os
import pathlib

import pytest

from bireme.errors import NotFound
from bireme.linux.mount import MountFlags
from bireme.storage.volumemount import open_beneath, parse_mount_options


@pytest.mark.parametrize(
    ("text", "flags", "data"),
    [
        ("", 0, ""),
        ("bind", MountFlags.MS_BIND, ""),
        ("rbind,ro", MountFlags.MS_BIND | MountFlags.MS_REC | MountFlags.MS_RDONLY, ""),
        ("ro,rw,size=1m,,mode=700", 0, "size=1m,mode=700"),
        ("addr=1.2.3.4,nosuid", MountFlags.MS_NOSUID, "addr=1.2.3.4"),
    ],
)
def test_mount_options(text: str, flags: int, data: str) -> None:
    assert parse_mount_options(text) == (int(flags), data)


def test_a_part_never_leads_out(tmp_path: pathlib.Path) -> None:
    volume = tmp_path / "volume"
    (volume / "a" / "b").mkdir(parents=True)
    (volume / "inside").symlink_to("a/b")
    (volume / "outside").symlink_to("../")
    (volume / "absolute").symlink_to("/etc")
    (volume / "file").write_text("x")
    for part in ("", "a/b", "inside", "file"):
        os.close(open_beneath(str(volume), part))
    for part, why in (("outside", "leads out"), ("absolute", "leads out"), ("no", "no such file"), ("..", "leads out")):
        with pytest.raises(NotFound, match=f"cannot access path .*{why}"):
            open_beneath(str(volume), part)
