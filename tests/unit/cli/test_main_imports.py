"""What a verb may import: start-up is most of what a command costs, and imports are most of start-up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.cli import DEADLINE_S, ROOT, command, environment
from tests.support.fakerun import FakeContainer, Streams, fake_exec
from tests.support.fakeserver import NO_CONTENT, FakeServer, Reply

_WATCHED = """
import sys
before = set(sys.modules)
sys.path.insert(0, sys.argv.pop(1))
from bireme.cli.main import main
code = main()
names = sorted(name for name in set(sys.modules) - before)
print("\\nMODULES " + " ".join(names), file=sys.stderr)
"""

_EXPENSIVE = frozenset(
    """argparse asyncio collections ctypes dataclasses email enum functools http importlib.metadata inspect json logging
    msgspec pathlib re shutil signal socket ssl subprocess tempfile threading typing urllib""".split()
)


def _modules(server: FakeServer, *words: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _WATCHED, str(ROOT), "-H", server.host, *words],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=environment(),
        timeout=DEADLINE_S,
        check=True,
    )
    return set(done.stderr.decode().rpartition("MODULES ")[2].split())


def _hello(streams: Streams) -> int:
    streams.out(b"hello\n")
    return 0


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        (["version"], 20),
        (["ps"], 23),
        (["run", "--rm", "busybox", "true"], 28),
        (["run", "-d", "-p", "80:80", "-e", "A=b", "busybox"], 23),
        (["exec", "x", "true"], 28),
        (["stop", "x"], 20),
        (["inspect", "x"], 19),
        (["--help"], 14),
    ],
)
def test_a_verb_imports_only_what_it_needs(server: FakeServer, words: list[str], limit: int) -> None:
    FakeContainer(server, _hello)
    fake_exec(server, _hello)
    server.on("GET /version", {"Version": "1", "ApiVersion": "1.47"})
    server.on("GET /containers/json", Reply([]))
    server.on("GET /containers/x/json", {"Id": "x"})
    server.on("POST /containers/x/stop", NO_CONTENT)
    modules = _modules(server, *words)
    assert not modules & _EXPENSIVE
    ours = {name for name in modules if name.startswith("bireme")}
    assert len(ours) <= limit, sorted(ours)
    assert len(modules - ours) <= 13, sorted(modules - ours)


def test_the_program_answers_without_the_site_directory() -> None:
    done = subprocess.run(command("--version"), capture_output=True, env=environment(), timeout=DEADLINE_S, check=True)
    assert done.stdout.startswith(b"bireme version ")
