"""The three files every instance gets: /etc/hostname, /etc/hosts and /etc/resolv.conf, as Docker writes them.

They live in the instance's directory and are bound over the image's, so they survive a restart and can be changed while
it runs. Pure, except for `write_files` and the reading of the host's resolv.conf.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence

from bireme.instance.driver import Endpoint
from bireme.instance.spec import InstanceSpec

NAMES = (("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf"))
_LOCAL = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)
_FALLBACK = ("8.8.8.8", "8.8.4.4")
HOST_RESOLV = "/etc/resolv.conf"
STUB_RESOLV = "/run/systemd/resolve/resolv.conf"


def plan_hosts(spec: InstanceSpec, hostname: str, endpoints: Sequence[Endpoint], gateway: str) -> str:
    """The text of /etc/hosts."""
    lines = [_LOCAL]
    for entry in spec.extra_hosts:
        name, _, address = entry.partition("=") if "=" in entry else entry.partition(":")
        lines.append(f"{gateway if address == 'host-gateway' else address.strip('[]')}\t{name}\n")
    full = f"{hostname}.{spec.domainname} {hostname}" if spec.domainname else hostname
    lines.extend(f"{e.address}\t{full}\n" for e in endpoints if e.address)
    return "".join(lines)


def plan_resolv(spec: InstanceSpec, host_text: str) -> str:
    """The text of /etc/resolv.conf: what was asked, else the host's without loopback servers."""
    servers = list(spec.dns) or [s for s in _values(host_text, "nameserver") if not _loopback(s)] or list(_FALLBACK)
    search = list(spec.dns_search) or _words(host_text, "search")
    options = list(spec.dns_options) or _words(host_text, "options")
    lines = [f"nameserver {s}" for s in servers]
    if search and search != ["."]:
        lines.append("search " + " ".join(search))
    if options:
        lines.append("options " + " ".join(options))
    return "\n".join(lines) + "\n"


def host_resolv() -> str:
    """The host's resolver configuration; systemd-resolved's real one when the host uses its stub."""
    text = _read(HOST_RESOLV)
    if _values(text, "nameserver") == ["127.0.0.53"]:
        text = _read(STUB_RESOLV) or text
    return text


def write_files(directory: str, texts: dict[str, str]) -> None:
    """Write each file in place, keeping its inode: a running instance has it bound."""
    for name, text in texts.items():
        fd = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            data = text.encode()
            os.write(fd, data)
            os.ftruncate(fd, len(data))
        finally:
            os.close(fd)


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 65536).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def _values(text: str, keyword: str) -> list[str]:
    return [p[1] for line in text.splitlines() if len(p := line.split()) > 1 and p[0] == keyword]


def _words(text: str, keyword: str) -> list[str]:
    found = [p[1:] for line in text.splitlines() if len(p := line.split()) > 1 and p[0] == keyword]
    return found[-1] if found else []


def _loopback(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return True
