"""The runtime stays small: its programs start cold under podman and containerd, and its children import nothing."""

from __future__ import annotations

import subprocess
import sys

_FORBIDDEN = {
    "asyncio",
    "msgspec",
    "subprocess",
    "logging",
    "tempfile",
    "shutil",
    "inspect",
    "traceback",
    "sqlite3",
    "ssl",
}


def test_what_a_zygote_imports_is_bounded() -> None:
    code = "import bireme.runtime.spare, bireme.runtime.launch, sys; print(' '.join(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    bare = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; print(' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    more = set(found) - set(bare)
    assert not _FORBIDDEN & more
    assert len(more) <= 110, sorted(more)


def test_what_an_idle_engine_does_without() -> None:
    code = """if True:
        import sys
        from bireme.daemon import lean
        lean.leave_out()
        import bireme.daemon.assemble, bireme.daemon.serving
        print(' '.join(name for name, module in sys.modules.items() if module is not None))
        lean.take(lean.TLS)
        import ssl
        ssl.SSLContext
        """
    found = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"ssl", "_ssl", "hashlib", "_hashlib", "bz2", "lzma", "email", "tomllib", "secrets"} & set(found)
    assert not {"bireme.engine.restart", "bireme.engine.health"} & set(found)
