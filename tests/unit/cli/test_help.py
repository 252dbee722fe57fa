"""--help and completion, both made from the tables that parse."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bireme.cli.index import ENTRIES, GROUPS, Entry, find
from bireme.cli.kinds import KINDS
from bireme.cli.main import load_verb
from tests.support.cli import DEADLINE_S, Cli, command, environment


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.path)
def test_every_entry_has_its_verb(entry: Entry) -> None:
    verb = load_verb(entry)
    assert verb.summary.removesuffix(" (not there yet)") == entry.summary
    names = [option.name for option in verb.options]
    shorts = [option.short for option in verb.options if option.short]
    assert len(names) == len(set(names))
    assert len(shorts) == len(set(shorts))
    assert all(option.kind in KINDS and option.help for option in verb.options)
    assert verb.min_args <= verb.max_args
    spellings = {entry.path, *([entry.short] if entry.short else [])}
    spellings |= {f"{entry.path.split()[0]} {also}" for also in entry.also.split()}
    assert verb.aliases == () or set(verb.aliases) == spellings
    for spelling in spellings:
        found = find([*spelling.split(), "x"])
        assert found is not None
        assert (found[0], found[1], found[2]) == (entry, f"bireme {spelling}", ["x"])


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.path)
def test_every_verb_explains_itself(cli: Cli, entry: Entry) -> None:
    page = cli.ok(*entry.path.split(), "--help")
    assert page.startswith(f"Usage:  bireme {entry.path}")
    assert entry.summary in page
    assert all(len(line) <= 100 for line in page.splitlines())
    for option in load_verb(entry).options:
        assert option.hidden or f"--{option.name}" in page


def test_layout(cli: Cli) -> None:
    assert cli.ok("container", "stop", "--help") == (
        "Usage:  bireme container stop [OPTIONS] CONTAINER [CONTAINER...]\n"
        "\n"
        "Stop one or more running containers\n"
        "\n"
        "Aliases:\n"
        "  bireme container stop, bireme stop\n"
        "\n"
        "Options:\n"
        "  -s, --signal string   Signal to send to the container\n"
        "  -t, --timeout int     Seconds to wait before killing the container\n"
    )
    run = cli.ok("run", "--help")
    assert (
        "      --memory-swap bytes                Swap limit equal to memory plus\n"
        "                                         swap: '-1' to enable unlimited swap\n"
    ) in run
    assert "      --sig-proxy                        Proxy received signals to the\n" in run
    assert "process (default true)" in run


def test_help_of_groups_and_of_everything(cli: Cli) -> None:
    top = cli.ok("--help")
    assert cli.ok() == top == cli.ok("help")
    assert all(f"  {group} " in top for group in GROUPS)
    assert cli.ok("help", "run") == cli.ok("run", "--help")
    for group in GROUPS:
        page = cli.ok(group)
        assert page == cli.ok(group, "--help")
        assert page.startswith(f"Usage:  bireme {group} COMMAND\n")
    assert "Run 'bireme container COMMAND --help' for more information on a command." in cli.ok("container")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["bogus"], 1, "bireme: unknown command: bireme bogus\n\nRun 'bireme --help' for more information\n"),
        (
            ["container", "bogus"],
            1,
            "bireme: unknown command: bireme container bogus\n\nUsage:  bireme container\n\n"
            "Run 'bireme container --help' for more information\n",
        ),
        (
            ["ps", "a"],
            1,
            "bireme: 'bireme ps' accepts no arguments\n\nUsage:  bireme ps [OPTIONS]\n\n"
            "Run 'bireme ps --help' for more information\n",
        ),
        (
            ["container", "stop"],
            1,
            "bireme: 'bireme container stop' requires at least 1 argument\n\n"
            "Usage:  bireme container stop [OPTIONS] CONTAINER [CONTAINER...]\n\n"
            "See 'bireme container stop --help' for more information\n",
        ),
        (
            ["rename", "a"],
            1,
            "bireme: 'bireme rename' requires 2 arguments\n\nUsage:  bireme rename CONTAINER NEW_NAME\n\n"
            "Run 'bireme rename --help' for more information\n",
        ),
        (
            ["run", "--bad", "x"],
            125,
            "unknown flag: --bad\n\nUsage:  bireme run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\n"
            "Run 'bireme run --help' for more information\n",
        ),
        (
            ["run", "-m", "foo", "x"],
            125,
            'invalid argument "foo" for "-m, --memory" flag: invalid size: \'foo\'\n\n'
            "Usage:  bireme run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\nRun 'bireme run --help' for more information\n",
        ),
        (
            ["run", "--pid", "x", "y"],
            125,
            "bireme: --pid: invalid PID mode\n\nRun 'bireme run --help' for more information\n",
        ),
        (
            ["--bogus", "ps"],
            125,
            "unknown flag: --bogus\n\nUsage:  bireme [OPTIONS] COMMAND [ARG...]\n\n"
            "Run 'bireme --help' for more information\n",
        ),
        (
            ["-H", "unix:///x", "ps"],
            1,
            "Failed to initialize: unable to resolve docker endpoint: Specify only one -H\n",
        ),
    ],
)
def test_what_is_not_understood(cli: Cli, words: list[str], code: int, text: str) -> None:
    assert cli(*words) == (code, "", text)


def _complete(directory: Path, *words: str) -> set[str]:
    script = subprocess.run(
        command("completion", "bash"), capture_output=True, env=environment(), timeout=DEADLINE_S, check=True
    ).stdout
    (directory / "completion").write_bytes(script)
    fake = directory / "bireme"
    fake.write_text(
        '#!/bin/sh\ncase "$*" in "ps --format {{.Names}}") echo web; echo db;; images*) echo busybox:latest;; esac\n'
    )
    fake.chmod(0o755)
    typed = " ".join(f"'{word}'" for word in ("bireme", *words))
    program = (
        f"source {directory}/completion; COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _bireme; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", program],
        capture_output=True,
        env=environment(PATH=f"{directory}:/usr/bin:/bin"),
        cwd=directory,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stderr == b""
    return set(done.stdout.decode().split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="the completion of bash is tried in bash")
def test_completion_in_bash(tmp_path: Path) -> None:
    assert {"run", "container", "image", "explain", "--host"} <= _complete(tmp_path, "")
    assert _complete(tmp_path, "ru") == {"run"}
    assert {"ls", "run", "rm"} <= _complete(tmp_path, "container", "")
    assert _complete(tmp_path, "container", "sta") == {"start", "stats"}
    assert _complete(tmp_path, "run", "--memory-s") == {"--memory-swap", "--memory-swappiness"}
    assert _complete(tmp_path, "stop", "") == {"web", "db"}
    assert _complete(tmp_path, "-H", "unix:///x", "container", "stop", "w") == {"web"}
    assert _complete(tmp_path, "run", "-it", "bus") == {"busybox:latest"}
    assert "completion" in _complete(tmp_path, "run", "--env-file", "comp")
    assert _complete(tmp_path, "bootstrap", "deb") == {"debian:bookworm"}
    assert _complete(tmp_path, "help", "expl") == {"explain"}


@pytest.mark.parametrize(("shell", "check"), [("zsh", ["zsh", "-n"]), ("fish", ["fish", "-n"])])
def test_completion_of_other_shells(cli: Cli, tmp_path: Path, shell: str, check: list[str]) -> None:
    script = cli.ok("completion", shell)
    for word in ("memory-swap", "explain", "container", "busybox"):
        assert word in script
    assert script.count("'") % 2 == 0
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([*check, str(tmp_path / "script")], check=True, timeout=DEADLINE_S)
    assert cli("completion", "tcsh").code == 1
