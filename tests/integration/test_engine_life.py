"""Engines as programs: ends and restarts, two side by side, roots that are in use."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests.support.daemon import RunningEngine, running_engine
from tests.support.pace import eventually, patience

pytestmark = pytest.mark.needs_root
BIREMED = str(pathlib.Path(sys.executable).parent / "biremed")


def terminate(engine: RunningEngine) -> None:
    pid = engine.pids("biremed")[0]
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not engine.pids("biremed"), within_s=30)


def test_sigterm_leaves_instances_running_and_the_next_engine_has_them(tmp_path: pathlib.Path) -> None:
    with running_engine(tmp_path) as engine:
        options = ("-d", "--name", "web", "-p", "127.0.0.1::80")
        serve = "mkdir /www && echo page >/www/index.html && exec httpd -f -p 80 -h /www"
        assert engine.bireme("run", *options, "busybox", "sh", "-c", serve).returncode == 0
        address = engine.bireme("port", "web", "80").stdout.strip()
        fetch = ("busybox", "wget", "-q", "-O", "-", f"http://{address}/")
        eventually(lambda: engine.command(*fetch).stdout == "page\n", within_s=20)
        supervisor = engine.pids("bireme-supervisor")
        terminate(engine)
        assert engine.pids("bireme-supervisor") == supervisor
        assert engine.command(*fetch).stdout == "page\n"
        engine.start()
        assert engine.bireme("port", "web", "80").stdout.strip() == address
        assert engine.bireme("exec", "web", "echo", "still here").stdout == "still here\n"
        again = engine.bireme("run", "--rm", "-p", f"{address}:80", "busybox", "true")
        assert "port is already allocated" in again.stderr
        assert engine.bireme("rm", "-f", "web").returncode == 0
        eventually(lambda: engine.command(*fetch).returncode != 0, within_s=20)


def test_sigterm_with_nothing_running_ends_everything(tmp_path: pathlib.Path) -> None:
    with running_engine(tmp_path) as engine:
        assert engine.bireme("run", "--name", "kept", "busybox", "true").returncode == 0
        terminate(engine)
        eventually(lambda: not engine.leftovers(), within_s=30)
        engine.start()
        assert engine.bireme("ps", "-aq").stdout.strip()
        assert engine.bireme("start", "kept").returncode == 0


def test_two_engines_never_touch(tmp_path: pathlib.Path) -> None:
    with running_engine(tmp_path / "a") as one, running_engine(tmp_path / "b") as two:
        for engine in (one, two):
            assert (
                engine.bireme(
                    "run", "-d", "--name", "same", "--stop-signal", "KILL", "busybox", "sleep", "9999"
                ).returncode
                == 0
            )
        assert one.config.bridge_name != two.config.bridge_name
        two.kill("biremed")
        two.kill("bireme-supervisor")
        one.close()
        eventually(lambda: not one.leftovers(), within_s=30)
        two.start()
        assert two.bireme("exec", "same", "echo", "unharmed").stdout == "unharmed\n"


def test_keeper_and_supervisor_killed_together(tmp_path: pathlib.Path) -> None:
    with running_engine(tmp_path) as engine:
        assert engine.bireme("run", "-d", "--name", "kept", "busybox", "sleep", "9999").returncode == 0
        for pid in (*engine.pids("bireme-keeper"), *engine.pids("bireme-supervisor")):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: engine.bireme("exec", "kept", "echo", "again").stdout == "again\n", within_s=30)
        assert engine.bireme("run", "--rm", "busybox", "echo", "new").stdout == "new\n"
        assert engine.bireme("rm", "-f", "kept").returncode == 0


def test_a_data_root_has_one_engine(tmp_path: pathlib.Path) -> None:
    with running_engine(tmp_path, image=False) as engine:
        other = [BIREMED, "--data-root", engine.data_root, "--run-root", f"{engine.run_root}-other"]
        done = subprocess.run(other, capture_output=True, text=True, check=False, timeout=patience(60))
        assert done.returncode == 1
        assert "another engine uses" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--host", "tcp://127.0.0.1:0"), "without TLS"),
        (("--host", "ftp://x"), "must start with"),
        (("--config", "/absent.toml"), "cannot read configuration file"),
    ],
)
def test_settings_that_cannot_be(tmp_path: pathlib.Path, options: tuple[str, ...], message: str) -> None:
    command = [BIREMED, "--data-root", str(tmp_path / "data"), "--run-root", str(tmp_path / "run"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience(60))
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_settings_from_a_file(tmp_path: pathlib.Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('snapshotter = "native"\nuserns = false\n[bridge]\nenabled = false\n')
    with running_engine(tmp_path, "--config", str(config)) as engine:
        shown = engine.bireme("run", "--rm", "--network", "none", "busybox", "cat", "/proc/self/uid_map")
        assert shown.stdout.split()[:2] == ["0", "0"]
        refused = engine.bireme("run", "--rm", "busybox", "true")
        assert "the default bridge network is disabled" in refused.stderr
        assert "native" in engine.bireme("info").stdout
    config.write_text("nonsense = 1\n")
    done = subprocess.run(
        [BIREMED, "--config", str(config)], capture_output=True, text=True, check=False, timeout=patience(60)
    )
    assert "nonsense" in done.stderr
