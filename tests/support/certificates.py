"""A certificate authority of a test's own: a server's certificate for localhost, a client's, and one of a stranger."""

from __future__ import annotations

import pathlib
import ssl
import subprocess

import pytest

_NEW = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]


def _openssl(*arguments: str | pathlib.Path) -> None:
    try:
        subprocess.run([str(argument) for argument in arguments], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl program to make a certificate")


class Certificates:
    """Directories with ca.pem, cert.pem and key.pem, as DOCKER_CERT_PATH names one: `client`, `server`, `stranger`."""

    def __init__(self, root: pathlib.Path) -> None:
        self.client, self.server, self.stranger = root / "client", root / "server", root / "stranger"
        self._authority = root / "authority"
        self._authority.mkdir(parents=True)
        _openssl(*_NEW, "-subj", "/CN=authority", "-keyout", self._authority / "key", "-out", self._authority / "pem")
        for directory in (self.client, self.server):
            self._sign(directory)
        self.stranger.mkdir()
        names = ["-keyout", self.stranger / "key.pem", "-out", self.stranger / "cert.pem"]
        _openssl(*_NEW, "-subj", "/CN=localhost", *names)
        (self.stranger / "ca.pem").write_bytes((self.stranger / "cert.pem").read_bytes())

    def _sign(self, directory: pathlib.Path) -> None:
        directory.mkdir()
        authority = ["-CA", self._authority / "pem", "-CAkey", self._authority / "key"]
        names = [
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]
        files = ["-keyout", directory / "key.pem", "-out", directory / "cert.pem"]
        _openssl(*_NEW, "-subj", f"/CN={directory.name}", *authority, *names, *files)
        (directory / "ca.pem").write_bytes((self._authority / "pem").read_bytes())

    def server_context(self) -> ssl.SSLContext:
        """A server's that asks for a certificate of our authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server / "cert.pem", self.server / "key.pem")
        context.load_verify_locations(self.server / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        return context
