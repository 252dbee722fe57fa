"""The few calls of the Docker Engine API that are measured, over one raw keep-alive connection.

A client library costs more than the answer it waits for, so this speaks just enough HTTP: Content-Length, chunked, and
the upgraded stream of an exec, read to its end.
"""

from __future__ import annotations

import json
import socket
from typing import Any

VERSION = "/v1.41"


class ApiError(Exception):
    pass


class Api:
    """One connection to an engine's socket; not for several threads at once."""

    def __init__(self, path: str) -> None:
        self.path = path.removeprefix("unix://")
        self._socket: socket.socket | None = None
        self._buffer = b""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""

    def call(self, method: str, path: str, body: object = None, *, to_end: bool = False, decode: bool = True) -> Any:
        """The decoded answer (bytes unless JSON). `to_end`: the answer is a stream, read until it closes."""
        data = b"" if body is None else json.dumps(body).encode()
        upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if to_end else ""
        head = f"{method} {VERSION}{path} HTTP/1.1\r\nHost: bench\r\n{upgrade}"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self._connect().sendall(head.encode() + data)
        status, headers = self._read_head()
        if to_end and status in (101, 200):
            return self._read_to_end()
        answer = self._read_body(status, headers)
        if status >= 400:
            raise ApiError(f"{method} {path}: {status} {answer[:300]!r}")
        is_json = headers.get("content-type", "").startswith("application/json")
        return json.loads(answer) if decode and is_json and answer else answer

    def _connect(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(120)
            self._socket.connect(self.path)
        return self._socket

    def _more(self) -> None:
        chunk = self._connect().recv(65536)
        if not chunk:
            self.close()
            raise ApiError("the engine closed the connection")
        self._buffer += chunk

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def _read_head(self) -> tuple[int, dict[str, str]]:
        first, *lines = self._until(b"\r\n\r\n").decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(first.split()[1]), headers

    def _read_body(self, status: int, headers: dict[str, str]) -> bytes:
        if status in (204, 304):
            return b""
        if headers.get("transfer-encoding") != "chunked":
            return self._exactly(int(headers.get("content-length", "0")))
        body = b""
        while size := int(self._until(b"\r\n").split(b";")[0], 16):
            body += self._exactly(size)
            self._until(b"\r\n")
        self._until(b"\r\n")
        return body

    def _read_to_end(self) -> bytes:
        data, connection = self._buffer, self._connect()
        while chunk := connection.recv(65536):
            data += chunk
        self.close()
        return data

    def create(self, command: list[str], network: str) -> str:
        body = {"Image": "busybox", "Cmd": command, "HostConfig": {"NetworkMode": network}}
        identity: str = self.call("POST", "/containers/create", body)["Id"]
        return identity

    def start(self, identity: str) -> None:
        self.call("POST", f"/containers/{identity}/start")

    def wait(self, identity: str) -> int:
        code: int = self.call("POST", f"/containers/{identity}/wait")["StatusCode"]
        return code

    def remove(self, identity: str) -> None:
        self.call("DELETE", f"/containers/{identity}?force=1")

    def life(self, network: str) -> None:
        """create, start, wait, remove of `true`."""
        identity = self.create(["true"], network)
        self.start(identity)
        code = self.wait(identity)
        self.remove(identity)
        if code:
            raise ApiError(f"true exited with {code}")

    def exec(self, identity: str, command: list[str]) -> bytes:
        """Run a command inside and read its output to the end."""
        body = {"AttachStdout": True, "AttachStderr": True, "Cmd": command}
        created = self.call("POST", f"/containers/{identity}/exec", body)["Id"]
        output: bytes = self.call("POST", f"/exec/{created}/start", {"Detach": False, "Tty": False}, to_end=True)
        return output
