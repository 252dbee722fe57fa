"""The agent of a microVM and the link, over AF_UNIX and in namespaces of this machine: everything but the machine."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bireme.runtime.guest import agent_path
from bireme.wire.agent import GuestConfig
from tests.support.agents import machine, pipes, sh
from tests.support.guestconfig import guest_config, process
from tests.support.rootfs import make_busybox_root

pytestmark = pytest.mark.needs_root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    make_busybox_root(str(directory))
    return directory


def run_to_end(tmp_path: Path, root: Path, script: str, **config: Any) -> tuple[str, dict[str, Any]]:
    """Output and the last message of a machine that runs a script."""
    with machine(tmp_path, root, guest_config(process=sh(script), **config)) as bench:
        bench.until(lambda: bench.said("ended") or bench.said("failed"))
        bench.turn()
        assert not bench.errors, bench.errors
        return bench.output.decode(), bench.messages[-1]


def test_it_is_static_and_hardened() -> None:
    data = Path(agent_path()).read_bytes()
    at, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<II", data, at + size * number) for number in range(count)]
    interpreter, stack, relro, executable = 3, 0x6474E551, 0x6474E552, 1
    kinds = dict(headers)
    assert interpreter not in kinds
    assert relro in kinds
    assert not kinds[stack] & executable


def test_on_an_ordinary_system_it_explains_itself() -> None:
    done = subprocess.run([agent_path()], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "process 1 of a microVM" in done.stderr


def test_first_process_and_its_status(tmp_path: Path, root: Path) -> None:
    output, end = run_to_end(tmp_path, root, "echo out; exit 7")
    assert output == "out\n"
    assert end == {"m": "ended", "code": 7, "signal": 0}


def test_output_and_errors_are_two_streams(tmp_path: Path, root: Path) -> None:
    with machine(tmp_path, root, guest_config(process=sh("echo a; echo b >&2; echo c"))) as bench:
        bench.until(lambda: bench.said("ended"))
        bench.turn()
        assert (bench.output, bench.errors) == (b"a\nc\n", b"b\n")


def test_input_and_its_end(tmp_path: Path, root: Path) -> None:
    with machine(tmp_path, root, guest_config(process=sh("cat; echo end"), stdin=True)) as bench:
        os.write(bench.stdin, b"one ")
        bench.until(lambda: bench.output == b"one ")
        os.write(bench.stdin, b"two ")
        bench.close_stdin()
        bench.until(lambda: bench.said("ended"))
        bench.turn()
        assert bench.output == b"one two end\n"


def test_without_input_it_reads_nothing(tmp_path: Path, root: Path) -> None:
    output, end = run_to_end(tmp_path, root, "cat; echo end")
    assert (output, end["code"]) == ("end\n", 0)


def test_a_lot_both_ways(tmp_path: Path, root: Path) -> None:
    sent = b"".join(b"%07d\n" % number for number in range(400_000))
    with machine(tmp_path, root, guest_config(process=sh("cat"), stdin=True)) as bench:
        rest = memoryview(sent)
        while rest:
            try:
                rest = rest[os.write(bench.stdin, rest[:65536]) :]
            except BlockingIOError:
                bench.turn()
        bench.close_stdin()
        bench.until(lambda: bench.said("ended"))
        bench.turn()
        assert bench.output == sent


def test_a_reader_that_rests_stops_the_writer_and_loses_nothing(tmp_path: Path, root: Path) -> None:
    script = "i=0; while [ $i -lt 40 ]; do dd if=/dev/zero bs=65536 count=1 2>/dev/null; i=$((i+1)); done; echo x >&2"
    with machine(tmp_path, root, guest_config(process=sh(script))) as bench:
        bench.read_output = False
        bench.until(lambda: bench.said("running"))
        waiting = [0, -1]
        while waiting[-1] != waiting[-2]:
            for _ in range(20):
                bench.turn()
            waiting.append(bench.link.describe()["processes"][0]["streams"]["stdout"]["waiting_bytes"])
        assert waiting[-1] <= 65536
        assert not bench.said("ended")
        bench.read_output = True
        bench.until(lambda: bench.said("ended"))
        bench.turn()
        assert (len(bench.output), bench.errors) == (40 * 65536, b"x\n")


def test_a_reader_that_went_away_stops_nobody(tmp_path: Path, root: Path) -> None:
    script = "i=0; while [ $i -lt 40 ]; do dd if=/dev/zero bs=65536 count=1 2>/dev/null; i=$((i+1)); done; echo x >&2"
    with machine(tmp_path, root, guest_config(process=sh(script))) as bench:
        os.close(bench.stdout)
        bench.stdout = -1
        bench.until(lambda: bench.said("ended"))
        bench.turn()
        assert bench.said("ended") == {"m": "ended", "code": 0, "signal": 0}
        assert bench.errors == b"x\n"


def test_a_process_that_closed_its_input_tells_the_writer(tmp_path: Path, root: Path) -> None:
    with machine(tmp_path, root, guest_config(process=sh("exec 0<&-; sleep 60"), stdin=True)) as bench:
        bench.until(lambda: bench.said("running"))
        gone: list[bool] = []

        def write() -> bool:
            try:
                os.write(bench.stdin, b"x" * 4096)
            except BlockingIOError:
                return False
            except BrokenPipeError:
                gone.append(True)
            return bool(gone)

        bench.until(write)


FAILURES = [
    (process(["nosuch"]), "exec", 2, 'exec: "nosuch": executable file not found in $PATH'),
    (process(["/nosuch"]), "exec", 2, 'exec: "/nosuch": stat /nosuch: no such file or directory'),
    (process(["/etc/passwd"]), "exec", 13, 'exec: "/etc/passwd": permission denied'),
    (process(["/etc"]), "exec", 21, 'exec: "/etc": is a directory'),
    (process(["/bin/garbage"]), "exec", 8, "exec /bin/garbage: exec format error"),
    (process(["sh"], user="who"), "user", 0, "unable to find user who: no matching entries in passwd file"),
    (process(["sh"], user="0:what"), "user", 0, "unable to find group what: no matching entries in group file"),
    (process(["sh"], user="4294967296"), "user", 0, "uids and gids must be in range 0-2147483647"),
    (
        process(["sh"], cwd="/etc/passwd"),
        "cwd",
        20,
        'chdir to cwd ("/etc/passwd") set in config.json failed: not a directory',
    ),
    (process(["sh"], rlimits=[[99, 1, 1]]), "rlimits", 22, "error setting rlimit type 99: invalid argument"),
]


@pytest.mark.parametrize("case", FAILURES, ids=lambda case: case[3][:30])
def test_why_a_program_cannot_be_started(tmp_path: Path, root: Path, case: Any) -> None:
    what, stage, number, text = case
    garbage = root / "bin/garbage"
    garbage.write_bytes(b"\1\2\3")
    garbage.chmod(0o755)
    with machine(tmp_path, root, guest_config(process=what)) as bench:
        bench.until(lambda: bench.said("failed"))
        failed = bench.said("failed")
        assert failed is not None
        assert (failed["stage"], failed["errno"], failed["message"]) == (stage, number, text)
    with machine(fresh(tmp_path), root, guest_config(process=sh("sleep 60"))) as bench:
        bench.until(lambda: bench.said("running"))
        client = bench.client()
        _, fds = pipes(2)
        reply = client.call("exec", fds, exec_id="e", process=what, stdin=False)
        error = reply["error"]
        assert (error["stage"], error.get("errno", 0), error["message"]) == (stage, number, text)
        close(fds)


def fresh(tmp_path: Path) -> Path:
    directory = tmp_path / "second"
    directory.mkdir()
    return directory


def close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


INSIDE: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("echo $$", {}, {}, "1\n"),
    ("hostname", {"hostname": "web"}, {}, "web\n"),
    ("cat /proc/sys/kernel/domainname", {"domainname": "example"}, {}, "example\n"),
    ("pwd; ls -d /made/here", {}, {"cwd": "/made/here"}, "/made/here\n/made/here\n"),
    ("id", {}, {"user": "nobody"}, "uid=65534(nobody) gid=65534(nobody) groups=65534(nobody)\n"),
    ("id -u; id -g; id -G", {}, {"user": "7:nobody", "groups": ["9"]}, "7\n65534\n65534 9\n"),
    ("echo $HOME $A", {}, {"env": ["A=1", "A=2"]}, "/root 2\n"),
    ("umask", {}, {"umask": 0o77}, "0077\n"),
    ("ulimit -n", {}, {"rlimits": [[7, 123, 456]]}, "123\n"),
    (
        "cat /etc/hosts; echo x >> /etc/hosts",
        {"files": [{"path": "/etc/hosts", "text": "h\n", "mode": 420}]},
        {},
        "h\n",
    ),
    ("cat /run/a/b", {"files": [{"path": "/run/a/b", "text": "deep", "mode": 420}]}, {}, "deep"),
    (
        "stat -c %a /data; df -m /data | tail -1 | awk '{print $2}'",
        {"mounts": [{"kind": "tmpfs", "target": "/data", "size_bytes": 4 << 20, "mode": 0o750}]},
        {},
        "750\n4\n",
    ),
    ("df -m /dev/shm | tail -1 | awk '{print $2}'", {"shm_size_bytes": 3 << 20}, {}, "3\n"),
    ("touch /x 2>&1; touch /dev/shm/x", {"root": {"lower": [], "upper": None, "read_only": True}}, {}, ""),
    ("cat /proc/sys/net/ipv4/ip_forward", {"sysctls": {"net.ipv4.ip_forward": "1"}}, {}, "1\n"),
    ("ls /dev | tr '\\n' ' '", {}, {}, ""),
    ("grep NoNewPrivs /proc/self/status", {}, {"no_new_privileges": True}, "NoNewPrivs:\t1\n"),
    ("cat /proc/self/oom_score_adj", {}, {"oom_score_adj": 500}, "500\n"),
    ("ip addr show lo | grep -c 127.0.0.1/8", {}, {}, "1\n"),
    ("ls /proc/self/fd | wc -l", {}, {}, "4\n"),
]
EXACT = {
    "ls /dev | tr '\\n' ' '": "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ",
    "touch /x 2>&1; touch /dev/shm/x": "touch: /x: Read-only file system\n",
}


@pytest.mark.parametrize("case", INSIDE, ids=lambda case: case[0][:30])
def test_what_it_finds_inside(tmp_path: Path, root: Path, case: Any) -> None:
    script, config, changes, expected = case
    with machine(tmp_path, root, guest_config(process=sh(script, **changes), **config)) as bench:
        bench.until(lambda: bench.said("ended") or bench.said("failed"))
        bench.turn()
        assert bench.errors == b""
        assert bench.output.decode() == EXACT.get(script, expected), bench.messages


def test_only_its_own_mounts_are_there(tmp_path: Path, root: Path) -> None:
    output, _ = run_to_end(tmp_path, root, "awk '{print $5}' /proc/self/mountinfo | sort")
    assert output.split() == [
        *("/", "/dev", "/dev/mqueue", "/dev/pts", "/dev/shm", "/proc", "/sys"),
        *(["/sys/fs/cgroup"] if "/sys/fs/cgroup" in output else []),
    ]


def test_capabilities_are_those_asked_for(tmp_path: Path, root: Path) -> None:
    chown, kill = 1 << 0, 1 << 5
    sets = {
        "bounding": chown | kill,
        "effective": chown,
        "permitted": chown | kill,
        "inheritable": kill,
        "ambient": 0,
    }
    script = "grep ^Cap /proc/self/status"
    with machine(tmp_path, root, guest_config(process=sh(script, capabilities=sets))) as bench:
        bench.until(lambda: bench.said("ended"))
        bench.turn()
        found = dict(line.split(":\t") for line in bench.output.decode().splitlines())
    assert found["CapBnd"] == found["CapPrm"] == f"{chown | kill:016x}"
    assert found["CapInh"] == f"{kill:016x}"


def test_a_user_keeps_ambient_capabilities(tmp_path: Path, root: Path) -> None:
    kill = 1 << 5
    sets = dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), kill)
    script = "grep -E '^Cap(Eff|Amb)' /proc/self/status"
    with machine(tmp_path, root, guest_config(process=sh(script, capabilities=sets, user="nobody"))) as bench:
        bench.until(lambda: bench.said("ended"))
        bench.turn()
        assert bench.output.decode() == f"CapEff:\t{kill:016x}\nCapAmb:\t{kill:016x}\n"


def test_orphans_of_the_first_process_end_with_it(tmp_path: Path, root: Path) -> None:
    output, end = run_to_end(tmp_path, root, "(sleep 600; echo late) & echo early")
    assert (output, end["code"]) == ("early\n", 0)


@pytest.mark.parametrize(("number", "code"), [(9, 137), (15, 3)])
def test_signals(tmp_path: Path, root: Path, number: int, code: int) -> None:
    script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    with machine(tmp_path, root, guest_config(process=sh(script))) as bench:
        bench.until(lambda: bench.output == b"ready\n")
        assert bench.client().ok("signal", number=number) == {}
        bench.until(lambda: bench.said("ended"))
        end = bench.said("ended")
        assert end == {"m": "ended", "code": code, "signal": 9 if number == 9 else 0}


def test_a_terminal(tmp_path: Path, root: Path) -> None:
    script = "tty; stty size; read line; echo got $line; stty size; ls -l /dev/console | cut -c1"
    config = guest_config(process=sh(script, terminal=True, rows=30, columns=90), stdin=True)
    with machine(tmp_path, root, config) as bench:
        bench.until(lambda: bench.output.endswith(b"30 90\r\n"))
        assert bench.output == b"/dev/pts/0\r\n30 90\r\n"
        assert bench.client().ok("resize", rows=40, cols=120) == {}
        assert bench.terminal is not None
        os.write(bench.terminal.master, b"word\n")
        bench.until(lambda: bench.said("ended"))
        bench.turn()
        assert bench.output.endswith(b"word\r\ngot word\r\n40 120\r\nc\r\n")


def test_ctrl_c_at_the_terminal(tmp_path: Path, root: Path) -> None:
    script = "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done"
    with machine(tmp_path, root, guest_config(process=sh(script, terminal=True), stdin=True)) as bench:
        bench.until(lambda: bench.output == b"ready\r\n")
        assert bench.terminal is not None
        os.write(bench.terminal.master, b"\x03")
        bench.until(lambda: bench.said("ended"))
        end = bench.said("ended")
        assert end is not None
        assert end["code"] == 9


def test_a_terminal_that_is_closed_hangs_up(tmp_path: Path, root: Path) -> None:
    script = "trap 'exit 4' HUP; echo ready; while :; do sleep 0.05; done"
    with machine(tmp_path, root, guest_config(process=sh(script, terminal=True), stdin=True)) as bench:
        bench.until(lambda: bench.output == b"ready\r\n")
        assert bench.terminal is not None
        os.close(bench.terminal.master)
        bench.terminal = bench.terminal._replace(master=os.open("/dev/null", os.O_RDONLY))
        bench.until(lambda: bench.said("ended"))
        end = bench.said("ended")
        assert end is not None
        assert end["code"] == 4


def test_an_interface_is_found_by_its_address(tmp_path: Path, root: Path) -> None:
    interfaces = [
        {
            "name": "eth0",
            "mac": "02:00:00:00:00:17",
            "address": "10.9.0.2",
            "prefix_len": 24,
            "gateway": "10.9.0.1",
            "mtu": 1400,
        }
    ]
    before = "ip link add wrong type bridge; ip link add x7 address 02:00:00:00:00:17 type bridge"
    config = guest_config(process=sh("ip -o addr show eth0; ip route; ip link show eth0"), interfaces=interfaces)
    with machine(tmp_path, root, config, before) as bench:
        bench.until(lambda: bench.said("ended") or bench.said("failed"))
        bench.turn()
        output = bench.output.decode()
    assert "inet 10.9.0.2/24 brd 10.9.0.255" in output, bench.messages
    assert "default via 10.9.0.1 dev eth0" in output
    assert "mtu 1400" in output
    assert "UP" in output


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"address": "10.9.0"}, "configure eth0: invalid argument"),
        ({"prefix_len": 33}, "configure eth0: invalid argument"),
        ({"gateway": "10.8.0.1"}, "configure eth0: network is unreachable"),
        ({"name": "x" * 20}, "configure xxxxxxxxxxxxxxxxxxxx: "),
    ],
)
def test_an_interface_that_cannot_be_configured(tmp_path: Path, root: Path, changes: dict[str, Any], text: str) -> None:
    interface = {
        "name": "eth0",
        "mac": "02:00:00:00:00:17",
        "address": "10.9.0.2",
        "prefix_len": 24,
        "gateway": "",
        "mtu": 1400,
    }
    before = "ip link add x7 address 02:00:00:00:00:17 type bridge"
    with machine(tmp_path, root, guest_config(interfaces=[interface | changes]), before) as bench:
        bench.until(lambda: bench.said("failed"))
        failed = bench.said("failed")
        assert failed is not None
        assert failed["stage"] == "network"
        assert text in failed["message"]


def disk(path: Path, command: list[str]) -> str:
    """A loop device of an image that `command` fills; it goes with its last user."""
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run(["losetup", "--find", "--show", path], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def disks(tmp_path: Path, root: Path) -> Iterator[tuple[str, str, str]]:
    """Loop devices: an upper layer that hides a file, the image, and a writable disk."""
    layer = tmp_path / "layer"
    (layer / "etc").mkdir(parents=True)
    os.mknod(layer / "etc/group", 0o20000, os.makedev(0, 0))
    (layer / "etc/new").write_text("layer\n")
    writable = tmp_path / "writable"
    with open(writable, "wb") as file:
        file.truncate(16 << 20)
    found = (
        disk(tmp_path / "layer.erofs", ["mkfs.erofs", str(tmp_path / "layer.erofs"), str(layer)]),
        disk(tmp_path / "root.erofs", ["mkfs.erofs", str(tmp_path / "root.erofs"), str(root)]),
        disk(writable, ["mkfs.ext4", "-q", str(writable)]),
    )
    yield found
    for device in found:
        subprocess.run(["losetup", "--detach", device], check=True)


def disk_config(disks: tuple[str, str, str], script: str, *, read_only: bool = False) -> GuestConfig:
    layer, image, writable = disks
    return guest_config(
        process=sh(script),
        root={
            "lower": [{"device": layer, "type": "erofs"}, {"device": image, "type": "erofs"}],
            "upper": {"device": writable, "type": "ext4"},
            "read_only": read_only,
        },
    )


def test_the_root_is_made_of_disks(tmp_path: Path, disks: tuple[str, str, str]) -> None:
    script = "cat /etc/new; ls /etc/group 2>&1; cat /kept 2>/dev/null; echo kept > /kept; stat -c %a /"
    outputs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with machine(tmp_path / name, None, disk_config(disks, script)) as bench:
            bench.until(lambda bench=bench: bench.said("ended") or bench.said("failed"))
            bench.until(lambda bench=bench: bench.link._session.lost)
            outputs.append(bench.output.decode())
            assert bench.said("ended"), bench.messages
            stats = bench.link.describe()
            assert stats["state"] == "ended"
    gone = "layer\nls: /etc/group: No such file or directory\n"
    assert outputs == [f"{gone}755\n", f"{gone}kept\n755\n"]


def test_a_full_disk_is_the_guest_s_error(tmp_path: Path, disks: tuple[str, str, str]) -> None:
    script = "dd if=/dev/zero of=/big bs=1M count=100 2>&1 | grep -c 'No space left'; echo alive"
    with machine(tmp_path, None, disk_config(disks, script)) as bench:
        bench.until(lambda: bench.said("ended") or bench.said("failed"))
        bench.turn()
        assert bench.output == b"1\nalive\n", bench.messages


def test_stats_tell_of_the_writable_disk(tmp_path: Path, disks: tuple[str, str, str]) -> None:
    with machine(tmp_path, None, disk_config(disks, "sleep 60")) as bench:
        bench.until(lambda: bench.said("running") or bench.said("failed"))
        stats = bench.client().ok("stats")
        assert 0 < stats["disk_free_bytes"] < stats["disk_total_bytes"] <= 16 << 20


@pytest.mark.parametrize(
    ("changes", "stage", "text"),
    [
        ({"lower": []}, "disk", "the machine has no root file system"),
        (
            {"lower": [{"device": "/dev/null", "type": "erofs"}]},
            "disk",
            "mount /dev/null as erofs: block device required",
        ),
        ({"lower": [{"device": "/dev/null", "type": "nosuch"}]}, "disk", "mount /dev/null as nosuch: no such device"),
    ],
)
def test_disks_that_are_none(tmp_path: Path, changes: dict[str, Any], stage: str, text: str) -> None:
    config = guest_config(root={"lower": [], "upper": None, "read_only": False} | changes)
    with machine(tmp_path, None, config) as bench:
        bench.until(lambda: bench.said("failed"))
        failed = bench.said("failed")
        assert failed is not None
        assert (failed["stage"], failed["message"]) == (stage, text)
