"""Runs inside the emulated machine: measure the machine's speed, offer KVM, run the order, leave the results.

The order is a JSON object in the checkout: `pytest` (its arguments) or `program` (what python runs), `environment`,
`timeout_s`, `docker` (vdd is a docker client), `finished` (tests that an earlier boot ended: `passed NAME`).

vdb is a tar of the checkout (unpacked already), vdc takes a tar of the results and, at its end, a pulse: see
tests/guest/machine.py. Everything printed goes to the second serial port.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

SOURCE = Path("/srv/bireme")
RESULTS = Path("/var/tmp/lane")
VENV = Path("/opt/venv")
FINISHED = Path("/var/tmp/finished")
"""tests/guest/finished.py reads in it what not to run again and appends a line for each test that ended."""
PULSE_AT = 31 << 20
PULSE_S = 2.0
REFERENCE_S = 0.035
"""The same loop on the machine that the tests' deadlines were written on."""


def speed_probe() -> float:
    """How many times slower Python is here than there."""
    begin = time.perf_counter()
    total = 0
    for number in range(400_000):
        total += number % 7
    return max(1.0, (time.perf_counter() - begin) / REFERENCE_S)


def install_programs() -> None:
    """The console scripts and the import path that an editable install would give, without running an installer."""
    site = next((VENV / "lib").glob("python3*")) / "site-packages"
    (site / "bireme-checkout.pth").write_text(f"{SOURCE}\n")
    scripts = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]["scripts"]
    for name, target in scripts.items():
        module, _, function = target.partition(":")
        path = VENV / "bin" / name
        path.write_text(f"#!{VENV}/bin/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
        path.chmod(0o755)
    (SOURCE / ".venv").symlink_to(VENV)


def take_docker() -> None:
    """The client on the first disk beyond the lane's own."""
    client = Path("/usr/local/bin/docker")
    shutil.copyfile("/dev/vdd", client)
    client.chmod(0o755)


def offer_kvm(promises: str) -> str:
    """Load kvm_amd; the promises, less those about KVM (and not quietly) where the emulated CPU has no SVM."""
    if "svm" in Path("/proc/cpuinfo").read_text().split():
        subprocess.run(["modprobe", "kvm_amd", "nested=0"], check=False)
        return promises
    print("lane: NO NESTED KVM: this emulator's CPU has no SVM; every test of a machine is SKIPPED", flush=True)
    return ",".join(name for name in promises.split(",") if not name.startswith("kvm"))


def command(order: dict[str, Any]) -> list[str]:
    """What the order runs. Hypothesis's plugin would import and rewrite all of hypothesis for its line in the summary:
    seven seconds here."""
    if "program" in order:
        return [f"{VENV}/bin/python", *order["program"]]
    plugins = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "tests.guest.finished"]
    return [f"{VENV}/bin/pytest", *plugins, "--color=no", f"--junitxml={RESULTS}/junit.xml", *order["pytest"]]


def run(order: dict[str, Any], scale: float) -> int:
    environment = os.environ | order["environment"]
    environment["BIREME_REQUIRE"] = offer_kvm(environment["BIREME_REQUIRE"])
    environment |= {
        "BIREME_TIME_SCALE": f"{scale:.1f}",
        "HOME": "/root",
        "PATH": f"{VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "COLUMNS": "120",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
        "BIREME_RESULTS": str(RESULTS),
        "BIREME_FINISHED": str(FINISHED),
        "LC_ALL": "C.UTF-8",
    }
    try:
        return subprocess.run(command(order), cwd=SOURCE, env=environment, timeout=order["timeout_s"]).returncode
    except subprocess.TimeoutExpired:
        print(f"lane: not finished in {order['timeout_s']} s", flush=True)
        return 124


def pulse(skip: int) -> None:
    """Show for ever that this machine runs, and which tests ended since it booted."""
    disk = os.open("/dev/vdc", os.O_RDWR)
    for number in range(1 << 31):
        text = f"{number}\n".encode() + FINISHED.read_bytes()[skip:]
        os.pwrite(disk, text, PULSE_AT)
        os.fsync(disk)
        time.sleep(PULSE_S)


def start_pulse(finished: list[str]) -> None:
    FINISHED.write_text("".join(f"{line}\n" for line in finished))
    threading.Thread(target=pulse, args=[FINISHED.stat().st_size], daemon=True).start()


def leave_results(code: int) -> None:
    (RESULTS / "code").write_text(f"{code}\n")
    journal = subprocess.run(["dmesg"], capture_output=True, check=False).stdout[-200_000:]
    (RESULTS / "dmesg").write_bytes(journal)
    with open("/dev/vdc", "wb") as disk, tarfile.open(fileobj=disk, mode="w") as archive:
        archive.add(RESULTS, ".")
    os.sync()


def main() -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    code = 125
    try:
        order = json.loads((SOURCE / ".lane.json").read_text())
        start_pulse(order["finished"])
        install_programs()
        if order.get("docker"):
            take_docker()
        scale = speed_probe()
        uptime = Path("/proc/uptime").read_text().split()[0]
        print(f"lane: Linux {os.uname().release}, up {uptime} s, {scale:.0f} times slower than the host", flush=True)
        code = run(order, scale)
    finally:
        leave_results(code)
        sys.stdout.flush()


main()
