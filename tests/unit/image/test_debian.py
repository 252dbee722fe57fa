from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from bireme.errors import Unavailable
from bireme.image.debian import write_root
from bireme.storage.tar import TarReader
from tests.support import tar

ROOT = """#!/bin/sh
for root; do :; done
/bin/mkdir -p $root/etc $root/usr/share/doc/x $root/var/cache/apt/archives $root/var/log
echo host > $root/etc/hostname
echo kept > $root/etc/issue
echo made at $SOURCE_DATE_EPOCH by $0 "$@" > $root/etc/made
echo x > $root/var/log/dpkg.log
echo x > $root/var/cache/apt/archives/x.deb
echo x > $root/usr/share/doc/x/copyright
/usr/bin/touch -d @1000 $root/usr/share/doc/x/copyright
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.setenv("PATH", str(path))
    return path


def install(tools: Path, name: str, script: str) -> None:
    (tools / name).write_text(script)
    (tools / name).chmod(0o755)


def write() -> tuple[dict[str, bytes], int]:
    out = io.BytesIO()
    newest_ns = write_root("bookworm", out.write, lambda action: None)
    reader = TarReader(tar.chunks(out.getvalue()))
    found = {}
    for entry in reader:
        assert entry.mtime_ns <= newest_ns
        found[os.fsdecode(entry.name)] = b"".join(reader.data())
    return found, newest_ns


@pytest.mark.parametrize("tool", ["mmdebstrap", "debootstrap"])
def test_what_differs_from_run_to_run_is_left_out(tools: Path, tool: str) -> None:
    install(tools, tool, ROOT)
    found, newest_ns = write()
    assert newest_ns == 1000 * 10**9
    assert found["./etc/issue"] == b"kept\n"
    assert b"--variant=minbase" in found["./etc/made"]
    assert f"/{tool} ".encode() in found["./etc/made"]
    assert "./var/cache/apt/archives/" in found
    assert not {"./etc/hostname", "./var/log/dpkg.log", "./var/cache/apt/archives/x.deb"} & set(found)


def test_a_missing_tool_is_told_with_the_remedy(tools: Path) -> None:
    with pytest.raises(Unavailable, match="installed") as caught:
        write()
    assert caught.value.hint == "apt-get install mmdebstrap"


def test_a_failing_tool_is_told_with_its_last_words(tools: Path) -> None:
    install(tools, "mmdebstrap", "#!/bin/sh\necho E: no mirror; exit 25\n")
    with pytest.raises(Unavailable, match="mmdebstrap failed with code 25: E: no mirror"):
        write()
