"""The command line: words to options, help, errors in the log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bireme.errors import BiremeError
from bireme.runtime import main
from bireme.runtime.main import UsageError, parse


def test_options_before_and_after_the_verb() -> None:
    verb, options = parse(["--root", "/r", "--log=/l", "create", "--bundle", "/b", "-pid-file", "/p", "one"])
    assert verb == "create"
    assert (options.root, options.text("log"), options.text("bundle"), options.text("pid-file")) == (
        "/r",
        "/l",
        "/b",
        "/p",
    )
    assert options.arguments == ["one"]
    assert options.id == "one"


def test_short_and_negated_options() -> None:
    _, options = parse(["kill", "-a", "one", "9"])
    assert options.flag("all")
    _, options = parse(["delete", "--force=false", "one"])
    assert not options.flag("force")
    _, options = parse(["exec", "-e", "A=1", "--env=B=2", "-t", "one", "sh", "-c", "--env"])
    assert options.list("env") == ["A=1", "B=2"]
    assert options.arguments == ["one", "sh", "-c", "--env"]


def test_options_after_arguments() -> None:
    assert parse(["kill", "one", "--all"])[1].flag("all")
    assert parse(["kill", "one", "-9"])[1].arguments == ["one", "-9"]
    assert parse(["update", "--memory", "-1", "one"])[1].text("memory") == "-1"
    assert parse(["kill", "--", "one"])[1].arguments == ["one"]


@pytest.mark.parametrize(
    "words",
    [
        ["nothing"],
        ["--nothing", "list"],
        ["create"],
        ["create", "one", "two"],
        ["create", "--bundle"],
        ["start"],
        ["list", "one"],
        ["exec"],
        ["create", "--preserve-fds", "x", "one"],
    ],
)
def test_command_lines_that_are_none(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(words)


def test_every_verb_has_a_module() -> None:
    for verb in main.VERBS:
        assert callable(main._runner(verb))


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert main.run(["-v"]) == 0
    assert "spec: 1.2.0" in capsys.readouterr().out
    assert main.run([]) == 0
    assert main.run(["create", "--help"]) == 0
    text = capsys.readouterr().out
    assert "preserve-fds" in text
    assert "features" in text


@pytest.mark.parametrize(
    "words",
    [
        ["--systemd-cgroup", "list"],
        ["--rootless", "true", "list"],
        ["create", "--no-pivot", "one"],
        ["exec", "--apparmor", "x", "one", "true"],
    ],
)
def test_what_is_not_done_is_said(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(words) in (1, 255)
    assert "not supported" in capsys.readouterr().err


def test_errors_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(tmp_path / "state")
    assert main.run(["--root", root, "--log", str(tmp_path / "a"), "--log-format", "json", "state", "one"]) == 1
    line = json.loads((tmp_path / "a").read_text())
    assert (line["level"], line["msg"]) == ("error", "container does not exist")
    assert main.run(["--root", root, "--log", str(tmp_path / "b"), "start", "one"]) == 1
    assert 'level=error msg="container does not exist"' in (tmp_path / "b").read_text()
    assert main.run(["--log-format", "xml", "list"]) == 1
    assert main.run(["--root", root, "--log", str(tmp_path / "no/where"), "state", "one"]) == 1
    assert capsys.readouterr().err.count("bireme-runtime: ") == 5


def test_empty_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--root", str(tmp_path / "state"), "list", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) is None
    assert main.run(["--root", str(tmp_path / "state"), "list"]) == 0
    assert capsys.readouterr().out.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert main.run(["--root", str(tmp_path / "state"), "list", "--format", "yaml"]) == 1


@pytest.mark.parametrize("identity", ["", ".", "..", "a/b", "a b", "a~1", "ü", "x" * 500])
def test_names_that_are_none(identity: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--root", str(tmp_path), "state", identity]) == 1
    assert "invalid container ID" in capsys.readouterr().err


def test_spec_writes_a_configuration_once(tmp_path: Path) -> None:
    assert main.run(["spec", "--bundle", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "config.json").read_text())["ociVersion"] == "1.2.0"
    assert main.run(["spec", "--bundle", str(tmp_path)]) == 1


def test_it_works_without_the_site_module() -> None:
    source = str(Path(main.__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {source!r}); from bireme.runtime.main import run; sys.exit(run(['list']))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_little_is_imported_for_a_small_verb() -> None:
    source = str(Path(main.__file__).parents[2])
    code = (
        f"import sys; sys.path.insert(0, {source!r}); from bireme.runtime.main import run;"
        "run(['--root', '/nonexistent', 'state', 'one']);"
        "print(len(sys.modules), 'bireme.runtime.launch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    count, launch = done.stdout.split()
    assert int(count) < 110
    assert launch == "False"


def test_errors_are_ours() -> None:
    assert issubclass(UsageError, BiremeError)
