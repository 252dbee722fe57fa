"""Machine plans for tests, and what a machine's processes look like from outside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.guestconfig import process as complete_process

if TYPE_CHECKING:
    from tests.support.supervised import Rig

FAKE = "tests.support.fakevmm"


def process(*args: str, **fields: Any) -> dict[str, Any]:
    """A wire.agent.Process."""
    return {**complete_process(list(args), env=["PATH=/bin:/usr/bin"]), **fields}


def machine_request(rig: Rig, identity: str, *args: str, word: str = "", terminal: bool = False, **fields: Any) -> Any:
    """The fields of a launch; `word` makes the fake monitor misbehave."""
    home = rig.directory_of(identity)
    home.mkdir(parents=True, exist_ok=True)
    env = ["PATH=/bin:/usr/bin", *([f"FAKE={word}"] if word else [])]
    machine = {
        "id": identity,
        "name": identity,
        "memory_bytes": 64 << 20,
        "vcpus": 1,
        "kernel": {"path": "/nowhere", "format": "bzimage"},
        "initrd": [],
        "cmdline": "",
        "disks": [],
        "interfaces": [],
        "rng": True,
        "console": False,
        "control_path": "",
        "report_path": "",
        "uid": 0,
        "boot_timeout_s": fields.pop("boot_timeout_s", 60.0),
        "guest": {"process": process(*args, env=env, terminal=terminal), "stdin": bool(fields.get("open_stdin"))},
    }
    return {
        "id": identity,
        "plan": {"machine": machine},
        "limits": {},
        "log": {"driver": "json-file", "path": str(home / "log"), "max_size_bytes": 0, "max_files": 1},
        "terminal": terminal,
        "open_stdin": False,
        "stdin_once": False,
        **fields,
    }


def launch_machine(rig: Rig, client: Any, *args: str, **fields: Any) -> str:
    """Start one; returns its id."""
    identity = fields.pop("identity", "") or rig.name()
    client.call("launch", **machine_request(rig, identity, *args, **fields))
    return str(identity)


def machine_files(rig: Rig) -> list[str]:
    """Names of control sockets and reports that exist."""
    try:
        return sorted(path.name for path in Path(rig.run_root, "machines").iterdir())
    except FileNotFoundError:
        return []
