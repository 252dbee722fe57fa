import errno
from pathlib import Path

import pytest

from bireme.runtime.program import find_program
from bireme.runtime.sync import StartFailed


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one/dir").mkdir()
    (tmp_path / "one/plain").write_text("x")
    (tmp_path / "two/plain").write_text("x")
    (tmp_path / "two/plain").chmod(0o755)
    (tmp_path / "one/locked").write_text("x")
    return tmp_path


def test_the_first_executable_on_the_path_wins(tree: Path) -> None:
    env = {"PATH": f"{tree}/one:{tree}/two"}
    assert find_program("plain", env) == f"{tree}/two/plain"
    assert find_program(f"{tree}/two/plain", env) == f"{tree}/two/plain"


@pytest.mark.parametrize(
    ("name", "number", "text"),
    [
        ("none", errno.ENOENT, 'exec: "none": executable file not found in $PATH'),
        ("locked", errno.EACCES, 'exec: "locked": permission denied'),
        ("{tree}/no/x", errno.ENOENT, 'exec: "{tree}/no/x": stat {tree}/no/x: no such file or directory'),
        ("{tree}/one/dir", errno.EISDIR, 'exec: "{tree}/one/dir": is a directory'),
        ("{tree}/one/plain/x", errno.ENOTDIR, 'exec: "{tree}/one/plain/x": stat {tree}/one/plain/x: not a directory'),
    ],
)
def test_errors(tree: Path, name: str, number: int, text: str) -> None:
    with pytest.raises(StartFailed) as caught:
        find_program(name.format(tree=tree), {"PATH": f"{tree}/one:{tree}/two"})
    assert (caught.value.errno, caught.value.message) == (number, text.format(tree=tree))
