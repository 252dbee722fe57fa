"""The systemd units start programs that the wheel installs, with options those programs know."""

from __future__ import annotations

import configparser
import shlex
import tomllib

import pytest

from bireme.daemon.main import parse
from tests.source.tree import ROOT

UNITS = ROOT / "packaging" / "systemd"


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


def command(name: str) -> list[str]:
    return shlex.split(unit(name)["Service"]["ExecStart"])


@pytest.mark.parametrize("name", ["bireme.service", "bireme-keeper.service"])
def test_programs_are_installed_by_the_wheel(name: str) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    program = command(name)[0]
    assert program.removeprefix("/usr/bin/") in scripts


def test_the_engine_knows_its_options() -> None:
    options = parse(command("bireme.service")[1:])
    assert options.hosts == ["fd://"]


@pytest.mark.parametrize("name", ["bireme.service", "bireme-keeper.service"])
def test_stopping_a_unit_leaves_instances_alone(name: str) -> None:
    service = unit(name)["Service"]
    assert service["KillMode"] == "process"
    assert service["Delegate"] == "yes"


def test_the_socket_belongs_to_the_group() -> None:
    socket = unit("bireme.socket")["Socket"]
    assert socket["SocketGroup"] == "bireme"
    assert socket["SocketMode"] == "0660"
    assert (UNITS / "bireme.sysusers").read_text().splitlines()[-1].split()[:2] == ["g", "bireme"]
