"""Whether a worker is needed at all."""

from __future__ import annotations

import pathlib

from bireme.storage.populate import has_content


def test_only_a_path_that_no_layer_can_have_needs_no_look(tmp_path: pathlib.Path) -> None:
    top, low = tmp_path / "top", tmp_path / "low"
    (low / "var" / "lib" / "db").mkdir(parents=True)
    (low / "etc").mkdir()
    (low / "etc" / "file").write_text("x")
    (low / "run").symlink_to("var/run")
    (top / "var").mkdir(parents=True)
    layers = [str(top), str(low)]
    for target in ("/var/lib/db", "/var", "/etc/file", "/etc/file/below", "/run/x", "/"):
        assert has_content(layers, target), target
    for target in ("/data", "/var/lib/other", "/var/lib/db/deeper/still"):
        assert not has_content(layers, target), target
